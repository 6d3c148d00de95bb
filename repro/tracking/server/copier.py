"""A thread beside the training that copies its records to the server, through outages of it."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from pymongo.errors import PyMongoError

from repro.tracking.server.address import TrackingError
from repro.tracking.server.copies import UNREADABLE, connect, copy_record

SYNC_SECONDS = 10.0
PATIENCE = 200
"""The pause between two rounds is at least so many times the processor time of the last one."""
FLUSH_SECONDS = 8.0
"""Time for the last copies at the end of the process."""


class Copier(threading.Thread):
    """Copies records until each has its final status; an outage of the server delays copies."""

    def __init__(self, url: str) -> None:
        super().__init__(name="copier", daemon=True)
        self.url = url
        self.closing = threading.Event()
        self.pending: dict[Path, None] = {}
        """Records without a complete copy, in order."""

    def watch(self, folder: Path) -> None:
        """Copy this record from now on."""
        self.pending[folder] = None

    def run(self) -> None:
        """Copy every few seconds, until closed and nothing is pending."""
        warned = False
        while self.pending or not self.closing.is_set():
            begin = time.thread_time()
            try:
                self._copy()
                warned = False
            except (TrackingError, PyMongoError) as error:
                if not warned:
                    reason = error if isinstance(error, TrackingError) else type(error).__name__
                    print(f"tracking: copies delayed: {reason}", file=sys.__stderr__)
                warned = True
            if self.closing.is_set():
                time.sleep(0.2)
            else:
                self.closing.wait(max(SYNC_SECONDS, PATIENCE * (time.thread_time() - begin)))

    def _copy(self) -> None:
        # A copy of the keys: `watch` adds records from another thread.
        if folders := list(self.pending):
            with connect(self.url) as database:
                for folder in folders:
                    try:
                        ended = copy_record(folder, database) != "RUNNING"
                    except UNREADABLE as error:
                        problem = f"{type(error).__name__}: {error}"
                        print(f"tracking: {folder} not copied: {problem}", file=sys.__stderr__)
                        ended = True
                    if ended:
                        self.pending.pop(folder)

    def close(self) -> None:
        """Copy the rest, for a limited time; `backfill` copies what is left."""
        self.closing.set()
        self.join(FLUSH_SECONDS)
        if self.pending:
            print(
                f"tracking: {len(self.pending)} records not copied;"
                " `python -m repro tracking backfill` does it later",
                file=sys.stderr,
            )
