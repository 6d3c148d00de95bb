"""Edits while something runs: no result is credited to a state that did not make it."""

import os
import re
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from repro import edits
from repro.data import stages
from repro.edits import unedited
from repro.files import replace_file
from repro.profile import load_profile, resolved_profile
from repro.spec import Profile, SpecError
from tests.support.checkout import results, said, start
from tests.support.processes import wait_for
from tests.support.synthetic import short_graph


@pytest.fixture
def package(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that a test may edit, beside what a stage reads."""
    for name in ("repro/train/step.py", "repro/report/page.html.j2", "repro/x.pyc", "read/names"):
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before\n")
    monkeypatch.setattr(edits, "CODE", here / "repro")
    return here


def write(text: str = "after\n") -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("name", "edit", "refused"),
    [
        ("repro/train/step.py", write(), True),
        ("repro/train/step.py", write("before\n"), False),
        ("repro/train/step.py", Path.unlink, True),
        ("repro/report/page.html.j2", write(), True),
        ("repro/new.py", write(), True),
        ("repro/x.pyc", write(), False),
        ("read/names", write(), True),
        ("other", write(), False),
    ],
)
def test_a_stage_refuses_an_edit_of_what_it_depends_on(
    package: Path, name: str, edit: Callable[[Path], object], refused: bool
) -> None:
    """DVC hashes dependencies at the end, and records nothing of a stage that failed."""
    said = rf"^{re.escape(name)}: changed while the stage ran"
    with pytest.raises(SpecError, match=said) if refused else nullcontext(), unedited(Path("read")):
        edit(package / name)


def test_an_edit_of_the_specification_while_a_stage_runs_does_not_reach_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("specs").symlink_to(root / "specs")
    made = []

    def make(profile: Profile, *_: object) -> None:
        Path("specs").unlink()
        made.append(profile)

    monkeypatch.setattr(stages, "make_poison", make)
    monkeypatch.setattr(stages, "write_samples", lambda *_: None)
    resolved_profile("smoke")
    before = load_profile("smoke")
    monkeypatch.setenv("DVC_STAGE", "poison@smoke-cc3m")
    stages.poison_stage("smoke", "cc3m")
    assert made == [before]


SIGN = ('losses["loss"] * scale', 'losses["loss"] * -scale')
STAGE = ("repro", "pretrain", "--profile", "edits", "--dataset", "cc3m", "--objective", "mmcl")


@pytest.mark.nightly
def test_no_run_has_a_step_with_a_sign_that_was_turned_amid_a_stage(
    root: Path, tmp_path: Path
) -> None:
    """The stage names the file; mended, the next call ends as if nothing had happened, whatever
    specs/ has become.
    """
    folder = short_graph(root, tmp_path / "edited", "edits", 2)
    quiet = short_graph(root, tmp_path / "quiet", "edits", 2)
    as_stage = {"REPRO_SLOTS": "1", "DVC_STAGE": "pretrain@edits"}
    for place in (folder, quiet):
        assert start(place, "repro", "resolve", "--profile", "edits").wait(60) == 0
        for stage in ("data", "poison --dataset cc3m", "poison --dataset cc6m"):
            call = start(place, "repro", *stage.split(), "--profile", "edits", **as_stage)
            assert call.wait(300) == 0, said(place)
    assert start(quiet, *STAGE, **as_stage).wait(600) == 0, said(quiet)

    call = start(folder, *STAGE, **as_stage)
    wait_for(lambda: [*folder.glob("work/*/status.json")], 300)
    step, spec = folder / "repro/train/step.py", folder / "specs/edits.yaml"
    text = step.read_text()
    assert SIGN[0] in text
    replace_file(step, text.replace(*SIGN).encode())
    replace_file(spec, spec.read_bytes().replace(b'"learning_rate": 0.001', b'"learning_rate": 1'))
    os.kill(rank_in(folder), signal.SIGKILL)
    assert call.wait(600) == 2, said(folder)
    assert "repro/train/step.py: changed while the stage ran" in said(folder)
    assert "specs/" not in said(folder)

    replace_file(step, text.encode())
    assert start(folder, *STAGE, **as_stage).wait(600) == 0, said(folder)
    assert results(folder, "edits") == results(quiet, "edits")


def rank_in(folder: Path) -> int:
    """A process that trains in the folder."""
    return next(
        int(entry.parent.name)
        for entry in Path("/proc").glob("[0-9]*/cwd")
        if os.path.realpath(entry) == str(folder.resolve())
        and b"\0repro.worker\0" in (entry.parent / "cmdline").read_bytes()
    )
