"""Figures 1-3 and their legends: shares on stand-in data, seeds apart, nothing drawn that says
nothing; and our claim about a ratio, which is a factor everywhere.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from repro.report.figures.curves import draw_all, figure_names, legends
from repro.report.figures.drawing import SUCCESS
from repro.report.figures.scatter import captions, height, seed_fills

BUILD = Path("report/build/mini")


@pytest.fixture(scope="module")
def document(built: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((built / BUILD / "report.json").read_bytes())
    return content


def test_on_stand_in_data_a_mark_lies_at_its_share_of_the_start(document: dict[str, Any]) -> None:
    """Of its own model, so that panels and the paper's stars can be compared."""
    figure = document["figures"]["figure1"]
    starts = {panel["pretrain_objective"]: panel["start"]["accuracy"] for panel in figure["panels"]}
    for point in figure["points"]:
        share = point["accuracy"] / starts[point["pretrain_objective"]]
        assert point["kept"] == pytest.approx(share)
        assert height(document, point) == point["kept"]
        assert height(document | {"stand_in": ""}, point) == point["accuracy"]


def test_success_and_the_cap_are_in_the_legend_and_success_is_green(built: Path) -> None:
    page = (built / BUILD / "index.html").read_text()
    figure = page[page.index('id="figure1"') : page.index('id="figure2"')]
    assert "success: ASR at the cap, 95% kept</li>" in figure and "the ASR cap</li>" in figure
    region = figure[figure.index('id="figure1-0-region"') :]
    assert f"fill: {SUCCESS}" in region[: region.index("</g>")]
    for name in ("figure1", "figure3"):
        whole = (built / BUILD / f"figures/{name}.svg").read_text()
        assert "success: ASR at the cap" in whole and "the ASR cap" in whole


def test_seeds_are_told_apart_by_how_far_their_marks_are_filled(document: dict[str, Any]) -> None:
    fills = seed_fills([3, 4, 5])
    assert list(fills) == [3, 4, 5] and len(set(fills.values())) == 3
    assert not [key for key in legends(document)["figure1"] if key.text.startswith("seed")]

    # Drawn so, too, and named in the legend.
    several = copy.deepcopy(document)
    several["settings"]["seeds"] = [0, 1]
    figure = several["figures"]["figure1"]
    figure["points"] += [point | {"seed": 1} for point in figure["points"]]
    assert [key.text for key in legends(several)["figure1"] if "seed" in key.text] == [
        "seed 0",
        "seed 1",
    ]
    panel = draw_all(several)["figure1"].panels[0].svg
    first, second = (panel.split(f'id="figure1-0-ledger-mmcl-{seed}"')[1] for seed in (0, 1))
    assert "fill-opacity: 0.85" in first[: first.index("</g>")]
    assert "fill-opacity: 0.15" in second[: second.index("</g>")]


def test_a_search_over_fewer_than_five_rates_has_no_curve(document: dict[str, Any]) -> None:
    assert "budgets" in captions(document)
    few = copy.deepcopy(document)
    for row in few["statistics"]["best_of_n"]:
        row["scores"] = row["scores"][:4]
    assert "budgets" not in captions(few) and "budgets" not in figure_names(few)


def test_a_panel_alone_has_its_title_and_the_labels_that_the_figure_shares(
    document: dict[str, Any],
) -> None:
    drawn = draw_all(document)
    assert len(drawn["figure3"].panels) == 4
    for panel in drawn["figure3"].panels:
        assert "Attack success rate (%)" in panel.svg and "Accuracy (% of start)" in panel.svg
        assert "CC6M, pre-trained with" in panel.svg
    assert all("Epochs" in panel.svg for panel in drawn["trajectories"].panels)


def test_a_ratio_is_a_factor_and_no_percentage(built: Path, document: dict[str, Any]) -> None:
    claim = next(c for c in document["own_claims"] if c["metric"] == "lowest_rate_ratio")
    assert claim["expect"] == "at least 1.5 times"
    value = claim["evidence"][0]["by_seed"][0]["value"]
    path = f"own_claims/{document['own_claims'].index(claim)}/evidence/0/by_seed/0/value"
    shown = f'<data value="{value!r}" data-path="{path}">{value:.2f}</data> times'
    assert shown in (built / BUILD / "index.html").read_text()
