"""The bench on evaluations that are made up."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from repro.names import TRIGGERS
from repro.report.bench import BenchCell, asr_blind, bench
from repro.report.build import flat
from repro.report.contrasts import estimate
from repro.report.document import plain
from repro.report.measures import CleanedModel, Evaluations, Value
from repro.report.sentences import answers
from repro.report.studies import read_study_results
from repro.spec import Profile
from repro.study.spec import load_study, varied
from tests.report.test_studies import CONTEXT, all_of, of_mechanism


def states(variant: str, seed: int, start: float, ends: dict[float, tuple[float, float]]) -> Any:
    """A start at an accuracy of 40% and the ends of its runs: rate to accuracy and ASR."""
    model = {"variant": variant, "seed": seed, "pretrain_objective": "mmcl", "study": "bench"}
    for rate, end in ends.items():
        run = {**model, "run": f"{variant}/{seed}/{rate}", "learning_rate": rate}
        for step, (accuracy, asr) in enumerate([(0.4, start), end]):
            yield of_mechanism(
                **run,
                step=step,
                index=step,
                accuracy=accuracy,
                validation_accuracy=accuracy,
                asr=asr,
                validation_asr=asr,
                test_asr=asr,
            )


ENDS = {5e-4: (0.39, 0.5), 1e-3: (0.37, 0.2), 2e-3: (0.3, 0.0)}


@pytest.mark.parametrize(("lost", "left"), [(0.01, 0.95), (0.05, 0.5), (0.1, 0.2), (0.3, 0.0)])
def test_without_the_trigger_the_strongest_setting_that_keeps_the_accuracy_counts(
    lost: float, left: float
) -> None:
    frame = pd.DataFrame(states("stripes_cleanclip", 25, 0.95, ENDS))
    assert asr_blind(CleanedModel(frame.iloc[0], frame, CONTEXT), lost).value == left


def finished(profile: Profile, variant: str, seed: int) -> SimpleNamespace:
    """A cleaning run of a minute, as far as the bench reads it."""
    defence = profile.clean.defence
    name = defence.name if defence else "cleanclip"
    spec = SimpleNamespace(
        stage="clean",
        variant=variant,
        seed=seed,
        dataset="cc6m",
        clean_size="200k",
        pretrain_objective="mmcl",
        trigger=profile.data.poison.trigger,
        defence_settings=(name, {"ssl_weight": 1.0}),
    )
    return SimpleNamespace(record=SimpleNamespace(spec=spec, seconds=60.0))


@pytest.fixture
def cells() -> list[BenchCell]:
    """Stripes against two defences, and a variant whose backdoor did not take; three seeds."""
    study = load_study("bench")
    rows, runs = [], []
    starts = {"stripes_cleanclip": 0.95, "stripes_par": 0.95, "badnet_par": 0.5}
    for variant, start in starts.items():
        profile = varied(study, study.variants[variant])
        for seed in (25, 26, 27):
            rows += states(variant, seed, start, ENDS)
            runs += [finished(profile, variant, seed) for _ in ENDS]
    results: Any = SimpleNamespace(name="bench", spec=study, runs=runs)
    other: Any = SimpleNamespace(name="seeds", spec=load_study("seeds"), runs=runs)
    evaluations = Evaluations(pd.DataFrame(rows), CONTEXT)
    return bench([results, other], evaluations)


def test_a_cell_is_an_attack_a_defence_and_an_objective(cells: list[BenchCell]) -> None:
    assert [(cell.attack, cell.defence, cell.took) for cell in cells] == [
        ("square of Gaussian noise", "PAR", False),
        ("square of random vertical stripes", "CleanCLIP", True),
        ("square of random vertical stripes", "PAR", True),
    ]
    cell = cells[1]
    assert cell.core_seconds == 180
    assert cell.left.seeds == 3
    # No loss up to 2.5%, then 50% up to 7.5%, 20% up to 20%.
    left = (2.5 * 0.95 + 5 * 0.5 + 12.5 * 0.2) / 20
    assert cell.left.mean == pytest.approx(left, abs=0.005)
    assert cell.price.mean == pytest.approx(0.5 - cell.left.mean)
    for setting, (accuracy, asr) in zip(cell.settings, ENDS.values(), strict=True):
        assert setting.kept == pytest.approx(accuracy / 0.4)
        assert setting.asr == pytest.approx(asr)


def test_no_place_of_the_archives_is_taken_twice(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another pre-training under the same objective is no row of the bench."""
    monkeypatch.chdir(root)
    stated = [study for study in read_study_results("mini") if study.spec.hypotheses]
    archived = bench(stated, all_of(stated))
    assert {"CleanCLIP", "PAR"} <= {cell.defence for cell in archived}
    places = [(cell.attack, cell.pretrain_objective, cell.defence) for cell in archived]
    assert len(places) == len(set(places))


def test_the_table_for_programs_has_means_and_intervals(cells: list[BenchCell]) -> None:
    columns = {"left_mean", "left_interval_low", "blind_0.05_mean", "core_seconds"}
    assert columns <= {*flat(plain(cells))}


def test_answers_name_what_the_seeds_say(cells: list[BenchCell]) -> None:
    """One line a question, of cells whose backdoor took; nothing is said of what has not run."""
    assert answers({}, []) == {}

    of_seeds = estimate({25: Value(0.25), 26: Value(0.35)})
    pretraining = {
        "family": "pre-training",
        "says": "views make models resist",
        "sum": of_seeds,
        "verdict": "supported",
    }
    cleaning = {
        "family": "cleaning",
        "says": "a view cleans",
        "sum": of_seeds,
        "verdict": "refuted",
    }
    rows = [pretraining, cleaning]
    said = answers(plain({"mechanism": rows, "bench": rows}), plain(cells))
    assert said.keys() == {"mechanism", "blind"}
    assert said["mechanism"] == (
        "2 seeds support that views make models resist (+30.0 points of ASR left). "
        "They refute that a view cleans."
    )
    blind = [cell.blind["0.05"].mean for cell in cells if cell.took]
    ends = f"{100 * min(blind):.1f}% to {100 * max(blind):.1f}%"
    assert f"is left with an ASR of {ends}, by attack, model and defence." in said["blind"]

    one_attack, another_attack = list(TRIGGERS.values())[:2]
    one = replace(cells[1], attack=one_attack, took=True)
    another = replace(cells[1], attack=another_attack, took=True)
    with_ssl = replace(one, pretrain_objective="mmcl_ssl")
    undecided = [{**row, "verdict": "undecided"} for row in rows]
    said = answers(plain({"bench": undecided}), plain([one, another, with_ssl]))
    assert "ends at its gate, because neither" in said["gate"]
    assert said["defence"].endswith("by defence, 0.0 points (CleanCLIP).")
    assert said["trigger"].startswith("Over 2 seeds, whether a view cleans is undecided (+30.0")
    assert said["trigger"].count(f"{100 * one.left.mean:.1f}%") == 3
