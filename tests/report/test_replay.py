"""Replay of the authors' published points: exact where the files are at hand, refused where they
are not as they should be.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from repro.ledger import LedgerError
from repro.report.numbers.authors import ATTACKABLE, authors_points
from repro.report.replay import replay
from repro.report.verify import verify
from tests.support.replay import CC3M, CC6M, CC6M_200K, series


def write(folder: Path, content: Any, name: str = CC3M) -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder


def write_larger_set(folder: Path) -> None:
    """The authors' file of 200K cleaning pairs, which has the MMCL + SSL model alone."""
    both = series("cc6m_", "3000poison_")
    with_ssl = {name: value for name, value in both.items() if "mmcl_ssl_3000" in name}
    write(folder, with_ssl, CC6M_200K)


def test_synthetic_points_fill_tables_and_figures_of_all_three_files(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(root)
    write(tmp_path, series())
    write(tmp_path, series("cc6m_", "3000poison_"), CC6M)
    write_larger_set(tmp_path)
    document = replay(tmp_path, tmp_path / "out")
    values = [
        row["clean_accuracy"]["authors_points"] for row in document["tables"]["table1"]["rows"]
    ]
    assert values == [0.14, 0.10, 0.14, 0.10, None, 0.10]
    assert [row["clean_accuracy"]["paper"] for row in document["tables"]["table1"]["rows"]] == [
        0.1649,
        0.1416,
        0.2404,
        0.1305,
        None,
        0.0262,
    ]
    assert all(
        row["clean_accuracy"]["reproduced"] is None for row in document["tables"]["table1"]["rows"]
    )
    assert [len(figure["points"]) for figure in document["figures"].values()] == [12, 12, 18]
    page = (tmp_path / "out/index.html").read_text()
    assert "14.0" in page
    monkeypatch.setenv("REPRO_AUTHORS_DIR", str(tmp_path))
    assert verify(tmp_path / "out/report.json") == []


def test_the_authors_points_are_judged_by_the_measures_that_need_no_rates(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of 8,000 images right at the start, 7,000 and 5,000 are left at an ASR of 4.0%."""
    monkeypatch.chdir(root)
    document = replay(write(tmp_path, series()), tmp_path / "out")
    measures = {of["measure"]: of for of in document["verdicts"]["authors"]}
    assert list(measures) == ["lost_at_cap", "frontier_area", "accuracy_at_cap"]
    (cell,) = measures["lost_at_cap"]["cells"]
    assert cell["mmcl"]["mean"] == pytest.approx(0.125)
    assert cell["difference"]["mean"] == pytest.approx(0.25)
    assert (cell["p"], cell["verdict"]) == (None, "undecided")
    verdicts = {claim["id"]: claim["authors_verdict"] for claim in document["claims"]}
    assert verdicts["mmcl-ssl-fails"] == "undecided", "CC6M is not there"
    assert verdicts["drop-17-cc3m"] == "direction only"
    assert {claim["verdict"] for claim in document["claims"]} == {"not run"}


def test_where_the_files_do_not_evaluate_the_start_model_the_papers_is_taken_and_not_a_point(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The paper's CC6M values: 23.76% to 24.042% with MMCL, a gain, and 23.86% to 13.05%, 45.3%
    lost.
    """
    monkeypatch.chdir(root)
    content = {
        f"cleaning_poisoned_cc6m_{objective}_3000poison_clean_{loss}_lr_": [
            [0.9, 2_000 / ATTACKABLE],
            [0.2, best],
        ]
        for objective, best in (("mmcl", 0.24042), ("mmcl_ssl", 0.1305))
        for loss in ("mmcl", "ssl", "mmcl_ssl")
    }
    document = replay(write(tmp_path, content, CC6M), tmp_path / "out")
    rows = {
        row["pretrain_objective"]: row
        for row in document["tables"]["table1"]["rows"]
        if (row["dataset"], row["clean_size"]) == ("cc6m", "100k")
    }
    drops = {key: row["clean_accuracy"]["authors_drop"] for key, row in rows.items()}
    assert drops["mmcl"] == pytest.approx(-0.0119, abs=1e-4)
    assert drops["mmcl_ssl"] == pytest.approx(0.4531, abs=1e-4)

    # A start that nobody published is no measured value, and decides no claim about start models.
    assert rows["mmcl"]["original_accuracy"]["authors_points"] is None
    assert [row["asr"]["authors_points"] for row in document["tables"]["table2"]["rows"]] == [
        None
    ] * 4
    verdicts = {claim["id"]: claim["authors_verdict"] for claim in document["claims"]}
    assert verdicts["drop-45-cc6m"] == "supported"
    assert verdicts["start-accuracy-cc6m"] == "not run"

    # The first entry is an evaluation like any other.
    assert rows["mmcl"]["clean_accuracy"]["evaluations"] == 0
    assert len(document["figures"]["figure2"]["points"]) == 2 * 6


def test_every_run_of_the_cc3m_file_begins_with_the_start_model(tmp_path: Path):
    """Runs of 21 evaluations one after the other: two runs have two starts, and 40 evaluations
    besides.
    """
    rates, accuracies = [0.99, *[0.5] * 20] * 2, [0.16, *[0.1] * 20] * 2
    counted = [round(rate * ATTACKABLE) / ATTACKABLE for rate in rates]
    content = {name: [list(counted), list(accuracies)] for name in series()}
    points, _ = authors_points(write(tmp_path, content))
    starts = [point for point in points if point["step"] == 0]
    assert len(points) == 6 * 42
    assert len(starts) == 6 * 2
    assert {point["accuracy"] for point in starts} == {0.16}


def test_files_that_are_missing_or_changed_are_said_so(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(root)
    document = replay(write(tmp_path, series()), tmp_path / "out")
    assert document["notices"] == [
        f"{CC6M} is not among the authors' files here: its cells are empty.",
        f"{CC6M_200K} is not among the authors' files here: its cells are empty.",
        f"{CC3M} is NOT the file that the authors published.",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"cleaning_poisoned_mmcl_clean_ssl_lr_": [[0.0], [0.0, 0.0]]}),
            r"clean_ssl_lr_: \[1, 2\] .*equally many",
        ),
        (lambda s: s.update({"<script>": [[0.0], [0.0]]}), "unknown series"),
        (
            lambda s: s.update(
                {"cleaning_poisoned_mmcl_clean_ssl_lr_": [[0.5, float("nan")], [0.0, 0.0]]}
            ),
            r"clean_ssl_lr_: 0: 1: .*nan.*fractions from 0 to 1",
        ),
        (
            lambda s: s.update({"cleaning_poisoned_mmcl_clean_ssl_lr_": [[0.5], [1.5]]}),
            r"clean_ssl_lr_: 1: 0: .*1\.5.*fractions from 0 to 1",
        ),
        (
            lambda s: s.update({"cleaning_poisoned_mmcl_clean_ssl_lr_": [[0.123456789], [0.5]]}),
            "multiple of 1/49950",
        ),
        (lambda s: s.pop("cleaning_poisoned_mmcl_clean_ssl_lr_"), r"5 series \(allowed: 6\)"),
    ],
    ids=["unequal", "unknown", "nan", "above one", "not a count", "too few"],
)
def test_a_result_file_that_is_not_as_published_is_refused(
    tmp_path: Path, change: Any, message: str
):
    content = series()
    change(content)
    with pytest.raises(LedgerError, match=message):
        authors_points(write(tmp_path, content))


