"""Copies of file records on a MongoDB server, in the layout of Sacred's MongoObserver.

Sacred drops its MongoObserver at the first failed call, and its calls cannot be repeated. Here the
files are the truth, and `copy_record` may be repeated at any time, without a second copy: by a
thread beside the run, by `tracking backfill`, by Omniboard's command. The status is written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from bson.errors import BSONError
from pymongo import DESCENDING, MongoClient, ReturnDocument
from pymongo.database import Database
from pymongo.errors import (
    ConfigurationError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)

from repro.files import replace_json
from repro.tracking.observer import RECORDS, is_alive
from repro.tracking.server.address import DATABASE, TrackingError

TIMEOUT_MILLISECONDS = 3000
"""Longest wait for a server that does not answer."""
UNREADABLE = (OSError, ValueError, KeyError, TypeError, OverflowError, BSONError)
"""Errors of a damaged record, which must not stop the copies of others."""

Tracking = Database[dict[str, Any]]


@contextmanager
def connect(url: str) -> Iterator[Tracking]:
    """The tracking database of a server, with its indexes: the one in the path, or `sacred`.

    Raises TrackingError if the server cannot be used.
    """
    with ExitStack() as stack:
        try:
            client: MongoClient[dict[str, Any]] = MongoClient(
                url,
                serverSelectionTimeoutMS=TIMEOUT_MILLISECONDS,
                connectTimeoutMS=TIMEOUT_MILLISECONDS,
                socketTimeoutMS=20_000,
            )
            stack.enter_context(client)
            database = client.get_default_database(DATABASE)
            database.metrics.create_index([("run_id", 1), ("name", 1)])
            database.runs.create_index("meta.record", unique=True, sparse=True)
        except (PyMongoError, ValueError) as error:
            raise TrackingError(f"MONGO_URL: {_explain(error)}") from None
        yield database


def _explain(error: Exception) -> str:
    """Reason and remedy, without the address."""
    if isinstance(error, OperationFailure):
        name = (error.details or {}).get("codeName", error.code)
        return f"the server refuses: {name} (check user name, password, authSource and roles)"
    if isinstance(error, ConfigurationError) and "wire version" in str(error):
        return "the server's version is not supported by this pymongo (use MongoDB 4.2 or later)"
    if isinstance(error, (ConfigurationError, ValueError)):
        form = "mongodb://USER:PASSWORD@HOST:PORT/DATABASE?authSource=admin"
        return f"not a valid address (allowed: {form})"
    return (
        f"the server does not answer ({type(error).__name__}); records are kept on disk,"
        " `python -m repro tracking backfill` copies them"
    )


def records(root: Path = RECORDS) -> list[Path]:
    """Folders of all file records, by profile and number."""
    folders = [path.parent for path in root.glob("*/*/run.json") if path.parent.name.isdigit()]
    return sorted(folders, key=lambda folder: (folder.parent, int(folder.name)))


def copy_record(folder: Path, database: Tracking) -> str:
    """Update the copy of one file record; returns the status of the record.

    Raises PyMongoError if the server is lost, and one of `UNREADABLE` for a damaged record.
    """
    run, info = _read(folder / "run.json"), _read(folder / "info.json")
    meta = run.get("meta") or {}
    key = str(meta.get("record") or f"{folder.parent.name}-{folder.name}-{run['start_time']}")
    output = folder / "cout.txt"
    text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    entry: dict[str, Any] = run | {
        "format": "MongoObserver-0.7.0",
        "config": _read(folder / "config.json"),
        "meta": meta | {"record": key, "folder": folder.as_posix()},
        "captured_out": text,
        # Files stay in the file record: the same sources in each copy would fill a server.
        "experiment": run["experiment"] | {"sources": []},
        "artifacts": [],
    }
    for name in ("start_time", "stop_time", "heartbeat"):
        if entry.get(name):
            entry[name] = datetime.fromisoformat(entry[name])

    number = _number(key, entry, database)
    entry["info"] = info | {"metrics": _metrics(folder, number, database)}
    database.runs.update_one({"_id": number}, {"$set": entry})
    return str(run["status"])


def _number(key: str, entry: dict[str, Any], database: Tracking) -> int:
    """Number of the record's copy; at first the next free one, with an unfinished entry."""
    while True:
        if copy := database.runs.find_one({"meta.record": key}, {"_id": 1}):
            return int(copy["_id"])
        last = database.runs.find_one({}, {"_id": 1}, sort=[("_id", DESCENDING)])
        number = int(last["_id"]) + 1 if last else 1
        unfinished: dict[str, Any] = {"status": "RUNNING", "info": {}, "result": None}
        # Another process may take the number, or copy the same record.
        with suppress(DuplicateKeyError):
            database.runs.insert_one({**entry, **unfinished, "_id": number})
            return number


def _metrics(folder: Path, number: int, database: Tracking) -> list[dict[str, str]]:
    """Replace the copies of the metrics; Omniboard's references to them."""
    references = []
    for name, series in _read(folder / "metrics.json").items():
        times = [datetime.fromisoformat(text) for text in series["timestamps"]]
        identity = {"run_id": number, "name": name}
        copy = database.metrics.find_one_and_replace(
            identity,
            identity | series | {"timestamps": times},
            {"_id": 1},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        assert copy is not None
        references.append({"name": name, "id": str(copy["_id"])})
    return references


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def backfill(
    database: Tracking, root: Path = RECORDS, copied: dict[Path, object] | None = None
) -> list[str]:
    """Copy every file record; returns a line for each that cannot be read.

    `copied` holds by record the state of its files at the last copy, which spares another one.
    Raises PyMongoError if the server is lost.
    """
    problems = []
    copied = {} if copied is None else copied
    for folder in records(root):
        files = (folder / "run.json", folder / "metrics.json")
        states = [path.stat() for path in files if path.exists()]
        state = [(status.st_mtime_ns, status.st_size) for status in states]
        if copied.get(folder) == state:
            continue
        try:
            copy_record(folder, database)
        except UNREADABLE as error:
            problems.append(f"{folder}: cannot be read ({type(error).__name__}: {error})")
        copied[folder] = state
    return problems


def reap(root: Path = RECORDS) -> None:
    """Mark file records as DEAD that say RUNNING, but whose process is gone; a line names each."""
    for folder in records(root):
        with suppress(*UNREADABLE):
            run = _read(folder / "run.json")
            if run.get("status") == "RUNNING" and not is_alive(folder):
                run["status"] = "DEAD"
                run["fail_trace"] = ["the process that kept this record was killed\n"]
                run["stop_time"] = run.get("heartbeat") or run["start_time"]
                replace_json(folder / "run.json", run)
                print(f"{folder}: its process is gone, marked DEAD", flush=True)
