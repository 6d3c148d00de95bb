"""Figures: colours that keep objectives and losses apart, ids that fit on one page, equal bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.colors
import pandas as pd
import pytest

from repro.profile import load_profile
from repro.report.exports import points_of
from repro.report.figures import FIGURES, draw_all
from repro.report.figures.style import (
    LOSS_COLOURS,
    OBJECTIVE_COLOURS,
    Drawn,
    draw,
    style,
)
from repro.report.numbers.evidence import read_evidence
from repro.report.studies.results import read_study_results

PAGES = {"light": "#ffffff", "dark": "#14171a"}
COLOURS = [*OBJECTIVE_COLOURS.values(), *LOSS_COLOURS.values()]


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    channels = matplotlib.colors.to_rgb(colour)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_stands_out_on_either_page(colour: str, page: str) -> None:
    low, high = sorted((luminance(colour), luminance(page)))
    assert (high + 0.05) / (low + 0.05) >= 3


def test_no_colour_means_two_things() -> None:
    for one, other in combinations(COLOURS, 2):
        hues = [matplotlib.colors.rgb_to_hsv(matplotlib.colors.to_rgb(c))[0] for c in (one, other)]
        assert abs(hues[0] - hues[1]) > 0.05, (one, other)


@pytest.fixture(scope="module")
def material(whole: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    document = json.loads((whole / "report/build/mini/report.json").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(whole)
        evidence = read_evidence(load_profile("mini"))
        points = points_of(evidence, read_study_results("mini", Path()), "seeds")
    return document, points


@pytest.fixture(scope="module")
def drawn(material: tuple[dict[str, Any], pd.DataFrame]) -> dict[str, Drawn]:
    return draw_all(*material)


def test_the_outcome_and_the_papers_figures_are_drawn(drawn: dict[str, Drawn]) -> None:
    assert {"hero", "figure1", "figure2", "figure3", "resistance", "mechanism"} <= set(drawn)
    assert [len(drawn[name].panels) for name in ("hero", "figure1", "figure3")] == [2, 2, 4]
    assert all(figure.pdf.startswith(b"%PDF") for figure in drawn.values())


def test_equal_documents_give_equal_drawings(
    material: tuple[dict[str, Any], pd.DataFrame], drawn: dict[str, Drawn]
) -> None:
    with style():
        assert draw(FIGURES[0], *material) == drawn["hero"]


def ids(text: str) -> Iterator[str]:
    return (found[1] for found in re.finditer(r'\bid="([^"]+)"', text))


def test_drawings_fit_on_one_page(drawn: dict[str, Drawn]) -> None:
    """No id occurs twice, and every reference within a drawing leads to one of its own ids."""
    panels = [panel for figure in drawn.values() for panel in figure.panels]
    every = [name for panel in panels for name in ids(panel)]
    assert len(every) == len(set(every))
    for panel in panels:
        references = re.findall(r'(?:url\(#|href="#)([^")]+)', panel)
        assert set(references) <= set(ids(panel))


def test_a_document_without_results_has_no_empty_figures(
    material: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    document, points = material
    empty = {
        **document,
        "resistance": {"study": None, "seeds": [], "caps": [0.0, 0.2], "cells": []},
        "mechanism": {"learning_rate": None, "models": [], "correlations": []},
        "responses": [],
    }
    assert draw_all(empty, points[:0]) == {}
