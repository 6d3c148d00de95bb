"""Omniboard over the archived runs too, so that a fresh clone has something to browse."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from repro.ledger import Row, RunRecord
from repro.runs.layout import RESULTS
from repro.runs.run import place_of
from repro.spec import RunSpec
from repro.study.archive import read_archive
from repro.study.spec import load_study
from repro.tracking.server import omniboard
from repro.tracking.server.copies import Tracking

STUDY = "confirmation"
"""The study whose reference is shown: all of its seeds, at every learning rate."""


def browse(port: int) -> None:
    """Serve Omniboard with one's own records and the archived runs of STUDY."""
    omniboard.omniboard(port, add_archive)


def add_archive(database: Tracking) -> int:
    """Add the archived runs that the database lacks; returns how many it then has.

    They have records of their own, are marked by `archived`, and hold the evaluations: what was
    printed, and the losses between, no archive has. Their numbers are below 0, for Omniboard's list
    begins with the highest, and one's own runs come first.
    """
    known = {"meta.record": {"$regex": f"^archive/{STUDY}/"}}
    there = {run["meta"]["record"] for run in database.runs.find(known, {"meta.record": 1})}
    number = -len(there)
    runs = []
    series = []
    for record, rows in _archived():
        name = f"archive/{STUDY}/{place_of(record.spec)}"
        if name not in there:
            number -= 1
            runs.append(document(number, name, record, rows))
            series += points(number, record, rows)
    if runs:
        # The points first: a run that is there has them.
        database.metrics.insert_many(series)
        for run in runs:
            run["info"]["metrics"] = [
                {"name": of["name"], "id": str(of["_id"])}
                for of in series
                if of["run_id"] == run["_id"]
            ]
        database.runs.insert_many(runs)
    return len(there) + len(runs)


def _archived() -> Iterator[tuple[RunRecord, list[Row]]]:
    reference = load_study(STUDY).reference
    for record, rows in read_archive(RESULTS / "studies" / f"{STUDY}.jsonl.gz"):
        if record.spec.variant == reference and rows:
            yield record, rows


def document(number: int, name: str, record: RunRecord, rows: list[Row]) -> dict[str, Any]:
    """A run as Sacred's MongoObserver lays it out."""
    spec = record.spec
    began = datetime.fromisoformat(record.started)
    ended = began + timedelta(seconds=record.seconds)
    return {
        "_id": number,
        "format": "MongoObserver-0.7.0",
        "experiment": {
            "name": f"archived {spec.stage} {spec.model_name}/{spec.run_id}",
            "sources": [],
        },
        "command": "archived",
        "config": config(spec)
        | {"archived": STUDY, "fingerprint": record.fingerprint, "code": record.code},
        "meta": {"record": name},
        "status": "FAILED" if record.status == "failed" else "COMPLETED",
        "start_time": began,
        "stop_time": ended,
        "heartbeat": ended,
        "result": {
            "status": record.status,
            "zero_shot_top1": rows[-1].accuracy,
            "attack_success_rate": asr_of(rows[-1], spec),
        },
        "info": {"reason": record.reason, "commit": record.commit},
        "captured_out": f"archived in results/studies/{STUDY}.jsonl.gz; its output was not kept",
        "artifacts": [],
        "resources": [],
    }


def config(spec: RunSpec) -> dict[str, Any]:
    """The configuration that a record of the run has."""
    return spec.model_dump(mode="json") | {"learning_rate": spec.schedule.learning_rate}


def points(number: int, record: RunRecord, rows: list[Row]) -> list[dict[str, Any]]:
    """The metrics of a run over its steps."""
    began = datetime.fromisoformat(record.started)
    evaluations = {
        "zero_shot_top1": [round(row.accuracy, 4) for row in rows],
        "attack_success_rate": [round(asr_of(row, record.spec), 4) for row in rows],
        "epoch": [row.epoch for row in rows],
    }
    return [
        {
            "run_id": number,
            "name": name,
            "values": values,
            "steps": [row.step for row in rows],
            "timestamps": [began + timedelta(seconds=row.seconds) for row in rows],
        }
        for name, values in evaluations.items()
    ]


def asr_of(row: Row, spec: RunSpec) -> float:
    """ASR by the denominator of the specification."""
    return row.asr(spec.switches.asr_denominator)
