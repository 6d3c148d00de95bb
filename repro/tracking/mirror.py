"""Copies of the file records in a MongoDB server, in the layout of Sacred's MongoObserver that Omniboard reads.

The disk is the buffer: `mirror` brings one record's copy up to date and may be repeated at any time, by the run itself
every few seconds, or by `python -m repro tracking backfill` much later. Identities are derived from contents, so that
no repetition makes a second copy, and the status is written last, so that no copy says more than it holds.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import gridfs
from bson import ObjectId
from pymongo import DESCENDING, MongoClient
from pymongo.database import Database
from pymongo.errors import ConfigurationError, DuplicateKeyError, OperationFailure, PyMongoError

from repro.ledger import replace_file
from repro.tracking.observers import is_alive

RECORDS = Path("sacred")
DATABASE = "sacred"
SYNC_SECONDS = 3.0
TIMEOUT_SECONDS = 3.0
"""Wait for a server that does not answer; training does not wait with it."""
FLUSH_SECONDS = 10.0
"""Time that the end of a pack may spend on the last copies."""
MAX_OUTPUT = 1_000_000
"""Characters of captured output in a copy, beginning and end; the file record has all."""
MAX_POINTS = 20_000
"""Points of a metric in a copy, evenly thinned; MongoDB's documents end at 16 MB."""
MAX_ARTIFACT = 64 << 20
"""Bytes of an artifact in a copy; larger ones stay in the file record."""
TIMES = ("start_time", "stop_time", "heartbeat")


class TrackingError(RuntimeError):
    """A tracking server that cannot be used; the message says why and what to do, without its password."""


@contextmanager
def connect(url: str) -> Iterator[Database[dict[str, Any]]]:
    """The tracking database of a server, its indexes made. TrackingError if it is not usable.

    `url`: a mongodb:// address; the database is the one in its path, or `sacred`.
    """
    milliseconds = int(TIMEOUT_SECONDS * 1000)
    with ExitStack() as stack:
        try:
            client: MongoClient[dict[str, Any]] = stack.enter_context(
                MongoClient(url, serverSelectionTimeoutMS=milliseconds, connectTimeoutMS=milliseconds, socketTimeoutMS=20_000)
            )
            database = client.get_default_database(DATABASE)
            database.command("ping")
            database.metrics.create_index([("run_id", 1), ("name", 1)])
            database.runs.create_index("meta.record", unique=True, sparse=True)
        except (PyMongoError, ValueError) as error:
            raise TrackingError(f"MONGO_URL: {_explain(error)}") from None
        yield database


def _explain(error: Exception) -> str:
    """Why a server cannot be used, without repeating its address."""
    if isinstance(error, OperationFailure) and error.code in (13, 18):
        return "the server refuses the user name or password (check both, and authSource)"
    if isinstance(error, ConfigurationError) and "wire version" in str(error):
        return "the server's version is not supported by this pymongo (use MongoDB 4.2 or later)"
    if isinstance(error, (ConfigurationError, ValueError)):
        return "not a valid address (allowed: mongodb://USER:PASSWORD@HOST:PORT/DATABASE?authSource=admin)"
    return f"the server does not answer ({type(error).__name__}); records are kept on disk, `python -m repro tracking backfill` copies them"


def records(root: Path = RECORDS) -> Iterator[Path]:
    """Folders of all file records, oldest first."""
    found = [path.parent for path in root.glob("*/*/run.json") if path.parent.name.isdigit()]
    return iter(sorted(found, key=lambda folder: (folder.parent, int(folder.name))))


