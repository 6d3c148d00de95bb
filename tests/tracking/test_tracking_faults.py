"""Tracking loses no point, whatever breaks: outages, kills of server and run, a full disk, a clock
that jumps.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from sacred import metrics_logger

from repro.tracking.server import copier, copies, embedded
from repro.tracking.server import database as connection
from repro.tracking.server.database import connect
from tests.support.tracking import (
    copying,
    database,
    free_port,
    here,
    kill_server,
    needs_server,
    port_of,
    read,
    record,
    steps_on,
    until,
    url,
)

__all__ = ["database", "here", "url"]  # fixtures
pytestmark = pytest.mark.faults(18)

OUTAGES = {"killed": (signal.SIGKILL, 120), "hangs": (signal.SIGSTOP, 40)}
"""What happens to the server, and for how many seconds: refused connections for one outage,
unanswered ones for the other.
"""


def outage(folder: Path, name: str) -> None:
    """A process: a run that logs before, during and after an outage of its server, in a folder of
    its own.
    """
    number, seconds = OUTAGES[name]
    folder.mkdir()
    os.chdir(folder)
    port = free_port()
    copies = copying(embedded.up(port))
    begin = time.monotonic()
    breaker = threading.Timer(1.0, kill_server, (number,))
    breaker.start()

    def end() -> None:
        kill_server(signal.SIGCONT) if number == signal.SIGSTOP else embedded.up(port)

    mender = threading.Timer(1.0 + seconds, end)
    mender.start()
    pause = 0.25
    record(points=int((seconds + 3) / pause), watch=copies.watch, pause=pause)
    assert time.monotonic() - begin > seconds + 1
    copies.close()
    assert not copies.pending, "the copy is complete when the run ends, without a backfill"


@pytest.fixture(scope="module")
def outages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Any]]]:
    """Both outages, going on beside the other tests of this file."""
    parent = tmp_path_factory.mktemp("outages")
    context = multiprocessing.get_context("spawn")
    going = {
        name: (parent / name, context.Process(target=outage, args=(parent / name, name)))
        for name in OUTAGES
    }
    for _, process in going.values():
        process.start()
    yield going
    for folder, process in going.values():
        process.kill()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            embedded.down()


@pytest.mark.slow
@needs_server
def test_outages_begin(outages: dict[str, tuple[Path, Any]]) -> None:
    """They take two minutes, so they begin before the other tests and are judged after them."""
    assert all(process.is_alive() for _, process in outages.values())


def test_an_absent_server_costs_a_run_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(copier, "FLUSH_SECONDS", 0.5)
    mirror = copying("mongodb://127.0.0.1:1/x")
    begin = time.monotonic()
    folder = record(watch=mirror.watch)
    assert time.monotonic() - begin < 5
    mirror.close()
    assert read(folder / "run.json")["status"] == "COMPLETED"
    assert "backfill" in capsys.readouterr().err


@needs_server
def test_a_server_gone_for_good_is_made_up_for_by_a_backfill(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends in time and its record is whole; a new, empty server takes it later, any number
    of times.
    """
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(copier, "FLUSH_SECONDS", 1.0)
    mirror = copying(url)

    def lose(folder: Path) -> None:
        mirror.watch(folder)
        kill_server()

    folder = record(points=20, watch=lose, pause=0.02)
    mirror.close()
    assert read(folder / "run.json")["status"] == "COMPLETED"
    assert "1 records not copied" in capsys.readouterr().err
    shutil.rmtree(embedded.HOME)
    with connect(embedded.up(free_port())) as database:
        assert steps_on(database) == []
        for _ in range(2):
            assert copies.backfill(database) == []
        assert steps_on(database) == [list(range(20))]
        assert database.runs.find_one({})["status"] == "COMPLETED"


def write_three_runs(url: str, index: int) -> None:
    mirror = copying(url)
    for _ in range(3):
        record(points=30, watch=mirror.watch, profile=f"p{index}", pause=0.05, artifact=index == 0)
    mirror.close()
    assert not mirror.pending


