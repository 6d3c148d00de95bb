"""How a process ends on a stop signal, and with the command that it serves.

SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal is gone) all mean: save what is done, and end.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CALLER = "REPRO_CALLER"
"""Environment variable with the process id of the `reproduce` call that a stage serves."""
STAGE = "DVC_STAGE"
"""Environment variable that DVC sets for the commands of its stages."""
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}
WATCH_SECONDS = 0.5
AGAIN_SECONDS = 0.1
"""After which a stop signal is sent again that Python could not raise."""
INTERRUPTED = "repro: interrupted; the next call goes on from here"


class Stopped(KeyboardInterrupt):
    """One of STOP_SIGNALS; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn the first stop signal into `Stopped`; the command line runs every command in this block.

    Later ones change nothing: they would tear the end that the first one began, which has a time
    limit of its own. Python cannot raise in a weak reference's callback or a `__del__`; a signal
    that arrives there is sent again.
    """
    others = sys.unraisablehook
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            raise Stopped(number)

    def lost(unraisable: "sys.UnraisableHookArgs") -> None:
        nonlocal stopping
        if not isinstance(error := unraisable.exc_value, Stopped):
            others(unraisable)
            return
        stopping = False
        # From a thread and not at once: raised in here it would be lost as well.
        again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), error.number))
        again.daemon = True
        again.start()

    sys.unraisablehook = lost
    try:
        with _handling(stop):
            yield
    finally:
        sys.unraisablehook = others


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """End the process on a stop signal with one line, while libraries load."""

    def leave(number: int, frame: FrameType | None) -> None:
        say_interrupted()
        os._exit(128 + number)

    with _handling(leave):
        yield


def say_interrupted() -> None:
    """Print how to go on, unless the `reproduce` call that this process serves does."""
    if CALLER not in os.environ:
        # Not print: a handler may run amid another print, whose buffer it must not enter.
        os.write(2, f"{INTERRUPTED}\n".encode())


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Have `handler` take stop signals inside the block; SIGHUP stays ignored under nohup."""
    old = {
        number: signal.signal(number, handler)
        for number in STOP_SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)


def end_with_caller() -> None:
    """In a stage that DVC runs: SIGTERM to this process when DVC is gone.

    DVC hands no signal on, so that a training of days would go on with nobody to see it. A command
    that was called by hand is left alone: it survives logout under nohup.
    """
    if STAGE not in os.environ:
        return
    callers = _callers()

    def watch() -> None:
        # An orphan gets a new parent: a change means that a caller has died.
        while _callers() == callers:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="caller").start()


def _callers() -> list[str]:
    """The parent of this process; where that is a shell, also the shell's."""
    parent = os.getppid()
    try:
        # After the name, in parentheses, stand the state and the parent.
        head, _, rest = Path(f"/proc/{parent}/stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return [str(parent)]
    if head.partition("(")[2] in SHELLS:
        return [str(parent), rest.split()[1]]
    return [str(parent)]
