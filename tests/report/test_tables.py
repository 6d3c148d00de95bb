"""Rows and sentences that pages, article and README share; settings beside the paper's."""

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
import pytest

from repro.profile import load_profile
from repro.report import reading
from repro.report.claims import Claims, load_claims
from repro.report.comparisons import OWN
from repro.report.format import bounds, bounds_in_words, percent
from repro.report.measures import Context, Evaluations
from repro.report.pages.html import pages, shared_values
from repro.report.pages.table import Column, Table
from repro.report.points import COLUMNS
from repro.report.scales import in_words, scale_rows, settings_table
from repro.report.studies import read_study_results


@pytest.fixture
def document(whole: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((whole / "report/build/mini/report.json").read_bytes())
    return content


@pytest.mark.parametrize(
    ("lower", "upper", "sign", "words"),
    [
        (False, False, "", ""),
        (True, False, "≥ ", "at least "),
        (False, True, "≤ ", "at most "),
        (True, True, "≈ ", "about "),
    ],
)
def test_a_mean_of_bounds_on_both_sides_is_none(
    lower: bool, upper: bool, sign: str, words: str
) -> None:
    found = {"at_least": lower, "at_most": upper}
    assert (bounds(found), bounds_in_words(found)) == (sign, words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.1, 0.2, 0.3], "20.0 ± 10.0"),
        ([0.1, None, 0.3], "2 of 3 cleaned: 10.0, 30.0"),
        ([None, None], "none of 2 cleaned"),
        ([0.1], "10.0"),
    ],
)
def test_survivors_have_no_mean(values: list[float | None], words: str) -> None:
    assert reading.over_seeds({"values": values}) == words


def cell(verdict: str, size: str = "100k", comparator: str = "default") -> dict[str, Any]:
    names = {"dataset": "cc6m", "clean_size": size, "comparator": comparator}
    return {**names, "verdict": verdict}


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([cell("supported, of the paper's size")], "supported in 1 setting"),
        (
            [cell("undecided"), cell("not tested (control failed)", "200k")],
            "undecided in 1 of 2 settings, not tested in 1",
        ),
        ([cell("refuted"), cell("refuted", comparator="norm_groups_64")], "refuted in 1 setting"),
    ],
)
def test_verdicts_are_counted_by_setting(cells: list[dict[str, Any]], words: str) -> None:
    assert reading.tally({"cells": cells}) == words


def test_the_outcome_names_the_measured_values(document: dict[str, Any]) -> None:
    text = shared_values(document)["outcome"]
    row = document["resistance"]["cells"][-1]["equal"][2]
    for objective in ("mmcl", "mmcl_ssl"):
        left = mean(end["asr"] for end in row[objective])
        assert f"{100 * left:.1f}%" in text
    assert "(mean of 3 seeds)" in text


def test_models_without_a_backdoor_say_nothing_of_the_claims(document: dict[str, Any]) -> None:
    for measure in document["verdicts"]["exploratory"]:
        for of_cell in measure["cells"]:
            of_cell["start_asr"] = {"mmcl": 0.0, "mmcl_ssl": 0.01}
    assert "no backdoor (ASR 0.5% before cleaning)" in shared_values(document)["outcome"]


def test_confirmed_verdicts_come_before_exploratory_ones(document: dict[str, Any]) -> None:
    verdicts = document["verdicts"]
    for of in verdicts["exploratory"]:
        of["cells"] += [{**cell, "comparator": "norm_groups_64"} for cell in of["cells"]]
    verdicts["confirmed"] = verdicts["exploratory"]
    verdicts["confirmed_seeds"] = [15, 16]

    values = shared_values(document)
    assert "fixed before any of the 2 seeds was run" in values["outcome"]

    page = pages(document, {}, {}, [])["index.html"].decode()
    assert "CC6M, 200K, groups of 64" in page


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"CC3M": 2000, "CC6M": 2000, "200K": 0.0005}, "CC3M and CC6M: 2,000; 200K: 0.05"),
        ({"": [1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 0.004]}, "6 from 1e-05 to 0.004"),
        ({"MMCL": [0.1, 0.2], "SSL": [0.1, 0.2]}, "0.1, 0.2"),
        ({"": None}, "–"),
    ],
)
def test_a_value_stands_once_after_what_has_it(values: dict[str, Any], words: str) -> None:
    assert in_words(values) == words


@pytest.mark.parametrize("name", ["smoke", "mini", "midi", "paper"])
def test_every_setting_has_both_values(name: str) -> None:
    rows = settings_table(name)
    assert len(rows) >= 13
    assert [row.setting for row in rows if not row.paper or not row.here] == []
    # The paper names no seed: what its profile has there is not the paper's.
    told = [row for row in rows if row.setting != "seed of the run"]
    assert (name == "paper") == all(row.paper == row.here for row in told)
    assert rows[-1].paper == "not said"


def test_values_are_those_of_the_profiles() -> None:
    rows = {row.setting: row for row in settings_table("mini")}
    # A patch of 16 pixels, of 224 and of 32.
    patch = rows["patch, of the image (%)"]
    assert patch.paper == "0.51"
    assert patch.here == "25.0"
    assert rows["pairs of a BatchNorm group"].here == "MMCL: 32; MMCL + SSL: 64"
    assert rows["pre-training batch"].here == "64"
    assert rows["cleaning rates"].paper.startswith("CC3M, 100K: 13 from 1e-05 to 0.004; CC6M")


def archived(claims: Claims, *names: str) -> Evaluations:
    """Every archived evaluation of some profiles, by the settings of the first."""
    frames = [study.frame for name in names for study in read_study_results(name)]
    context = Context.of(claims, load_profile(names[0]))
    return Evaluations(pd.concat(frames, ignore_index=True), context)


def test_scales_have_results_of_their_studies_and_the_papers_own() -> None:
    claims = load_claims()
    leading = claims.comparisons.exploratory["mini"]
    mini, midi, printed = scale_rows("mini", archived(claims, "mini", "midi"), claims, leading)
    assert mini.seeds == [10, 11, 12, 13, 14]
    assert midi.pairs > mini.pairs

    mmcl, mmcl_ssl = mini.results
    assert [round(100 * loss, 1) for loss in mmcl.lost.values() if loss] == [11.8, 4.9]
    assert mmcl.at_least == []
    assert mmcl_ssl.at_least == ["100k"]
    # The paper prints a gain at 100K, and no MMCL model at 200K.
    assert printed.results[0].lost == {"100k": pytest.approx(1 - 24.04 / 23.76)}


@pytest.mark.usefixtures("here")
def test_without_archives_only_the_paper_has_results() -> None:
    claims = load_claims()
    context = Context.of(claims, load_profile("mini"))
    nothing = Evaluations(pd.DataFrame(columns=list(COLUMNS)), context)
    rows = scale_rows("mini", nothing, claims, OWN)
    assert {row.scale: bool(row.results) for row in rows} == {
        "mini": False,
        "midi": False,
        "paper": True,
    }


def test_a_column_reads_a_path_of_names_and_nothing_where_it_ends() -> None:
    column = Column("Mean", "found.mean", percent)

    def cell_of(found: dict[str, float] | None) -> str:
        return str(column.cell({"found": found}))

    assert cell_of({"mean": 0.25}) == "25.0"
    assert cell_of({}) == "–"
    assert cell_of(None) == "–"
    empty = Table("t", "T", [column], [{"found": None}])
    assert empty.filled().columns == []
