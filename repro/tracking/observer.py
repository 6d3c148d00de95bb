"""Sacred's file observer, with files that are replaced whole and a lock while the process lives."""

import fcntl
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from sacred.observers import FileStorageObserver
from sacred.serializer import flatten

from repro.files import replace_file

RECORDS = Path("sacred")
ALIVE = ".alive"
"""File in a record, locked by the process that writes the record."""
PAUSE = 300
"""Least time between two writes of the metrics, in times of a write."""


class FileObserver(FileStorageObserver):
    """The record of a run in `<basedir>/<number>/`; an error of the file system never ends it."""

    def __init__(self, basedir: Path) -> None:
        super().__init__(basedir)
        self.points: dict[str, Any] = {}
        self.messages: set[str] = set()
        # Sacred calls from the run and from the thread of its heartbeat.
        self.lock = threading.RLock()
        self.next_write = 0.0

    def started_event(self, *arguments: Any, **named: Any) -> None:
        """Open the record; without one the later events do nothing."""
        try:
            super().started_event(*arguments, **named)  # type: ignore[no-untyped-call]
            assert self.dir is not None
            self.alive = os.open(Path(self.dir, ALIVE), os.O_CREAT | os.O_RDWR, 0o644)
            fcntl.flock(self.alive, fcntl.LOCK_EX)
        except OSError as error:
            self._say(f"no record in {self.basedir}", error)
            if self.dir:
                shutil.rmtree(self.dir, ignore_errors=True)
            self.dir, self.run_entry = None, {}

    def log_metrics(self, metrics_by_name: dict[str, Any], info: Any) -> None:
        """Add points and write all; Sacred would read what an earlier write left, or did not."""
        with self.lock:
            for name, new in metrics_by_name.items():
                series = self.points.setdefault(name, {"values": [], "steps": [], "timestamps": []})
                series["values"] += new["values"]
                series["steps"] += new["steps"]
                series["timestamps"] += [time.isoformat() for time in new["timestamps"]]
            # Written whole, the file of a run of days would take more and more of each beat.
            begun = monotonic()
            if begun >= self.next_write:
                self.save_json(self.points, "metrics.json")
                self.next_write = monotonic() + PAUSE * (monotonic() - begun)

    def render_template(self) -> None:
        """Release the lock; this is Sacred's last call for a run, however it ended."""
        if self.dir:
            if self.points:
                self.save_json(self.points, "metrics.json")
            os.close(self.alive)

    def save_json(self, obj: Any, filename: str) -> None:
        """Replace a JSON file of the record; at the end of the run all points again."""
        if filename == "run.json" and obj["status"] != "RUNNING":
            self.save_json(self.points, "metrics.json")

        def write() -> None:
            indent = None if filename == "metrics.json" else 1
            content = json.dumps(flatten(obj), sort_keys=True, indent=indent)
            replace_file(Path(str(self.dir), filename), content.encode())

        self._try(filename, write)

    def save_cout(self) -> None:
        """Append the output since the last call."""
        self._try("cout.txt", super().save_cout)

    def save_file(self, filename: str, target_name: str | None = None) -> None:
        """Copy an artifact."""
        save = super().save_file
        self._try(target_name or filename, lambda: save(filename, target_name))  # type: ignore[no-untyped-call]

    def _try(self, name: str, write: Callable[[], Any]) -> None:
        if self.dir is None:
            return
        with self.lock:
            try:
                write()
            except OSError as error:
                self._say(f"{Path(self.dir, name)} not written", error)

    def _say(self, what: str, error: OSError) -> None:
        """Print a problem, once."""
        message = f"tracking: {what}: {error.strerror} ({error.filename})"
        if message not in self.messages:
            self.messages.add(message)
            print(message, file=sys.stderr)


def is_alive(folder: Path) -> bool:
    """Whether a process still writes this record; True where that cannot be determined."""
    try:
        with (folder / ALIVE).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
