"""Copies of the file records in a MongoDB server, in the layout of Sacred's MongoObserver that
Omniboard reads.

The disk is the buffer: `copy_record` brings one record's copy up to date and may be repeated at any
time, by the run itself every few seconds, or by `python -m repro tracking backfill` much later.
Identities are derived from contents, so that no repetition makes a second copy, and the status is
written last, so that no copy says more than it holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mimetypes
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bson import ObjectId
from bson.errors import BSONError
from pymongo import DESCENDING
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from repro.files import replace_file
from repro.tracking.observer import RECORDS, is_alive

MAX_OUTPUT = 1_000_000
"""Characters of captured output in a copy, beginning and end; the file record has all."""
MAX_POINTS = 20_000
"""Points of a metric in a copy, evenly thinned; MongoDB's documents end at 16 MB."""
MAX_ARTIFACT = 64 << 20
"""Bytes of an artifact in a copy; larger ones stay in the file record."""
CHUNK = 255 << 10
"""Bytes of a part of a stored file."""
FAILURE = "repro.tracking.record.RunFailed: "
TIMES = ("start_time", "stop_time", "heartbeat")
UNREADABLE = (OSError, ValueError, KeyError, TypeError, OverflowError, BSONError)
"""What a broken record raises; it stops no other."""
DIGITS = 4
"""Of a value in a copy: Omniboard shows all that it gets; the file record has all."""
BY_EPOCH = {"accuracy over epochs": "zero_shot_top1", "ASR over epochs": "attack_success_rate"}
"""Metrics that a copy has a second time, over epochs instead of steps, for the charts."""


def records(root: Path = RECORDS) -> Iterator[Path]:
    """Folders of all file records, oldest first."""
    found = [path.parent for path in root.glob("*/*/run.json") if path.parent.name.isdigit()]
    return iter(sorted(found, key=lambda folder: (folder.parent, int(folder.name))))


def copy_record(folder: Path, database: Database[dict[str, Any]]) -> str:
    """Bring the copy of one file record up to date; returns the record's status.

    Raises PyMongoError if the server is lost, with what is there kept, and one of `UNREADABLE` for
    a broken record.
    """
    run = _read(folder / "run.json")
    info = _read(folder / "info.json")
    meta = run.get("meta") or {}
    key = str(meta.get("record") or f"{folder.parent.name}-{folder.name}-{run['start_time']}")
    entry = _entry(folder, run, meta, key)
    number = _claim(database, key, entry)

    # Files first, then what refers to them.
    entry["experiment"] = run["experiment"] | {
        "name": _title(run, entry["config"]),
        "sources": _sources(folder, run, database),
    }
    entry["artifacts"], lost = _artifacts(folder, run, key, number, database)
    if lost:
        info["lost"] = sorted({*info.get("lost", []), *lost})

    # Why it failed, and which record it goes on from.
    trace = run.get("fail_trace")
    if trace:
        info["reason"] = str(trace[-1]).strip().removeprefix(FAILURE)
    if "resumes" in meta:
        earlier = database.runs.find_one({"meta.record": meta["resumes"]}, {"_id": 1})
        if earlier:
            info["resumes_id"] = earlier["_id"]

    entry["info"] = info | {"metrics": _metrics(folder, key, number, database)}
    database.runs.update_one({"_id": number}, {"$set": entry})
    return str(run["status"])


def _entry(folder: Path, run: dict[str, Any], meta: dict[str, Any], key: str) -> dict[str, Any]:
    """The record as Sacred's MongoObserver would have written it, without what lies in other
    collections.
    """
    entry: dict[str, Any] = run | {
        "format": "MongoObserver-0.7.0",
        "config": _read(folder / "config.json"),
        "meta": meta | {"record": key, "folder": folder.as_posix()},
        "captured_out": _capped(folder / "cout.txt"),
        "resources": [list(item) for item in run.get("resources", [])],
    }
    for name in TIMES:
        if entry.get(name):
            entry[name] = datetime.fromisoformat(entry[name])
    return entry


