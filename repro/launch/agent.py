"""A running torchrun, seen from the pack: its events, its output, and the reason of its end."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from repro.events import Event, PackFile, parse
from repro.launch.torchrun import command, training_environment
from repro.tracking.record import say

KILL_SECONDS = 5.0
"""Time for torchrun itself to end, beside that of its ranks."""
ERROR = re.compile(r"^(?:\[rank\d+\]: ?)?([\w.]*(?:Error|Exception|Exit)\b.*)")
"""The last line of a traceback, as Python or torchrun's ranks print it."""


class Torchrun:
    """A running torchrun: iterate over its events; ordinary lines are echoed on the way."""

    def __init__(self, pack: PackFile, path: Path, bind: bool = False) -> None:
        self.grace_seconds = pack["grace_seconds"]
        self.process = subprocess.Popen(
            command(pack, path, bind),
            env=training_environment(pack),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

        # The last lines are enough for `reason`; a run of days may print many.
        self.errors: deque[str] = deque(maxlen=200)
        self.events = self._events()

    def _events(self) -> Iterator[Event]:
        # Rank 0's events are for whoever iterates; whatever else is printed is for the log.
        for is_error, line in _lines(self.process):
            if is_error:
                self.errors.append(line)
                say(line, sys.stderr)
            elif event := parse(line):
                yield event
            elif line:
                say(line)

        # Both outputs are closed; `reason` asks for the exit status.
        self.process.wait()

    def reason(self) -> str:
        """Why the worker ended: the exception it printed last, or how its process ended."""
        if error := last_error(self.errors):
            return error

        # No traceback, as where the system killed a rank: torchrun prints its exit status.
        codes = [re.search(r"exitcode\s*: (-?\d+)", line) for line in self.errors]
        first = next((found[1] for found in codes if found), self.process.returncode)
        return f"the worker ended with status {first}"

    def stop(self) -> None:
        """End the process: politely, and after the grace period by force."""
        if self.process.poll() is not None:
            return

        # torchrun passes the signal on, and the ranks write a checkpoint first.
        self.process.terminate()
        try:
            # Not `wait`: what the ranks still print would fill the pipes and block them.
            self.process.communicate(timeout=self.grace_seconds + KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def last_error(lines: Iterable[str]) -> str:
    """The exception that a process printed last, cut to 500 characters; "" if it printed none."""
    for line in reversed(list(lines)):
        found = ERROR.match(line)
        # torchrun's own account of a rank that died says nothing of the cause.
        if found and "ChildFailedError" not in line:
            return found[1][:500]
    return ""


def _lines(process: subprocess.Popen[bytes]) -> Iterator[tuple[bool, str]]:
    """Lines of both outputs as they come: (from standard error, text)."""
    assert process.stdout is not None
    assert process.stderr is not None
    # By output, what has come of a line that is not complete yet.
    parts = {False: b"", True: b""}

    # Both at once: a pipe that nobody empties would block the ranks while the other is waited for.
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, False)
        selector.register(process.stderr, selectors.EVENT_READ, True)

        # An output leaves the map when it is closed.
        while selector.get_map():
            for key, _ in selector.select():
                is_error = bool(key.data)
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                    # What ends without a line break is a line all the same.
                    chunk = b"\n" if parts[is_error] else b""

                *lines, rest = (parts[is_error] + chunk).split(b"\n")
                parts[is_error] = rest
                for line in lines:
                    yield is_error, line.decode(errors="replace")
