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


def whole_names() -> list[str]:
    """Every variant of the study: a draw each."""
    return list(load_study("draws").variants)


def found(confirmed: Arms, names: list[str], missing: set[int]) -> dict[str, Any]:
    """The study of the draws `names`, beside ten seeds of one draw."""
    study = load_study("draws")
    parts, runs = [], []
    for name in names:
        seeds = study.variants[name].seeds
        parts.append(arm(outcome(0.1), seeds, f"draws/{name}", rates=RATES))
        for seed in seeds:
            record = SimpleNamespace(spec=SimpleNamespace(seed=seed))
            runs.append(SimpleNamespace(record=record))
    for name in (confirmed.mmcl["norm_groups_64"], confirmed.mmcl_ssl):
        # At further rates too, which the study of draws does not have.
        parts.append(arm(outcome(0.05), range(15, 25), name, rates=(*RATES, 8e-3)))
    frame = pd.concat(parts, ignore_index=True)
    own = frame[frame.study == "draws"]
    results: Any = SimpleNamespace(
        name="draws", spec=study, runs=runs, frame=own, seeds_due=missing
    )
    evaluations = evaluated(frame, CONTEXT._replace(rate=RATES[1]))

    made = draws([results], evaluations, confirmed)

    assert made is not None
    return dict(plain(made))


def row(of: dict[str, Any]) -> dict[str, Any]:
    wanted = ("asr_left_at_rate", "cc3m")
    (one,) = (row for row in of["rows"] if (row["measure"], row["dataset"]) == wanted)
    return dict(one)


def test_the_share_of_the_draw_follows_from_both_variances(confirmed: Arms) -> None:
    of = row(found(confirmed, whole_names(), set()))
    over_draws = list(of["difference"]["by_seed"].values())
    over_seeds = list(of["seeds"]["by_seed"].values())
    assert len(over_draws) == 10
    assert len(over_seeds) == 10
    expected = np.var(over_draws, ddof=1) / np.var(over_seeds, ddof=1)
    ratio, share = of["ratio"], of["share"]
    assert ratio["value"] == pytest.approx(expected)
    assert share["value"] == pytest.approx(1 - 1 / expected)
    # The interval holds each ratio that a test of equal variances would not reject.
    low, high = ratio["interval"]
    equal_variances = stats.f(9, 9)
    assert equal_variances.sf(expected / low) == pytest.approx(0.025)
    assert equal_variances.cdf(expected / high) == pytest.approx(0.025)


def test_of_too_few_draws_there_is_no_share(confirmed: Arms) -> None:
    of = row(found(confirmed, whole_names()[:2], set()))
    assert of["ratio"] is None
    assert of["share"] is None
    assert of["draws"] == 2


def test_of_bounds_there_is_no_ratio_of_variances(confirmed: Arms) -> None:
    """No rate cleans any model, so that every learning rate is a bound."""
    rows = found(confirmed, whole_names(), set())["rows"]
    rates = [of for of in rows if of["measure"] == "rate_doublings"]
    assert rates
    for of in rates:
        assert of["difference"]["at_least"]
        assert of["ratio"] is None


def test_an_unfinished_study_is_marked(confirmed: Arms) -> None:
    whole = found(confirmed, whole_names(), set())
    assert whole["complete"] == 10
    table = table_of(whole)
    assert not table.caption.startswith("Incomplete")
    assert len(table.rows) == len(whole["rows"])

    part = found(confirmed, whole_names()[:4], {38})
    assert part["complete"] == 3
    assert part["planned"] == 10
    assert table_of(part).caption.startswith("Incomplete: 3 of 10 draws")

    assert not table_of(None).rows


def test_without_the_study_nothing_is_said(confirmed: Arms) -> None:
    assert draws([], evaluated(arm(outcome(0.1), range(3))), confirmed) is None
