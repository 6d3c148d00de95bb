"""The Sacred observer that keeps the truth on disk, and that one failing call does not silence.

Sacred drops an observer for the rest of a run after its first exception and still says COMPLETED.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver
from sacred.serializer import flatten

from repro.files import replace_file

RECORDS = Path("sacred")
ALIVE = ".alive"
"""Locked by the process that keeps the record for as long as it lives."""
PATIENCE = 200
"""Between two writings of the metrics, which grow with the run, lies at least this multiple of the
processor time of the last one.
"""


class FileObserver(FileStorageObserver):
    """The record on disk, `<basedir>/<number>/`: whole files, replaced in one step, kept through a
    full disk.

    Later events write every file anew, so a call that failed for want of space, the first one
    included, is made up for by the next one. `watch` is called with the record's folder when it is
    there; `resources` are (path, hash) of the inputs.
    """

    def __init__(
        self,
        basedir: Path,
        watch: Callable[[Path], None],
        resources: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(basedir)
        self.watch = watch
        self.resources = resources
        self.points: dict[str, Any] = {}
        self.points_due = 0.0
        """`time.monotonic()` before which the metrics are not written again."""
        self.said: set[str] = set()
        self.unsaved: dict[str, str] = {}
        """Artifacts that could not be copied yet: name to file."""
        self.writing = threading.RLock()
        """Sacred calls from the run and from the thread of its heartbeat."""

    @property
    def folder(self) -> Path | None:
        """Folder of the record; None while it could not be made."""
        return Path(self.dir) if self.dir and self.run_entry else None

    def started_event(self, *arguments: Any, **named: Any) -> Any:
        """Open the record, now or, if the disk is full, as soon as it is not."""
        self.start = arguments, named
        self._opened()
        return None  # numbers count per profile, so they identify nothing to Sacred

    def _opened(self) -> bool:
        """Whether the record is there; makes it, and holds its sign of life until the run or this
        process ends.
        """
        with self.writing:
            if self.folder:
                return True
            try:
                super().started_event(*self.start[0], **self.start[1])  # type: ignore[no-untyped-call]
                self.alive = os.open(Path(str(self.dir), ALIVE), os.O_CREAT | os.O_RDWR, 0o644)
            except OSError as error:
                self._say(f"no record in {self.basedir} for now", error)
                # Half a record would take a number and never end.
                if self.dir:
                    shutil.rmtree(self.dir, ignore_errors=True)
                self.run_entry = None
                return False
            assert self.run_entry is not None
            self.run_entry["resources"] = [list(item) for item in self.resources]
            self._try(ALIVE, lambda: fcntl.flock(self.alive, fcntl.LOCK_EX))
            self._try("its link", lambda: self.watch(Path(str(self.dir))))
            return True

    def heartbeat_event(self, *arguments: Any, **named: Any) -> None:
        """Write what has changed, and the artifacts that found no space before."""
        if self._opened():
            super().heartbeat_event(*arguments, **named)  # type: ignore[no-untyped-call]
            for name, file in list(self.unsaved.items()):
                self.artifact_event(name, file)

    def completed_event(self, *arguments: Any, **named: Any) -> None:
        """Write the end of the run."""
        self._end(super().completed_event, arguments, named)

    def interrupted_event(self, *arguments: Any, **named: Any) -> None:
        """Write the end of a run that was stopped."""
        self._end(super().interrupted_event, arguments, named)

    def failed_event(self, *arguments: Any, **named: Any) -> None:
        """Write the end of a run that failed, and why."""
        self._end(super().failed_event, arguments, named)

    def _end(
        self, event: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        if not self._opened():
            return
        self.save_json(self.points, "metrics.json")
        if self.unsaved:
            self.save_json((self.info or {}) | {"lost": sorted(self.unsaved)}, "info.json")
        event(*arguments, **named)
        os.close(self.alive)

    def log_metrics(self, metrics_by_name: dict[str, Any], info: Any) -> None:
        """Add points; they stay in memory too, so that a write that failed is repeated whole."""
        with self.writing:
            for name, new in metrics_by_name.items():
                series = self.points.setdefault(name, {"values": [], "steps": [], "timestamps": []})
                series["values"] += new["values"]
                series["steps"] += new["steps"]
                series["timestamps"] += [time.isoformat() for time in new["timestamps"]]

            # The file holds all points so far: writing it at each would cost quadratic time.
            if time.monotonic() >= self.points_due and self._opened():
                begin = time.thread_time()
                self.save_json(self.points, "metrics.json")
                self.points_due = time.monotonic() + PATIENCE * (time.thread_time() - begin)

    def save_json(self, obj: Any, filename: str) -> None:
        """Replace one JSON file of the record."""
        with self.writing:
            content = json.dumps(
                flatten(obj), sort_keys=True, indent=1 if filename != "metrics.json" else None
            ).encode()
            self._try(filename, lambda: replace_file(Path(str(self.dir), filename), content))

    def save_cout(self) -> None:
        """Append what was printed since the last call."""
        with self.writing:
            self._try("cout.txt", super().save_cout)

    def artifact_event(
        self, name: str, filename: str, metadata: Any = None, content_type: str | None = None
    ) -> None:
        """Copy an artifact into the record."""
        # Taken off the list once copied; until then each heartbeat tries again.
        self.unsaved[name] = filename
        with self.writing:
            event = super().artifact_event

            def write() -> None:
                event(name, filename, metadata, content_type)  # type: ignore[no-untyped-call]

            if self._opened() and self._try(name, write):
                del self.unsaved[name]

    def _try(self, what: str, action: Callable[[], Any]) -> bool:
        """Whether the action succeeded; a failure of the file system is said and survived."""
        try:
            action()
        except OSError as error:
            self._say(f"{Path(str(self.dir), what)} not written", error)
            return False
        return True

    def _say(self, what: str, error: OSError) -> None:
        """Tell a problem on standard error, once."""
        message = f"tracking: {what}: {error.strerror} ({error.filename})"
        if message not in self.said:
            self.said.add(message)
            print(message, file=sys.stderr)


def is_alive(folder: Path) -> bool:
    """Whether a process still keeps this record, whatever its status and the clock say; True where
    that cannot be found out.
    """
    try:
        with (folder / ALIVE).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
