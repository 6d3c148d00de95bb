"""Replay of the authors' points: exact where the files are at hand, refused where they differ."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from repro.ledger import LedgerError
from repro.profile import load_profile
from repro.report.authors import ATTACKABLE, FILES, IMAGES, authors_points
from repro.report.claims import load_claims
from repro.report.paper_tables import table1
from repro.report.replay import early_end, replay, replay_evidence
from repro.report.verify import verify
from repro.spec import StopEarly
from tests.support.ledger import row_of

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


def drawn(out: Path, figure: str) -> int:
    """Evaluations after the start that a figure has."""
    points = pd.read_csv(out / "points.csv")
    return int((points[figure] & (points.step != 0)).sum())


def test_synthetic_points_fill_tables_and_figures_of_all_three_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path, series())
    write(tmp_path, series("cc6m_", "3000poison_"), CC6M)
    write_larger_set(tmp_path)
    out = tmp_path / "out"

    document = replay(tmp_path, out)

    cells = [row["clean_accuracy"] for row in document["tables"]["table1"]["rows"]]
    assert [cell["authors_points"] for cell in cells] == [0.14, 0.10, 0.14, 0.10, None, 0.10]
    paper = [0.1649, 0.1416, 0.2404, 0.1305, None, 0.0262]
    assert [cell["paper"] for cell in cells] == paper
    assert {cell["reproduced"] for cell in cells} == {None}
    assert drawn(out, "figure1") == 12
    assert drawn(out, "figure2") == 12
    assert drawn(out, "figure3") == 18
    assert "14.0" in (out / "index.html").read_text()
    # There is no profile of this name.
    for page in out.glob("*.html"):
        text = page.read_text()
        assert "PROFILE=replay" not in text
        assert "--profile replay" not in text
        assert "archived" not in text.split("<footer>")[1]
    monkeypatch.setenv("REPRO_AUTHORS_DIR", str(tmp_path))
    assert verify(out / "report.json") == []


def verdicts_of(document: dict[str, Any]) -> dict[str, str]:
    """The verdict on each claim by the authors' points."""
    return {claim["id"]: claim["authors_verdict"] for claim in document["claims"]}


def test_the_authors_points_are_judged_by_the_measures_that_need_no_rates(tmp_path: Path):
    """Of 8,000 images right at the start, 7,000 and 5,000 are left at an ASR of 4.0%."""
    document = replay(write(tmp_path, series()), tmp_path / "out")
    measures = {of["measure"]: of for of in document["verdicts"]["authors"]}
    assert list(measures) == ["lost_at_cap", "frontier_area", "accuracy_at_cap"]
    (cell,) = measures["lost_at_cap"]["cells"]
    assert cell["mmcl"]["mean"] == pytest.approx(0.125)
    assert cell["difference"]["mean"] == pytest.approx(0.25)
    assert cell["p"] is None
    assert cell["verdict"] == "undecided"
    verdicts = verdicts_of(document)
    assert verdicts["mmcl-ssl-fails"] == "undecided", "CC6M is not there"
    assert verdicts["drop-17-cc3m"] == "undecided"
    assert {claim["verdict"] for claim in document["claims"]} == {"not run"}


