"""The embedded tracking server: SecantusDB as a process of its own, on loopback, in
`work/tracking/`.

SecantusDB (GPL-2.0-only, extra `tracking`) speaks MongoDB's protocol; it is started as a program
and never imported. It is a beta that may refuse the files of another version: the folder remembers
its version, and `dump` and `restore` carry the data across.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import signal
import time
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import bson
from bson import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.errors import PyMongoError

from repro.files import replace_file
from repro.tracking.server.address import (
    HOME,
    LOOPBACK,
    TrackingError,
    embedded_state,
    embedded_url,
)
from repro.tracking.server.database import connect, make_indexes
from repro.tracking.server.process import answers_in_time, program, require_free

PORT = 27117
START_SECONDS = 30.0
STOP_SECONDS = 15.0
PROGRAM = "secantusd-py"
BATCH = 100
RAW = CodecOptions(document_class=RawBSONDocument)
"""Documents as the bytes they are: nothing is lost in a conversion."""


def up(port: int = PORT) -> str:
    """Start the server, or find it running; returns its address once it answers."""
    path = program(PROGRAM, "pip install '.[tracking]' (or name a MongoDB server with MONGO_URL)")
    HOME.mkdir(parents=True, exist_ok=True)
    if HOME.stat().st_uid != os.getuid():
        raise TrackingError(
            f"{HOME} belongs to user number {HOME.stat().st_uid}: move it away,"
            " or name a server with MONGO_URL"
        )
    # The server knows no users here, so its files are for this one alone.
    HOME.chmod(0o700)

    # Two calls at once start one server.
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = embedded_state()
        return embedded_url(state["port"]) if state else _start(path, port)


def _start(path: str, port: int) -> str:
    version = importlib.metadata.version("secantusdb")
    _refuse_files_of_another(version)
    require_free(port)

    pid = _spawn(path, port)
    url = embedded_url(port)

    def lives() -> bool:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)

    if answers_in_time(lambda: _answers(url, pid), lives, START_SECONDS):
        (HOME / "version").write_text(version)
        replace_file(HOME / "server.json", json.dumps({"pid": pid, "port": port}).encode())
        return url

    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    raise TrackingError(_why_it_did_not_start())


def _refuse_files_of_another(version: str) -> None:
    """TrackingError if another version of the server, a beta, wrote the folder."""
    written = HOME / "version"
    if written.exists() and written.read_text() != version:
        raise TrackingError(
            f"{HOME} was written by SecantusDB {written.read_text()}, installed is {version}:"
            " with the old version run `python -m repro tracking dump FILE`, move"
            f" {HOME} away, then `up` and `restore FILE` with the new one (or move it away alone:"
            " `backfill` brings back all but notes and tags)"
        )


def _spawn(path: str, port: int) -> int:
    """Start the program in a session of its own, so that it outlives this process; its number."""
    # An explicit file, so that none in the working folder or home is read.
    settings = HOME / "server.toml"
    settings.write_text("")
    # fmt: off
    command = [
        path,
        "--config", str(settings),
        "--host", LOOPBACK,
        "--port", str(port),
        "--storage-path", str((HOME / "data").resolve()),
        "--sync-on-commit",
        "--cache-size", "256M",
        "--oplog-max-entries", "5000",
        "--oplog-retention-seconds", "300",
        "--log-level", "WARNING",
    ]
    # fmt: on

    log, appending = str(HOME / "server.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        path,
        command,
        os.environ | {"MALLOC_ARENA_MAX": "2"},
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, appending, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )


def _why_it_did_not_start() -> str:
    log = HOME / "server.log"
    last = log.read_text(errors="replace").strip().splitlines()[-1]
    if "busy" in last:
        data = HOME / "data"
        return f"another server has {data} open: stop that one first, a folder has one owner"
    return f"the server did not start: {last} (log: {log})"


def _answers(url: str, pid: int) -> bool:
    """Whether this very process answers there: another server may have taken the port since it was
    found free.
    """
    try:
        with connect(url) as database:
            return bool(database.client.admin.command("serverStatus")["pid"] == pid)
    except (TrackingError, PyMongoError):
        return False


def down() -> bool:
    """Stop the server; False if none ran."""
    state = embedded_state()
    if state is None:
        return False

    os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while embedded_state():
        if time.monotonic() > deadline:
            # Every acknowledged write is on disk already.
            os.kill(state["pid"], signal.SIGKILL)
        # A child of this very process would stay as a zombie.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(state["pid"], os.WNOHANG)
        time.sleep(0.05)
    (HOME / "server.json").unlink()
    return True


def dump(database: Database[dict[str, Any]], path: Path) -> int:
    """Write every document of the database, one after another, as BSON `{"collection": name,
    "document": document}`.
    """
    total = 0
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        for name in sorted(database.list_collection_names()):
            for document in database.get_collection(name, codec_options=RAW).find():
                file.write(bson.encode({"collection": name, "document": document}))
                total += 1
    partial.replace(path)
    return total


def restore(database: Database[dict[str, Any]], path: Path) -> int:
    """Load a dump into an empty database; its indexes are made."""
    if any(database[name].find_one() for name in database.list_collection_names()):
        raise TrackingError(f"database {database.name} is not empty: restore into a new one")
    total = 0
    try:
        with path.open("rb") as file:
            items = bson.decode_file_iter(file, RAW)
            for name, group in groupby(items, key=lambda item: str(item["collection"])):
                collection = database.get_collection(name, codec_options=RAW)
                while batch := [item["document"] for item in islice(group, BATCH)]:
                    collection.insert_many(batch)
                    total += len(batch)
    except (BSONError, KeyError) as error:
        raise TrackingError(
            f"{path}: not a dump, or torn, after {total} documents ({error})"
        ) from None
    make_indexes(database)
    return total
