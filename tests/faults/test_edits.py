"""Edits at random moments of `reproduce`: each call ends in an error that names the edit, or in the
results of a quiet run of the state before the edit, or of the one after it.

Moments and edits come from a fixed seed; REPRO_EDIT_TRIES sets how many there are.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from repro.files import replace_file
from tests.support.checkout import environment
from tests.support.synthetic import short_graph

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

TRIES = int(os.environ.get("REPRO_EDIT_TRIES", "1"))
SEED = 20251128
SPEC = "specs/edits.yaml"


class Edit(NamedTuple):
    """`old`, a pattern that the file has once, becomes `new`; an error about it has `named`."""

    file: str
    old: str
    new: str
    named: str


EDITS = {
    "sign of the loss": Edit(
        "repro/train/step.py",
        r'losses\["loss"\] \* scale',
        'losses["loss"] * -scale',
        "train/step.py",
    ),
    "choice of poisoned pairs": Edit(
        "repro/data/poison.py", r'"poison", poison\.seed', '"other", poison.seed', "data/poison.py"
    ),
    "confidence of the report": Edit(
        "repro/intervals.py", r"float = 0\.95", "float = 0.9", "intervals.py"
    ),
    "template": Edit(
        "repro/report/pages/templates/index.html.j2", r"\[Re\]", "[Edit]", "index.html.j2"
    ),
    "comment of the code": Edit("repro/train/step.py", r"\A", "# why\n", "no error"),
    "comment of the profile": Edit(SPEC, r"\A", "# why\n", re.escape(SPEC)),
    "patch size": Edit(
        SPEC, r'"patch_size": 8', '"patch_size": 6', "patch_size|specs of edits changed while"
    ),
    "size of a store": Edit(
        SPEC, r'"cc3m": 96', '"cc3m": 90', "num_pairs|specs of edits changed while"
    ),
    "pre-training rate": Edit(
        SPEC,
        r'("mmcl": {"learning_rate": )0\.001',
        r"\g<1>0.002",
        "learning_rate|specs of edits changed while",
    ),
    "cleaning rate": Edit(
        SPEC,
        r'"learning_rates": \[0\.0001\]',
        '"learning_rates": [0.0002]',
        "cells|specs of edits changed while",
    ),
}


class Quiet:
    """The results of calls without an edit in the middle, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = 0.0
        self._made: dict[str, dict[str, Any]] = {}

    def of(self, edit: str = "") -> dict[str, Any]:
        """Results where the edit stands from the beginning, or of the state without one."""
        if edit not in self._made:
            folder = copied(self.folder, f"quiet {edit or 'run'}")
            if edit:
                apply(edit, folder)
            started = time.monotonic()
            call = start(folder)
            assert call.wait(1200) == 0, said(folder)
            self.seconds = self.seconds or time.monotonic() - started
            assert verified(folder)
            self._made[edit] = results(folder)
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
    with (folder / "call.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "repro", "reproduce", "edits"],
            cwd=folder,
            env=environment(REPRO_SLOTS="1"),  # runs that share data share processes
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def said(folder: Path) -> str:
    """The end of what the last call printed."""
    return (folder / "call.log").read_text(errors="replace")[-4000:]


def verified(folder: Path) -> bool:
    command = [sys.executable, "-m", "repro", "verify", "--all", "--profile", "edits"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return done.returncode == 0


def results(folder: Path) -> dict[str, Any]:
    """Stores and weights by hash; rows, without times, and bits of every run."""
    found: dict[str, Any] = {}
    stores = [folder / room / "edits" for room in ("data", "poisoned", "models")]
    for path in sorted(path for store in stores for path in store.rglob("*")):
        if path.is_file() and path.name != "run.json":
            name = str(path.relative_to(folder))
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted((folder / "results" / "edits").rglob("rows.jsonl")):
        name = str(path.parent.relative_to(folder))
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        with np.load(path.with_name("bits.npz"), allow_pickle=False) as bits:
            digests = {key: hashlib.sha256(bits[key].tobytes()).hexdigest() for key in bits.files}
        found[name] = digests, [{**row, "seconds": 0} for row in rows]
    return found


@pytest.fixture(scope="module")
def quiet(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    """The short graph that has not run, and its results."""
    folder = tmp_path_factory.mktemp("edits") / "untouched"
    quiet = Quiet(short_graph(root, folder, "edits", 2, data__poison__trigger__patch_size=8))
    quiet.of()
    return quiet


def test_an_edit_during_a_call_makes_no_mixture(quiet: Quiet) -> None:
    draw = random.Random(SEED)
    mixtures, called_again = [], set()
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
        print(f"try {number}: {edit} after {moment:.1f} s: {ending}", flush=True)
        if "MIXTURE" in ending:
            mixtures.append(f"try {number}: {edit} after {moment:.1f} s: {ending}\n{said(folder)}")
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
    made = results(folder)
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
    if results(folder) != quiet.of(edit):
        return "MIXTURE of results"
    return "results of the state after" if verified(folder) else "MIXTURE: verify --all fails"
