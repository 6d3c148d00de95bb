"""Tracking: the records on disk and their copies on a MongoDB-compatible server, in ordinary times."""

from __future__ import annotations

import errno
import json
import os
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import bson
import pytest

from repro.files import replace_file
from repro.tracking import STARTED, observer
from repro.tracking.figure import curves
from repro.tracking.record import Points, Recorder
from repro.tracking.server import copies, embedded
from repro.tracking.server.address import TrackingError
from repro.tracking.server.commands import overhead
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
    url,
)

__all__ = [
    "database",
    "free_port",
    "here",
    "url",
]  # fixtures, and what another test takes from here


@pytest.mark.faults(18)
def test_a_missing_artifact_costs_no_point_and_is_named(here: Path) -> None:
    """Sacred's own observer stops recording at the missing file and says COMPLETED."""
    folder = record(points=20)
    assert read(folder / "metrics.json")["loss"]["steps"] == list(range(20))
    assert (folder / "spec.json").exists()
    assert read(folder / "run.json")["status"] == "COMPLETED"
    assert read(folder / "info.json")["lost"] == ["missing.json"]


@pytest.mark.faults(3, 18)
def test_a_write_that_fails_delays_points_only(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = 0

    def fails_at_first(path: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if 3 < calls < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(path, content)

    monkeypatch.setattr(observer, "replace_file", fails_at_first)
    folder = record(points=10, pause=0.1)
    assert read(folder / "metrics.json")["loss"]["steps"] == list(range(10))
    assert "No space left on device" in capsys.readouterr().err


def test_metrics_that_take_long_to_write_are_written_seldom_but_whole_at_the_end(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def counts(path: Path, content: bytes) -> None:
        written.append(path)
        replace_file(path, content)

    monkeypatch.setattr(observer, "PATIENCE", 1e9)
    monkeypatch.setattr(observer, "replace_file", counts)
    folder = record(points=10, pause=0.1)
    assert read(folder / "metrics.json")["loss"]["steps"] == list(range(10))
    assert [path.name for path in written].count("metrics.json") == 2
    assert [path.name for path in written].count("run.json") > 4


@pytest.mark.faults(1, 18)
def test_a_resumed_run_keeps_points_before_its_checkpoint_and_takes_later_ones_anew(
    tmp_path: Path,
) -> None:
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
    folder = record(watch=lambda folder: reaped.append(copies.reap()))
    assert reaped == [[]], "the run still goes on"
    run = read(folder / "run.json") | {"status": "RUNNING"}
    (folder / "run.json").write_text(json.dumps(run))
    assert copies.reap() == [folder]
    assert read(folder / "run.json")["status"] == "DEAD"


def test_the_figure_of_a_run_is_an_image_of_its_fractions() -> None:
    """Half after one of two epochs is the middle of the drawing; what is not finite is left out."""
    root = xml.etree.ElementTree.fromstring(
        curves({"<accuracy>": [(0, 0.0), (1, 0.5), (2, 1.0)], "ASR": [(0, float("nan"))]})
    )
    lines = [item.get("points") for item in root.iter() if item.tag.endswith("polyline")]
    assert lines[1:] == ["36.0,244.0 240.0,140.0 444.0,36.0", ""]
    assert "<accuracy>" in "".join(root.itertext())


def test_the_cost_of_tracking_is_read_from_the_records(here: Path) -> None:
    folder = record()
    (folder / "run.json").write_text(
        json.dumps(read(folder / "run.json") | {"result": {"seconds": 20.0}})
    )
    (folder / "info.json").write_text(json.dumps({"tracking_seconds": 0.1}))
    record()  # tells nothing
    assert overhead() == {"smoke": [(0.1, 20.0)]}


def test_the_runs_of_a_pack_share_the_start_of_tracking(here: Path) -> None:
    """Every processor second since tracking began to load is charged, none twice."""
    recorder = Recorder(lambda folder: None, runs=2)
    charged = [recorder._lap(), recorder._lap()]
    assert min(charged) >= recorder.share > 0
    assert sum(charged) == pytest.approx(recorder.spent - STARTED)


@needs_server
class TestCopies:
    """With the embedded embedded."""

    def test_a_run_is_copied_whole_while_it_goes_on(self, url: str, database: Any) -> None:
        copies = copying(url)
        folder = record(points=30, watch=copies.watch)
        copies.close()
        run = database.runs.find_one({})
        assert (
            run["status"] == "COMPLETED"
            and run["config"]["learning_rate"] == 1e-3
            and run["result"] == {"accuracy": 0.5}
        )
        assert "training" in run["captured_out"] and run["meta"]["folder"] == folder.as_posix()
        assert [item["name"] for item in run["artifacts"]] == ["spec.json"] and run["info"][
            "lost"
        ] == ["missing.json"]
        assert {item["name"] for item in run["info"]["metrics"]} == {"loss", "accuracy"}
        assert steps_on(database) == [list(range(30))]

    def test_backfill_twice_is_backfill_once(self, database: Any) -> None:
        for points in (3, 4, 5):
            record(points=points)
        sizes = []
        for _ in range(2):
            assert copies.backfill(database) == []
            sizes.append(
                {
                    name: database[name].count_documents({})
                    for name in database.list_collection_names()
                }
            )
        assert sizes[0] == sizes[1]
        assert steps_on(database) == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]

    def test_a_broken_record_stops_no_other(self, database: Any) -> None:
        broken, whole = record(points=3), record(points=4)
        (broken / "config.json").write_text("{torn")
        assert [problem.split(":")[0] for problem in copies.backfill(database)] == [
            broken.as_posix()
        ]
        assert [run["meta"]["folder"] for run in database.runs.find({})] == [whole.as_posix()]

    def test_a_file_of_several_parts_is_whole_after_an_upload_that_broke_off(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """GridFS itself reads it back."""
        gridfs = pytest.importorskip("gridfs")
        monkeypatch.setattr(copies, "CHUNK", 1000)
        folder = record()
        content = os.urandom(2500)
        (folder / "spec.json").write_bytes(content)
        copies.backfill(database)
        item = database.runs.find_one({})["artifacts"][0]["file_id"]
        database["fs.files"].delete_one({"_id": item})
        database["fs.chunks"].delete_one({"files_id": item, "n": 1})
        copies.backfill(database)
        assert gridfs.GridFS(database).get(item).read() == content

    def test_notes_made_in_omniboard_survive_a_backfill(self, database: Any) -> None:
        record()
        copies.backfill(database)
        database.runs.update_one({}, {"$set": {"omniboard": {"notes": "odd", "tags": ["x"]}}})
        copies.backfill(database)
        assert database.runs.find_one({})["omniboard"] == {"notes": "odd", "tags": ["x"]}

    @pytest.mark.faults(18)
    def test_what_is_too_long_is_thinned_in_the_copy_alone(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(copies, "MAX_POINTS", 4)
        monkeypatch.setattr(copies, "MAX_OUTPUT", 3000)
        monkeypatch.setattr(copies, "MAX_ARTIFACT", 1)
        folder = record(points=10)
        (folder / "cout.txt").write_text("x" * 5000 + "end")
        copies.backfill(database)
        assert steps_on(database) == [[0, 3, 6, 9]]
        run = database.runs.find_one({})
        assert 3000 < len(run["captured_out"]) < 3100 and run["captured_out"].endswith("end")
        assert run["artifacts"] == [] and run["info"]["lost"] == [
            "missing.json",
            "spec.json (missing or larger than 1 bytes)",
        ]
        assert (folder / "spec.json").exists() and read(folder / "metrics.json")["loss"][
            "steps"
        ] == list(range(10))

    def test_accuracy_has_a_chart_over_epochs(self, database: Any) -> None:
        folder = record()
        stamps = ["2026-01-01T00:00:00"] * 2
        series = {"epoch": [0.5, 1.0], "zero_shot_top1": [0.25, 0.75]}
        (folder / "metrics.json").write_text(
            json.dumps(
                {
                    name: {"steps": [5, 10], "values": values, "timestamps": stamps}
                    for name, values in series.items()
                }
            )
        )
        copies.backfill(database)
        chart = database.metrics.find_one({"name": "accuracy over epochs"})
        assert (chart["steps"], chart["values"]) == ([0.5, 1.0], [0.25, 0.75])

    @pytest.mark.faults(18)
    def test_points_of_a_short_outage_are_there_afterwards(self, url: str, database: Any) -> None:
        copies = copying(url)

        def outage(folder: Path) -> None:
            copies.watch(folder)
            kill_server()

        record(points=40, watch=outage, pause=0.02)
        embedded.up(port_of(url))
        copies.close()
        assert steps_on(database) == [list(range(40))]

    def test_a_dump_restores_to_the_same_documents(self, database: Any) -> None:
        for points in (3, 4):
            record(points=points)
        copies.backfill(database)
        total = embedded.dump(database, Path("all.bson"))
        other = database.client["other"]
        assert embedded.restore(other, Path("all.bson")) == total
        for name in database.list_collection_names():
            copied, original = (
                [bson.encode(item) for item in side[name].find({}, sort=[("_id", 1)])]
                for side in (other, database)
            )
            assert copied == original, name
            assert (
                other[name].index_information().keys() == database[name].index_information().keys()
            ), name
        with pytest.raises(TrackingError, match="not empty"):
            embedded.restore(other, Path("all.bson"))
        Path("torn.bson").write_bytes(Path("all.bson").read_bytes()[:-7])
        with pytest.raises(TrackingError, match=r"torn\.bson: not a dump, or torn"):
            embedded.restore(database.client["third"], Path("torn.bson"))


def test_the_server_program_is_never_imported(root: Path) -> None:
    """Its licence (GPL-2.0-only) allows use over a socket."""
    lines = [
        line.strip()
        for file in (root / "repro").rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert [line for line in lines if line.startswith(("import secantus", "from secantus"))] == []
