"""Runs that have ended, without any process: what the stub worker leaves, and the record."""

import os
from pathlib import Path

import pytest

from repro.ledger import handed_on
from repro.runs.deliver import save_record
from repro.runs.run import Run, identify
from repro.spec import RunSpec
from tests.support import stub_worker


def finished_run(spec: RunSpec, code: str = "0123456789abcdef") -> Run:
    """A run of the stub worker in the working folder, ended and not delivered."""
    Path("pairs").write_text("pairs")
    run = identify(spec, {"pairs": Path("pairs")}, code)
    run.save()
    Path("behaviour.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", os.environ.get("RANK", "0"))
        stub_worker.run_one(run.fingerprint)
    end(run)
    return run


def end(run: Run) -> None:
    """Record the run with the files that are in its work folder now."""
    save_record(run, (run.outcome() or {}) | {"files": handed_on(run.work_dir)})


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)
