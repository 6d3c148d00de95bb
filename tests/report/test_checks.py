"""What the report counts together: runs of one chain, and it says where they differ or diverged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repro.ledger import LedgerError
from repro.profile import clean_runs, pretrain_runs
from repro.report.document import build_document, claims_of
from repro.report.numbers.evidence import read_evidence
from repro.report.schema.document import ReportNumbers
from repro.spec import Profile
from tests.support.ledger import build_at, reseal, row_of, write_run, write_specs

KEPT = 0.30
"""Accuracy after cleaning."""


def write_cell(root: Path) -> tuple[Profile, list[Path]]:
    """CC3M models of MMCL and their CleanCLIP runs, all of which reach the cap: profile, folders of
    the latter.
    """
    profile = write_specs(root)
    for spec in pretrain_runs(profile, "cc3m", "mmcl"):
        write_run(root, spec, [(0.4, 0.97)])
    cleaned = [
        write_run(root, spec, [(0.4, 0.97), (KEPT, 0.01)])
        for spec in clean_runs(profile, "cc3m", "mmcl")
        if spec.loss == "mmcl_ssl"
    ]
    return profile, cleaned


def document_at(root: Path, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> ReportNumbers:
    monkeypatch.chdir(root)
    return build_document(read_evidence(profile, Path()), claims_of())


def edited(folder: Path) -> None:
    """A better result by hand."""
    path = folder / "rows.jsonl"
    first, last = path.read_text().splitlines()
    row = json.loads(last) | {"num_correct": 399}
    path.write_text(f"{first}\n{json.dumps(row)}\n")


def cut(folder: Path) -> None:
    """The last evaluation lost."""
    path = folder / "rows.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")


def reversed_rows(folder: Path) -> None:
    """The evaluations in another order."""
    path = folder / "rows.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[::-1]))


DAMAGES = {
    "edited": (edited, "rows.jsonl"),
    "cut": (cut, "rows.jsonl"),
    "reversed": (reversed_rows, "rows.jsonl"),
    "no rows": (lambda folder: (folder / "rows.jsonl").unlink(), "rows.jsonl"),
    "no bits": (lambda folder: (folder / "bits.npz").unlink(), "bits.npz"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_that_is_not_whole_is_refused_with_its_file_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    profile, cleaned = write_cell(tmp_path)
    harm, name = DAMAGES[damage]
    harm(cleaned[0])
    folder = cleaned[0].relative_to(tmp_path).as_posix()
    with pytest.raises(
        LedgerError, match=f"{folder}/{name}.*; `dvc repro` publishes the run again"
    ):
        document_at(tmp_path, profile, monkeypatch)


def test_runs_of_one_chain_code_and_input_need_no_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile, cleaned = write_cell(tmp_path)
    document = document_at(tmp_path, profile, monkeypatch)
    assert document["notices"] == []
    assert document["headline"]["runs"] == len(cleaned) + 1


def test_a_cleaning_run_of_another_model_than_was_handed_on_is_named_and_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of another objective were put in the model's place after the model was made."""
    profile, cleaned = write_cell(tmp_path)
    record = json.loads((cleaned[0] / "run.json").read_bytes())
    reseal(cleaned[0], inputs=record["inputs"] | {"model": "0123456789abcdef"})

    document = document_at(tmp_path, profile, monkeypatch)
    clean = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert (clean["runs"], clean["missing"]) == (len(cleaned) - 1, 1)

    folder = cleaned[0].relative_to(tmp_path).as_posix()
    assert folder not in document["runs"]
    (notice,) = document["notices"]
    assert notice.startswith(f"{folder} is left out: cleaned model 0123456789abcdef, but ")
    name = ("cc3m-mmcl", cleaned[0].name)
    (missing,) = [run for run in document["missing"] if (run["cell"], run["run"]) == name]
    assert "handed on" in missing["reason"]


