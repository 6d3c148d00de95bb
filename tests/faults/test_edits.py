"""Calls of `reproduce` over a short graph of noise, disturbed at random moments of fixed seeds.

Stopped, a call leaves nothing behind, and the next goes on. Where a file is edited meanwhile, a
call ends in an error that names the edit, or in the results of the state before or after it.
"""

import filecmp
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from repro.files import replace_file
from tests.support import checkout
from tests.support.checkout import results, said, verify
from tests.support.processes import processes, wait_for
from tests.support.synthetic import short_graph

ROUNDS = int(os.environ.get("REPRO_STOP_ROUNDS", "2"))
TRIES = int(os.environ.get("REPRO_EDIT_TRIES", "3"))
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(4 * 3600)]
PATIENCE_SECONDS = 30.0
"""Within which all that a stopped call has started must be gone, on a busy machine too."""
LATEST_SECONDS = 12.0
"""Latest moment of a signal: in training, past the start of Python and DVC's look at the stages."""
SPEC = "specs/edits.yaml"


class Edit(NamedTuple):
    """`old`, a pattern that the file has once, becomes `new`; an error about it has `named`."""

    file: str
    old: str
    new: str
    named: str


STEP, POISON = "repro/train/step.py", "repro/data/poison.py"
INDEX = "repro/report/pages/templates/index.html.j2"
LATE = "|specs of edits changed while"
EDITS = {
    "sign of the loss": Edit(STEP, r'(losses\["loss"\] \* )scale', r"\1-scale", STEP),
    "choice of poisoned pairs": Edit(POISON, r'eligible, "poison"', 'eligible, "other"', POISON),
    "confidence of the report": Edit("repro/intervals.py", r"= 0\.95", "= 0.9", "intervals.py"),
    "template": Edit(INDEX, r"\[Re\]", "[Edit]", "index.html.j2"),
    "comment of the code": Edit(STEP, r"\A", "# why\n", "no error"),
    "comment of the profile": Edit(SPEC, r"\A", "# why\n", re.escape(SPEC)),
    "patch size": Edit(SPEC, r'("patch_size": )8', r"\g<1>6", f"patch_size{LATE}"),
    "size of a store": Edit(SPEC, r'("cc3m": )96', r"\g<1>90", f"num_pairs{LATE}"),
    "pre-training rate": Edit(
        SPEC, r'("mmcl": {"learning_rate": )0\.001', r"\g<1>0.002", f"learning_rate{LATE}"
    ),
    "cleaning rate": Edit(SPEC, r'("learning_rates": )\[0\.0001\]', r"\1[0.0002]", f"cells{LATE}"),
}