@pytest.mark.slow
@needs_server
def test_eight_processes_and_eight_kills_of_the_server_lose_nothing(
    url: str, database: Any
) -> None:
    """24 runs of 30 points each, and single writes, while the server is killed eight times: exact,
    and no write it acknowledged is lost.
    """
    acknowledged: list[int] = []
    over = threading.Event()

    def write() -> None:
        with MongoClient(url, retryWrites=False, serverSelectionTimeoutMS=500) as client:
            for number in range(1_000_000):
                if over.is_set():
                    return
                try:
                    client.sacred.single.insert_one({"_id": number})
                except PyMongoError:
                    continue
                acknowledged.append(number)

    single = threading.Thread(target=write)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_three_runs, args=(url, index)) for index in range(8)]
    for thread in (single, *writers):
        thread.start()
    for _ in range(8):
        before = len(acknowledged)
        until(lambda: len(acknowledged) > before + 20)  # noqa: B023
        kill_server()
        embedded.up(port_of(url))
    over.set()
    for thread in (single, *writers):
        thread.join(200)
    assert [writer.exitcode for writer in writers] == [0] * 8
    lost = set(acknowledged) - {item["_id"] for item in database.single.find({})}
    assert len(acknowledged) > 160 and not lost
    assert [run["_id"] for run in database.runs.find({}, sort=[("_id", 1)])] == list(range(1, 25))
    assert {run["status"] for run in database.runs.find({})} == {"COMPLETED"}
    assert steps_on(database) == [list(range(30))] * 24


RUN = """
import sys
from tests.support.tracking import record
record(points=10_000, pause=0.05, watch=lambda folder: print(folder, flush=True))
"""


@pytest.mark.faults(19)
@needs_server
def test_a_killed_run_is_shown_dead_with_its_points_and_the_resumed_one_names_it(
    root: Path, database: Any
) -> None:
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", RUN],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        until((folder / "metrics.json").exists)
        copies.backfill(database)
        assert copies.reap() == [] and database.runs.find_one({})["status"] == "RUNNING"
        process.kill()
    assert copies.reap() == [folder]
    copies.backfill(database)
    dead = database.runs.find_one({})
    assert (
        dead["status"] == "DEAD"
        and dead["info"]["reason"] == "the process that kept this record was killed"
    )
    assert steps_on(database)[0][0] == 0
    again = record()
    run = read(again / "run.json")
    run["meta"]["resumes"] = read(folder / "run.json")["meta"]["record"]
    (again / "run.json").write_text(json.dumps(run))
    copies.backfill(database)
    assert database.runs.find_one({"_id": 2})["info"]["resumes_id"] == dead["_id"] == 1


@pytest.mark.faults(3)
@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_stops_no_run_and_the_record_comes_when_there_is_room(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records on a file system of 64 KiB that is full when the run starts, and has room before it
    ends.
    """
    (here / "sacred").mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "sacred"],
        check=False,
        stderr=subprocess.DEVNULL,
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        ballast = Path("sacred/ballast")
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={ballast}"], check=False, stderr=subprocess.DEVNULL
        )
        assert ballast.stat().st_size == 64 << 10
        threading.Timer(1.0, ballast.unlink).start()
        folder = record(points=40, pause=0.05)
        assert read(folder / "metrics.json")["loss"]["steps"] == list(range(40))
        assert (
            read(folder / "run.json")["status"] == "COMPLETED" and (folder / "spec.json").exists()
        )
        assert "No space left on device" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", "sacred"], check=True)


@pytest.mark.faults(25)
@needs_server
def test_a_clock_that_jumps_loses_no_point_and_kills_no_run(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten years back at each point; a record whose heartbeat is in the past is alive as long as its
    process is.
    """

    class Jumping(datetime.datetime):
        year_now = 2100

        @classmethod
        def utcnow(cls) -> datetime.datetime:  # type: ignore[override]
            cls.year_now -= 10
            return datetime.datetime(cls.year_now, 1, 1)

    class Module:
        datetime = Jumping

    monkeypatch.setattr(metrics_logger, "datetime", Module)
    reaped = []
    folder = record(points=5, watch=lambda folder: reaped.append(copies.reap()))
    stamps = read(folder / "metrics.json")["loss"]["timestamps"]
    assert stamps == sorted(stamps, reverse=True) and reaped == [[]]
    copies.backfill(database)
    assert steps_on(database) == [list(range(5))]


@pytest.mark.slow
@needs_server
@pytest.mark.parametrize("name", OUTAGES)
def test_points_of_a_long_outage_are_there_afterwards(
    outages: dict[str, tuple[Path, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 s of refused and 40 s of unanswered connections, twice the times after which Sacred's own
    observer gives up.
    """
    folder, process = outages[name]
    assert (
        until(lambda: process.exitcode is not None, 240) and process.exitcode == 0
    )  # join would wait for its server too
    monkeypatch.chdir(folder)
    with connect(embedded.up()) as database:
        run = database.runs.find_one({})
        assert run["status"] == "COMPLETED" and [item["name"] for item in run["artifacts"]] == [
            "spec.json"
        ]
        assert steps_on(database) == [list(range(int((OUTAGES[name][1] + 3) / 0.25)))]