def mirror(folder: Path, database: Database[dict[str, Any]]) -> str:
    """Bring the copy of one file record up to date; returns the record's status. Raises PyMongoError, and keeps what is there."""
    run, config, info = (_read(folder / name) for name in ("run.json", "config.json", "info.json"))
    key = str((run.get("meta") or {}).get("record") or f"{folder.parent.name}-{folder.name}-{run['start_time']}")
    files = gridfs.GridFS(database)
    entry: dict[str, Any] = run | {
        "format": "MongoObserver-0.7.0", "config": config, "meta": (run.get("meta") or {}) | {"record": key, "folder": folder.as_posix()},
        "captured_out": _capped(folder / "cout.txt"), "resources": [list(item) for item in run.get("resources", [])],
    }  # fmt: skip
    for name in TIMES:
        if entry.get(name):
            entry[name] = datetime.fromisoformat(entry[name])
    entry["experiment"] = run["experiment"] | {"sources": list(_sources(folder, run, files))}
    number = _claim(database, key, entry)
    entry["artifacts"] = list(_artifacts(folder, run, key, number, files))
    entry["info"] = info | {"metrics": _metrics(folder, key, number, database)}
    database.runs.update_one({"_id": number}, {"$set": entry})
    return str(run["status"])


def _claim(database: Database[dict[str, Any]], key: str, entry: dict[str, Any]) -> int:
    """Number of the record's copy; the first time, the next free one."""
    while True:
        if found := database.runs.find_one({"meta.record": key}, {"_id": 1}):
            return int(found["_id"])
        last = database.runs.find_one({}, {"_id": 1}, sort=[("_id", DESCENDING)])
        number = int(last["_id"]) + 1 if last else 1
        try:
            database.runs.insert_one({**entry, "_id": number, "status": "RUNNING", "artifacts": [], "info": {}, "result": None})
        except DuplicateKeyError:  # another process took the number, or copies the same record
            continue
        return number


def _sources(folder: Path, run: dict[str, Any], files: gridfs.GridFS) -> Iterator[list[Any]]:
    """Source files, stored once per content however many runs share them."""
    for name, stored in run["experiment"].get("sources", []):
        path = folder.parent / stored
        if path.is_file():
            content = path.read_bytes()
            yield [name, _store(files, _identity("source", name, hashlib.sha256(content).hexdigest()), content, filename=name)]


def _artifacts(folder: Path, run: dict[str, Any], key: str, number: int, files: gridfs.GridFS) -> Iterator[dict[str, Any]]:
    """Artifacts that are there; one that is missing or too large stops nothing."""
    for name in run.get("artifacts", []):
        path = folder / name
        if not path.is_file() or path.stat().st_size > MAX_ARTIFACT:
            print(f"tracking: artifact {path} is missing or larger than {MAX_ARTIFACT} bytes; not copied", file=sys.stderr)
            continue
        content = path.read_bytes()
        identity = _identity("artifact", key, name, hashlib.sha256(content).hexdigest())
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        stored = _store(files, identity, content, filename=f"artifact://runs/{number}/{name}", contentType=kind)
        yield {"name": name, "file_id": stored}


def _store(files: gridfs.GridFS, identity: ObjectId, content: bytes, **metadata: str) -> ObjectId:
    """Put a file under an identity derived from its content, unless it is there."""
    if not files.exists(identity):
        files.delete(identity)  # chunks of an upload that broke off
        try:
            files.put(content, _id=identity, md5=hashlib.md5(content, usedforsecurity=False).hexdigest(), **metadata)
        except (DuplicateKeyError, gridfs.errors.FileExists):
            if not files.exists(identity):
                raise
    return identity


