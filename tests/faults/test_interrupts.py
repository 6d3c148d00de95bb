"""`reproduce` stopped at random moments: the next call goes on, and nothing stays behind.

Each round is a real call over a short graph of noise, ended by Ctrl-C, SIGTERM or SIGKILL. The
moments come from a fixed seed; REPRO_STOP_ROUNDS sets how many rounds there are.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.checkout import environment
from tests.support.launch import processes
from tests.support.synthetic import short_graph

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("REPRO_STOP_ROUNDS", "5"))
SEED = 20251125
PATIENCE_SECONDS = 10.0
"""Within which all that a call has started must be gone."""
LONGEST_SECONDS = 12.0
"""Latest moment of a signal: in training, past the start of Python and DVC's look at the stages."""
CALL = (sys.executable, "-m", "repro", "reproduce", "stops")


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a short graph that has not run."""
    return short_graph(root, tmp_path_factory.mktemp("stops") / "checkout", "stops", 4)


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """The call as at a terminal: the leader of its group, whose output goes to a file."""
    with log.open("wb") as file:
        return subprocess.Popen(
            CALL,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            process_group=0,
        )


def test_a_stopped_call_leaves_nothing_behind_and_the_next_goes_on(folder: Path) -> None:
    draw = random.Random(SEED)
    before = (folder / "params.yaml").read_bytes()
    for number in range(ROUNDS):
        log = folder / f"round{number}.log"
        sent = draw.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
        moment = draw.uniform(0.1, LONGEST_SECONDS)
        call = start(folder, log)
        try:
            call.wait(moment)
        except subprocess.TimeoutExpired:
            # Ctrl-C goes to the whole group in the foreground.
            os.killpg(call.pid, sent)
        told = time.monotonic()
        call.wait(PATIENCE_SECONDS)
        while left := processes(folder):
            assert time.monotonic() - told < PATIENCE_SECONDS, (number, sent, moment, left)
            time.sleep(0.1)

        text = log.read_text(errors="replace")
        print(f"round {number}: {sent.name} after {moment:.1f} s, status {call.returncode}")
        assert "Traceback" not in text, text[-3000:]
        assert "ERROR" not in text, text[-3000:]
        assert call.returncode in (0, -sent, 128 + sent), text[-3000:]
        if call.returncode == 128 + sent:
            assert text.rstrip().endswith("repro: interrupted; the next call goes on from here")

    log = folder / "last.log"
    assert start(folder, log).wait(1200) == 0, log.read_text(errors="replace")[-3000:]
    assert (folder / "report" / "build" / "stops" / "report.json").exists()
    assert (folder / "params.yaml").read_bytes() == before
    assert len(list((folder / "results" / "stops").glob("*/*/*/run.json"))) == 6
