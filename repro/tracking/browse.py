"""Omniboard on this machine: installed from its lock file, hardened, supervised, showing every recorded run."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from pymongo.database import Database

from repro.launch.driver import stoppable
from repro.tracking import mirror, server
from repro.tracking.mirror import TrackingError

ASSETS = Path(__file__).parent / "omniboard"
HOME = Path("work/omniboard")
PORT = 9000
PROBE_SECONDS = 5.0
MISSED_PROBES = 20
"""Unanswered probes in a row after which Omniboard is started anew."""
METRIC_COLUMNS = {"accuracy": "zero_shot_top1", "ASR": "attack_success_rate"}
CUSTOM_COLUMNS = {
    "profile": "config.profile", "stage": "config.stage", "dataset": "config.dataset", "objective": "config.pretrain_objective",
    "clean_size": "config.clean_size", "cleaning_loss": "config.loss", "learning_rate": "config.learning_rate", "seed": "config.seed",
    "variant": "config.variant", "outcome": "result.status",
}  # fmt: skip
"""Column to path in the run; omniboard/columns.js puts them in order."""
SETTINGS = {"timezone": "UTC", "auto_refresh_interval": 30, "initial_fetch_size": 200, "row_height": 40}


def program(name: str) -> str:
    """Path of node or npm, also where they came from PyPI into this environment."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise TrackingError(f"{name} is not installed: pip install '.[node]', or install Node.js 18 or later")
    return found


def install() -> Path:
    """Install Omniboard as locked into work/omniboard unless it is there; returns its start file."""
    HOME.mkdir(parents=True, exist_ok=True)
    for file in ASSETS.iterdir():  # the preload too: it looks for its modules where it lies
        shutil.copyfile(file, HOME / file.name)
    lock = hashlib.sha256((HOME / "package.json").read_bytes() + (HOME / "package-lock.json").read_bytes()).hexdigest()
    start = HOME / "node_modules" / "omniboard" / "dist" / "start.js"
    if start.exists() and (HOME / "installed").exists() and (HOME / "installed").read_text() == lock:
        return start
    print("installing Omniboard (about a minute, once)", flush=True)
    command = [program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=HOME, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrackingError(f"npm could not install Omniboard: {done.stderr.strip()[-500:]}")
    shutil.rmtree(HOME / "node_modules" / "omniboard" / "web" / "node_modules", ignore_errors=True)  # 315 MB of build tools
    (HOME / "installed").write_text(lock)
    return start


def add_default_columns() -> None:
    """Put the script with the default columns into Omniboard's page, which keeps them in the visitor's browser alone."""
    build = HOME / "node_modules" / "omniboard" / "web" / "build"
    shutil.copyfile(ASSETS / "columns.js", build / "static" / "columns.js")
    page, script = (build / "index.html").read_text(encoding="utf-8"), '<script src="/static/columns.js"></script>'
    if script not in page:
        (build / "index.html").write_text(page.replace("<head>", f"<head>{script}", 1), encoding="utf-8")


def add_columns(database: Database[dict[str, Any]]) -> None:
    """Make sure that Omniboard shows accuracy, ASR and outcome beside the configuration."""
    for name, metric in METRIC_COLUMNS.items():
        column = {"name": name, "metric_name": metric, "extrema": "last"}
        database["omniboard.metric.columns"].update_one({"name": name}, {"$setOnInsert": column}, upsert=True)
    for name, value in SETTINGS.items():  # else the page tries to write them, which read-only mode refuses
        database["omniboard.settings"].update_one({"name": name}, {"$setOnInsert": {"name": name, "value": value}}, upsert=True)
    for name, path in CUSTOM_COLUMNS.items():
        column = {"name": name, "config_path": path}
        database["omniboard.custom.columns"].update_one({"name": name}, {"$setOnInsert": column}, upsert=True)


def omniboard(port: int = PORT, write: bool = False) -> None:
    """Serve Omniboard on http://127.0.0.1:<port>/ until interrupted; `write` allows notes, tags and deletion."""
    start = install()
    add_default_columns()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(f"port {port} on 127.0.0.1: {error.strerror}; choose another with --port") from None
    url = mirror.mongo_url() or server.up()
    mirror.reap()
    with mirror.connect(url) as database:
        print(f"{mirror.backfill(database)} records on the server", flush=True)
        add_columns(database)
        # Omniboard takes the database from the address alone, and the address from the environment: arguments are public.
        address = url if database.name in url.rsplit("/", 1)[-1] else f"{url.rstrip('/')}/{database.name}"
    environment = os.environ | {"MONGO_URI": address, "PORT": str(port), "OMNI_WRITE": "1" if write else ""}
    with stoppable():
        while True:
            with (HOME / "omniboard.log").open("ab") as log:
                command = [program("node"), "--require", str((HOME / "hardened.cjs").resolve()), str(start)]
                process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                answered = _supervise(process, port)
            finally:
                process.kill()
                process.wait()
            if not answered:
                raise TrackingError(f"Omniboard did not start; see {HOME / 'omniboard.log'}")
            print(f"Omniboard ended or does not answer; starting it anew (log: {HOME / 'omniboard.log'})", flush=True)


def _supervise(process: subprocess.Popen[bytes], port: int) -> bool:
    """Return when the process has ended or does not answer any more: whether it ever did. Says once where it is."""
    announced, missed = False, 0
    while process.poll() is None and missed < MISSED_PROBES:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/databases", timeout=PROBE_SECONDS) as answer:
                answer.read()
            missed = 0
            if not announced:
                print(f"Omniboard: http://127.0.0.1:{port}/sacred (Ctrl-C ends it)", flush=True)
            announced = True
        except (OSError, urllib.error.URLError):
            missed += 1
        time.sleep(PROBE_SECONDS if announced else 1.0)
    return announced
