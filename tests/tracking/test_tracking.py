"""File records of runs, and their copies on a MongoDB-compatible server through outages of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repro.files import replace_file
from repro.tracking import observer
from repro.tracking.record import Points
from repro.tracking.server import copier, copies, embedded
from repro.tracking.server.commands import tracking
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


def test_a_record_that_cannot_be_opened_does_not_end_the_run(here: Path, capsys) -> None:
    (here / "sacred").write_text("a file where the folder should be")
    with pytest.raises(AssertionError):  # of `record`, which returns the folder
        record()
    assert "tracking: no record in sacred/smoke: Not a directory" in capsys.readouterr().err
    assert "Traceback" not in capsys.readouterr().err


def test_metrics_that_take_long_to_write_are_written_seldom_but_whole_at_the_end(
    here: Path, monkeypatch
) -> None:
    written: list[str] = []

    def counts(path: Path, content: bytes) -> None:
        written.append(path.name)
        replace_file(path, content)

    monkeypatch.setattr(observer, "PATIENCE", 1e9)
    monkeypatch.setattr(observer, "replace_file", counts)
    folder = record(points=10, pause=0.1)
    assert read(folder / "metrics.json")["loss"]["steps"] == list(range(10))
    assert written.count("metrics.json") == 2
    assert written.count("run.json") > 4


def test_a_resumed_run_keeps_points_before_its_checkpoint_and_replaces_later_ones(tmp_path) -> None:
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


def test_only_records_without_a_process_are_marked_dead_whatever_their_clock(here: Path) -> None:
    dead = []
    folder = record(watch=lambda folder: dead.append(copies.reap()))
    assert dead == [[]], "the process lives"
    run = read(folder / "run.json") | {"status": "RUNNING", "heartbeat": "1999-01-01T00:00:00"}
    (folder / "run.json").write_text(json.dumps(run))
    assert copies.reap() == [folder]
    assert read(folder / "run.json")["status"] == "DEAD"


def test_status_counts_records_and_the_cost_of_tracking(here: Path, capsys) -> None:
    folder = record()
    result = {"result": {"seconds": 20.0}}
    (folder / "run.json").write_text(json.dumps(read(folder / "run.json") | result))
    (folder / "info.json").write_text(json.dumps({"tracking_seconds": 0.1}))
    record()  # without cost
    tracking("status")
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines == [
        "embedded server: not running",
        "records on disk: 2",
        "tracking took 0.50% of one core in 1 runs of smoke",
    ]


def test_an_absent_server_costs_a_run_nothing(here: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(copies, "TIMEOUT_MILLISECONDS", 200)
    monkeypatch.setattr(copier, "FLUSH_SECONDS", 0.5)
    thread = copying("mongodb://127.0.0.1:1/x")
    folder = record(watch=thread.watch)
    thread.close()
    assert read(folder / "run.json")["status"] == "COMPLETED"
    assert "1 records not copied; `python -m repro tracking backfill`" in capsys.readouterr().err


@needs_server
class TestCopies:
    """With the embedded server."""

    def test_a_run_is_copied_while_it_goes_on_through_an_outage(self, url, database) -> None:
        thread = copying(url)

        def outage(folder: Path) -> None:
            thread.watch(folder)
            kill_server()

        folder = record(points=40, watch=outage, pause=0.02)
        embedded.up(port_of(url))
        thread.close()
        assert not thread.pending
        run = database.runs.find_one({})
        assert run["status"] == "COMPLETED"
        assert run["config"]["learning_rate"] == 1e-3
        assert run["result"] == {"accuracy": 0.5}
        assert "training" in run["captured_out"]
        assert run["meta"]["folder"] == folder.as_posix()
        assert {item["name"] for item in run["info"]["metrics"]} == {"loss", "accuracy"}
        assert steps_on(database) == [list(range(40))]

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

    def test_what_is_too_long_is_shortened_in_the_copy_alone(self, database, monkeypatch) -> None:
        monkeypatch.setattr(copies, "MAX_POINTS", 4)
        monkeypatch.setattr(copies, "MAX_OUTPUT", 3000)
        folder = record(points=10)
        (folder / "cout.txt").write_text("x" * 5000 + "end")
        copies.backfill(database)
        assert steps_on(database) == [[0, 3, 6, 9]]
        run = database.runs.find_one({})
        assert len(run["captured_out"]) == 3000 and run["captured_out"].endswith("end")
        assert read(folder / "metrics.json")["loss"]["steps"] == list(range(10))

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
        assert copies.reap() == [folder]
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
        "import sys\nfrom tests.support.tracking import copying, record\n"
        "thread = copying(sys.argv[1])\n"
        "for _ in range(2):\n"
        "    record(points=30, watch=thread.watch, profile=sys.argv[2], pause=0.05)\n"
        "thread.close()\nassert not thread.pending\n"
    )
    address, environment = f"mongodb://127.0.0.1:{port}/sacred", {"PYTHONPATH": str(root)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, address, f"p{index}"],
            env=os.environ | environment,
        )
        for index in range(4)
    ]
    for _ in range(3):
        until(lambda: any(copies.records()) or all(w.poll() is not None for w in writers))
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


def test_the_server_program_is_never_imported(root: Path) -> None:
    """Its licence (GPL-2.0-only) allows use over a socket."""
    for file in (root / "repro").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "import secantus" not in text and "from secantus" not in text, file
