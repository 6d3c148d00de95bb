"""The driver: whose failure counts, what it says of one, and what it cannot work without."""

# ruff: noqa: F811  (fixtures are imported, and named again where they are used)

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from repro.__main__ import main
from repro.launch import local
from repro.launch.driver import run_all
from repro.launch.packs import Pack
from repro.launch.places import Place
from repro.profile import clean_runs
from repro.runs.run import LaunchError, Run
from repro.spec import Profile, SpecError
from tests.support.launch import (  # noqa: F401  (fixtures)
    Launch,
    launch,
    profile,
    published,
    started,
    stub_inputs,
)

STUB = "tests.support.stub_worker"


def test_deaths_with_progress_between_them_do_not_count(profile: Profile, launch: Launch) -> None:
    """Four deaths where two in vain are the limit: each came after a new checkpoint."""
    spec = clean_runs(profile)[0]
    launch([spec], {spec.run_id: "die further"})
    assert published([spec]) == {spec.run_id: "completed"}
    assert len(started()) == 5


def test_a_run_made_ahead_that_fails_does_not_fail_the_stage_at_hand(
    profile: Profile, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own stage names it; what is asked for here is there."""
    first, second, *_ = clean_runs(profile)
    Path("behaviour.json").write_text(f'{{"{second.run_id}": "raise"}}')
    run_all([first], stub_inputs, worker=STUB, ahead=[first, second])
    said = capsys.readouterr().out
    assert f"{second.run_id}: RuntimeError: no such luck; its own stage tries it again" in said
    with pytest.raises(LaunchError, match="1 of 1 runs failed"):
        run_all([second], stub_inputs, worker=STUB, ahead=[first, second])


def test_runs_whose_record_could_not_be_written_are_counted(
    profile: Profile, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file stands where the folder of the records should be; the results are whole all the
    same.
    """
    specs = clean_runs(profile)
    Path("sacred").touch()
    launch(specs)
    assert set(published(specs).values()) == {"completed"}
    told = "3 of 3 runs have results, but no record in sacred/; why is in work/packs"
    assert told in capsys.readouterr().out
    logs = "".join(path.read_text() for path in Path("work/packs").glob("*.log"))
    assert "tracking: no record in sacred/smoke: Not a directory" in logs


def test_the_reason_of_a_dead_pack_is_the_last_error_of_its_log(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(clean_runs(profile)[0], "0" * 16, {"pairs": {"path": "p", "hash": "p"}}, "code")
    log = (pack := Pack((run,), Place((), 1, 1))).log
    log.parent.mkdir(parents=True)
    log.write_text(
        "Traceback (most recent call last):\nValueError: Seed must be below 2**32\nbye\n"
    )
    assert local._last_words(pack) == f": ValueError: Seed must be below 2**32; see {log}"
    log.write_text("nothing of note\n")
    assert local._last_words(pack) == f"; see {log}"


def test_a_file_system_without_locks_is_named_before_anything_runs(
    root: Path,
    profile: Profile,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(SpecError, match=r"grants no locks .*mount it with them \(Lustre: option"):
        launch(clean_runs(profile)[:1])
    assert started() == []

    (Path.cwd() / "specs").symlink_to(root / "specs")
    assert main(["reproduce", "smoke"]) == 2
    assert "profile.lock: the file system grants no locks" in capsys.readouterr().err
