"""Points of a run as one of TensorBoard's event files, for those who ask for them."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from repro.events import say
from repro.spec import RunSpec

FOLDER = "REPRO_TENSORBOARD"
"""Environment variable with the folder below which each run has one of its own."""


class EventFile:
    """The event file of a run; without FOLDER nothing. It never costs a result."""

    def __init__(self, spec: RunSpec) -> None:
        self.writer: Any = None
        folder = os.environ.get(FOLDER)
        if not folder:
            return
        # Not at the top: protobuf takes a third of a second to load. The library's usual writer has
        # a queue whose reader may die, which would block the run.
        from tensorboardX.event_file_writer import EventsWriter

        place = Path(folder, spec.profile, spec.stage, spec.model_name, spec.run_id)
        try:
            place.mkdir(parents=True, exist_ok=True)
            self.writer = EventsWriter(str(place / "events"))
        except OSError as error:
            self._lost(error)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Add the values of a step."""
        if self.writer is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        try:
            for name, value in values.items():
                summary = scalar(name, float(value))
                self.writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self.writer.flush()
        except OSError as error:
            self._lost(error)

    def close(self) -> None:
        """Write what is left."""
        if self.writer is not None:
            with suppress(OSError):
                self.writer.close()

    def _lost(self, error: OSError) -> None:
        say(f"tracking: {FOLDER}: {error}; the run goes on without an event file")
        self.writer = None
