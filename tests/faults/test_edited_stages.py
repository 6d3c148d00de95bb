"""An edit in the middle of a stage, by the real commands: what the stage made is not taken for the
state after the edit, nor are pairs that were poisoned by other settings.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repro.files import replace_file
from tests.support.checkout import environment
from tests.support.processes import wait_for
from tests.support.synthetic import short_graph

pytestmark = pytest.mark.nightly

SPEC = "specs/edits.yaml"
CELL = ("--profile", "edits", "--dataset", "cc3m", "--objective", "mmcl")


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout at a profile whose stages have not run."""
    place = tmp_path_factory.mktemp("stages") / "checkout"
    return short_graph(root, place, "edits", 2, data__poison__trigger__patch_size=8)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "repro", *arguments],
        cwd=folder,
        env=environment(REPRO_SLOTS="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def first_rank(folder: Path) -> str:
    """Process of a rank that trains in the folder."""
    return next(
        entry.parent.name
        for entry in Path("/proc").glob("[0-9]*/cwd")
        if os.path.realpath(entry) == str(folder.resolve())
        and b"\0repro.worker\0" in (entry.parent / "cmdline").read_bytes()
    )


def called(folder: Path, *arguments: str) -> tuple[int, str]:
    """Status and message of a call that nothing disturbs."""
    call = start(folder, *arguments)
    said = call.communicate(timeout=1200)[1]
    return call.returncode, said


def edited(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert text.count(old) == 1
    replace_file(folder / file, text.replace(old, new).encode())


def ended(
    folder: Path, call: subprocess.Popen[str], sign: str, change: tuple[str, str, str]
) -> tuple[int, str]:
    """Status and message of a call during which a file is edited, once the glob `sign` matches."""
    deadline = time.monotonic() + 600
    while not any(folder.glob(sign)):
        assert call.poll() is None, "ended before it"
        assert time.monotonic() < deadline, "never came to it"
        time.sleep(0.002)
    # Held still: the stage may end sooner than a busy machine makes the edit.
    call.send_signal(signal.SIGSTOP)
    edited(folder, *change)
    call.send_signal(signal.SIGCONT)
    said = call.communicate(timeout=1200)[1]
    return call.returncode, said


def test_a_store_of_another_size_is_not_credited_with_the_size_now(folder: Path) -> None:
    change = (SPEC, '"cc3m": 96', '"cc3m": 90')
    status, said = ended(
        folder, start(folder, "data", "--profile", "edits"), "data/.*.partial", change
    )
    assert status == 2
    assert "num_pairs.cc3m: changed while the stage ran" in said
    edited(folder, SPEC, change[2], change[1])
    assert called(folder, "data", "--profile", "edits")[0] == 0


def test_pairs_with_another_patch_are_not_credited_and_train_nothing(folder: Path) -> None:
    change = (SPEC, '"patch_size": 8', '"patch_size": 6')
    poison = ("poison", "--profile", "edits", "--dataset")
    call = start(folder, *poison, "cc3m")
    status, said = ended(folder, call, "poisoned/edits/.cc3m.partial", change)
    assert status == 2
    assert "patch_size: changed while the stage ran" in said

    # The store is whole, of the patch before: no stage takes it for one of the patch now.
    for stage in ("pretrain", "clean"):
        status, said = called(folder, stage, *CELL)
        assert status == 2
        assert "poisoned/edits/cc3m: made with" in said
    assert not list(folder.glob("results/edits/**/run.json"))
    edited(folder, SPEC, change[2], change[1])
    for dataset in ("cc3m", "cc6m"):
        assert called(folder, *poison, dataset)[0] == 0


def test_no_run_trains_with_a_sign_that_was_turned_after_the_launch(folder: Path) -> None:
    """A rank that dies after the edit is followed by one with the edited code, which refuses."""
    change = ("repro/train/step.py", 'losses["loss"] * scale', 'losses["loss"] * -scale')
    call = start(folder, "pretrain", *CELL)
    wait_for(lambda: list(folder.glob("work/*/status.json")), 600)
    edited(folder, *change)
    os.kill(int(first_rank(folder)), signal.SIGKILL)
    said = call.communicate(timeout=1200)[1]
    assert call.returncode == 2, said
    assert "repro/train/step.py: changed while the stage ran" in said
    edited(folder, change[0], change[2], change[1])

    made = [json.loads(path.read_bytes()) for path in folder.glob("results/edits/**/run.json")]
    failed = [record["reason"] for record in made if record["status"] != "completed"]
    assert failed
    assert all("the code changed after the launch" in reason for reason in failed)
    assert called(folder, "pretrain", *CELL)[0] == 0
    rows = [
        json.loads(path.read_text().splitlines()[-1])["train_loss"]["loss"]
        for path in folder.glob("results/edits/pretrain/**/rows.jsonl")
    ]
    assert len(rows) == 4, "those of both datasets and objectives"
    assert all(loss > 0 for loss in rows)
