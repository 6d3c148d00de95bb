"""Numbers of ledgers that are small, incomplete, extreme or damaged: right, or refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from repro.ledger import LedgerError
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.measures import CleanedModel
from repro.report.resistance import CAPS, best_at
from repro.spec import Profile, RunSpec
from tests.support.curves import CONTEXT
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
    reasons = {m["run"]: m["reason"] for m in document["missing"] if m["model_name"] == "cc3m-mmcl"}
    assert reasons[wanted[0].run_id] == "failed: loss is not finite at step 3"
    assert reasons[wanted[2].run_id] == "made with another specification; run the study again"
    assert [n for n in document["notices"] if "lr0.5" in n and "not a run of this profile" in n]


def test_where_none_reached_the_threshold_only_the_lowest_asr_is_said(tmp_path: Path) -> None:
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


def test_the_tables_show_the_first_seed(tmp_path: Path) -> None:
    write_specs(tmp_path)
    profile = load_profile("mini", tmp_path / "specs", {"pretrain.seeds": [0, 1]})
    for spec in pretrain_runs(profile, "cc3m"):
        write_run(tmp_path, spec, [START])
    for spec in clean_runs(profile, "cc3m", "mmcl"):
        write_run(tmp_path, spec, [START, (0.4 if spec.seed == 0 else 0.1, 0.0)])
    clean = row_of(document_at(tmp_path, profile), "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert clean["reproduced"] == 0.4


def test_runs_of_other_ranks_or_threads_are_noticed(tmp_path: Path) -> None:
    """Among those of a stage: how many ranks clean says nothing of how many pre-train."""
    profile = write_specs(tmp_path)
    folders = [write_run(tmp_path, spec, [START]) for spec in pretrain_runs(profile, "cc3m")]
    for spec in clean_runs(profile, "cc3m")[:2]:
        reseal(write_run(tmp_path, spec, [START, START]), threads=2)
    assert document_at(tmp_path, profile)["notices"] == []

    reseal(folders[0], ranks=2)
    (notice,) = document_at(tmp_path, profile)["notices"]
    counts = "2 ranks of 1 threads (1 runs), 1 ranks of 1 threads (1 runs)"
    assert "stage pretrain, differ in ranks or threads" in notice and counts in notice


def test_runs_on_unpoisoned_pairs_are_in_no_table(tmp_path: Path) -> None:
    profile = write_specs(tmp_path)
    for spec in pretrain_runs(profile, "cc3m", "mmcl", poisoned=False):
        write_run(tmp_path, spec, [(0.5, 0.0)])
    document = document_at(tmp_path, profile)
    assert document["tables"]["table2"]["rows"][0]["accuracy"]["reproduced"] is None
    assert document["runs"] == {}
    assert "not a run of this profile" in document["notices"][0]


def test_a_run_that_is_not_whole_is_refused_with_its_file_and_the_remedy(tmp_path: Path) -> None:
    """A better result by hand; tests/runs/test_whole.py has other damages."""
    profile, cleaned = write_cell(tmp_path)
    path = cleaned[0] / "rows.jsonl"
    first, last = path.read_text().splitlines()
    path.write_text(f"{first}\n{json.dumps(json.loads(last) | {'num_correct': 399})}\n")
    said = f"{path.relative_to(tmp_path)}.*; `dvc repro` publishes the run again"
    with pytest.raises(LedgerError, match=said):
        document_at(tmp_path, profile)


def test_a_cleaning_run_of_a_model_not_handed_on_is_named_and_not_counted(tmp_path: Path) -> None:
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
        of["run"]: of["reason"] for of in document["missing"] if of["model_name"] == "cc3m-mmcl"
    }
    assert "handed on" in missing[cleaned[0].name]


@pytest.mark.parametrize(
    ("name", "others", "notice"),
    [
        ("pairs", -1, "Runs of CC3M, 100K differ in their input pairs: 0123456789abcdef"),
        ("evaluation", 0, "The runs differ in their input evaluation: fedcba9876543210"),
    ],
)
def test_unlike_runs_are_named(tmp_path: Path, name: str, others: int, notice: str) -> None:
    profile, cleaned = write_cell(tmp_path)
    assert document_at(tmp_path, profile)["notices"] == []
    record = json.loads((cleaned[0] / "run.json").read_bytes())
    reseal(cleaned[0], code="0ther", inputs=record["inputs"] | {name: "0ther"})
    assert document_at(tmp_path, profile)["notices"] == [
        "Runs of code that is not accepted: 0ther (1 runs).",
        f"{notice} ({len(cleaned) + others} runs), 0ther (1 runs).",
    ]


def test_diverged_runs_are_marked_counted_and_have_no_end(tmp_path: Path) -> None:
    """All cleaning runs but one diverged, one of them by a loss that is no number alone."""
    profile, cleaned = write_cell(tmp_path)
    for folder in cleaned[1:-1]:
        reseal(folder, status="diverged", reason="loss is not finite at step 12")
    path = cleaned[0] / "rows.jsonl"
    first, last = path.read_text().splitlines()
    diverged = json.loads(last) | {"train_loss": {"loss": float("nan")}}
    path.write_text(f"{first}\n{json.dumps(diverged)}\n")
    reseal(cleaned[0])

    document = document_at(tmp_path, profile)
    clean = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert (clean["reproduced"], clean["diverged_runs"]) == (0.3, len(cleaned) - 1)
    assert clean["diverged"] == document["runs"][clean["run"]]["diverged"]
    assert not row_of(document, "cc3m", "100k", "mmcl")["original_accuracy"]["diverged"]
    (notice,) = document["notices"]
    assert notice.startswith(f"{len(cleaned) - 1} of {len(cleaned) + 1} runs diverged")


def test_what_is_kept_is_a_step_function_of_the_asr_allowed():
    """Nothing below 5%, a half from there on, all from 15% on."""
    points = [(0.05, 0.2), (0.15, 0.4), (0.10, 0.1), (0.9, 0.5)]
    rows = pd.DataFrame(points, columns=["asr", "accuracy"]).assign(step=10)
    model = CleanedModel(pd.Series({"accuracy": 0.4}), rows, CONTEXT)
    kept = dict(zip(CAPS, best_at(model).kept, strict=True))
    assert [kept[cap] for cap in (0.045, 0.05, 0.145, 0.15)] == [0, 0.5, 0.5, 1]


def test_resistance_of_a_ledger_known_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle rate cleans the MMCL model; none does the other."""
    left: Mapping[str, tuple[float, ...]] = {"mmcl": (0.5, 0.02, 0.01), "mmcl_ssl": (0.9, 0.7, 0.6)}
    write_specs(tmp_path)
    changes = {"pretrain.seeds": [0, 1], "clean.cells.0.learning_rates": [LOW, MIDDLE, HIGH]}
    profile = load_profile("mini", tmp_path / "specs", changes)
    # A profile that was changed feeds no verdict; here it stands for one of such rates.
    monkeypatch.setattr("repro.report.evidence.departures", lambda _: [])

    def end(spec: RunSpec) -> tuple[float, float]:
        place = [LOW, MIDDLE, HIGH].index(spec.schedule.learning_rate)
        return 0.40, left[spec.pretrain_objective][place]

    for spec in [*pretrain_runs(profile, "cc3m"), *clean_runs(profile, "cc3m")]:
        if spec.stage == "pretrain" or spec.loss == "mmcl_ssl":
            ends = [(0.40, 0.90), end(spec)] if spec.stage == "clean" else []
            write_run(tmp_path, spec, [START, *ends])

    found = document_at(tmp_path, profile)["resistance"]
    (cell,) = found["cells"]
    rows, (ours,) = cell["equal"], cell["trade_offs"]
    ends = [(row["learning_rate"], row["step"]) for row in rows]
    assert ends == [(LOW, 20), (MIDDLE, 20), (HIGH, 20)]
    for objective, rates in left.items():
        for row, asr in zip(rows, rates, strict=True):
            assert [end["seed"] for end in row[objective]] == [0, 1]
            assert [end["asr"] for end in row[objective]] == pytest.approx([asr] * 2, abs=0.01)
            assert {end["kept"] for end in row[objective]} == {1.0}
    kept = dict(zip(found["caps"], ours["mmcl"], strict=True))
    assert (kept[0.005], kept[0.05], max(ours["mmcl_ssl"])) == (0, 1, 0)
