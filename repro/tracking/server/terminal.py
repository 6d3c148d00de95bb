"""Ctrl-C for one program alone, also where `make` called it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def foreground() -> Iterator[None]:
    """Take the terminal for this process and its children, as a shell does for what it starts.

    Ctrl-C goes to every program in the foreground. `make` dies of it, and so fails, whatever the
    program that it called makes of it. Without a terminal, and in the background, nothing changes.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield
        return

    before = os.tcgetpgrp(terminal)
    if before != os.getpgrp() or os.getpgrp() == os.getpid():
        # In the background, or called by the shell itself, which has made this a group of its own.
        os.close(terminal)
        yield
        return

    # Whoever gives the terminal away is in the background then, and would be stopped. Nor is there
    # anyone who could wake this up again after Ctrl-Z.
    for number in (signal.SIGTTOU, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield
    finally:
        os.tcsetpgrp(terminal, before)
        os.close(terminal)