@pytest.mark.parametrize(
    ("changes", "notice"),
    [
        ({"code": "0ther"}, "The runs differ in code: c0de ({rest} runs), 0ther (1 runs)."),
        (
            {"accepted_code": "0lder"},
            "Runs that began under older code, which was accepted: 0lder (1 runs).",
        ),
        (
            {"pairs": "0ther"},
            "Runs of CC3M differ in their input `pairs`: 0123456789abcdef ({rest} runs), "
            "0ther (1 runs).",
        ),
        (
            {"evaluation": "0ther"},
            "The runs differ in their input `evaluation`: fedcba9876543210 ({rest} runs), "
            "0ther (1 runs).",
        ),
    ],
)
def test_runs_that_differ_in_code_or_in_inputs_are_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], notice: str
) -> None:
    profile, cleaned = write_cell(tmp_path)
    record = json.loads((cleaned[0] / "run.json").read_bytes())
    inputs = {name: value for name, value in changes.items() if name in record["inputs"]}
    others = {name: value for name, value in changes.items() if name not in record["inputs"]}
    reseal(cleaned[0], inputs=record["inputs"] | inputs, **others)

    document = document_at(tmp_path, profile, monkeypatch)
    assert document["notices"] == [notice.format(rest=len(cleaned))]
    assert row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]["runs"] == len(cleaned)


def test_runs_without_hashes_of_their_files_are_counted_in_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile, cleaned = write_cell(tmp_path)
    reseal(cleaned[0], files={}, num_rows=0, last_step=0)
    (notice,) = document_at(tmp_path, profile, monkeypatch)["notices"]
    assert notice.startswith(f"1 of {len(cleaned) + 1} runs were recorded without hashes")


def test_diverged_runs_are_marked_in_the_tables_and_counted_in_the_headline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cleaning runs but one diverged; the table's number is of one of these, for it has the
    lower folder name.
    """
    profile, cleaned = write_cell(tmp_path)
    for folder in cleaned[:-1]:
        reseal(folder, status="diverged", reason="loss is not finite at step 12")

    document = document_at(tmp_path, profile, monkeypatch)
    clean = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert (clean["reproduced"], clean["diverged_runs"]) == (KEPT, len(cleaned) - 1)
    assert clean["diverged"] == document["runs"][clean["run"]]["diverged"]
    assert not row_of(document, "cc3m", "100k", "mmcl")["original_accuracy"]["diverged"]

    headline = document["headline"]
    assert (headline["diverged_runs"], headline["runs"]) == (len(cleaned) - 1, len(cleaned) + 1)
    (notice,) = document["notices"]
    assert notice.startswith(f"{len(cleaned) - 1} of {len(cleaned) + 1} runs diverged")


def test_pages_mark_diverged_runs_where_they_show_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All runs diverged: the headline, both tables and the article say so."""
    profile, cleaned = write_cell(tmp_path)
    everyone = [*cleaned, *(tmp_path / "results/mini/pretrain").glob("*/*")]
    for folder in everyone:
        reseal(folder, status="diverged", reason="loss is not finite at step 12")
    _, page = build_at(tmp_path, profile, monkeypatch, latex_too=True)

    number = len(everyone)
    assert f"{number} of {number} runs diverged." in page[: page.index('id="tables"')]
    table1, table2 = page.index("<caption>Table 1."), page.index("<caption>Table 2.")
    assert f"{len(cleaned)} of {len(cleaned)} runs diverged" in page[table1:table2]
    assert page[table1:table2].count("of a run that diverged") == 2
    assert page[table2:].count("of a run that diverged") >= 2

    article = " ".join((tmp_path / "out/report.tex").read_text().split())
    assert f"{number} of {number} runs diverged" in article
    assert "and the cleaned accuracy is of one of them" in article


def test_a_loss_that_is_no_number_counts_as_diverged_whatever_the_record_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile, cleaned = write_cell(tmp_path)
    path = cleaned[0] / "rows.jsonl"
    first, last = path.read_text().splitlines()
    row = json.loads(last) | {"train_loss": {"loss": float("nan")}}
    path.write_text(f"{first}\n{json.dumps(row)}\n")
    reseal(cleaned[0])

    document = document_at(tmp_path, profile, monkeypatch)
    assert document["headline"]["diverged_runs"] == 1
    assert document["runs"][cleaned[0].relative_to(tmp_path).as_posix()]["diverged"]
