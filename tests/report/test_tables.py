"""Rows and sentences that pages, article and README share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repro.report.pages import tables
from repro.report.pages.html import shared_values
from repro.report.readme import results_block, switches_block, write_blocks


@pytest.fixture
def document(whole: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((whole / "report/build/mini/report.json").read_bytes())
    return content


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
    assert tables.over_seeds({"values": values}) == words


def cell(verdict: str, size: str = "100k", comparator: str = "default") -> dict[str, Any]:
    return {
        "dataset": "cc6m",
        "clean_size": size,
        "comparator": comparator,
        "verdict": verdict,
    }


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([cell("supported, of the paper's size")], "supported in 1 setting"),
        (
            [cell("undecided"), cell("not tested: control failed", "200k")],
            "undecided in 1 of 2 settings, not tested in 1",
        ),
        ([cell("refuted"), cell("refuted", comparator="norm_groups_64")], "refuted in 1 setting"),
    ],
)
def test_verdicts_are_counted_by_setting(cells: list[dict[str, Any]], words: str) -> None:
    assert tables.tally({"cells": cells}) == words


def test_the_outcome_names_the_measured_values(document: dict[str, Any]) -> None:
    text = shared_values(document)["outcome"]
    row = document["resistance"]["cells"][-1]["equal"][2]
    for objective in ("mmcl", "mmcl_ssl"):
        mean = sum(end["asr"] for end in row[objective]) / len(row[objective])
        assert f"{100 * mean:.1f}%" in text
    assert "(mean of 3 seeds)" in text


def test_models_without_a_backdoor_say_nothing_of_the_claims(document: dict[str, Any]) -> None:
    for measure in document["verdicts"]["exploratory"]:
        for of_cell in measure["cells"]:
            of_cell["start_asr"] = {"mmcl": 0.0, "mmcl_ssl": 0.01}
    assert "no backdoor (ASR 0.5% before cleaning)" in shared_values(document)["outcome"]


def test_confirmed_verdicts_come_before_exploratory_ones(document: dict[str, Any]) -> None:
    verdicts = document["verdicts"]
    verdicts |= {"confirmed": verdicts["exploratory"][:1], "confirmed_seeds": [15, 16]}
    shown = tables.verdicts_of(document)
    assert shown is not None
    assert (shown.confirmed, list(shown.seeds), len(shown.rows)) == (True, [15, 16], 1)


def test_the_block_of_readme_has_picture_outcome_and_a_narrow_table(
    document: dict[str, Any],
) -> None:
    block = results_block(document)
    assert shared_values(document)["outcome"] in " ".join(block.split())
    assert "docs/pictures/hero-dark.svg" in block
    rows = [line for line in block.splitlines() if line.startswith("|")]
    # Three measures in three settings, the head and its rule.
    assert len(rows) == 11
    assert {line.count("|") - 1 for line in rows} == {4}


def test_every_switch_has_both_values_and_their_sources() -> None:
    rows = switches_block().splitlines()[2:]
    assert len(rows) == 15
    assert all(cell.strip() for row in rows for cell in row.strip("|").split("|"))


def test_readme_gets_the_results_and_its_pictures_their_own_colours(copy: Path) -> None:
    for name, block in (("README.md", "results"), ("specs/README.md", "switches")):
        Path(name).write_text(f"<!-- {block}:start -->\nold\n<!-- {block}:end -->\n")
    Path("docs/pictures").mkdir(parents=True)
    write_blocks("mini")
    assert "(mean of 3 seeds)" in " ".join(Path("README.md").read_text().split())
    dark = Path("docs/pictures/hero-dark.svg").read_text()
    assert "#e6edf3" in dark and "currentColor" not in dark