class Quiet:
    """The results of calls without an edit in the middle, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = 0.0
        self._made: dict[str, dict[str, Any]] = {}

    def of(self, edit: str = "", before: Callable[[Path], None] | None = None) -> dict[str, Any]:
        """Results where the edit stands from the beginning, or of the state without one; `before`
        happens ahead of the call.
        """
        if edit not in self._made:
            folder = copied(self.folder, f"quiet {edit or 'run'}")
            if edit:
                apply(edit, folder)
            if before:
                before(folder)
            started = time.monotonic()
            assert start(folder).wait(1200) == 0, said(folder)
            self.seconds = self.seconds or time.monotonic() - started
            assert verified(folder)
            assert len(list((folder / "results/edits").glob("*/*/*/run.json"))) == 6
            assert filecmp.cmp(folder / "params.yaml", self.folder / "params.yaml", shallow=False)
            self._made[edit] = results(folder, "edits")
            # Later calls need not download the packages again.
            shutil.copytree(folder / "data/npm", self.folder / "data/npm", dirs_exist_ok=True)
            shutil.rmtree(folder)
        return self._made[edit]


def apply(edit: str, folder: Path) -> bytes:
    """Make the edit; returns what the file was before."""
    file, old, new, _ = EDITS[edit]
    before = (folder / file).read_bytes()
    text, count = re.subn(old, new, before.decode())
    assert count == 1, (edit, count)
    replace_file(folder / file, text.encode())
    return before


def copied(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.with_name(name), symlinks=True))


def start(folder: Path) -> subprocess.Popen[bytes]:
    """In one slot: runs that share data share processes."""
    return checkout.start(folder, "repro", "reproduce", "edits", REPRO_SLOTS="1")


def verified(folder: Path) -> bool:
    done = verify(folder, "edits")
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return done.returncode == 0


@pytest.fixture(scope="module")
def quiet(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    """The short graph that has not run."""
    folder = tmp_path_factory.mktemp("edits") / "untouched"
    return Quiet(short_graph(root, folder, "edits", 2, data__poison__trigger__patch_size=8))


def test_a_stopped_call_leaves_nothing_behind_and_the_next_goes_on(quiet: Quiet) -> None:
    """By Ctrl-C, SIGTERM and SIGKILL in turn; the results are the reference of the other test."""
    quiet.of(before=stop_several_times)


def stop_several_times(folder: Path) -> None:
    draw = random.Random(20251125)
    for number in range(ROUNDS):
        sent = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[number % 3]
        moment = draw.uniform(0.1, LATEST_SECONDS)
        call = start(folder)
        try:
            call.wait(moment)
        except subprocess.TimeoutExpired:
            # Ctrl-C goes to the whole group in the foreground.
            os.killpg(call.pid, sent)
        call.wait(PATIENCE_SECONDS)
        wait_for(lambda: not processes(folder), PATIENCE_SECONDS)

        text = (folder / "call.log").read_text(errors="replace")
        print(f"round {number}: {sent.name} after {moment:.1f} s, status {call.returncode}")
        assert "Traceback" not in text, text[-3000:]
        assert "ERROR" not in text, text[-3000:]
        assert call.returncode in (0, -sent, 128 + sent), text[-3000:]
        if call.returncode == 128 + sent:
            assert text.rstrip().endswith("repro: interrupted; the next call goes on from here")


def test_an_edit_during_a_call_makes_no_mixture(quiet: Quiet) -> None:
    quiet.of()
    draw = random.Random(20251128)
    mixtures = []
    called_again = set()
    for number in range(TRIES):
        edit = draw.choice(list(EDITS))
        moment = draw.uniform(0, quiet.seconds)
        folder = copied(quiet.folder, f"try {number}")
        call = start(folder)
        time.sleep(moment)
        before = apply(edit, folder)
        status = call.wait(1200)
        ending = judged(quiet, folder, edit, before) if status == 0 else refused(edit, folder)
        if status and EDITS[edit].file == SPEC and edit not in called_again:
            # The next call works on the new state alone.
            called_again.add(edit)
            ending += "; called again: " + again(quiet, folder, edit)
        line = f"try {number}: {edit} after {moment:.1f} s: {ending}"
        print(line, flush=True)
        if "MIXTURE" in ending:
            mixtures.append(f"{line}\n{said(folder)}")
        else:
            shutil.rmtree(folder)
    assert mixtures == []


def refused(edit: str, folder: Path) -> str:
    text = said(folder)
    line = re.search(rf"^.*({EDITS[edit].named}).*$", text, re.MULTILINE)
    if line and "Traceback" not in text:
        return f"error: {line[0][:150]}"
    return "MIXTURE? an error that does not name the edit"


def judged(quiet: Quiet, folder: Path, edit: str, before: bytes) -> str:
    """Whose results a call that succeeded has, and whether its report is that of one state."""
    made = results(folder, "edits")
    passes = verified(folder)
    if made == quiet.of():
        state = "results of the state before"
    elif made == quiet.of(edit):
        state = "results of the state after"
    else:
        return f"MIXTURE of results; verify --all {'passes' if passes else 'names it'}"
    if not passes:
        (folder / EDITS[edit].file).write_bytes(before)
        if not verified(folder):
            return f"MIXTURE of reports, over {state}"
    return f"{state}, report of the state {'after' if passes else 'before'}"


def again(quiet: Quiet, folder: Path, edit: str) -> str:
    if start(folder).wait(1200):
        return "MIXTURE? an error"
    if results(folder, "edits") != quiet.of(edit):
        return "MIXTURE of results"
    return "results of the state after" if verified(folder) else "MIXTURE: verify --all fails"
