"""The tracking server: MONGO_URL or MONGO_URL_FILE, else the embedded one if it runs.

The embedded one is for machines without MongoDB: SecantusDB, on loopback only.
SecantusDB (GPL-2.0-only, extra `tracking`) speaks MongoDB's protocol. It is started as a program
and never imported. It is a beta that may refuse the files of another version, so its folder
`work/tracking/` remembers the version; the records on disk can always be copied again. No database
driver is imported here, so that a job without a server starts faster.
"""

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from repro.files import held, replace_json

DATABASE = "sacred"
LOOPBACK = "127.0.0.1"
HOME = Path("work/tracking")
"""Folder of the embedded server."""
PORT = 27117
PROGRAM = "secantusd-py"
OPTIONS = (
    f"--host {LOOPBACK} --sync-on-commit --cache-size 256M --oplog-max-entries 5000 "
    "--oplog-retention-seconds 300 --log-level WARNING"
)
START_SECONDS = 30.0
STOP_SECONDS = 15.0


class TrackingError(RuntimeError):
    """A server that cannot be used; the message has reason and remedy, and no password."""


def server_url() -> str | None:
    """Address of the server for copies of records; None if there is none."""
    if url := mongo_url():
        return url
    state = embedded_state()
    return embedded_url(state["port"]) if state else None


def mongo_url() -> str | None:
    """MONGO_URL, or the content of the file in MONGO_URL_FILE."""
    if path := os.environ.get("MONGO_URL_FILE"):
        try:
            if url := Path(path).read_text(encoding="utf-8").strip():
                return url
            reason: object = "empty"
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", error)
        raise TrackingError(
            f"MONGO_URL_FILE: {path}: {reason} (allowed: a file with a mongodb:// address)"
        )
    return os.environ.get("MONGO_URL") or None


def embedded_state() -> dict[str, int] | None:
    """`pid` and `port` of the embedded server of this folder, if it lives."""
    try:
        state = json.loads((HOME / "server.json").read_bytes())
        command = Path(f"/proc/{state['pid']}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return dict(state) if str((HOME / "data").resolve()).encode() in command else None


def embedded_url(port: int) -> str:
    """Address of an embedded server."""
    return f"mongodb://{LOOPBACK}:{port}/{DATABASE}"


def with_database(url: str) -> str:
    """The address with the database in its path, as Omniboard needs it."""
    parts = urlsplit(url)
    if parts.path.strip("/"):
        return url
    options = [parts.query] if parts.query else []
    # A database in the path would change the database that holds the users.
    if "@" in parts.netloc and "authSource=" not in parts.query:
        options.append("authSource=admin")
    return parts._replace(path=f"/{DATABASE}", query="&".join(options)).geturl()


def up(port: int = PORT) -> str:
    """Start the server unless it runs; returns its address once it answers."""
    path = program(PROGRAM, "pip install '.[tracking]' (or name a MongoDB server with MONGO_URL)")
    HOME.mkdir(parents=True, exist_ok=True)
    # The server has no users, so only this one may read its files.
    HOME.chmod(0o700)
    with held(HOME / "lock", wait=True):
        state = embedded_state()
        return embedded_url(state["port"]) if state else _start(path, port)


def _start(path: str, port: int) -> str:
    version = importlib.metadata.version("secantusdb")
    written = HOME / "version"
    if written.exists() and written.read_text() != version:
        raise TrackingError(
            f"{HOME} was written by SecantusDB {written.read_text()}, installed is {version}: move"
            " the folder away, then `python -m repro tracking up` and `backfill` (only notes and"
            " tags are lost)"
        )
    require_free(port, "choose another by `python -m repro tracking up --port`")

    # An explicit file, so that none of the working folder or home is read.
    (HOME / "server.toml").write_text("")
    command = [path, "--config", str(HOME / "server.toml"), *OPTIONS.split()]
    command += ["--port", str(port), "--storage-path", str((HOME / "data").resolve())]
    # In a session of its own, so that it outlives this process.
    log = HOME / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | {"MALLOC_ARENA_MAX": "2"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        if not wait_for_port(process, port, START_SECONDS):
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise TrackingError(f"the server did not start: {' '.join(last)} (log: {log})")
        written.write_text(version)
        replace_json(HOME / "server.json", {"pid": process.pid, "port": port})
    except BaseException:
        # Ctrl-C too: `down` knows a server from its file alone.
        process.kill()
        process.wait()
        raise
    # Left running on purpose: without this Python warns of it.
    process.returncode = 0
    return embedded_url(port)


def down() -> bool:
    """Stop the server; False if none runs."""
    state = embedded_state()
    if state is None:
        return False
    os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while embedded_state():
        if time.monotonic() > deadline:
            # Every acknowledged write is on disk.
            os.kill(state["pid"], signal.SIGKILL)
        # A child of this process would stay as a zombie.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(state["pid"], os.WNOHANG)
        time.sleep(0.05)
    # The kernel frees the port a moment after the process, and `up` may follow at once.
    while not is_free(state["port"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    (HOME / "server.json").unlink()
    return True


def program(name: str, remedy: str) -> str:
    """Path of a program, in this environment or on PATH."""
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    path = shutil.which(name, path=folders)
    if path is None:
        raise TrackingError(f"{name} is not installed: {remedy}")
    return path


def require_free(port: int, remedy: str) -> None:
    """TrackingError with the remedy if nothing can listen on the port."""
    with socket.socket() as probe:
        # As servers do: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise TrackingError(f"port {port} on {LOOPBACK}: {error.strerror}; {remedy}") from None


def is_free(port: int) -> bool:
    """Whether a server can listen on the port."""
    try:
        require_free(port, "")
    except TrackingError:
        return False
    return True


def wait_for_port(process: subprocess.Popen[bytes], port: int, seconds: float) -> bool:
    """Wait until a new server listens; False if it ended, or does not in time."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return True
        time.sleep(0.1)
    return False
