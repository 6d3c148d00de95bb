"""Copies of the records of a batch of runs, made while the runs go on; an outage delays them."""

from __future__ import annotations

import sys
from pathlib import Path

from pymongo.errors import PyMongoError

from repro.events import say
from repro.tracking.server.address import TrackingError
from repro.tracking.server.copies import UNREADABLE, connect, copy_record


class Copier:
    """Copies records until each has its final status."""

    def __init__(self, url: str) -> None:
        self.url, self.problem = url, ""
        self.pending: list[Path] = []
        """Records without a complete copy."""

    def copy(self, folder: Path) -> None:
        """Update the copy of this record, and of those before it that an outage has left behind."""
        self.pending += [] if folder in self.pending else [folder]
        try:
            with connect(self.url) as database:
                for record in list(self.pending):
                    try:
                        ended = copy_record(record, database) != "RUNNING"
                    except UNREADABLE as error:
                        say(f"tracking: {record} not copied: {error!r}", sys.stderr)
                        ended = True
                    if ended:
                        self.pending.remove(record)
            self.problem = ""
        except (TrackingError, PyMongoError) as error:
            reason = str(error) if isinstance(error, TrackingError) else type(error).__name__
            if reason != self.problem:
                say(f"tracking: copies delayed: {reason}", sys.stderr)
            self.problem = reason

    def close(self) -> None:
        """Say what is left for `backfill`."""
        if self.pending:
            say(
                f"tracking: {len(self.pending)} records not copied; "
                "`python -m repro tracking backfill` does it later",
                sys.stderr,
            )
