"""Numbers of ledgers that are small, incomplete, extreme or damaged: right, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from repro.ledger import LedgerError
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.numbers.compute import archived_compute
from repro.report.numbers.evaluations import Point
from repro.report.numbers.evidence import read_evidence
from repro.report.numbers.intervals import geometric
from repro.report.numbers.resistance import Ended, ReachedRate, kept_at, lowest_rate, mean_kept
from repro.spec import Profile, RunSpec
from tests.support.ledger import document_at, reseal, row_of, write_run, write_specs

START = (0.4, 0.97)
LOW, MIDDLE, HIGH = 1e-4, 1e-3, 1e-2


def write_cell(root: Path, *outcomes: tuple[float, float]) -> tuple[Profile, list[Path]]:
    """CC3M models of MMCL and their CleanCLIP runs: profile, folders of the latter."""
    profile = write_specs(root)
    for spec in pretrain_runs(profile, "cc3m", "mmcl"):
        write_run(root, spec, [START])
    cleaned = [
        write_run(root, spec, [START, *(outcomes or ((0.3, 0.01),))])
        for spec in clean_runs(profile, "cc3m", "mmcl")
        if spec.loss == "mmcl_ssl"
    ]
    return profile, cleaned


def test_an_empty_ledger_gives_a_document_without_results(tmp_path: Path) -> None:
    profile = write_specs(tmp_path)
    document = document_at(tmp_path, profile)
    assert {claim["verdict"] for claim in document["claims"]} == {"not run"}
    assert len(document["missing"]) == len(pretrain_runs(profile)) + len(clean_runs(profile))
    assert (document["commit"], document["resistance"]["cells"]) == (None, [])
    assert document["verdicts"]["exploratory"] == document["verdicts"]["authors"] == []


def test_missing_failed_extra_and_outdated_runs_are_named_and_never_counted(tmp_path: Path) -> None:
    profile = write_specs(tmp_path)
    for spec in pretrain_runs(profile):
        write_run(tmp_path, spec, [START])
    wanted = [s for s in clean_runs(profile, "cc3m", "mmcl") if s.loss == "mmcl_ssl"]
    faster = wanted[1].schedule.model_copy(update={"learning_rate": 0.5})
    longer = wanted[2].schedule.model_copy(update={"epochs": 99})
    write_run(tmp_path, wanted[0], [START, (0.39, 0.0)], status="failed")
    write_run(tmp_path, wanted[1], [START, (0.30, 0.01)])
    write_run(tmp_path, wanted[1].model_copy(update={"schedule": faster}), [START, (0.40, 0.0)])
    write_run(tmp_path, wanted[2].model_copy(update={"schedule": longer}), [START, (0.40, 0.0)])

    document = document_at(tmp_path, profile)
    clean = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert (clean["reproduced"], clean["missing"]) == (0.30, len(wanted) - 1)
    reasons = {m["run"]: m["reason"] for m in document["missing"] if m["cell"] == "cc3m-mmcl"}
    assert reasons[wanted[0].run_id] == "failed: loss is not finite at step 3"
    assert reasons[wanted[2].run_id] == "made with another specification; run the study again"
    assert [n for n in document["notices"] if "lr0.5" in n and "not a run of this profile" in n]


def test_where_none_reached_the_threshold_there_is_no_accuracy_and_the_lowest_asr_is_said(
    tmp_path: Path,
) -> None:
    profile, _ = write_cell(tmp_path, (0.4, 0.5))
    clean = row_of(document_at(tmp_path, profile), "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert {clean[name] for name in ("reproduced", "asr", "run", "relative_drop")} == {None}
    assert (clean["lowest_asr"], clean["successes"]) == (0.5, 0)


@pytest.mark.parametrize("asr", [0.0, 1.0])
def test_models_that_know_nothing_have_no_share_to_lose(tmp_path: Path, asr: float) -> None:
    profile = write_specs(tmp_path)
    for spec in [*pretrain_runs(profile, "cc3m"), *clean_runs(profile, "cc3m")]:
        write_run(tmp_path, spec, [(0.0, asr), (0.0, asr)])
    document = document_at(tmp_path, profile)
    assert document["tables"]["table2"]["rows"][0]["asr"]["reproduced"] == asr
    assert row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]["relative_drop"] is None


def test_ties_go_to_the_lower_asr(tmp_path: Path) -> None:
    profile, _ = write_cell(tmp_path, (0.3, 0.04), (0.3, 0.02), (0.3, 0.03))
    document = document_at(tmp_path, profile)
    assert row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]["asr"] == 0.02


def test_the_tables_show_the_first_seed_and_the_spread_of_all(tmp_path: Path) -> None:
    write_specs(tmp_path)
    profile = load_profile("mini", tmp_path / "specs", {"pretrain.seeds": [0, 1]})
    for spec in pretrain_runs(profile, "cc3m"):
        write_run(tmp_path, spec, [START])
    for spec in clean_runs(profile, "cc3m", "mmcl"):
        write_run(tmp_path, spec, [START, (0.4 if spec.seed == 0 else 0.1, 0.0)])
    clean = row_of(document_at(tmp_path, profile), "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert clean["reproduced"] == 0.4
    assert [(s["seed"], s["accuracy"]) for s in clean["by_seed"]] == [(0, 0.4), (1, 0.1)]
    assert clean["spread"]["mean"] == pytest.approx(0.25)


def test_runs_on_unpoisoned_pairs_are_in_no_table(tmp_path: Path) -> None:
    profile = write_specs(tmp_path)
    for spec in pretrain_runs(profile, "cc3m", "mmcl", poisoned=False):
        write_run(tmp_path, spec, [(0.5, 0.0)])
    document = document_at(tmp_path, profile)
    assert document["tables"]["table2"]["rows"][0]["accuracy"]["reproduced"] is None
    assert len(document["runs"]) == 1


def edited(folder: Path) -> None:
    """A better result by hand."""
    path = folder / "rows.jsonl"
    first, last = path.read_text().splitlines()
    path.write_text(f"{first}\n{json.dumps(json.loads(last) | {'num_correct': 399})}\n")


def cut(folder: Path) -> None:
    """The last evaluation lost."""
    path = folder / "rows.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "edited": (edited, "rows.jsonl"),
    "cut": (cut, "rows.jsonl"),
    "no rows": (lambda folder: (folder / "rows.jsonl").unlink(), "rows.jsonl"),
    "no bits": (lambda folder: (folder / "bits.npz").unlink(), "bits.npz"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_that_is_not_whole_is_refused_with_its_file_and_the_remedy(
    tmp_path: Path, damage: str
) -> None:
    profile, cleaned = write_cell(tmp_path)
    harm, name = DAMAGES[damage]
    harm(cleaned[0])
    folder = cleaned[0].relative_to(tmp_path).as_posix()
    with pytest.raises(
        LedgerError, match=f"{folder}/{name}.*; `dvc repro` publishes the run again"
    ):
        document_at(tmp_path, profile)


def test_a_cleaning_run_of_another_model_than_was_handed_on_is_named_and_not_counted(
    tmp_path: Path,
) -> None:
    profile, cleaned = write_cell(tmp_path)
    record = json.loads((cleaned[0] / "run.json").read_bytes())
    reseal(cleaned[0], inputs=record["inputs"] | {"model": "0123456789abcdef"})
    document = document_at(tmp_path, profile)
    clean = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert (clean["runs"], clean["missing"]) == (len(cleaned) - 1, 1)

    folder = cleaned[0].relative_to(tmp_path).as_posix()
    assert folder not in document["runs"]
    (notice,) = document["notices"]
    assert notice.startswith(f"{folder} is left out: cleaned model 0123456789abcdef, but ")
    missing = {
        run["run"]: run["reason"] for run in document["missing"] if run["cell"] == "cc3m-mmcl"
    }
    assert "handed on" in missing[cleaned[0].name]


@pytest.mark.parametrize(
    ("name", "notice"),
    [
        (
            "pairs",
            "Runs of CC3M differ in their input `pairs`: 0123456789abcdef ({rest} runs), 0ther (1 runs).",
        ),
        (
            "evaluation",
            "The runs differ in their input `evaluation`: fedcba9876543210 ({rest} runs), 0ther (1 runs).",
        ),
    ],
)
def test_runs_that_differ_in_code_or_inputs_are_said_so(
    tmp_path: Path, name: str, notice: str
) -> None:
    profile, cleaned = write_cell(tmp_path)
    assert document_at(tmp_path, profile)["notices"] == []
    record = json.loads((cleaned[0] / "run.json").read_bytes())
    reseal(cleaned[0], code="0ther", inputs=record["inputs"] | {name: "0ther"})
    assert document_at(tmp_path, profile)["notices"] == [
        "Runs of code that is not accepted: 0ther (1 runs).",
        notice.format(rest=len(cleaned)),
    ]


def test_diverged_runs_are_marked_counted_and_have_no_end(tmp_path: Path) -> None:
    """All cleaning runs but one diverged, one of them by a loss that is no number alone."""
    profile, cleaned = write_cell(tmp_path)
    for folder in cleaned[1:-1]:
        reseal(folder, status="diverged", reason="loss is not finite at step 12")
    path = cleaned[0] / "rows.jsonl"
    first, last = path.read_text().splitlines()
    path.write_text(
        f"{first}\n{json.dumps(json.loads(last) | {'train_loss': {'loss': float('nan')}})}\n"
    )
    reseal(cleaned[0])

    document = document_at(tmp_path, profile)
    clean = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert (clean["reproduced"], clean["diverged_runs"]) == (0.3, len(cleaned) - 1)
    assert clean["diverged"] == document["runs"][clean["run"]]["diverged"]
    assert not row_of(document, "cc3m", "100k", "mmcl")["original_accuracy"]["diverged"]
    (notice,) = document["notices"]
    assert notice.startswith(f"{len(cleaned) - 1} of {len(cleaned) + 1} runs diverged")


def point(asr: float, accuracy: float = 0.4, rate: float = LOW) -> Point:
    """An evaluation of 1,000 images."""
    return Point(
        source="ledger",
        dataset="cc3m",
        objective="mmcl",
        clean_size="100k",
        loss="mmcl_ssl",
        learning_rate=rate,
        seed=0,
        epoch=1.0,
        step=10,
        correct=round(1000 * accuracy),
        images=1000,
        attacked=round(1000 * asr),
        attackable=1000,
        other_asr=None,
        run=f"lr{rate}",
        index=1,
    )


def test_the_lowest_rate_is_interpolated_in_its_logarithm_or_a_bound():
    """From 25% to 1% ASR over a factor of ten, the threshold of 5% lies at 20 of 24 parts."""

    def ends(*asrs: float) -> list[Ended]:
        return [Ended(point(asr, rate=LOW * 10**i), 1.0) for i, asr in enumerate(asrs)]

    found = lowest_rate(ends(0.25, 0.01, 0.3), 0.05, 0)
    assert (found.side, found.rate) == ("between", pytest.approx(LOW * 10 ** (20 / 24)))
    assert lowest_rate(ends(0.5, 0.06), 0.05, 3) == ReachedRate(3, MIDDLE, "above")
    assert lowest_rate(ends(0.05, 0.5), 0.05, 3) == ReachedRate(3, LOW, "below")


def test_what_is_kept_is_a_step_function_of_the_asr_allowed():
    """Nothing below 5%, a half from there on, all from 15% on: in the mean over 0 to 20%, half for
    ten points and all for five are half of it.
    """
    points = [point(0.05, 0.2), point(0.15, 0.4), point(0.10, 0.1), point(0.9, 0.5)]
    start = point(0.95, 0.4)
    assert [kept_at(points, start, cap) for cap in (0.04, 0.05, 0.149, 0.15)] == [0, 0.5, 0.5, 1]
    assert mean_kept(points, start) == pytest.approx((0.10 * 0.5 + 0.05 * 1.0) / 0.20)
    assert mean_kept([point(0.3, 0.4)], start) == 0


def test_a_ratio_over_seeds_has_its_interval_in_logarithms():
    """Factors 2 and 8: four in the mean, and symmetric about it as a factor."""
    mean, ends = geometric([2.0, 8.0], 0.95)
    assert mean == pytest.approx(4)
    assert ends is not None and ends[0] * ends[1] == pytest.approx(16)
    assert geometric([3.0], 0.95) == (pytest.approx(3), None)


@pytest.mark.parametrize("highest", [0.02, 0.60])
def test_resistance_of_a_ledger_known_by_hand(tmp_path: Path, highest: float) -> None:
    """The middle rate cleans the MMCL model; the highest one the other, or none does."""
    left: Mapping[str, tuple[float, ...]] = {
        "mmcl": (0.50, 0.02, 0.01),
        "mmcl_ssl": (0.90, 0.70, highest),
    }
    write_specs(tmp_path)
    changes = {"pretrain.seeds": [0, 1], "clean.cells.0.learning_rates": [LOW, MIDDLE, HIGH]}
    profile = load_profile("mini", tmp_path / "specs", changes)

    def end(spec: RunSpec) -> tuple[float, float]:
        place = [LOW, MIDDLE, HIGH].index(spec.schedule.learning_rate)
        return 0.40, left[spec.pretrain_objective][place]

    for spec in [*pretrain_runs(profile, "cc3m"), *clean_runs(profile, "cc3m")]:
        if spec.stage == "pretrain" or spec.loss == "mmcl_ssl":
            ends = [(0.40, 0.90), end(spec)] if spec.stage == "clean" else []
            write_run(tmp_path, spec, [START, *ends])

    found = document_at(tmp_path, profile)["resistance"]
    assert (found["study"], found["seeds"]) == (None, [0, 1])
    (cell,) = found["cells"]
    rows, rates, (ours,) = cell["equal"], cell["rates"], cell["trade_offs"]
    assert [(row["learning_rate"], row["step"]) for row in rows] == [
        (LOW, 20),
        (MIDDLE, 20),
        (HIGH, 20),
    ]
    expected = [0.4, 0.68, highest - 0.01]
    assert [row["asr"]["value"] for row in rows] == pytest.approx(expected, abs=0.01)
    assert all(row["kept"]["value"] == 0 and row["asr"]["n"] == 2 for row in rows)

    # From 50% to 2% and from 70% to 2% over a factor of ten each, one factor of ten apart.
    if highest < 0.05:
        assert rates["ratio"] == pytest.approx(10 ** (1 + 65 / 68 - 45 / 48), rel=0.03)
        assert ours["area"]["value"] == pytest.approx(0.01 / 0.20, abs=0.01)
    else:
        assert [of["side"] for of in rates["mmcl_ssl"]] == ["above"] * 2
        assert ours["area"]["value"] == pytest.approx(0.19 / 0.20, abs=0.01)
    assert rates["at_least"] == (highest > 0.05)


def test_a_training_that_several_studies_share_counts_once_and_an_own_one_not_at_all(
    tmp_path: Path,
) -> None:
    profile, _ = write_cell(tmp_path)
    runs = read_evidence(profile, tmp_path).runs
    own, archived = runs[:2], runs[2:5]
    shared = replace(archived[0], folder="results/studies/other.jsonl.gz/pretrain/x/y")
    later = archived[1].record.model_copy(update={"started": "2026-02-01", "seconds": 7.0})
    found = archived_compute(own, [*own, *archived, shared, replace(archived[1], record=later)])
    seconds = sum(run.record.seconds for run in archived)
    assert (found.runs, found.seconds) == (4, pytest.approx(seconds + 7.0))
