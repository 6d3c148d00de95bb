"""Records, servers and processes for the tests of tracking; whoever imports a fixture names it in
`__all__`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from repro.tracking.server import embedded

pytest.importorskip("sacred")
from sacred import Experiment

import repro.tracking.record  # noqa: F401  (sets how Sacred captures output)
from repro.tracking.observer import FileObserver
from repro.tracking.server.address import TrackingError, embedded_state
from repro.tracking.server.copies import connect

PROGRAM = shutil.which(
    embedded.PROGRAM, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
)
needs_server = pytest.mark.skipif(
    PROGRAM is None, reason="no embedded tracking server: pip install '.[tracking]'"
)


def free_port() -> int:
    """A port that nothing listens on, below those of outgoing connections: one of these may meet
    itself there while a server is away.

    Not from `random`: Sacred seeds it, and two workers of the tests would draw the same ports.
    """
    while True:
        port = 10_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/")[0])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no server of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONGO_URL", raising=False)
    monkeypatch.delenv("MONGO_URL_FILE", raising=False)
    return tmp_path


@pytest.fixture
def url(here: Path) -> Iterator[str]:
    """The embedded server, in this test's folder."""
    yield embedded.up(free_port())
    if embedded_state():
        kill_server()  # at once; an orderly end takes it two seconds


@pytest.fixture
def database(url: str) -> Iterator[Any]:
    with connect(url) as database:
        yield database


def record(
    points: int = 5,
    watch: Any = lambda folder: None,
    profile: str = "smoke",
    pause: float = 0,
    artifact: bool = True,
) -> Path:
    """One Sacred run with `points` points of two metrics; returns its folder."""
    experiment = Experiment("clean", base_dir=str(Path.cwd()), save_git_info=False)
    observer = FileObserver(Path("sacred") / profile, [])
    experiment.observers.append(observer)
    experiment.add_config({"dataset": "cc3m", "learning_rate": 1e-3, "seed": 0})
    Path("spec.json").write_text("{}")

    @experiment.main
    def main(_run: Any) -> dict[str, float]:
        if observer.dir:
            watch(Path(observer.dir))
        print("training")
        if artifact:
            _run.add_artifact("spec.json")
            _run.add_artifact("missing.json")
        for step in range(points):
            _run.log_scalar("loss", 1 / (step + 1), step)
            _run.log_scalar("accuracy", float("nan") if step == 1 else 0.5, step)
            time.sleep(pause)
        return {"accuracy": 0.5}

    experiment.run(
        options={"--beat-interval": 0.2, "--loglevel": "CRITICAL"},
        meta_info={"record": os.urandom(8).hex()},
    )
    assert observer.dir is not None
    return Path(observer.dir)


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def steps_on(database: Any) -> list[list[int]]:
    """Steps of the loss of every run on the server, in the order of the runs."""
    runs = database.runs.find({}, sort=[("_id", 1)])
    return [
        database.metrics.find_one({"run_id": run["_id"], "name": "loss"})["steps"] for run in runs
    ]


def kill_server(number: signal.Signals = signal.SIGKILL) -> None:
    """Send the embedded server of this folder a signal; after SIGKILL return when it is gone."""
    state = embedded_state()
    assert state is not None
    os.kill(state["pid"], number)
    while number == signal.SIGKILL and embedded_state():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(state["pid"], os.WNOHANG)
        time.sleep(0.02)
    # The kernel frees the port a moment after the process.
    until(lambda: number != signal.SIGKILL or is_free(state["port"]))


def is_free(port: int) -> bool:
    try:
        embedded.require_free(port)
    except TrackingError:
        return False
    return True


def until(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.1)
    return value


@contextlib.contextmanager
def team_server(folder: Path, user: str, password: str) -> Iterator[str]:
    """A server that knows its users, as compose.yaml's: the address without the user,
    `user:password` may read and write `sacred`.
    """
    port = free_port()
    folder.mkdir()
    (folder / "empty.toml").write_text("")

    def start(*options: str) -> subprocess.Popen[bytes]:
        command = [
            str(PROGRAM),
            "--config",
            str(folder / "empty.toml"),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--storage-path",
            str(folder / "data"),
            *options,
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: listens(port))
        return process

    process = start()
    with connect(f"mongodb://127.0.0.1:{port}/sacred") as database:
        admin = database.client.admin
        admin.command(
            "createUser", user, pwd=password, roles=[{"role": "readWrite", "db": "sacred"}]
        )
        admin.command(
            "createUser", "reader", pwd=password, roles=[{"role": "read", "db": "sacred"}]
        )
    process.terminate()
    process.wait()
    process = start("--auth")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
