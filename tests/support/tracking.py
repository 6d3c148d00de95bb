"""Records and servers for tests of tracking; who imports a fixture names it in `__all__`."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repro.tracking.server import embedded

pytest.importorskip("sacred")
from sacred import Experiment

import repro.tracking.record  # noqa: F401  (sets how Sacred captures output)
from repro.tracking.observer import FileObserver
from repro.tracking.server.copies import connect
from repro.tracking.server.embedded import embedded_state
from tests.support.processes import free_port as free_port
from tests.support.processes import wait_for

PROGRAM = shutil.which(
    embedded.PROGRAM, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
)
needs_server = pytest.mark.skipif(
    PROGRAM is None, reason="no embedded tracking server: pip install '.[tracking]'"
)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/")[0])


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
    observer = FileObserver(Path("sacred") / profile)
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
    wait_for(lambda: number != signal.SIGKILL or embedded.is_free(state["port"]))


@contextlib.contextmanager
def team_server(folder: Path, user: str, password: str) -> Iterator[str]:
    """A server with users, as compose.yaml's: its address, where `user:password` may write."""
    port = free_port()
    folder.mkdir()
    (folder / "empty.toml").write_text("")

    def start(*options: str) -> subprocess.Popen[bytes]:
        settings = {"config": folder / "empty.toml", "host": "127.0.0.1", "port": port}
        settings |= {"storage-path": folder / "data"}
        words = [f"--{name}={value}" for name, value in settings.items()]
        command = [str(PROGRAM), *words, *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: listens(port))
        return process

    process = start()
    with connect(f"mongodb://127.0.0.1:{port}/sacred") as database:
        for name, role in ((user, "readWrite"), ("reader", "read")):
            roles = [{"role": role, "db": "sacred"}]
            database.client.admin.command("createUser", name, pwd=password, roles=roles)
    process.terminate()
    process.wait()
    process = start("--auth")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
