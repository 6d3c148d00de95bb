"""What starting a server on this machine takes: its program, a free port, and patience."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from repro.tracking.server.address import LOOPBACK, TrackingError

PORT_SECONDS = 2.0


def program(name: str, how_to_get: str) -> str:
    """Path of a program, also where it came from PyPI into this environment."""
    # The environment's own programs come before those of the system.
    found = shutil.which(
        name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if found is None:
        raise TrackingError(f"{name} is not installed: {how_to_get}")
    return found


def require_free(port: int) -> None:
    """TrackingError if nothing can listen on the port, also after a moment in which a server that
    was killed gives it up.
    """
    if not 0 < port < 1 << 16:
        raise TrackingError(f"--port: {port} (allowed: 1 to 65535)")
    reason = ""

    def free() -> bool:
        nonlocal reason
        with socket.socket() as probe:
            # As servers do: a port in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                reason = str(error.strerror)
                return False
        return True

    if not answers_in_time(free, lambda: True, PORT_SECONDS):
        raise TrackingError(f"port {port} on {LOOPBACK}: {reason}; choose another with --port")


def answers_in_time(answers: Callable[[], bool], lives: Callable[[], bool], seconds: float) -> bool:
    """Wait for a server that has just been started; False if it ended, or did not answer in
    time.
    """
    deadline = time.monotonic() + seconds
    while lives() and time.monotonic() < deadline:
        if answers():
            return True
        time.sleep(0.1)
    return False
