"""The authors' points: exact where the files are at hand, refused where they differ."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from repro.ledger import LedgerError
from repro.profile import load_profile
from repro.report.authors import ATTACKABLE, FILES, IMAGES, authors_notices, authors_points
from repro.report.build import points_of
from repro.report.claims import load_claims
from repro.report.evidence import Evidence
from repro.report.paper_tables import table1, table2

CC3M, CC6M, CC6M_200K = FILES
SERIES, NAN = "cleaning_poisoned_mmcl_clean_ssl_lr_", float("nan")
LOSSES = ("mmcl", "ssl", "mmcl_ssl")


def write(folder: Path, content: Any, name: str = CC3M) -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder


def write_larger_set(folder: Path) -> None:
    """The authors' file of 200K cleaning pairs, which has the MMCL + SSL model alone."""
    both = series("cc6m_", "3000poison_")
    with_ssl = {name: value for name, value in both.items() if "mmcl_ssl_3000" in name}
    write(folder, with_ssl, CC6M_200K)


def evidence_in(folder: Path) -> Evidence:
    """Evidence that is the authors' points alone."""
    return Evidence(load_profile("authors"), authors=authors_points(folder))


def drawn(evidence: Evidence, figure: str) -> int:
    """Evaluations after the start that a figure has; most have no step."""
    points = points_of(evidence, [], None, load_claims().paper)
    return int((points[figure] & (points.step != 0).fillna(True)).sum())


def test_points_of_all_three_files_fill_table_1_and_the_figures(tmp_path: Path) -> None:
    write(tmp_path, series())
    write(tmp_path, series("cc6m_", "3000poison_"), CC6M)
    write_larger_set(tmp_path)
    evidence = evidence_in(tmp_path)
    cells = [row["clean_accuracy"] for row in table1(evidence, load_claims().paper)]
    assert [cell["authors_points"] for cell in cells] == [0.14, 0.10, 0.14, 0.10, None, 0.10]
    paper = [0.1649, 0.1416, 0.2404, 0.1305, None, 0.0262]
    assert [cell["paper"] for cell in cells] == paper
    assert {cell["reproduced"] for cell in cells} == {None}
    assert [drawn(evidence, f"figure{number}") for number in (1, 2, 3)] == [12, 12, 18]


def test_where_no_start_model_is_evaluated_the_papers_is_taken_and_not_a_point(
    tmp_path: Path,
) -> None:
    """CC6M in the paper: 23.76% to 24.042% with MMCL, a gain, and 23.86% to 13.05%, 45.3% lost."""
    content = {}
    for objective, best in (("mmcl", 0.24042), ("mmcl_ssl", 0.1305)):
        for loss in LOSSES:
            name = f"cleaning_poisoned_cc6m_{objective}_3000poison_clean_{loss}_lr_"
            content[name] = [[0.9, 2_000 / ATTACKABLE], [0.2, best]]
    evidence = evidence_in(write(tmp_path, content, CC6M))
    paper = load_claims().paper
    rows = {
        (row["dataset"], row["clean_size"], row["pretrain_objective"]): row
        for row in table1(evidence, paper)
    }
    mmcl = rows["cc6m", "100k", "mmcl"]
    with_ssl = rows["cc6m", "100k", "mmcl_ssl"]
    assert mmcl["clean_accuracy"]["authors_drop"] == pytest.approx(-0.0119, abs=1e-4)
    assert with_ssl["clean_accuracy"]["authors_drop"] == pytest.approx(0.4531, abs=1e-4)

    # A start that nobody published is no measured value.
    assert mmcl["original_accuracy"]["authors_points"] is None
    assert [row["asr"]["authors_points"] for row in table2(evidence, paper)] == [None] * 4

    # The first entry is an evaluation like any other.
    assert drawn(evidence, "figure2") == 2 * 6


