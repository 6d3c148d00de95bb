"""File records of runs, and their copies on a MongoDB-compatible server through outages of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repro.files import replace_file
from repro.tracking import observer
from repro.tracking.server import copies, embedded
from repro.tracking.server.commands import tracking
from repro.tracking.server.copier import Copier
from tests.support.tracking import (
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


def test_a_write_that_fails_costs_no_point_of_the_record(here: Path, monkeypatch, capsys) -> None:
    """Sacred's own observer is dropped at the first error; here also an artifact is missing."""
    calls = 0

    def fails_at_first(path: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if 3 < calls < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(path, content)

    monkeypatch.setattr(observer, "replace_file", fails_at_first)
    folder = record(points=20, pause=0.05)
    assert read(folder / "metrics.json")["loss"]["steps"] == list(range(20))
    assert read(folder / "run.json")["status"] == "COMPLETED"
    assert (folder / "spec.json").exists()
    messages = capsys.readouterr().err
    assert "No space left on device" in messages and "missing.json not written" in messages


def test_only_records_without_a_process_are_marked_dead_whatever_their_clock(
    here: Path, capsys
) -> None:
    folder = record(watch=lambda folder: copies.reap())
    assert read(folder / "run.json")["status"] == "COMPLETED"
    assert "DEAD" not in capsys.readouterr().out, "the process lives"
    run = read(folder / "run.json") | {"status": "RUNNING", "heartbeat": "1999-01-01T00:00:00"}
    (folder / "run.json").write_text(json.dumps(run))
    copies.reap()
    assert read(folder / "run.json")["status"] == "DEAD"


def test_status_counts_records(here: Path, capsys) -> None:
    record()
    tracking("status")
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert lines == ["embedded server: not running", "records on disk: 1"]


def test_an_absent_server_costs_a_run_nothing(here: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(copies, "TIMEOUT_MILLISECONDS", 200)
    copier = Copier("mongodb://127.0.0.1:1/x")
    folder = record(watch=copier.copy)
    copier.close()
    assert read(folder / "run.json")["status"] == "COMPLETED"
    messages = capsys.readouterr().err
    assert messages.count("copies delayed: MONGO_URL: the server does not answer") == 1
    assert "1 records not copied; `python -m repro tracking backfill`" in messages


@needs_server
class TestCopies:
    """With the embedded server."""

    def test_a_run_is_copied_while_it_goes_on_through_an_outage(self, url, database) -> None:
        copier = Copier(url)

        def outage(folder: Path) -> None:
            copier.copy(folder)
            assert database.runs.find_one({})["status"] == "RUNNING"
            kill_server()
            copier.copy(folder)

        folder = record(points=40, watch=outage)
        embedded.up(port_of(url))
        copier.copy(record(profile="next"))
        assert not copier.pending
        run = database.runs.find_one({})
        assert run["status"] == "COMPLETED"
        assert run["config"]["learning_rate"] == 1e-3
        assert run["result"] == {"accuracy": 0.5}
        assert "training" in run["captured_out"]
        assert run["meta"]["folder"] == folder.as_posix()
        assert {item["name"] for item in run["info"]["metrics"]} == {"loss", "accuracy"}
        assert steps_on(database) == [list(range(40)), list(range(5))]

    def test_backfill_brings_all_to_a_new_server_once_and_keeps_notes(self, url, capsys) -> None:
        for points in (3, 4, 5):
            record(points=points)
        broken = record()
        (broken / "config.json").write_text("{torn")
        kill_server()
        shutil.rmtree(embedded.HOME)
        with copies.connect(embedded.up(free_port())) as database:
            sizes = []
            for notes in ("odd", None):
                tracking("backfill")
                names = database.list_collection_names()
                sizes.append({name: database[name].count_documents({}) for name in names})
                if notes:
                    database.runs.update_one({"_id": 2}, {"$set": {"omniboard": {"notes": notes}}})
            assert sizes[0] == sizes[1]
            assert steps_on(database) == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
            assert database.runs.find_one({"_id": 2})["omniboard"] == {"notes": "odd"}
        output = capsys.readouterr().out
        assert f"{broken}: cannot be read" in output
        assert "3 records are on the server" in output

    def test_a_killed_run_is_dead_with_its_points(self, root: Path, database) -> None:
        code = (
            "from tests.support.tracking import record\n"
            "record(points=10_000, pause=0.05, watch=lambda folder: print(folder, flush=True))\n"
        )
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(root)},
        ) as process:
            assert process.stdout is not None
            folder = Path(process.stdout.readline().strip())
            until((folder / "metrics.json").exists)
            copies.backfill(database)
            assert database.runs.find_one({})["status"] == "RUNNING"
            process.kill()
        copies.reap()
        copies.backfill(database)
        assert database.runs.find_one({})["status"] == "DEAD"
        assert steps_on(database)[0][0] == 0


@pytest.mark.slow
@needs_server
def test_processes_that_copy_at_once_while_the_server_is_killed_lose_nothing(
    here: Path, root: Path
) -> None:
    """Four processes of two runs each, and a backfill beside them."""
    port = port_of(embedded.up(free_port()))
    code = (
        "import sys\nfrom tests.support.tracking import record\n"
        "from repro.tracking.server.copier import Copier\n"
        "copier = Copier(sys.argv[1])\n"
        "for _ in range(2):\n"
        "    copier.copy(record(30, copier.copy, sys.argv[2], pause=0.05))\n"
        "while copier.pending:\n"
        "    copier.copy(copier.pending[0])\n"
    )
    address, environment = f"mongodb://127.0.0.1:{port}/sacred", {"PYTHONPATH": str(root)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, address, f"p{index}"],
            env=os.environ | environment,
        )
        for index in range(4)
    ]

    def begun() -> bool:
        with copies.connect(address) as database:
            return database.runs.find_one() is not None or all(w.poll() == 0 for w in writers)

    for _ in range(3):
        # A server that dies while it makes its first tables does not always start again.
        until(begun)
        kill_server()
        embedded.up(port)
        with copies.connect(address) as database:
            copies.backfill(database)
    assert [writer.wait(200) for writer in writers] == [0] * 4
    with copies.connect(address) as database:
        runs = list(database.runs.find({}, sort=[("_id", 1)]))
        assert [run["_id"] for run in runs] == list(range(1, 9))
        assert {run["status"] for run in runs} == {"COMPLETED"}
        assert steps_on(database) == [list(range(30))] * 8
    embedded.down()
