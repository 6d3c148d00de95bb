"""The Sacred observer that keeps the truth on disk, and that one failing call does not silence.

Sacred drops an observer for the rest of a run after its first exception and still says COMPLETED.
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver
from sacred.serializer import flatten

from repro.ledger import replace_file

ALIVE = ".alive"
"""Locked by the process that keeps the record for as long as it lives."""


class FileObserver(FileStorageObserver):
    """The record on disk, `<basedir>/<number>/`: whole files, replaced in one step, kept through a full disk.

    Later events write every file anew, so a call that failed for want of space is made up for by the next one.
    `watch` is called with the record's folder when the run has started.
    """

    def __init__(self, basedir: Path, watch: Callable[[Path], None]) -> None:
        super().__init__(basedir)
        self.watch = watch
        self.points: dict[str, Any] = {}

    @property
    def folder(self) -> Path:
        """Folder of the record."""
        return Path(str(self.dir))

    def started_event(self, *arguments: Any, **named: Any) -> Any:
        """Open the record, and hold its sign of life until the run or this process ends."""
        number = super().started_event(*arguments, **named)  # type: ignore[no-untyped-call]
        self.alive = (self.folder / ALIVE).open("w")
        fcntl.flock(self.alive, fcntl.LOCK_EX)
        self.watch(self.folder)
        return number

    def completed_event(self, *arguments: Any, **named: Any) -> None:
        """Write the end of the run."""
        super().completed_event(*arguments, **named)  # type: ignore[no-untyped-call]
        self.alive.close()

    def interrupted_event(self, *arguments: Any, **named: Any) -> None:
        """Write the end of a run that was stopped."""
        super().interrupted_event(*arguments, **named)  # type: ignore[no-untyped-call]
        self.alive.close()

    def failed_event(self, *arguments: Any, **named: Any) -> None:
        """Write the end of a run that failed, and why."""
        super().failed_event(*arguments, **named)  # type: ignore[no-untyped-call]
        self.alive.close()

    def log_metrics(self, metrics_by_name: dict[str, Any], info: Any) -> None:
        """Add points; they stay in memory too, so that a write that failed is repeated whole."""
        for name, new in metrics_by_name.items():
            series = self.points.setdefault(name, {"values": [], "steps": [], "timestamps": []})
            series["values"] += new["values"]
            series["steps"] += new["steps"]
            series["timestamps"] += [time.isoformat() for time in new["timestamps"]]
        self.save_json(self.points, "metrics.json")

    def save_json(self, obj: Any, filename: str) -> None:
        """Replace one JSON file of the record."""
        content = json.dumps(flatten(obj), sort_keys=True, indent=1 if filename != "metrics.json" else None).encode()
        self._try(filename, lambda: replace_file(self.folder / filename, content))

    def save_cout(self) -> None:
        """Append what was printed since the last call."""
        self._try("cout.txt", super().save_cout)

    def artifact_event(self, name: str, filename: str, metadata: Any = None, content_type: str | None = None) -> None:
        """Copy an artifact into the record."""
        self._try(name, lambda: super(FileObserver, self).artifact_event(name, filename, metadata, content_type))  # type: ignore[no-untyped-call]

    def _try(self, what: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            print(f"tracking: {self.folder / what} not written: {error.strerror} ({error.filename})", file=sys.stderr)


def is_alive(folder: Path) -> bool:
    """Whether a process still keeps this record, whatever its status and the clock say."""
    try:
        with (folder / ALIVE).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