def test_files_that_are_missing_or_changed_are_said_so(tmp_path: Path) -> None:
    _, files = authors_points(write(tmp_path, series()))
    assert list(authors_notices(files)) == [
        f"{CC6M} is not among the authors' files here: its cells are empty.",
        f"{CC6M_200K} is not among the authors' files here: its cells are empty.",
        f"{CC3M} is NOT the file that the authors published.",
    ]


def test_every_run_of_the_cc3m_file_begins_with_the_start_model(tmp_path: Path):
    """Runs of 21 evaluations in a row: two runs have two starts, and 40 evaluations besides."""
    rates = [0.99, *[0.5] * 20] * 2
    counted = [round(rate * ATTACKABLE) / ATTACKABLE for rate in rates]
    accuracies = [0.16, *[0.1] * 20] * 2
    content = {name: [counted, accuracies] for name in series()}

    points, _ = authors_points(write(tmp_path, content))

    assert len(points) == 6 * 42
    starts = [point for point in points if point["step"] == 0]
    assert len(starts) == 6 * 2
    assert {point["accuracy"] for point in starts} == {0.16}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (SERIES, [[0.0], [0.0, 0.0]], r"clean_ssl_lr_: \[1, 2\] .*equally many"),
        ("<script>", [[0.0], [0.0]], "unknown series"),
        (SERIES, [[0.5, NAN], [0.0, 0.0]], r"clean_ssl_lr_: 0: 1: .*nan.*fractions from 0 to 1"),
        (SERIES, [[0.5], [1.5]], r"clean_ssl_lr_: 1: 0: .*1\.5.*fractions from 0 to 1"),
        (SERIES, [[0.123456789], [0.5]], "multiple of 1/49950"),
        (SERIES, None, r"5 series \(allowed: 6\)"),
    ],
    ids=["unequal", "unknown", "nan", "above one", "not a count", "too few"],
)
def test_a_file_not_as_published_is_refused(tmp_path: Path, name: str, values: Any, message: str):
    content = {**series(), name: values}
    if values is None:
        del content[name]
    with pytest.raises(LedgerError, match=message):
        authors_points(write(tmp_path, content))


def test_a_folder_without_the_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(LedgerError, match=r"looked for cleaning_plot_data_CC3M_pretrained_1500"):
        authors_points(tmp_path)
    monkeypatch.delenv("REPRO_AUTHORS_DIR", raising=False)
    assert authors_points() == ((), ())


@pytest.mark.skipif(
    "REPRO_AUTHORS_DIR" not in os.environ,
    reason="NOT TRIED: REPRO_AUTHORS_DIR does not name a clone of the authors' repository",
)
def test_the_published_files_give_the_papers_numbers() -> None:
    evidence = evidence_in(Path(os.environ["REPRO_AUTHORS_DIR"]))
    cleaned = {
        row["pretrain_objective"]: row["clean_accuracy"]["authors_points"]
        for row in table1(evidence, load_claims().paper)
        if row["dataset"] == "cc3m"
    }
    assert {name: f"{100 * value:.2f}" for name, value in cleaned.items()} == {
        "mmcl": "16.49",
        "mmcl_ssl": "14.16",
    }
    assert all(file.verified for file in evidence.files)
    assert evidence.files[0].points == 1428


Series = dict[str, list[list[float]]]


def series(dataset: str = "", poison: str = "", *, mmcl: int = 7_000) -> Series:
    """Six series: the start (not in CC6M's), a point under the cap and a better one over it."""
    content = {}
    for objective, right in (("mmcl", mmcl), ("mmcl_ssl", 5_000)):
        attacked = [49_900 / ATTACKABLE, 2_000 / ATTACKABLE, 3_000 / ATTACKABLE]
        correct = [8_000 / IMAGES, right / IMAGES, 7_500 / IMAGES]
        if dataset:
            attacked, correct = attacked[1:], correct[1:]
        for loss in LOSSES:
            name = f"cleaning_poisoned_{dataset}{objective}_{poison}clean_{loss}_lr_"
            content[name] = [[*attacked], [*correct]]
    return content
