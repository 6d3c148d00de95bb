"""`repro status`: from the files alone, for people and for programs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro.__main__ import main
from repro.files import replace_json
from repro.profile import clean_runs, load_profile
from repro.runs.layout import WORK, model_dir
from repro.runs.run import Run, place_of
from repro.view.watched import CALL_LOCK, Call, Watched
from tests.view.test_states import STATUS, carried


@pytest.fixture
def run(here: Path) -> Run:
    made = Run(clean_runs(load_profile("smoke"))[0], "a" * 16, {}, "code")
    made.save()
    return made


def test_an_empty_folder_has_a_status(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "nothing runs; 40 runs are to be made; pre-train 0/4 · clean 0/36" in said
    assert list(here.iterdir()) == [here / "specs"], "it leaves nothing"


def test_a_study_has_a_status_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "smoke", "--study", "starts"]) == 0
    assert "; pre-train 0/" in capsys.readouterr().out


def test_archived_runs_of_a_study_are_done_in_a_fresh_clone(
    root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "results").symlink_to(root / "results")
    main(["status", "smoke", "--study", "starts"])
    assert capsys.readouterr().out.startswith("study starts: all runs are done; ")


def test_models_that_another_study_trains_first_are_watched(here: Path) -> None:
    """`reversal` has cleaning runs alone. Their models are done once they are there."""
    watched = Watched.of_study("reversal")
    models = [spec for spec, _ in watched.runs if spec.stage == "pretrain"]
    cleaned = {(of.seed, of.model_name) for of, _ in watched.runs if of.stage == "clean"}
    assert {(of.seed, of.model_name) for of in models} == cleaned
    assert watched.look().count("waiting", stage="pretrain") == len(models)

    model_dir(models[0]).mkdir(parents=True)
    assert watched.look().count("done", stage="pretrain") == 1
    again = Watched.of_study("reversal")
    assert [spec for spec, _ in again.runs if spec.stage == "pretrain"] == models[1:]


def test_a_call_for_models_alone_is_watched_as_such(here: Path) -> None:
    watched = Watched.of_study("draws", models=["cc6m-mmcl"])
    assert {(of.stage, of.model_name) for of, _ in watched.runs} == {("pretrain", "cc6m-mmcl")}


def test_a_loss_that_diverged_is_no_nan_in_json(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with carried(run):
        replace_json(WORK / run.fingerprint / "status.json", {"values": {"loss": float("nan")}})
        assert main(["status", "smoke", "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert len(found["runs"]) == 40


def test_a_training_that_variants_share_is_left_once(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_SLOTS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    variants = ["noise_again", "noise_par"]
    of_one = Watched.of_study("confirm", [30], variants[:1])
    of_both = Watched.of_study("confirm", [30], variants)
    model, _ = of_one.runs[0]
    run = Run(model, "a" * 16, {}, "code")
    run.save()

    with carried(run):
        one = of_one.look()
        both = of_both.look()
    assert both.count(stage="pretrain") == 2
    assert one.left is not None
    assert both.left is not None
    cleaning = both.states[-1].left
    assert cleaning is not None
    assert both.left == pytest.approx(one.left + cleaning, rel=0.01)


def test_a_running_and_a_stopped_run_are_in_the_table(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"pairs_per_second": 1234.0, "waiting_share": 0.31}
    replace_json(run.work_dir / "status.json", STATUS | {"values": STATUS["values"] | values})
    with carried(run):
        os.utime(run.work_dir / "status.json")
        main(["status", "smoke"])
    said = " ".join(capsys.readouterr().out.split())
    for part in ("running (node7)", "40.0%", "90.0%", "1,234 pairs/s", "31% of the"):
        assert part in said, said
    main(["status", "smoke"])
    assert "1 stopped" in capsys.readouterr().out


def test_programs_get_every_run_by_its_place(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with carried(run):
        replace_json(run.work_dir / "status.json", STATUS)
        main(["status", "smoke", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert len(content["runs"]) == 40
    assert content["left_seconds"] > 0
    [mine] = [of for of in content["runs"] if of["run"] == place_of(run.spec)]
    assert mine["state"] == "running"
    assert mine["asr"] == 0.9
    assert mine["share"] == 0.25


def test_the_call_of_another_process_is_seen_with_its_stage(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    WORK.mkdir()
    CALL_LOCK.parent.mkdir(parents=True)
    Call("smoke", 1.0, "data@smoke").save()
    code = f"import repro.files as f, pathlib, sys\nwith f.held(pathlib.Path('{CALL_LOCK}')):"
    command = [sys.executable, "-c", f"{code} print(flush=True); sys.stdin.read()"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        main(["status", "smoke"])
        assert "stage data@smoke" in capsys.readouterr().out
        main(["status", "mini"])
        assert "stage" not in capsys.readouterr().out, "another profile's call"
        other.communicate()
    main(["status", "smoke"])
    assert "nothing runs" in capsys.readouterr().out, "its process is gone"