def _title(run: dict[str, Any], config: dict[str, Any]) -> str:
    """What Omniboard heads a run with: the experiment and, where there is one, the run's name."""
    name = str(run["experiment"]["name"])
    if "cell" in config and "run_id" in config:
        return f"{name} {config['cell']}/{config['run_id']}"
    return name


def _claim(database: Database[dict[str, Any]], key: str, entry: dict[str, Any]) -> int:
    """Number of the record's copy; the first time, the next free one."""
    while True:
        found = database.runs.find_one({"meta.record": key}, {"_id": 1})
        if found:
            return int(found["_id"])

        last = database.runs.find_one({}, {"_id": 1}, sort=[("_id", DESCENDING)])
        number = int(last["_id"]) + 1 if last else 1
        unfinished: dict[str, Any] = {
            "status": "RUNNING",
            "artifacts": [],
            "info": {},
            "result": None,
        }
        try:
            database.runs.insert_one({**entry, **unfinished, "_id": number})
        except DuplicateKeyError:
            # Another process took the number, or copies the same record.
            continue
        return number


def _sources(
    folder: Path, run: dict[str, Any], database: Database[dict[str, Any]]
) -> list[list[Any]]:
    """Source files, stored once per content however many runs share them: the name of a stored file
    has its hash.
    """
    wanted = {
        _identity("source", name, stored): (name, folder.parent / stored)
        for name, stored in run["experiment"].get("sources", [])
    }
    known = database["fs.files"].find({"_id": {"$in": list(wanted)}}, {"_id": 1})
    there = {item["_id"] for item in known}

    for identity, (name, path) in wanted.items():
        if identity not in there and path.is_file():
            _store(database, identity, path.read_bytes(), filename=name)
            there.add(identity)

    return [[name, identity] for identity, (name, _) in wanted.items() if identity in there]


