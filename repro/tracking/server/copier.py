"""A thread beside the training that keeps the copies of its records up to date, through outages of
the server.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

from pymongo.database import Database
from pymongo.errors import PyMongoError

from repro.tracking.server.address import TrackingError
from repro.tracking.server.copies import UNREADABLE, copy_record
from repro.tracking.server.database import connect

SYNC_SECONDS = 10.0
COPY_PATIENCE = 200
"""Between two rounds of copying lies at least this multiple of the processor time of the last one.
"""
FLUSH_SECONDS = 8.0
"""Time that the end of a pack may spend on the last copies."""


class Copier(threading.Thread):
    """Keeps the copies of a pack's records up to date beside the training, through outages of the
    server.
    """

    def __init__(self, url: str) -> None:
        super().__init__(name="copier", daemon=True)
        self.url = url
        self.wake = threading.Event()
        self.closing = False
        self.pending: dict[Path, None] = {}
        """Records whose copy is not complete, in order."""
        self.warned = False

    def watch(self, folder: Path) -> None:
        """Copy this record from now on, until its final status has been copied."""
        self.pending[folder] = None

    def run(self) -> None:
        """Copy every few seconds until closed and nothing is pending."""
        while not (self.closing and not self.pending):
            try:
                with connect(self.url) as database:
                    self._copy(database)
            except (TrackingError, PyMongoError) as error:
                # Once an outage; a round of copies that succeeds ends it.
                if not self.warned:
                    reason = error if isinstance(error, TrackingError) else type(error).__name__
                    print(f"tracking: copies delayed: {reason}", file=sys.__stderr__)
                self.warned = True
                self._pause()

    def _copy(self, database: Database[dict[str, Any]]) -> None:
        """Copy until closed and nothing is pending; raises when the server is lost."""
        while not (self.closing and not self.pending):
            begin = time.thread_time()
            # A copy of the keys: `watch` adds records from another thread.
            for folder in list(self.pending):
                if self._has_ended(folder, database):
                    self.pending.pop(folder)

            self.warned = False
            self._pause(COPY_PATIENCE * (time.thread_time() - begin))

    def _has_ended(self, folder: Path, database: Database[dict[str, Any]]) -> bool:
        """Copy one record; True if nothing more will come of it."""
        try:
            return copy_record(folder, database) != "RUNNING"
        except UNREADABLE as error:
            problem = f"{type(error).__name__}: {error}"
            print(f"tracking: {folder} cannot be copied: {problem}", file=sys.__stderr__)
            return True

    def _pause(self, seconds: float = 0.0) -> None:
        if self.closing:
            time.sleep(0.2)
        else:
            self.wake.wait(max(SYNC_SECONDS, seconds))

    def close(self) -> None:
        """Copy what is left, for a limited time; the rest is for `backfill`."""
        self.closing = True
        self.wake.set()
        self.join(FLUSH_SECONDS)
        if self.pending:
            print(
                f"tracking: {len(self.pending)} records not copied;"
                " `python -m repro tracking backfill` does it later",
                file=sys.stderr,
            )
