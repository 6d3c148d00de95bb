"""How `omniboard` ends, and what its copies look like, without Node and without a server."""

from __future__ import annotations

import math
import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from repro.runs.signals import Stopped
from repro.tracking.server import copies, omniboard
from repro.tracking.server.address import TrackingError


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is ended, by a command whose parts are stubs; it serves until Ctrl-C at once."""

    def serve(*_: object, **__: object) -> None:
        raise Stopped(signal.SIGINT)

    calls: list[str] = []
    monkeypatch.delenv("MONGO_URL", raising=False)
    monkeypatch.delenv("MONGO_URL_FILE", raising=False)
    monkeypatch.setattr(omniboard, "install", lambda: Path("start.js"))
    monkeypatch.setattr(omniboard, "add_to_page", lambda write: None)
    monkeypatch.setattr(omniboard, "require_free", lambda port: None)
    monkeypatch.setattr(omniboard, "_serve_until_stopped", serve)
    monkeypatch.setattr(omniboard, "embedded_state", lambda: None)
    monkeypatch.setattr(omniboard.embedded, "up", lambda: "mongodb://127.0.0.1:27117/")
    monkeypatch.setattr(omniboard.embedded, "down", lambda: calls.append("server") or True)
    return calls


def test_ctrl_c_ends_the_server_that_the_call_started(
    ended: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    omniboard.omniboard()
    assert ended == ["server"]
    assert capsys.readouterr().out == f"{omniboard.AFTER_ENDING}\n"


def test_ctrl_c_leaves_a_server_that_was_there_and_says_so(
    ended: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(omniboard, "embedded_state", lambda: {"pid": 1, "port": 27117})
    omniboard.omniboard()
    assert ended == []
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "`python -m repro tracking down` ends it" in said


def test_a_team_server_is_not_ours_to_end(
    ended: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MONGO_URL", "mongodb://127.0.0.1:9/")
    omniboard.omniboard()
    assert ended == []
    assert capsys.readouterr().out == f"{omniboard.AFTER_ENDING}\n"


def test_another_stop_signal_is_told_by_the_exit_status(
    ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(*_: object, **__: object) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(omniboard, "_serve_until_stopped", serve)
    with pytest.raises(Stopped, match="SIGTERM"):
        omniboard.omniboard()
    assert ended == ["server"]


@pytest.mark.parametrize("port", [0, 99999])
def test_a_port_that_is_none_is_refused_before_anything_is_installed(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(omniboard, "install", lambda: pytest.fail("installed"))
    with pytest.raises(TrackingError, match=rf"--port: {port} \(allowed: 1 to 65535\)"):
        omniboard.omniboard(port)
    assert list(tmp_path.iterdir()) == []


STUB = """
import time
from repro.runs.signals import Stopped, stoppable
from repro.tracking.server.terminal import foreground
with foreground():
    try:
        with stoppable():
            print("up", flush=True)
            time.sleep(30)
    except Stopped:
        print("ended", flush=True)
"""
"""Ends as `omniboard` does."""


def test_make_does_not_fail_when_ctrl_c_ends_what_it_called(tmp_path: Path) -> None:
    """On a terminal of its own: `make` is not told, the program is, and the exit status is 0."""
    (tmp_path / "stub.py").write_text(STUB)
    (tmp_path / "Makefile").write_text(f"omniboard:\n\t@exec {sys.executable} stub.py\n")
    call, terminal = pty.fork()
    if call == 0:
        os.chdir(tmp_path)
        os.execvp("make", ["make", "omniboard"])

    said = b""
    while b"up" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    _, status = os.waitpid(call, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    os.close(terminal)


def test_values_have_four_digits_in_a_copy() -> None:
    """Omniboard shows all digits that it gets."""
    values = [0.470550576184379, 1.23456e-05, 7.0, 3, None, math.inf]
    stamp = "2026-01-02T03:04:05"
    series = {
        "steps": [123456, 2, 3, 4, 5, 6],
        "values": values,
        "timestamps": [stamp] * len(values),
    }
    thinned = copies._thinned(series)
    assert thinned["values"] == [0.4706, 1.235e-05, 7.0, 3, None, math.inf]
    assert thinned["steps"] == series["steps"]


def test_a_run_is_headed_by_its_name() -> None:
    run = {"experiment": {"name": "clean"}}
    config = {"cell": "cc6m-mmcl", "run_id": "100k-mmcl-lr0.001-seed0"}
    assert copies._title(run, config) == "clean cc6m-mmcl/100k-mmcl-lr0.001-seed0"
    assert copies._title(run, {}) == "clean", "a record of another program"
