"""Copies of file records on a MongoDB server, in the layout of Sacred's MongoObserver.

Sacred drops its MongoObserver at the first failed call, and its calls cannot be repeated. Here the
files are the truth, and `copy_record` may be repeated at any time, without a second copy: by
`tracking backfill`, and by Omniboard's command while it runs. The status is written last.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from bson.errors import BSONError
from pymongo import DESCENDING, MongoClient
from pymongo.database import Database
from pymongo.errors import ConfigurationError, DuplicateKeyError, OperationFailure, PyMongoError

from repro.events import say
from repro.files import is_held, replace_json
from repro.tracking.observer import ALIVE, METRICS, POINTS, RECORDS, points_of
from repro.tracking.server import embedded
from repro.tracking.server.embedded import DATABASE, TrackingError

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
    if isinstance(error, (ConfigurationError, ValueError)):
        return (
            "not a valid address (allowed: mongodb://USER:PASSWORD@HOST:PORT/DATABASE?"
            "authSource=admin), or a server before MongoDB 4.2"
        )
    return f"the server does not answer ({type(error).__name__}); records are kept on disk"


def records() -> list[Path]:
    """Folders of all file records, by profile and number."""
    folders = [path.parent for path in RECORDS.glob("*/*/run.json") if path.parent.name.isdigit()]
    return sorted(folders, key=lambda folder: (folder.parent, int(folder.name)))


def state_of(folder: Path) -> object:
    """State of a record's files, which differs after each change."""
    files = filter(Path.exists, (folder / name for name in ("run.json", METRICS, POINTS)))
    return [(state.st_mtime_ns, state.st_size) for state in map(Path.stat, files)]


def copy_record(folder: Path, database: Tracking) -> None:
    """Update the copy of one file record.

    Raises PyMongoError if the server is lost, and one of `UNREADABLE` for a damaged record.
    """
    run = _read(folder / "run.json")
    info = _read(folder / "info.json")
    output = folder / "cout.txt"
    text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    entry: dict[str, Any] = run | {
        "format": "MongoObserver-0.7.0",
        "config": _read(folder / "config.json"),
        "meta": run["meta"] | {"folder": folder.as_posix()},
        "captured_out": text,
        # Files stay in the file record: the same sources in each copy would fill a server.
        "experiment": run["experiment"] | {"sources": []},
        "artifacts": [],
    }
    for name in ("start_time", "stop_time", "heartbeat"):
        if entry.get(name):
            entry[name] = datetime.fromisoformat(entry[name])

    number = _number(entry, database)
    entry["info"] = info | {"metrics": _metrics(folder, number, database)}
    database.runs.update_one({"_id": number}, {"$set": entry})


def _number(entry: dict[str, Any], database: Tracking) -> int:
    """Number of the record's copy; at first the next free one, with an unfinished entry."""
    identity = {"meta.record": entry["meta"]["record"]}
    while not (copy := database.runs.find_one(identity, {"_id": 1})):
        last = database.runs.find_one({}, {"_id": 1}, sort=[("_id", DESCENDING)])
        number = last["_id"] + 1 if last else 1
        unfinished: dict[str, Any] = {"status": "RUNNING", "info": {}, "result": None}
        # Another process may take the number, or copy the same record.
        with suppress(DuplicateKeyError):
            database.runs.insert_one({"_id": number} | entry | unfinished)
    return int(copy["_id"])


def _metrics(folder: Path, number: int, database: Tracking) -> list[dict[str, str]]:
    """Replace the copies of the metrics; Omniboard's references to them."""
    for name, series in points_of(folder).items():
        times = [datetime.fromisoformat(text) for text in series["timestamps"]]
        identity = {"run_id": number, "name": name}
        content = identity | series | {"timestamps": times}
        database.metrics.replace_one(identity, content, upsert=True)
    copies = database.metrics.find({"run_id": number}, {"name": 1})
    return [{"name": copy["name"], "id": str(copy["_id"])} for copy in copies]


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def backfill(database: Tracking, copied: dict[Path, object] | None = None) -> list[str]:
    """Copy all file records; returns a line for each that cannot be read.

    Or those in `copied`, which has by record the state of its files at the last copy, where they
    changed. Raises PyMongoError if the server is lost.
    """
    problems = []
    copied = dict.fromkeys(records()) if copied is None else copied
    for folder in copied:
        if copied[folder] != (state := state_of(folder)):
            try:
                copy_record(folder, database)
            except UNREADABLE as error:
                problems.append(f"{folder}: cannot be read ({type(error).__name__}: {error})")
            copied[folder] = state
    return problems


def reap() -> None:
    """Mark file records as DEAD that say RUNNING, but whose process is gone; a line names each."""
    for folder in records():
        with suppress(*UNREADABLE):
            # In this order: a run that ends in between has written how.
            ended = not is_held(folder / ALIVE)
            run = _read(folder / "run.json")
            if run.get("status") == "RUNNING" and ended:
                run["status"] = "DEAD"
                run["fail_trace"] = ["the process that kept this record was killed\n"]
                run["stop_time"] = run.get("heartbeat") or run["start_time"]
                replace_json(folder / "run.json", run)
                say(f"{folder}: its process is gone, marked DEAD")


def tracking(action: str, port: int) -> None:
    """`up` or `down`: the embedded server; `backfill`: copy all records; `status`: overview."""
    reap()
    if action == "up":
        print(f"tracking server: {embedded.up(port)}")
    elif action == "down":
        print("stopped" if embedded.down() else "no embedded server runs")
    elif action == "status":
        state = embedded.embedded_state()
        address = embedded.embedded_url(state["port"]) if state else "not running"
        print(f"embedded server: {address}")
        if url := embedded.server_url():
            with connect(url) as database:
                print(f"runs on the server: {database.runs.count_documents({})}")
        print(f"records on disk: {len(records())}")
    else:
        _backfill()


def _backfill() -> None:
    url = embedded.server_url()
    if url is None:
        raise TrackingError(
            "no tracking server: set MONGO_URL,"
            " or start the embedded one by `python -m repro tracking up`"
        )
    try:
        with connect(url) as database:
            problems = backfill(database)
    except PyMongoError as error:
        raise TrackingError(
            f"backfill: the server was lost ({type(error).__name__}); run it again"
        ) from None
    copied = len(records()) - len(problems)
    print(*problems, f"{copied} records are on the server", sep="\n")