def test_a_folder_without_the_files_is_refused_by_name(tmp_path: Path):
    with pytest.raises(
        LedgerError, match=r"looked for cleaning_plot_data_CC3M_pretrained_1500\.json"
    ):
        authors_points(tmp_path)


def test_without_a_folder_nothing_is_overlaid(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("REPRO_AUTHORS_DIR", raising=False)
    assert authors_points() == ((), ())


@pytest.mark.skipif(
    "REPRO_AUTHORS_DIR" not in os.environ,
    reason="REPRO_AUTHORS_DIR does not name a clone of the authors' repository",
)
def test_the_published_cc3m_file_gives_the_papers_numbers_in_seconds(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(root)
    begin = time.process_time()
    document = replay(Path(os.environ["REPRO_AUTHORS_DIR"]), tmp_path)
    assert time.process_time() - begin <= 10
    rows = {
        (r["dataset"], r["clean_size"], r["pretrain_objective"]): r["clean_accuracy"]
        for r in document["tables"]["table1"]["rows"]
    }
    printed = {
        key: f"{100 * rows['cc3m', '100k', key]['authors_points']:.2f}"
        for key in ("mmcl", "mmcl_ssl")
    }
    assert printed == {"mmcl": "16.49", "mmcl_ssl": "14.16"}
    assert document["authors_files"][0]["verified"]
    assert document["authors_files"][0]["points"] == 1428
