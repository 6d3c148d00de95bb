"""What several processes read: made by the first that asks for it."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder with what `make` writes into it, for every process; not to be changed.

    A process waits while another makes it, and makes it anew where that one failed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if lock.read() != "made":
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            lock.write("made")
    return folder


def of_this_call(factory: pytest.TempPathFactory, name: str) -> Path:
    """A temporary folder that all processes of this call of pytest know by the name."""
    # Processes of pytest-xdist have folders of their own in that of the call.
    own = factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