def _metrics(folder: Path, key: str, number: int, database: Database[dict[str, Any]]) -> list[dict[str, str]]:
    """Replace the copies of metrics that have grown; returns Omniboard's references."""
    path = folder / "metrics.json"
    found = []
    for name, series in (_read(path) if path.exists() else {}).items():
        identity = _identity("metric", key, name)
        length = len(series["values"])
        stored = database.metrics.find_one({"_id": identity}, {"length": 1})
        if stored is None or stored["length"] != length:
            stride = -(-length // MAX_POINTS)
            picked = sorted({*range(0, length, stride), length - 1}) if length else []
            document = {
                "run_id": number, "name": name, "length": length, "steps": [series["steps"][i] for i in picked],
                "values": [series["values"][i] for i in picked],
                "timestamps": [datetime.fromisoformat(series["timestamps"][i]) for i in picked],
            }  # fmt: skip
            database.metrics.replace_one({"_id": identity}, document, upsert=True)
        found.append({"name": name, "id": str(identity)})
    return found


def _identity(*parts: str) -> ObjectId:
    return ObjectId(hashlib.sha256("\0".join(parts).encode()).digest()[:12])


def _capped(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    if len(text) <= MAX_OUTPUT:
        return text
    return f"{text[:1000]}\n... [{len(text) - MAX_OUTPUT} characters left out] ...\n{text[1000 - MAX_OUTPUT :]}"


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def backfill(database: Database[dict[str, Any]], root: Path = RECORDS) -> int:
    """Copy every file record; returns how many there are."""
    folders = list(records(root))
    for folder in folders:
        mirror(folder, database)
    return len(folders)


def reap(root: Path = RECORDS) -> list[Path]:
    """Mark file records as DEAD whose process is gone though they say RUNNING; returns them.

    Their pack holds a lock on `<record>/.alive` as long as it lives, whatever the clock says.
    """
    dead = []
    for folder in records(root):
        run = _read(folder / "run.json")
        if run["status"] == "RUNNING" and not is_alive(folder):
            run |= {"status": "DEAD", "fail_trace": ["the process that kept this record was killed\n"]}
            run["stop_time"] = run.get("heartbeat") or run["start_time"]
            replace_file(folder / "run.json", json.dumps(run, indent=2, sort_keys=True).encode())
            dead.append(folder)
    return dead


class Mirror(threading.Thread):
    """Keeps the copies of a pack's records up to date beside the training, through outages of the server."""

    def __init__(self, url: str) -> None:
        super().__init__(name="mirror", daemon=True)
        self.url = url
        self.wake = threading.Event()
        self.closing = False
        self.pending: dict[Path, None] = {}
        """Records whose copy is not complete, in order."""
        self.warned = False

    def watch(self, folder: Path) -> None:
        """Copy this record from now on, until its final status has been copied."""
        self.pending[folder] = None

    def run(self) -> None:
        """Copy every few seconds until closed and nothing is pending."""
        while not (self.closing and not self.pending):
            try:
                with connect(self.url) as database:
                    self._copy(database)
            except (TrackingError, PyMongoError, OSError, ValueError) as error:
                if not self.warned:
                    reason = error if isinstance(error, TrackingError) else type(error).__name__
                    print(f"tracking: copies delayed: {reason}", file=sys.__stderr__)
                self.warned = True
                self._pause()

    def _copy(self, database: Database[dict[str, Any]]) -> None:
        """Copy until closed and nothing is pending; raises when the server is lost."""
        while not (self.closing and not self.pending):
            for folder in list(self.pending):
                if mirror(folder, database) != "RUNNING":
                    self.pending.pop(folder)
            self.warned = False
            self._pause()

    def _pause(self) -> None:
        if self.closing:
            time.sleep(0.2)
        else:
            self.wake.wait(SYNC_SECONDS)

    def close(self) -> None:
        """Copy what is left, for a limited time; the rest is for `backfill`."""
        self.closing = True
        self.wake.set()
        self.join(FLUSH_SECONDS)
        if self.pending:
            print(f"tracking: {len(self.pending)} records not copied; `python -m repro tracking backfill` does it later", file=sys.stderr)


def mongo_url() -> str | None:
    """Address of the tracking server: MONGO_URL, or the content of the file that MONGO_URL_FILE names."""
    if path := os.environ.get("MONGO_URL_FILE"):
        return Path(path).read_text(encoding="utf-8").strip()
    return os.environ.get("MONGO_URL") or None
