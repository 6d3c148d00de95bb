"""Sacred observers that one failing call does not silence.

Sacred drops an observer for the rest of a run after its first exception and still says COMPLETED.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver
from sacred.serializer import flatten

from repro.ledger import replace_file


class FileObserver(FileStorageObserver):
    """The record on disk, `<basedir>/<number>/`: whole files, replaced in one step, kept through a full disk.

    Later events write every file anew, so a call that failed for want of space is made up for by the next one.
    """

    def save_json(self, obj: Any, filename: str) -> None:
        """Replace one JSON file of the record."""
        content = json.dumps(flatten(obj), sort_keys=True, indent=2).encode()
        self._try(filename, lambda: replace_file(Path(str(self.dir)) / filename, content))

    def save_cout(self) -> None:
        """Append what was printed since the last call."""
        self._try("cout.txt", super().save_cout)

    def artifact_event(self, name: str, filename: str, metadata: Any = None, content_type: str | None = None) -> None:
        """Copy an artifact into the record."""
        self._try(name, lambda: super(FileObserver, self).artifact_event(name, filename, metadata, content_type))

    def resource_event(self, filename: str) -> None:
        """Copy a resource beside the records, by hash."""
        self._try(filename, lambda: super(FileObserver, self).resource_event(filename))

    def _try(self, what: str, action: Any) -> None:
        try:
            action()
        except OSError as error:
            print(f"tracking: {what} of record {self.dir} not written: {error}", file=sys.stderr)
