"""Sacred's file observer, with files that are replaced whole and a lock while the process lives."""

import json
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from sacred.observers import FileStorageObserver
from sacred.serializer import flatten

from repro.files import replace_file

RECORDS = Path("sacred")
METRICS, POINTS = "metrics.json", "metrics.jsonl"
"""Files of a record with its points: Sacred's, whole, when the run has ended; before, a line for
each time that points were added.
"""
Points = dict[str, Any]
"""By metric, lists of `values`, `steps` and `timestamps`, as in METRICS."""
ALIVE = ".alive"
"""File in a record, locked by the process that writes the record."""


class FileObserver(FileStorageObserver):
    """The record of a run in `<basedir>/<number>/`; an error of the file system never ends it."""

    def __init__(self, basedir: Path) -> None:
        super().__init__(basedir)
        self.points: Points = {}
        self.unwritten: Points = {}
        self.messages: set[str] = set()
        # Sacred calls from the run and from the thread of its heartbeat.
        self.lock = threading.RLock()

    def started_event(self, *arguments: Any, **named: Any) -> None:
        """Open the record; without one the later events do nothing."""
        try:
            super().started_event(*arguments, **named)  # type: ignore[no-untyped-call]
        except OSError as error:
            self._say(f"no record in {self.basedir}", error)
            if self.dir:
                shutil.rmtree(self.dir, ignore_errors=True)
            self.dir = None
            self.run_entry = {}

    def _make_run_dir(self, number: int | None) -> None:
        # Locked before it says RUNNING, or another process would take it for one of a killed run.
        super()._make_run_dir(number)  # type: ignore[no-untyped-call]
        assert self.dir is not None
        # Of the process, not of a thread: Sacred calls from two.
        self.alive = FileLock(Path(self.dir, ALIVE), thread_local=False, fallback_to_soft=False)
        self.alive.acquire()

    def log_metrics(self, metrics_by_name: dict[str, Any], info: Any) -> None:
        """Append the new points to POINTS: a run of days has megabytes of them."""
        with self.lock:
            new = {
                name: series | {"timestamps": [time.isoformat() for time in series["timestamps"]]}
                for name, series in metrics_by_name.items()
            }
            _add(self.points, new)
            _add(self.unwritten, new)

            def append() -> None:
                line = json.dumps(flatten(self.unwritten), sort_keys=True)
                with Path(str(self.dir), POINTS).open("ab") as file:
                    file.write(line.encode() + b"\n")
                self.unwritten = {}

            self._try(POINTS, append)

    def render_template(self) -> None:
        """Release the lock; this is Sacred's last call for a run, however it ended."""
        if self.dir:
            if self.points:
                self.save_json(self.points, "metrics.json")
            self.alive.release()

    def save_json(self, obj: Any, filename: str) -> None:
        """Replace a JSON file of the record; at the end METRICS takes the place of POINTS."""
        if filename == "run.json" and obj["status"] != "RUNNING":
            self.save_json(self.points, METRICS)
            # On a full disk the points stay where they are.
            if Path(str(self.dir), METRICS).exists():
                self._try(POINTS, Path(str(self.dir), POINTS).unlink, missing_ok=True)

        def write() -> None:
            indent = None if filename == METRICS else 1
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

    def _try(self, name: str, write: Callable[..., Any], **named: Any) -> None:
        if self.dir is None:
            return
        with self.lock:
            try:
                write(**named)
            except OSError as error:
                self._say(f"{Path(self.dir, name)} not written", error)

    def _say(self, what: str, error: OSError) -> None:
        """Print a problem, once."""
        message = f"tracking: {what}: {error.strerror} ({error.filename})"
        if message not in self.messages:
            self.messages.add(message)
            print(message, file=sys.stderr)


def points_of(folder: Path) -> Points:
    """The points of a record, whether or not its run has ended; ValueError for a damaged one."""
    if (folder / METRICS).exists():
        return dict(json.loads((folder / METRICS).read_bytes()))
    points: Points = {}
    if (folder / POINTS).exists():
        # After the last newline stands what a killed process had begun to write.
        for line in (folder / POINTS).read_bytes().split(b"\n")[:-1]:
            _add(points, json.loads(line))
    return points


def _add(points: Points, new: Points) -> None:
    for name, series in new.items():
        kept = points.setdefault(name, {"values": [], "steps": [], "timestamps": []})
        for column, values in kept.items():
            values += series[column]
