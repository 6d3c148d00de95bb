"""Rows and sentences that pages, article and README share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repro.report.pages import tables
from repro.report.readme import (
    graph_block,
    results_block,
    switches_block,
)


@pytest.fixture
def document(whole: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((whole / "report/build/mini/report.json").read_bytes())
    return content


def test_survivors_have_no_mean() -> None:
    whole = tables.SeedValues([10, 11, 12], [0.1, 0.2, 0.3])
    assert (whole.mean, whole.sd) == (pytest.approx(0.2), pytest.approx(0.1))
    part = tables.SeedValues([10, 11, 12], [0.1, None, 0.3])
    assert (part.mean, part.sd, part.known) == (None, None, [0.1, 0.3])


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
    text = tables.outcome(document)
    row = document["resistance"]["cells"][-1]["equal"][2]
    for objective in ("mmcl", "mmcl_ssl"):
        mean = sum(end["asr"] for end in row[objective]) / len(row[objective])
        assert f"{100 * mean:.1f}%" in text
    assert "(mean of 3 seeds)" in text


def test_models_without_a_backdoor_say_nothing_of_the_claims(document: dict[str, Any]) -> None:
    for measure in document["verdicts"]["exploratory"]:
        for of_cell in measure["cells"]:
            of_cell["start_asr"] = {"mmcl": 0.0, "mmcl_ssl": 0.01}
    assert "no backdoor (ASR 0.5% before cleaning)" in tables.outcome(document)


def test_confirmed_verdicts_come_before_exploratory_ones(document: dict[str, Any]) -> None:
    verdicts = document["verdicts"]
    verdicts |= {"confirmed": verdicts["exploratory"][:1], "confirmed_seeds": [15, 16]}
    shown = tables.verdicts_of(document)
    assert shown is not None
    assert (shown.confirmed, list(shown.seeds), len(shown.rows)) == (True, [15, 16], 1)


def test_values_of_settings_in_words() -> None:
    values = [
        {"of": ["CC3M", "CC6M"], "value": 2000},
        {"of": [], "value": 0.0005},
        {"of": [], "value": [1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 0.004]},
    ]
    words = "CC3M and CC6M: 2,000; 0.05; 6 from 1e-05 to 0.004"
    assert tables.setting_values(values) == words


def test_the_block_of_readme_has_picture_outcome_and_a_narrow_table(
    document: dict[str, Any],
) -> None:
    block = results_block(document)
    assert tables.outcome(document) in " ".join(block.split())
    assert "docs/pictures/hero-dark.svg" in block
    rows = [line for line in block.splitlines() if line.startswith("|")]
    # Three measures in three settings, the head and its rule.
    assert len(rows) == 11
    assert {line.count("|") - 1 for line in rows} == {4}


def test_the_graph_of_readme_follows_dvc_yaml(tmp_path: Path) -> None:
    graph = tmp_path / "dvc.yaml"
    graph.write_text(
        "stages:\n  data: {cmd: a, outs: ['data/${profile}']}\n"
        "  train: {cmd: b, deps: ['data/${profile}/x'], outs: [models: {cache: true}]}\n"
    )
    assert graph_block(graph).splitlines()[2:-1] == ["  data --> train"]


def test_every_switch_has_both_values_and_their_sources() -> None:
    rows = switches_block().splitlines()[2:]
    assert len(rows) == 15
    assert all(cell.strip() for row in rows for cell in row.strip("|").split("|"))
