"""Tracking: records on disk and their copies on a real MongoDB-compatible server lose no point, whatever breaks."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import pytest

pytest.importorskip("sacred")
from repro.ledger import replace_file
from repro.tracking import database as connection
from repro.tracking import mirror, observers, server
from repro.tracking.address import TrackingError, mongo_url
from repro.tracking.database import connect
from repro.tracking.mirror import Mirror
from repro.tracking.observers import FileObserver
from repro.tracking.record import Points
from sacred import Experiment

needs_server = pytest.mark.skipif(
    shutil.which(server.PROGRAM, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}") is None,
    reason="no embedded tracking server: pip install '.[tracking]'",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONGO_URL", raising=False)
    return tmp_path


@pytest.fixture
def url(here: Path) -> Iterator[str]:
    """A real server in this test's folder."""
    yield server.up(free_port())
    server.down()


@pytest.fixture
def database(url: str) -> Iterator[Any]:
    with connect(url) as database:
        yield database


def record(points: int = 5, watch: Any = lambda folder: None, profile: str = "smoke", pause: float = 0, artifact: bool = True) -> Path:
    """One Sacred run with `points` points of two metrics; returns its folder."""
    experiment = Experiment("clean", base_dir=str(Path.cwd()), save_git_info=False)
    observer = FileObserver(Path("sacred") / profile, watch)
    experiment.observers.append(observer)
    experiment.add_config({"dataset": "cc3m", "learning_rate": 1e-3, "seed": 0})
    Path("spec.json").write_text("{}")

    @experiment.main
    def main(_run: Any) -> dict[str, float]:
        print("training")
        if artifact:
            _run.add_artifact("spec.json")
            _run.add_artifact("missing.json")
        for step in range(points):
            _run.log_scalar("loss", 1 / (step + 1), step)
            _run.log_scalar("accuracy", float("nan") if step == 1 else 0.5, step)
            time.sleep(pause)
        return {"accuracy": 0.5}

    experiment.run(options={"--beat-interval": 0.2, "--loglevel": "ERROR"}, meta_info={"record": os.urandom(8).hex()})
    assert observer.folder is not None
    return observer.folder


def steps_on(database: Any) -> list[list[int]]:
    """Steps of the loss of every run on the server, in the order of the runs."""
    runs = database.runs.find({}, sort=[("_id", 1)])
    return [database.metrics.find_one({"run_id": run["_id"], "name": "loss"})["steps"] for run in runs]


@pytest.mark.faults(18)
def test_a_missing_artifact_costs_no_point(here: Path) -> None:
    """Sacred's own observer stops recording at the missing file and says COMPLETED."""
    folder = record(points=20)
    assert json.loads((folder / "metrics.json").read_bytes())["loss"]["steps"] == list(range(20))
    assert (folder / "spec.json").exists()
    assert json.loads((folder / "run.json").read_bytes())["status"] == "COMPLETED"


