"""A process that is told to end does, wherever in Python the signal meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DELETED = """
class Thing:
    def __del__(self):
        slow()
Thing()
"""
REFERRED = """
import weakref
class Thing: pass
thing = Thing()
kept = weakref.ref(thing, lambda _: slow())
del thing
"""
BODY = """
import sys, time
from pathlib import Path
from repro.runs.signals import Stopped, stoppable

def slow():
    Path("there").touch()
    time.sleep(2)

try:
    with stoppable():
        {amid}
        Path("after").touch()
        time.sleep(60)
except Stopped as stopped:
    sys.exit(128 + stopped.number)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("amid", [DELETED, REFERRED], ids=["__del__", "weak reference"])
def test_a_stop_where_python_can_raise_nothing_comes_again(
    root: Path, tmp_path: Path, amid: str, number: signal.Signals
) -> None:
    """What is raised there is printed and forgotten, in one of ten stops of a report."""
    code = BODY.replace("{amid}", amid.strip().replace("\n", "\n        "))
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
    ) as call:
        deadline = time.monotonic() + 20
        while not (tmp_path / "there").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        call.send_signal(number)
        _, said = call.communicate(timeout=20)
    assert (call.returncode, said) == (128 + number, b"")
    assert (tmp_path / "after").exists(), "it met the process where nothing can be raised"
