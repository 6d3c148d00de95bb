"""Numbers of ledgers that are small, incomplete, extreme or damaged: right, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from repro.ledger import LedgerError
from repro.profile import clean_runs, load_profile, pretrain_runs
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


def cell_of(document: dict[str, Any]) -> dict[str, Any]:
    """The cleaned model of MMCL on CC3M in Table 1."""
    cell: dict[str, Any] = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    return cell


def reasons_of(document: dict[str, Any]) -> dict[str, str]:
    """Why each run of MMCL on CC3M is missing."""
    missing = [of for of in document["missing"] if of["model_name"] == "cc3m-mmcl"]
    return {of["run"]: of["reason"] for of in missing}


def replace_last_row(folder: Path, **changes: Any) -> Path:
    """Change the last of the two rows of a run by hand; the file."""
    path = folder / "rows.jsonl"
    first, last = path.read_text().splitlines()
    changed = json.dumps(json.loads(last) | changes)
    path.write_text(f"{first}\n{changed}\n")
    return path


def inputs_of(folder: Path) -> dict[str, str]:
    inputs: dict[str, str] = json.loads((folder / "run.json").read_bytes())["inputs"]
    return inputs


def test_an_empty_ledger_gives_a_document_without_results(tmp_path: Path) -> None:
    profile = write_specs(tmp_path)
    document = document_at(tmp_path, profile)
    assert {claim["verdict"] for claim in document["claims"]} == {"not run"}
    runs = [*pretrain_runs(profile), *clean_runs(profile)]
    assert len(document["missing"]) == len(runs)
    assert document["commit"] is None
    assert document["resistance"]["cells"] == []
    assert document["verdicts"]["exploratory"] == []


def test_missing_failed_extra_and_outdated_runs_are_named_and_never_counted(tmp_path: Path) -> None:
    profile = write_specs(tmp_path)
    for spec in pretrain_runs(profile):
        write_run(tmp_path, spec, [START])
    wanted = [spec for spec in clean_runs(profile, "cc3m", "mmcl") if spec.loss == "mmcl_ssl"]

    def rescheduled(spec: RunSpec, **changes: Any) -> RunSpec:
        schedule = spec.schedule.model_copy(update=changes)
        return spec.model_copy(update={"schedule": schedule})

    failed, whole, outdated = wanted[:3]
    extra = rescheduled(whole, learning_rate=0.5)
    write_run(tmp_path, failed, [START, (0.39, 0.0)], status="failed")
    write_run(tmp_path, whole, [START, (0.30, 0.01)])
    write_run(tmp_path, extra, [START, (0.40, 0.0)])
    write_run(tmp_path, rescheduled(outdated, epochs=99), [START, (0.40, 0.0)])

    document = document_at(tmp_path, profile)

    clean = cell_of(document)
    assert clean["reproduced"] == 0.30
    assert clean["missing"] == len(wanted) - 1
    reasons = reasons_of(document)
    assert reasons[failed.run_id] == "failed: loss is not finite at step 3"
    assert reasons[outdated.run_id] == "made with another specification; run the study again"
    extra_is_named = [
        notice
        for notice in document["notices"]
        if "lr0.5" in notice and "not a run of this profile" in notice
    ]
    assert extra_is_named


def test_where_none_reached_the_threshold_only_the_lowest_asr_is_said(tmp_path: Path) -> None:
    profile, _ = write_cell(tmp_path, (0.4, 0.5))
    clean = cell_of(document_at(tmp_path, profile))
    for name in ("reproduced", "asr", "run", "relative_drop"):
        assert clean[name] is None
    assert clean["lowest_asr"] == 0.5
    assert clean["successes"] == 0


@pytest.mark.parametrize("asr", [0.0, 1.0])
def test_models_that_know_nothing_have_no_share_to_lose(tmp_path: Path, asr: float) -> None:
    profile = write_specs(tmp_path)
    for spec in [*pretrain_runs(profile, "cc3m"), *clean_runs(profile, "cc3m")]:
        write_run(tmp_path, spec, [(0.0, asr), (0.0, asr)])
    document = document_at(tmp_path, profile)
    assert document["tables"]["table2"]["rows"][0]["asr"]["reproduced"] == asr
    assert cell_of(document)["relative_drop"] is None


def test_ties_go_to_the_lower_asr(tmp_path: Path) -> None:
    profile, _ = write_cell(tmp_path, (0.3, 0.04), (0.3, 0.02), (0.3, 0.03))
    clean = cell_of(document_at(tmp_path, profile))
    assert clean["asr"] == 0.02


def test_the_tables_show_the_first_seed(tmp_path: Path) -> None:
    write_specs(tmp_path)
    profile = load_profile("mini", tmp_path / "specs", {"pretrain.seeds": [0, 1]})
    for spec in pretrain_runs(profile, "cc3m"):
        write_run(tmp_path, spec, [START])
    accuracy = {0: 0.4, 1: 0.1}
    for spec in clean_runs(profile, "cc3m", "mmcl"):
        write_run(tmp_path, spec, [START, (accuracy[spec.seed], 0.0)])
    clean = cell_of(document_at(tmp_path, profile))
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
    assert "stage pretrain, differ in ranks or threads" in notice
    assert "2 ranks of 1 threads (1 runs), 1 ranks of 1 threads (1 runs)" in notice


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
    path = replace_last_row(cleaned[0], num_correct=399)
    said = f"{path.relative_to(tmp_path)}.*; `dvc repro` publishes the run again"
    with pytest.raises(LedgerError, match=said):
        document_at(tmp_path, profile)


def test_a_cleaning_run_of_a_model_not_handed_on_is_named_and_not_counted(tmp_path: Path) -> None:
    profile, cleaned = write_cell(tmp_path)
    reseal(cleaned[0], inputs=inputs_of(cleaned[0]) | {"model": "0123456789abcdef"})
    document = document_at(tmp_path, profile)
    clean = cell_of(document)
    assert clean["runs"] == len(cleaned) - 1
    assert clean["missing"] == 1

    folder = cleaned[0].relative_to(tmp_path).as_posix()
    assert folder not in document["runs"]
    (notice,) = document["notices"]
    assert notice.startswith(f"{folder} is left out: cleaned model 0123456789abcdef, but ")
    assert "handed on" in reasons_of(document)[cleaned[0].name]


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
    reseal(cleaned[0], inputs=inputs_of(cleaned[0]) | {name: "0ther"})
    told = [f"{notice} ({len(cleaned) + others} runs), 0ther (1 runs)."]
    assert document_at(tmp_path, profile)["notices"] == told


def test_diverged_runs_are_marked_counted_and_have_no_end(tmp_path: Path) -> None:
    """All cleaning runs but one diverged, one of them by a loss that is no number alone."""
    profile, cleaned = write_cell(tmp_path)
    for folder in cleaned[1:-1]:
        reseal(folder, status="diverged", reason="loss is not finite at step 12")
    replace_last_row(cleaned[0], train_loss={"loss": float("nan")})
    reseal(cleaned[0])

    document = document_at(tmp_path, profile)

    row = row_of(document, "cc3m", "100k", "mmcl")
    clean = row["clean_accuracy"]
    assert clean["reproduced"] == 0.3
    assert clean["diverged_runs"] == len(cleaned) - 1
    assert clean["diverged"] == document["runs"][clean["run"]]["diverged"]
    assert not row["original_accuracy"]["diverged"]
    (notice,) = document["notices"]
    assert notice.startswith(f"{len(cleaned) - 1} of {len(cleaned) + 1} runs diverged")


def test_resistance_of_a_ledger_known_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle rate cleans the MMCL model; none does the other."""
    rates = [LOW, MIDDLE, HIGH]
    left = {"mmcl": [0.5, 0.02, 0.01], "mmcl_ssl": [0.9, 0.7, 0.6]}
    write_specs(tmp_path)
    changes = {"pretrain.seeds": [0, 1], "clean.cells.0.learning_rates": rates}
    profile = load_profile("mini", tmp_path / "specs", changes)
    # A profile that was changed feeds no verdict; here it stands for one of such rates.
    monkeypatch.setattr("repro.report.evidence.departures", lambda _: [])

    for spec in pretrain_runs(profile, "cc3m"):
        write_run(tmp_path, spec, [START])
    for spec in clean_runs(profile, "cc3m"):
        if spec.loss == "mmcl_ssl":
            place = rates.index(spec.schedule.learning_rate)
            end = (0.40, left[spec.pretrain_objective][place])
            write_run(tmp_path, spec, [START, (0.40, 0.90), end])

    found = document_at(tmp_path, profile)["resistance"]

    (cell,) = found["cells"]
    rows = cell["equal"]
    assert [row["learning_rate"] for row in rows] == rates
    assert [row["step"] for row in rows] == [20, 20, 20]
    for objective, expected in left.items():
        for row, asr in zip(rows, expected, strict=True):
            assert [end["seed"] for end in row[objective]] == [0, 1]
            for end in row[objective]:
                assert end["asr"] == pytest.approx(asr, abs=0.01)
                assert end["kept"] == 1.0