@pytest.mark.faults(3, 18)
def test_a_full_disk_delays_points_only(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = 0

    def fails_at_first(path: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if 3 < calls < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(path, content)

    monkeypatch.setattr(observers, "replace_file", fails_at_first)
    folder = record(points=10, pause=0.1)
    assert json.loads((folder / "metrics.json").read_bytes())["loss"]["steps"] == list(range(10))
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.faults(1, 18)
def test_a_resumed_run_keeps_points_before_its_checkpoint_and_takes_later_ones_anew(tmp_path: Path) -> None:
    """Steps 1 2 3, killed; resumed from the checkpoint at 2: 3 4."""

    def point(step: int) -> dict[str, Any]:
        return {"event": "metrics", "step": step, "epoch": 0.0, "values": {}}

    path = tmp_path / "metrics.jsonl"
    first = Points(path)
    assert [len(first.due(point(step))) for step in (1, 2, 3)] == [1, 1, 1]
    with path.open("a") as file:
        file.write("::repro {torn")
    second = Points(path)
    assert [p["step"] for step in (3, 4) for p in second.due(point(step))] == [1, 2, 3, 4]
    assert [p["step"] for p in Points(path).due({"event": "end"})] == [1, 2, 3, 4]


@pytest.mark.faults(19)
def test_reap_marks_only_runs_whose_process_is_gone(here: Path) -> None:
    reaped = []
    folder = record(watch=lambda folder: reaped.append(mirror.reap()))
    assert reaped == [[]], "the run still goes on"
    run = json.loads((folder / "run.json").read_bytes()) | {"status": "RUNNING"}
    (folder / "run.json").write_text(json.dumps(run))
    assert mirror.reap() == [folder]
    assert json.loads((folder / "run.json").read_bytes())["status"] == "DEAD"


@pytest.mark.faults(24, 30)
@pytest.mark.parametrize(
    ("address", "message"),
    [("mongodb://user:s3cret@127.0.0.1:1/x", "does not answer"), ("postgres://user:s3cret@host", "not a valid address")],
)
def test_a_wrong_address_is_explained_without_the_password(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 0.3)
    with pytest.raises(TrackingError, match=message) as caught, connect(address):
        pass
    assert "s3cret" not in str(caught.value)


def test_the_address_comes_from_a_file_where_one_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "secret").write_text("mongodb://host/x\n")
    monkeypatch.setenv("MONGO_URL_FILE", "secret")
    assert mongo_url() == "mongodb://host/x"


@pytest.mark.faults(18)
def test_an_absent_server_costs_a_run_nothing(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(mirror, "FLUSH_SECONDS", 0.5)
    copies = Mirror("mongodb://127.0.0.1:1/x")
    copies.start()
    begin = time.monotonic()
    folder = record(watch=copies.watch)
    assert time.monotonic() - begin < 2
    copies.close()
    assert json.loads((folder / "run.json").read_bytes())["status"] == "COMPLETED"
    assert "backfill" in capsys.readouterr().err


@needs_server
class TestServer:
    """With the embedded server."""

    def test_a_run_is_copied_whole_while_it_goes_on(self, url: str, database: Any) -> None:
        copies = Mirror(url)
        copies.start()
        folder = record(points=30, watch=copies.watch)
        copies.close()
        run = database.runs.find_one({})
        assert run["status"] == "COMPLETED" and run["config"]["learning_rate"] == 1e-3 and run["result"] == {"accuracy": 0.5}
        assert "training" in run["captured_out"] and run["meta"]["folder"] == folder.as_posix()
        assert [item["name"] for item in run["artifacts"]] == ["spec.json"]
        assert {item["name"] for item in run["info"]["metrics"]} == {"loss", "accuracy"}
        assert steps_on(database) == [list(range(30))]

    @pytest.mark.faults(18)
    def test_backfill_twice_is_backfill_once(self, database: Any) -> None:
        for points in (3, 4, 5):
            record(points=points)
        sizes = []
        for _ in range(2):
            assert mirror.backfill(database) == []
            sizes.append({name: database[name].count_documents({}) for name in database.list_collection_names()})
        assert sizes[0] == sizes[1]
        assert steps_on(database) == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]

    def test_notes_made_in_omniboard_survive_a_backfill(self, database: Any) -> None:
        record()
        mirror.backfill(database)
        database.runs.update_one({}, {"$set": {"omniboard": {"notes": "odd", "tags": ["x"]}}})
        mirror.backfill(database)
        assert database.runs.find_one({})["omniboard"] == {"notes": "odd", "tags": ["x"]}

    @pytest.mark.faults(18)
    def test_overlong_output_and_metrics_are_thinned_in_the_copy_alone(self, database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mirror, "MAX_POINTS", 4)
        monkeypatch.setattr(mirror, "MAX_OUTPUT", 3000)
        folder = record(points=10)
        (folder / "cout.txt").write_text("x" * 5000 + "end")
        mirror.backfill(database)
        assert steps_on(database) == [[0, 3, 6, 9]]
        assert 3000 < len(database.runs.find_one({})["captured_out"]) < 3100
        assert database.runs.find_one({})["captured_out"].endswith("end")

    @pytest.mark.faults(18)
    def test_points_of_an_outage_are_there_afterwards(self, url: str, database: Any) -> None:
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        copies = Mirror(url)
        copies.start()

        def outage(folder: Path) -> None:
            copies.watch(folder)
            os.kill(json.loads((server.HOME / "server.json").read_bytes())["pid"], signal.SIGKILL)

        record(points=40, watch=outage, pause=0.05)
        time.sleep(1)
        server.up(port)
        copies.close()
        assert steps_on(database) == [list(range(40))]

    @pytest.mark.faults(18)
    @pytest.mark.slow
    def test_eight_processes_and_eight_kills_of_the_server_lose_nothing(self, url: str, database: Any) -> None:
        """24 runs of 30 points each, while the server is killed and started eight times."""
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        context = multiprocessing.get_context("spawn")
        writers = [context.Process(target=write_three_runs, args=(url, index)) for index in range(8)]
        for writer in writers:
            writer.start()
        for _ in range(8):
            time.sleep(1.5)
            os.kill(json.loads((server.HOME / "server.json").read_bytes())["pid"], signal.SIGKILL)
            time.sleep(0.5)
            server.up(port)
        for writer in writers:
            writer.join(120)
            assert writer.exitcode == 0
        mirror.backfill(database)
        assert [run["_id"] for run in database.runs.find({}, sort=[("_id", 1)])] == list(range(1, 25))
        assert {run["status"] for run in database.runs.find({})} == {"COMPLETED"}
        assert steps_on(database) == [list(range(30))] * 24

    def test_a_dump_restores_to_the_same_documents(self, database: Any) -> None:
        for points in (3, 4):
            record(points=points)
        mirror.backfill(database)
        total = server.dump(database, Path("all.bson"))
        other = database.client["other"]
        assert server.restore(other, Path("all.bson")) == total
        for name in database.list_collection_names():
            copied, original = ([bson.encode(item) for item in side[name].find({}, sort=[("_id", 1)])] for side in (other, database))
            assert copied == original, name
        with pytest.raises(TrackingError, match="not empty"):
            server.restore(other, Path("all.bson"))

    @pytest.mark.faults(22)
    def test_the_server_listens_on_loopback_alone(self, url: str) -> None:
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
        assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]

    @pytest.mark.faults(30)
    def test_a_folder_of_another_version_and_a_taken_port_are_refused(self, url: str) -> None:
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        assert server.up(port) == url, "a second call finds the first server"
        server.down()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
            with pytest.raises(TrackingError, match=f"port {port} on 127.0.0.1"):
                server.up(port)
        (server.HOME / "version").write_text("0.6.0b17")
        with pytest.raises(TrackingError, match=r"written by SecantusDB 0\.6\.0b17"):
            server.up(port)


def write_three_runs(url: str, index: int) -> None:
    copies = Mirror(url)
    copies.start()
    for _ in range(3):
        record(points=30, watch=copies.watch, profile=f"p{index}", pause=0.05, artifact=index == 0)
    copies.close()


def test_the_server_program_is_never_imported(root: Path) -> None:
    """Its licence (GPL-2.0-only) allows use over a socket."""
    lines = [line.strip() for file in (root / "repro").rglob("*.py") for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if line.startswith(("import secantus", "from secantus"))] == []
