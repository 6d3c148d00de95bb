"""Verdicts over seeds: on the archive to the digits known from another computation, and on made-up
curves whose answer is known.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from repro.report.document import claims_of
from repro.report.judging.claims import Arms, Claims
from repro.report.measures import MEASURES, Context, hull_mean
from repro.report.numbers.mechanism import mechanism
from repro.report.own_run import own_values, prediction_interval
from repro.report.studies.results import read_study_results
from repro.report.verdicts import (
    CellVerdict,
    Estimate,
    MeasureVerdict,
    Verdicts,
    cell_verdicts,
    estimate,
    holm,
    p_above,
    verdicts,
)
from tests.support.curves import CELLS, GRID, arm, evaluated

CONTEXT = Context(rate=4e-4, hull_cap=0.2, kept_share=0.95)
ONE = Arms(mmcl_ssl="made/up", mmcl={"up": "made/up"}, twin="made/twin")


@pytest.fixture(scope="module")
def claims() -> Claims:
    return claims_of()


@pytest.fixture(scope="module")
def archive() -> pd.DataFrame:
    studies = [study for name in ("mini", "midi") for study in read_study_results(name, Path())]
    names = ("control", "dose", "maturity", "midi", "seeds")
    return pd.concat([study.frame for study in studies if study.name in names], ignore_index=True)


@pytest.fixture(scope="module")
def mini(archive: pd.DataFrame, claims: Claims) -> Verdicts:
    return verdicts(evaluated(archive), claims, "mini")


def measure(found: list[MeasureVerdict], name: str) -> dict[Any, CellVerdict]:
    """Cells of a measure by dataset and size, `pooled` among them."""
    (of,) = (item for item in found if item.measure == name)
    cells = {(cell.dataset, cell.clean_size): cell for cell in of.cells}
    assert of.pooled is not None
    return {**cells, "pooled": of.pooled}


def shown(of: Estimate, scale: float = 100, digits: int = 1) -> tuple[float, float, float]:
    assert of.interval is not None
    return tuple(round(scale * value, digits) for value in (of.mean, *of.interval))  # type: ignore[return-value]


PRINTED = {
    # Computed apart from this package, from the archived counts: mean and 95% interval.
    "lost_at_cap": [(11.0, 1.8, 20.2), (7.7, 3.5, 11.9), (7.6, -3.6, 18.8), (8.8, 3.6, 13.9)],
    "asr_left_at_rate": [(43.3, 29.7, 57.0), (57.2, 45.3, 69.1), (55.0, 40.2, 69.9), None],
    "rate_doublings": [(2.1, 1.2, 3.0), (2.1, 1.5, 2.8), (2.6, 1.5, 3.8), (2.3, 1.6, 3.0)],
    "frontier_area": [None, None, (9.7, -0.7, 20.1), (16.7, 6.6, 26.9)],
}


@pytest.mark.parametrize("name", PRINTED)
def test_measures_of_the_archived_seeds_are_those_of_another_computation(
    mini: Verdicts, name: str
) -> None:
    scale = 1 if name == "rate_doublings" else 100
    cells = measure(mini.exploratory, name)
    for key, expected in zip([*CELLS, "pooled"], PRINTED[name], strict=True):
        if expected is not None:
            assert shown(cells[key].difference, scale) == pytest.approx(expected, abs=0.051), key


def test_tests_controls_and_marks_of_the_archived_seeds(mini: Verdicts) -> None:
    lost = measure(mini.exploratory, "lost_at_cap")
    corrected = [lost[cell].p_holm for cell in CELLS]
    assert [round(p or 0, 3) for p in corrected] == [0.029, 0.011, 0.067]
    assert lost["cc3m", "100k"].verdict == "not tested: control not run"
    assert lost["cc6m", "200k"].verdict == "undecided"

    # The twin loses 2.1 points more at the same rates and steps, on three seeds.
    control = lost["cc6m", "200k"].control
    assert control is not None and control.holds and control.twin is not None
    assert shown(control.twin) == (-2.1, -5.7, 1.5)
    assert [control.loss and round(control.loss.mean, 3), control.cleaned] == [0.049, 5]

    rates = measure(mini.exploratory, "rate_doublings")
    assert {cell.verdict for cell in rates.values()} == {
        "supported",
        "supported, of the paper's size",
    }
    assert rates["cc6m", "100k"].difference.at_least
    edge = {"objective": "mmcl_ssl", "end": "highest", "seeds": 2, "of": 5}
    assert rates["cc6m", "100k"].edge == [edge]
    assert rates["cc3m", "100k"].weak_backdoor and not rates["cc6m", "200k"].weak_backdoor

    # The MMCL + SSL model is the more accurate one after cleaning.
    deployed = measure(mini.exploratory, "accuracy_at_cap")["cc6m", "200k"].difference
    assert shown(deployed) == (5.9, 0.1, 11.8)
    assert [(of["pairs"], of["more"]) for of in mini.equal_runs] == [(25, 25)] * 3
    assert (mini.confirmed, mini.confirmed_seeds, len(mini.planned_seeds)) == (None, [], 10)


def test_midi_by_the_same_functions(archive: pd.DataFrame, claims: Claims) -> None:
    found = verdicts(evaluated(archive), claims, "midi")
    cell = "cc6m", "200k"
    assert shown(measure(found.exploratory, "lost_at_cap")[cell].difference) == (10.5, 1.2, 19.8)
    assert shown(measure(found.exploratory, "asr_left_at_rate")[cell].difference) == (
        26.4,
        15.3,
        37.5,
    )
    assert [(of["pairs"], of["more"]) for of in found.equal_runs] == [(15, 15)]


def test_the_loss_at_the_start_of_cleaning_ranks_models_by_what_is_left(
    archive: pd.DataFrame, mini: Verdicts
) -> None:
    mini_only = archive[archive.study != "midi"]
    found = mechanism(mini_only, 5e-4, mini.seeds)
    names = ("dataset", "clean_size", "pretrain_objective")
    by_cell = {tuple(of[name] for name in names): of for of in found["correlations"]}
    everyone = by_cell["cc6m", "200k", None]
    with_ssl = by_cell["cc6m", "200k", "mmcl_ssl"]
    assert (everyone["models"], round(everyone["loss_ssl"], 2)) == (37, -0.84)
    assert (with_ssl["models"], round(with_ssl["loss_ssl"], 2)) == (23, -0.73)


def curve(needs: float, costs: float = 0.0, noise: float = 0.0) -> Any:
    """MMCL models need a rate of 1.5e-4 and MMCL + SSL models `needs` doublings more.

    Each doubling of the rate costs `costs` of the start accuracy; `noise` in doublings.
    """

    def outcome(objective: str, seed: int, rate: float) -> tuple[float, float]:
        generator = np.random.default_rng([seed, objective == "mmcl"])
        shift = noise * generator.standard_normal() + (needs if objective == "mmcl_ssl" else 0)
        doublings = math.log2(rate / 1.5e-4) - shift
        return 0.4 * (1 - costs * math.log2(rate / 1e-4)), 1 / (1 + 19 * 4**doublings)

    return outcome


def made(outcome: Any, claims: Claims, seeds: int = 6, **options: Any) -> list[MeasureVerdict]:
    """Verdicts on one arm, whose never-poisoned twin loses as much at each rate."""
    of = arm(outcome, range(seeds), **options)
    twin = arm(outcome, range(seeds), "made/twin", objectives=["mmcl"], **options)
    frame = pd.concat([of, twin], ignore_index=True)
    return cell_verdicts(evaluated(frame), ONE, claims.rules, CONTEXT, "made up")


def test_a_shift_of_two_doublings_is_supported_and_costs_what_a_rate_costs(claims: Claims) -> None:
    """The best MMCL model has a rate of 2e-4, the best other one 8e-4: two doublings, 8%."""
    found = made(curve(2, costs=0.04, noise=0.1), claims)
    rates = measure(found, "rate_doublings")
    assert rates["pooled"].difference.mean == pytest.approx(2, abs=0.2)
    assert {cell.verdict for cell in rates.values()} == {"supported, of the paper's size"}
    lost = measure(found, "lost_at_cap")["cc3m", "100k"]
    assert lost.difference.mean == pytest.approx(0.08, abs=0.01)
    assert (lost.verdict, lost.control and lost.control.holds) == ("supported", True)


def test_a_shift_too_small_to_count_is_refuted_or_negligible(claims: Claims) -> None:
    none = measure(made(curve(0, noise=0.05), claims), "rate_doublings")
    small = measure(made(curve(0.4, noise=0.05), claims), "rate_doublings")
    assert none["pooled"].verdict == "refuted"
    assert small["pooled"].verdict == "supported, negligible"


def test_a_grid_that_ends_early_supports_nothing_by_itself_and_refutes_nothing(
    claims: Claims,
) -> None:
    """No rate cleans MMCL + SSL models, and rates cost nothing: the loss is a lower bound of 0."""
    found = made(curve(9, noise=0.1), claims)
    lost, rates = measure(found, "lost_at_cap"), measure(found, "rate_doublings")
    assert lost["pooled"].difference.at_least and lost["pooled"].difference.mean == 0
    assert lost["pooled"].verdict == "undecided"
    assert rates["pooled"].difference.at_least
    assert rates["pooled"].mmcl_ssl.mean == math.log2(GRID[-1])

    # A grid that ends before it cleans either model tests nothing.
    short = made(curve(2, noise=0.1), claims, rates=GRID[:1])
    assert {of.verdict for of in short} == {"not tested: control failed"}


def test_the_control_needs_a_backdoor_a_twin_and_a_loss_not_above_the_twins(claims: Claims) -> None:
    of = arm(curve(2, costs=0.2), range(5))
    alone = cell_verdicts(evaluated(of), ONE, claims.rules, CONTEXT, "made up")
    assert measure(alone, "lost_at_cap")["pooled"].verdict == "not tested: control not run"
    assert measure(alone, "rate_doublings")["pooled"].verdict.startswith("supported")

    # The twin loses nothing where the MMCL model loses a fifth.
    twin = arm(curve(0), range(5), "made/twin", objectives=["mmcl"])
    both = evaluated(pd.concat([of, twin], ignore_index=True))
    worse = cell_verdicts(both, ONE, claims.rules, CONTEXT, "made up")
    assert measure(worse, "lost_at_cap")["pooled"].verdict == "not tested: control failed"

    # Without a twin a model that loses hardly anything is the paper's own control.
    gain = cell_verdicts(evaluated(arm(curve(2), range(5))), ONE, claims.rules, CONTEXT, "made up")
    control = measure(gain, "lost_at_cap")["cc3m", "100k"].control
    assert control is not None and control.holds and control.twin is None

    clean = arm(curve(2), range(5), start=(0.4, 0.0))
    none = cell_verdicts(evaluated(clean), ONE, claims.rules, CONTEXT, "made up")
    reason = none[0].cells[0].reason
    assert (none[0].verdict, reason) == (
        "not tested: control failed",
        "the MMCL models have no backdoor",
    )


def test_a_verdict_holds_only_against_all_comparators(claims: Claims) -> None:
    """The second kind of MMCL models needs as high a rate as the MMCL + SSL models."""
    frame = pd.concat(
        [
            arm(curve(2, noise=0.1), range(6)),
            arm(
                lambda _, seed, rate: curve(2, noise=0.1)("mmcl_ssl", seed + 50, rate),
                range(6),
                "made/hard",
                objectives=["mmcl"],
            ),
        ],
        ignore_index=True,
    )
    arms = Arms(mmcl_ssl="made/up", mmcl={"up": "made/up", "hard": "made/hard"}, twin=None)
    (rates,) = (
        m
        for m in cell_verdicts(evaluated(frame), arms, claims.rules, CONTEXT, "x")
        if m.measure == "rate_doublings"
    )
    assert {(cell.comparator, cell.alone, cell.verdict) for cell in rates.cells} == {
        ("up", "supported, of the paper's size", "undecided"),
        ("hard", "refuted", "undecided"),
    }
    assert rates.pooled is not None and "against hard: refuted" in rates.pooled.reason


def test_the_confirmation_is_judged_when_all_its_seeds_are_archived(claims: Claims) -> None:
    planned = claims.rules.seeds["mini"]

    def frame(seeds: list[int]) -> pd.DataFrame:
        arms = claims.comparisons.confirmed["mini"]
        names = {arms.mmcl_ssl, *arms.mmcl.values(), arms.twin or ""}
        secondary = {f"{of.study}/{of.variant}" for of in claims.rules.secondary.values()}
        outcome = curve(2, noise=0.1)
        return pd.concat(
            [arm(outcome, seeds, name) for name in sorted(names | secondary)], ignore_index=True
        )

    partial = verdicts(evaluated(frame(planned[:-1])), claims, "mini")
    assert (partial.confirmed, partial.confirmed_seeds) == (None, planned[:-1])
    whole = verdicts(evaluated(frame(planned)), claims, "mini")
    assert whole.confirmed is not None
    assert {of.fixed for of in whole.confirmed} == {claims.rules.fixed}
    assert {cell.comparator for cell in whole.confirmed[0].cells} == {"confirmed", "norm_groups_64"}
    assert [of["name"] for of in whole.secondary] == list(claims.rules.secondary)


def test_a_true_zero_is_supported_in_at_most_one_of_twenty_draws_over_three_cells() -> None:
    draws = np.random.default_rng(0).standard_normal((2000, 3, 10))
    supported = [
        any(p is not None and p <= 0.05 for p in holm([p_above(cell) for cell in draw]))
        for draw in draws.tolist()
    ]
    assert np.mean(supported) <= 0.06


def test_intervals_p_values_and_corrections_are_those_of_scipy() -> None:
    values = [0.1, 0.3, 0.2, 0.5]
    found = estimate(dict(enumerate(values)))
    expected = stats.ttest_1samp(values, 0, alternative="greater")
    assert p_above(values) == pytest.approx(expected.pvalue)
    assert found.lower == pytest.approx(expected.confidence_interval(0.95).low)
    assert found.interval == pytest.approx(
        tuple(stats.ttest_1samp(values, 0).confidence_interval())
    )
    assert holm([0.04, 0.01, None, 0.03]) == pytest.approx([0.06, 0.03, None, 0.06])
    assert (estimate({0: 1.0, 1: 2.0}).interval, p_above([1.0, 2.0])) == (None, None)
    low, high = prediction_interval(values)
    assert high - low == pytest.approx(
        2 * stats.t.ppf(0.975, 3) * np.std(values, ddof=1) * math.sqrt(1.25)
    )


def test_the_frontier_is_a_concave_hull_that_stays_at_its_peak() -> None:
    """From (0, 0) straight to (0.1, 0.4), flat from there although a later point is lower."""
    points = [(0.0, 0.0), (0.9, 0.3), (0.1, 0.4), (0.05, 0.1)]
    assert hull_mean(points, 0.2) == pytest.approx((0.1 * 0.2 + 0.1 * 0.4) / 0.2)
    assert hull_mean([(0.0, 0.3), (0.5, 0.3)], 0.2) == pytest.approx(0.3)


def test_ones_own_run_is_compared_with_the_other_seeds_of_the_archive(claims: Claims) -> None:
    outcome = curve(2, noise=0.3)
    frame = pd.concat([arm(outcome, range(6)), arm(curve(2), [3], "/")], ignore_index=True)
    found = list(own_values(evaluated(frame), ONE, claims.rules, CONTEXT))
    assert {of["measure"] for of in found} == {of.name for of in MEASURES}
    assert {len(of["archived"]) for of in found} == {5}, "without the own run's seed"
    assert all(of["inside"] for of in found if of["measure"] == "rate_doublings")
    frame = pd.concat([arm(outcome, range(6)), arm(curve(9), [3], "/")], ignore_index=True)
    far = own_values(evaluated(frame), ONE, claims.rules, CONTEXT)
    assert any(not of["inside"] for of in far if of["of"] == "mmcl_ssl")