def _artifacts(
    folder: Path, run: dict[str, Any], key: str, number: int, database: Database[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Copies of the artifacts, and the names of those that are missing or too large, which stop
    nothing.
    """
    copied, lost = [], []
    for name in run.get("artifacts", []):
        path = folder / name
        if not path.is_file() or path.stat().st_size > MAX_ARTIFACT:
            lost.append(f"{name} (missing or larger than {MAX_ARTIFACT} bytes)")
            continue

        content = path.read_bytes()
        identity = _identity("artifact", key, name, hashlib.sha256(content).hexdigest())
        if not database["fs.files"].find_one({"_id": identity}, {"_id": 1}):
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            address = f"artifact://runs/{number}/{name}"
            _store(database, identity, content, filename=address, contentType=kind)
        copied.append({"name": name, "file_id": identity})
    return copied, lost


def _store(
    database: Database[dict[str, Any]], identity: ObjectId, content: bytes, **about: str
) -> None:
    """Put a file into GridFS under an identity derived from its content.

    Not by gridfs: two processes may store the same file at once, or find half of it there. Each
    part has its own identity too, so that whoever comes later writes the same again, and the file's
    entry comes last.
    """
    for number, start in enumerate(range(0, len(content), CHUNK)):
        part = {
            "_id": _identity(str(identity), str(number)),
            "files_id": identity,
            "n": number,
            "data": content[start : start + CHUNK],
        }
        _replace(database["fs.chunks"], part)

    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    entry = {
        "_id": identity,
        "length": len(content),
        "chunkSize": CHUNK,
        "uploadDate": datetime.now(UTC),
        "md5": md5,
        **about,
    }
    _replace(database["fs.files"], entry)


def _replace(collection: Collection[dict[str, Any]], document: dict[str, Any]) -> None:
    """Write a document under its identity; another process may write the same at the same time."""
    with contextlib.suppress(DuplicateKeyError):
        collection.replace_one({"_id": document["_id"]}, document, upsert=True)


def _metrics(
    folder: Path, key: str, number: int, database: Database[dict[str, Any]]
) -> list[dict[str, str]]:
    """Replace the copies of metrics that have grown; returns Omniboard's references."""
    path = folder / "metrics.json"
    known = database.metrics.find({"run_id": number}, {"length": 1})
    lengths = {item["_id"]: item["length"] for item in known}

    found = []
    for name, series in _over_epochs(_read(path)).items():
        identity = _identity("metric", key, name)
        if lengths.get(identity) != len(series["values"]):
            about = {"_id": identity, "run_id": number, "name": name}
            _replace(database.metrics, about | _thinned(series))
        found.append({"name": name, "id": str(identity)})
    return found


def _thinned(series: dict[str, Any]) -> dict[str, Any]:
    """A metric with at most MAX_POINTS of its points, the last among them."""
    length = len(series["values"])
    picked: list[int] = []
    if length:
        stride = -(-length // MAX_POINTS)
        picked = sorted({*range(0, length, stride), length - 1})
    return {
        "length": length,
        "steps": [series["steps"][i] for i in picked],
        "values": [_rounded(series["values"][i]) for i in picked],
        "timestamps": [datetime.fromisoformat(series["timestamps"][i]) for i in picked],
    }


def _rounded(value: Any) -> Any:
    """A number with DIGITS significant digits; what is no broken number is left as it is."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _over_epochs(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics, and those of `BY_EPOCH` again with epochs in the place of steps."""
    if "epoch" not in metrics:
        return metrics
    epochs = dict(zip(metrics["epoch"]["steps"], metrics["epoch"]["values"], strict=True))

    again = {}
    for name, original in BY_EPOCH.items():
        if epochs and original in metrics:
            steps = [epochs[step] for step in metrics[original]["steps"]]
            again[name] = metrics[original] | {"steps": steps}
    return metrics | again


def _identity(*parts: str) -> ObjectId:
    return ObjectId(hashlib.sha256("\0".join(parts).encode()).digest()[:12])


def _capped(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    if len(text) <= MAX_OUTPUT:
        return text
    left_out = f"... [{len(text) - MAX_OUTPUT} characters left out] ..."
    return f"{text[:1000]}\n{left_out}\n{text[1000 - MAX_OUTPUT :]}"


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def backfill(
    database: Database[dict[str, Any]], root: Path = RECORDS, done: dict[Path, object] | None = None
) -> list[str]:
    """Copy every file record; returns the problems of those that cannot be read.

    Raises PyMongoError if the server is lost.

    `done`: what this function has copied before, by the state of the record's files; filled here,
    and not copied again.
    """
    problems = []
    for folder in records(root):
        files = (folder / "run.json", folder / "metrics.json")
        stats = [path.stat() for path in files if path.exists()]
        state = [(stat.st_mtime_ns, stat.st_size) for stat in stats]
        if done is not None and done.get(folder) == state:
            continue

        try:
            copy_record(folder, database)
        except UNREADABLE as error:
            problems.append(f"{folder}: cannot be read ({type(error).__name__}: {error})")
        if done is not None:
            done[folder] = state
    return problems


def reap(root: Path = RECORDS) -> list[Path]:
    """Mark file records as DEAD whose process is gone though they say RUNNING; returns them.

    Their pack holds a lock on `<record>/.alive` as long as it lives, whatever the clock says.
    """
    dead = []
    for folder in records(root):
        try:
            run = _read(folder / "run.json")
        except UNREADABLE:
            continue
        if run.get("status") == "RUNNING" and not is_alive(folder):
            run["status"] = "DEAD"
            run["fail_trace"] = ["the process that kept this record was killed\n"]
            run["stop_time"] = run.get("heartbeat") or run["start_time"]
            replace_file(folder / "run.json", json.dumps(run, indent=2, sort_keys=True).encode())
            dead.append(folder)
    return dead
