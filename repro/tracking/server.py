"""The embedded tracking server: SecantusDB as a process of its own, on loopback, in `work/tracking/`.

SecantusDB (GPL-2.0-only, extra `tracking`) speaks MongoDB's protocol; it is started as a program and never imported.
It is a beta that may refuse the files of another version: the folder remembers its version, and `dump` and `restore`
carry the data across.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import bson
from pymongo.database import Database

from repro.ledger import replace_file
from repro.tracking.mirror import TrackingError, connect

HOME = Path("work/tracking")
PORT = 27117
START_SECONDS = 30.0
PROGRAM = "secantusd-py"
BATCH = 100


def running() -> str | None:
    """Address of the embedded server if it runs."""
    try:
        state = json.loads((HOME / "server.json").read_bytes())
        command = Path(f"/proc/{state['pid']}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return f"mongodb://127.0.0.1:{state['port']}/sacred" if PROGRAM.encode() in command else None


def up(port: int = PORT) -> str:
    """Start the server, or find it running; returns its address once it answers."""
    if url := running():
        return url
    program = shutil.which(PROGRAM, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise TrackingError(f"{PROGRAM} is not installed: pip install '.[tracking]' (or name a MongoDB server with MONGO_URL)")
    version = importlib.metadata.version("secantusdb")
    HOME.mkdir(parents=True, exist_ok=True)
    written = HOME / "version"
    if written.exists() and written.read_text() != version:
        raise TrackingError(
            f"{HOME} was written by SecantusDB {written.read_text()}, installed is {version}: with the old version run "
            f"`python -m repro tracking dump FILE`, move {HOME} away, then `up` and `restore FILE` with the new one"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(f"port {port} on 127.0.0.1: {error.strerror}; choose another with --port") from None
    (HOME / "server.toml").write_text("")  # an explicit file, so that none in the working folder or home is read
    command = [program, "--config", str(HOME / "server.toml"), "--host", "127.0.0.1", "--port", str(port),
               "--storage-path", str(HOME / "data"),
               "--sync-on-commit", "--cache-size", "256M", "--oplog-max-entries", "5000", "--oplog-retention-seconds", "300",
               "--log-level", "WARNING"]  # fmt: skip
    pid = os.posix_spawn(
        program, command, os.environ | {"MALLOC_ARENA_MAX": "2"}, setsid=True, file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(HOME / "server.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )  # fmt: skip
    url = f"mongodb://127.0.0.1:{port}/sacred"
    deadline = time.monotonic() + START_SECONDS
    while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                pass
            with connect(url):
                pass
        except (OSError, TrackingError):
            time.sleep(0.1)
            continue
        written.write_text(version)
        replace_file(HOME / "server.json", json.dumps({"pid": pid, "port": port}).encode())
        return url
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    last = (HOME / "server.log").read_text(errors="replace").strip().splitlines()[-1:]
    raise TrackingError(f"the server did not start: {''.join(last)} (log: {HOME / 'server.log'}; another server may own {HOME / 'data'})")


def down() -> bool:
    """Stop the server; False if none ran."""
    if running() is None:
        return False
    pid = json.loads((HOME / "server.json").read_bytes())["pid"]
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while running() and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # a child of this very process would stay as a zombie
        time.sleep(0.05)
    (HOME / "server.json").unlink()
    return True


def dump(database: Database[dict[str, Any]], path: Path) -> int:
    """Write every document as raw BSON: per collection a header `{"collection", "count"}`, then the documents."""
    total = 0
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        for name in sorted(database.list_collection_names()):
            documents = list(database[name].find())
            file.write(bson.encode({"collection": name, "count": len(documents)}))
            for document in documents:
                file.write(bson.encode(document))
            total += len(documents)
    partial.replace(path)
    return total


def restore(database: Database[dict[str, Any]], path: Path) -> int:
    """Load a dump into an empty database; indexes are made by `connect` and by GridFS."""
    if database.runs.find_one() is not None:
        raise TrackingError(f"database {database.name} already holds runs: restore into an empty one")
    total = 0
    with path.open("rb") as file:
        stream = bson.decode_file_iter(file)
        for header in stream:
            for start in range(0, header["count"], BATCH):
                batch = [next(stream) for _ in range(start, min(start + BATCH, header["count"]))]
                database[header["collection"]].insert_many(batch)
                total += len(batch)
    database["fs.chunks"].create_index([("files_id", 1), ("n", 1)], unique=True)
    database["fs.files"].create_index([("filename", 1), ("uploadDate", 1)])
    return total
