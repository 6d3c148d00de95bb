"""The study of draws: differences over draws, and how much of their variance is the draw."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from repro.report.claims import Arms, load_claims
from repro.report.document import plain
from repro.report.draws import draws
from repro.report.pages.tables import draws as table_of
from repro.study.spec import load_study
from tests.support.curves import CONTEXT, arm, evaluated

RATES = (2.5e-4, 5e-4)


@pytest.fixture(scope="module")
def confirmed() -> Arms:
    return load_claims().comparisons.confirmed["mini"]


def outcome(spread: float) -> Callable[..., tuple[float, float]]:
    """ASR left of both objectives, whose difference varies with the seed by `spread`."""

    def end(objective: str, seed: int, rate: float) -> tuple[float, float]:
        shift = spread * np.random.Generator(np.random.PCG64(seed)).normal()
        return 0.3, 0.1 if objective == "mmcl" else 0.5 + shift

    return end


def found(confirmed: Arms, names: list[str], missing: set[int]) -> dict[str, Any]:
    study = load_study("draws")
    parts = [
        arm(outcome(0.1), study.variants[name].seeds, f"draws/{name}", rates=RATES)
        for name in names
    ]
    for name in (confirmed.mmcl["norm_groups_64"], confirmed.mmcl_ssl):
        # At further rates too, which the study of draws does not have.
        parts.append(arm(outcome(0.05), range(15, 25), name, rates=(*RATES, 8e-3)))
    frame = pd.concat(parts, ignore_index=True)
    runs = [
        SimpleNamespace(record=SimpleNamespace(spec=SimpleNamespace(seed=seed)))
        for name in names
        for seed in study.variants[name].seeds
    ]
    own = frame[frame.study == "draws"]
    results: Any = SimpleNamespace(
        name="draws", spec=study, runs=runs, frame=own, seeds_due=missing
    )
    made = draws([results], evaluated(frame, CONTEXT._replace(rate=RATES[1])), confirmed)
    assert made is not None
    return dict(plain(made))


def row(of: dict[str, Any]) -> dict[str, Any]:
    (one,) = (r for r in of["rows"] if (r["measure"], r["dataset"]) == ("asr_left_at_rate", "cc3m"))
    return dict(one)


def test_the_share_of_the_draw_follows_from_both_variances(confirmed: Arms) -> None:
    names = list(load_study("draws").variants)
    of = row(found(confirmed, names, set()))
    over_draws, over_seeds = (
        list(of[side]["by_seed"].values()) for side in ("difference", "seeds")
    )
    ratio = np.var(over_draws, ddof=1) / np.var(over_seeds, ddof=1)
    assert len(over_draws) == len(over_seeds) == 10
    assert of["ratio"]["value"] == pytest.approx(ratio)
    # The interval holds each ratio that a test of equal variances would not reject.
    low, high = of["ratio"]["interval"]
    assert stats.f.sf(ratio / low, 9, 9) == pytest.approx(0.025)
    assert stats.f.cdf(ratio / high, 9, 9) == pytest.approx(0.025)
    assert of["share"]["value"] == pytest.approx(1 - 1 / ratio)


def test_of_too_few_draws_there_is_no_share(confirmed: Arms) -> None:
    study = load_study("draws")
    of = row(found(confirmed, list(study.variants)[:2], set()))
    assert of["ratio"] is None and of["share"] is None and of["draws"] == 2


def test_an_unfinished_study_is_marked(confirmed: Arms) -> None:
    names = list(load_study("draws").variants)
    whole, part = found(confirmed, names, set()), found(confirmed, names[:4], {38})
    assert (whole["complete"], part["complete"], part["planned"]) == (10, 3, 10)
    table = table_of(part)
    assert table.caption.startswith("Incomplete: 3 of 10 draws")
    table = table_of(whole)
    assert not table.caption.startswith("Incomplete") and len(table.rows) == len(whole["rows"])
    table = table_of(None)
    assert not table.rows


def test_without_the_study_nothing_is_said(confirmed: Arms) -> None:
    assert draws([], evaluated(arm(outcome(0.1), range(3))), confirmed) is None