def test_where_no_start_model_is_evaluated_the_papers_is_taken_and_not_a_point(tmp_path: Path):
    """CC6M in the paper: 23.76% to 24.042% with MMCL, a gain, and 23.86% to 13.05%, 45.3% lost."""
    content = {}
    for objective, best in (("mmcl", 0.24042), ("mmcl_ssl", 0.1305)):
        for loss in LOSSES:
            name = f"cleaning_poisoned_cc6m_{objective}_3000poison_clean_{loss}_lr_"
            content[name] = [[0.9, 2_000 / ATTACKABLE], [0.2, best]]
    document = replay(write(tmp_path, content, CC6M), tmp_path / "out")
    mmcl = row_of(document, "cc6m", "100k", "mmcl")
    with_ssl = row_of(document, "cc6m", "100k", "mmcl_ssl")
    assert mmcl["clean_accuracy"]["authors_drop"] == pytest.approx(-0.0119, abs=1e-4)
    assert with_ssl["clean_accuracy"]["authors_drop"] == pytest.approx(0.4531, abs=1e-4)

    # A start that nobody published is no measured value, and decides no claim about start models.
    assert mmcl["original_accuracy"]["authors_points"] is None
    starts = document["tables"]["table2"]["rows"]
    assert [row["asr"]["authors_points"] for row in starts] == [None] * 4
    verdicts = verdicts_of(document)
    assert verdicts["drop-45-cc6m"] == "supported"
    assert verdicts["start-accuracy-cc6m"] == "not run"

    # The first entry is an evaluation like any other.
    assert mmcl["clean_accuracy"]["evaluations"] == 0
    assert drawn(tmp_path / "out", "figure2") == 2 * 6


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


def test_files_that_are_missing_or_changed_are_said_so(tmp_path: Path):
    document = replay(write(tmp_path, series()), tmp_path / "out")
    assert document["notices"] == [
        f"{CC6M} is not among the authors' files here: its cells are empty.",
        f"{CC6M_200K} is not among the authors' files here: its cells are empty.",
        f"{CC3M} is NOT the file that the authors published.",
    ]


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
    reason="REPRO_AUTHORS_DIR does not name a clone of the authors' repository",
)
def test_the_published_cc3m_file_gives_the_papers_numbers_in_seconds(tmp_path: Path):
    begin = time.process_time()
    document = replay(Path(os.environ["REPRO_AUTHORS_DIR"]), tmp_path)
    assert time.process_time() - begin <= 10
    for objective, printed in (("mmcl", "16.49"), ("mmcl_ssl", "14.16")):
        value = row_of(document, "cc3m", "100k", objective)["clean_accuracy"]["authors_points"]
        assert f"{100 * value:.2f}" == printed
    assert document["authors_files"][0]["verified"]
    assert document["authors_files"][0]["points"] == 1428


RULE = StopEarly(epochs=5, asr=0.9)


def test_a_run_is_ended_by_its_first_epochs_alone() -> None:
    """Two evaluations an epoch, 40 a run: never below 90% in ten; once in them; only after them."""
    never = [1.0] * 40
    once = [1.0] * 9 + [0.89] + [1.0] * 30
    later = [1.0] * 10 + [0.01] * 30
    points = pd.DataFrame({"asr": [*never, *once, *later]})
    points = points.assign(run="file", dataset="cc6m", clean_size="100k", loss="mmcl_ssl")

    runs, lost = early_end(points, RULE)

    assert runs == 3
    of_never, of_later = lost
    assert list(of_never.index) == [*range(10, 40)]
    assert list(of_later.index) == [*range(90, 120)]
    assert early_end(points[:-1], RULE) == (0, []), "no whole number of runs"


@pytest.mark.skipif(
    "REPRO_AUTHORS_DIR" not in os.environ,
    reason="NOT TRIED: REPRO_AUTHORS_DIR does not name a clone of the authors' repository",
)
def test_on_published_points_no_cell_moves(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    evidence = replay_evidence(Path(os.environ["REPRO_AUTHORS_DIR"]))
    assert load_profile("paper_lean").clean.stop_early == RULE
    points = evidence.authors_frame
    assert len(points) == 5779
    assert all(file.verified for file in evidence.files)
    runs, ended = early_end(points, RULE)
    lost = pd.concat(ended)
    assert runs == 167
    assert len(ended) == 73
    assert len(lost) == 2160
    assert round(lost.asr.min(), 3) == 0.784

    kept = points.drop(lost.index).to_dict("records")
    less = replace(evidence, authors=(kept, evidence.files))
    paper = load_claims().paper
    assert table1(less, paper) == table1(evidence, paper)


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
