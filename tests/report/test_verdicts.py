"""Verdicts over seeds and the paper's claims: on the archive, and on curves that are made up."""

import math
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from repro.report.contrasts import (
    ABOVE,
    BELOW,
    Contrast,
    Estimate,
    Verdict,
    estimate,
    holm,
    judge,
    p_above,
)
from repro.report.judgements import (
    METRICS,
    JudgedClaim,
    OwnValue,
    combine,
    contrast_of,
    judged_claims,
    own_values,
)
from repro.report.verdicts import (
    LATER,
    CellVerdict,
    MeasureVerdict,
    Verdicts,
    _judge_against_all,
    cell_verdicts,
    verdicts,
)
from ruamel.yaml import YAML
from scipy import stats

from repro.intervals import student
from repro.profile import check, load_profile
from repro.report.claims import Arms, Claim, Claims, load_claims
from repro.report.measures import Context, Evaluations, Value, hull_mean, lost_at_cap
from repro.report.reading import ERRATA
from repro.report.resistance import mechanism
from repro.report.studies import read_study_results
from repro.spec import SpecError
from tests.support.curves import CELLS, GRID, Outcome, arm, evaluated

INFINITY = float("inf")
ONE = Arms(mmcl_ssl="made/up", mmcl={"up": "made/up"}, twins=["made/twin"])


@pytest.fixture(scope="module")
def claims() -> Claims:
    return load_claims()


@pytest.fixture(scope="module")
def archive() -> pd.DataFrame:
    names = ("control", "dose", "maturity", "seeds")
    results = read_study_results("mini")
    frames = [study.frame for study in results if study.name in names]
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def mini(archive: pd.DataFrame, claims: Claims) -> Verdicts:
    context = Context.of(claims, load_profile("mini"))
    return verdicts(evaluated(archive, context), claims, "mini", {}, "proxy")


def measure(found: list[MeasureVerdict], name: str) -> dict[Any, CellVerdict]:
    """Cells of a measure by dataset and size, `pooled` among them."""
    (of,) = (item for item in found if item.measure == name)
    assert of.pooled is not None
    cells: dict[Any, CellVerdict] = {"pooled": of.pooled}
    for cell in of.cells:
        cells[cell.dataset, cell.clean_size] = cell
    return cells


def shown(of: Estimate, scale: float = 100, digits: int = 1) -> tuple[float, float, float]:
    """Mean and interval as a table shows them."""
    assert of.interval is not None
    low, high = of.interval
    mean, low, high = (round(scale * value, digits) for value in (of.mean, low, high))
    return mean, low, high


PRINTED = {
    # Computed apart from this package, from the archived counts: mean and 95% interval.
    "lost_at_cap": [(11.0, 1.8, 20.2), (7.7, 3.5, 11.9), (7.6, -3.6, 18.8), (8.8, 3.6, 13.9)],
    "asr_left_at_rate": [(43.3, 29.7, 57.0), (57.2, 45.3, 69.1), (55.0, 40.2, 69.9), None],
    "rate_doublings": [(2.1, 1.2, 3.0), (2.1, 1.5, 2.8), (2.6, 1.5, 3.8), (2.3, 1.6, 3.0)],
    "frontier_area": [None, None, (9.7, -0.7, 20.1), (16.7, 6.6, 26.9)],
}


@pytest.mark.parametrize("name", PRINTED)
def test_measures_of_archived_seeds_are_those_of_another_program(mini: Verdicts, name: str) -> None:
    scale = 1 if name == "rate_doublings" else 100
    cells = measure(mini.exploratory, name)
    for key, expected in zip([*CELLS, "pooled"], PRINTED[name], strict=True):
        if expected is not None:
            assert shown(cells[key].difference, scale) == pytest.approx(expected, abs=0.051), key


def test_tests_controls_and_marks_of_the_archived_seeds(mini: Verdicts) -> None:
    lost = measure(mini.exploratory, "lost_at_cap")
    corrected = [lost[cell].p_holm for cell in CELLS]
    assert [round(p or 0, 3) for p in corrected] == [0.029, 0.011, 0.067]
    assert lost["cc3m", "100k"].verdict == "not tested (control not run)"
    assert lost["cc6m", "100k"].marks == ["best MMCL + SSL model at the highest rate on 2/5 seeds"]
    largest = lost["cc6m", "200k"]
    assert largest.verdict == "undecided"

    # The twin loses 2.1 points more at the same rates and steps, on three seeds.
    control = largest.control
    assert control is not None
    assert control.holds
    assert control.twin is not None
    assert shown(control.twin) == (-2.1, -5.7, 1.5)
    assert control.loss is not None
    assert round(control.loss.mean, 3) == 0.049
    assert control.cleaned == 5

    with_ssl = largest.control_ssl
    assert with_ssl is not None
    assert with_ssl.twin is not None
    assert shown(with_ssl.twin) == (0.4, -9.6, 10.5)

    rates = measure(mini.exploratory, "rate_doublings")
    assert {cell.verdict for cell in rates.values()} == {"supported"}
    assert rates["cc6m", "100k"].difference.at_least
    assert rates["cc3m", "100k"].marks == ["weak backdoor"]
    assert rates["cc6m", "200k"].marks == []

    # The MMCL + SSL model is the more accurate one after cleaning.
    deployed = measure(mini.exploratory, "accuracy_at_cap")["cc6m", "200k"]
    assert shown(deployed.difference) == (5.9, 0.1, 11.8)
    # Two seeds of CC6M, 100K, have no test, which counts in the family of three.
    assert deployed.verdict == "undecided"

    assert mini.confirmed is None
    assert mini.confirmed_seeds == []
    assert len(mini.planned_seeds) == 10


def test_the_loss_at_the_start_ranks_models(archive: pd.DataFrame, mini: Verdicts) -> None:
    found = mechanism(archive, 5e-4, mini.seeds)
    of_setting = {
        of.pretrain_objective: of
        for of in found.correlations
        if (of.dataset, of.clean_size) == ("cc6m", "200k")
    }
    everyone = of_setting[None]
    assert everyone.models == 37
    assert round(everyone.loss_ssl, 2) == -0.84
    with_ssl = of_setting["mmcl_ssl"]
    assert with_ssl.models == 23
    assert round(with_ssl.loss_ssl, 2) == -0.73


def curve(needs: float, costs: float = 0.0, noise: float = 0.0) -> Any:
    """MMCL models need a rate of 1.5e-4, others `needs` doublings more; each `costs` accuracy."""

    def outcome(objective: str, seed: int, rate: float) -> tuple[float, float]:
        generator = np.random.default_rng([seed, objective == "mmcl"])
        shift = noise * generator.standard_normal()
        if objective == "mmcl_ssl":
            shift += needs
        doublings = math.log2(rate / 1.5e-4) - shift
        accuracy = 0.4 * (1 - costs * math.log2(rate / 1e-4))
        asr = 1 / (1 + 19 * 4**doublings)
        return accuracy, asr

    return outcome


def evaluations_of(*frames: pd.DataFrame) -> Evaluations:
    """Evaluations of several arms."""
    return evaluated(pd.concat(frames, ignore_index=True))


def made(outcome: Any, claims: Claims, seeds: int = 6, **options: Any) -> list[MeasureVerdict]:
    """Verdicts on one arm, whose never-poisoned twin loses as much at each rate."""
    of = arm(outcome, range(seeds), **options)
    twin = arm(outcome, range(seeds), "made/twin", objectives=["mmcl"], **options)
    evaluations = evaluations_of(of, twin)
    return cell_verdicts(evaluations, ONE, claims.rules, "exact")


def test_a_shift_of_two_doublings_is_supported_and_costs_what_a_rate_costs(claims: Claims) -> None:
    """The best MMCL model has a rate of 2e-4, the best other one 8e-4: two doublings, 8%.

    The paper has 1.6 doublings on CC3M, 3.3 on CC6M, and 2.7 in the mean of the three settings.
    """
    found = made(curve(2, costs=0.04, noise=0.1), claims)
    rates = measure(found, "rate_doublings")
    assert rates["pooled"].difference.mean == pytest.approx(2, abs=0.2)
    assert {key: cell.verdict for key, cell in rates.items()} == {
        ("cc3m", "100k"): "supported, of the paper's size",
        ("cc6m", "100k"): "supported, smaller than the paper's",
        ("cc6m", "200k"): "supported, smaller than the paper's",
        "pooled": "supported",
    }
    lost = measure(found, "lost_at_cap")["cc3m", "100k"]
    assert lost.difference.mean == pytest.approx(0.08, abs=0.01)
    assert lost.verdict == "supported, smaller than the paper's"
    assert lost.control is not None and lost.control.holds
    assert {measure.scope for measure in found} == {"exact"}


def test_the_mean_of_one_dataset_is_compared_with_the_papers_of_that_dataset(
    claims: Claims,
) -> None:
    rules = claims.rules.model_copy(update={"cells": [("cc6m", "100k"), ("cc6m", "200k")]})
    evaluations = evaluations_of(arm(curve(2, noise=0.1), range(6)))
    rates = measure(cell_verdicts(evaluations, ONE, rules, "exact"), "rate_doublings")
    assert {cell.verdict for cell in rates.values()} == {"supported, smaller than the paper's"}


@pytest.mark.parametrize(
    ("alone", "together"),
    [
        ([Verdict.SMALLER, Verdict.SMALLER], Verdict.SMALLER),
        ([Verdict.SMALLER, Verdict.SUPPORTED], Verdict.SUPPORTED),
        ([Verdict.LIKE_PAPER, Verdict.SMALLER], Verdict.SUPPORTED),
        ([Verdict.LIKE_PAPER, Verdict.SUPPORTED], Verdict.SUPPORTED),
        ([Verdict.NEGLIGIBLE, Verdict.SMALLER], Verdict.NEGLIGIBLE),
        ([Verdict.SUPPORTED, Verdict.REFUTED], Verdict.UNDECIDED),
    ],
)
def test_smaller_than_the_papers_holds_against_all_comparators(
    alone: list[str], together: str
) -> None:
    """One of them may be a bound, which has no upper limit."""
    place = {"dataset": "cc6m", "clean_size": "200k", "verdict": "", "reason": ""}
    cells = [
        SimpleNamespace(comparator=str(number), alone=of, **place)
        for number, of in enumerate(alone)
    ]
    _judge_against_all(cells, ["0", "1"])  # type: ignore[arg-type]
    assert {cell.verdict for cell in cells} == {together}


def test_a_comparator_without_the_measure_decides_nothing(claims: Claims) -> None:
    """No rate cleans the second kind of MMCL models, which then has no accuracy when cleaned."""

    def better(objective: str, seed: int, rate: float) -> tuple[float, float]:
        return (0.4 if objective == "mmcl" else 0.5) + 0.001 * seed, 0.01

    never = arm(lambda *_: (0.4, 0.9), range(6), "made/hard", objectives=["mmcl"])
    comparators = {"up": "made/up", "hard": "made/hard"}
    arms = Arms(mmcl_ssl="made/up", mmcl=comparators)
    evaluations = evaluations_of(arm(better, range(6)), never)

    judged = cell_verdicts(evaluations, arms, claims.rules, "exact")

    (accuracy,) = (of for of in judged if of.measure == "accuracy_at_cap")
    assert {cell.comparator for cell in accuracy.cells} == {"up"}
    assert {cell.verdict for cell in accuracy.cells} == {"undecided"}


def test_a_measure_that_speaks_against_the_paper_supports_nothing(claims: Claims) -> None:
    def better(objective: str, seed: int, rate: float) -> tuple[float, float]:
        accuracy, asr = curve(0, noise=0.1)(objective, seed, rate)
        if objective == "mmcl_ssl":
            accuracy += 0.05 + 0.001 * seed
        return accuracy, asr

    def words(outcome: Any) -> set[str]:
        cells = measure(made(outcome, claims), "accuracy_at_cap")
        return {cell.verdict for cell in cells.values()}

    assert words(curve(0)) == {"MMCL + SSL not higher"}
    assert words(better) == {"MMCL + SSL higher"}


def test_a_measure_that_is_younger_than_the_rules_is_exploratory(claims: Claims) -> None:
    measures = dict(claims.rules.measures)
    measures["lost_at_cap"] = measures["lost_at_cap"].model_copy(
        update={"fixed": date(2026, 12, 1)}
    )
    rules = claims.rules.model_copy(update={"measures": measures})
    frame = evaluated(arm(curve(2, noise=0.1), range(6)))

    found = cell_verdicts(frame, ONE, rules, "proxy", confirmed=True)

    fixed = {of.measure: of.fixed for of in found}
    assert fixed["lost_at_cap"] == "exploratory"
    assert fixed["rate_doublings"] == "2026-11-27"
    young = measure(found, "lost_at_cap").values()
    assert all(LATER in cell.marks for cell in young)
    old = measure(found, "rate_doublings").values()
    assert not any(LATER in cell.marks for cell in old)


def test_a_shift_too_small_to_count_is_refuted_or_negligible(claims: Claims) -> None:
    none = measure(made(curve(0, noise=0.05), claims), "rate_doublings")
    small = measure(made(curve(0.4, noise=0.05), claims), "rate_doublings")
    assert none["pooled"].verdict == "refuted"
    assert small["pooled"].verdict == "supported, negligible"


def test_a_grid_that_ends_early_supports_and_refutes_nothing(claims: Claims) -> None:
    """No rate cleans MMCL + SSL models, and rates cost nothing: the loss is a lower bound of 0."""
    found = made(curve(9, noise=0.1), claims)
    lost = measure(found, "lost_at_cap")["pooled"]
    assert lost.difference.at_least
    assert lost.difference.mean == 0
    assert lost.verdict == "undecided"
    rates = measure(found, "rate_doublings")["pooled"]
    assert rates.difference.at_least
    assert rates.mmcl_ssl.mean == math.log2(GRID[-1])

    # A grid that ends before it cleans either model tests nothing.
    short = made(curve(2, noise=0.1), claims, rates=GRID[:1])
    assert {of.verdict for of in short} == {"not tested (control failed)"}


def test_an_upper_bound_supports_nothing(claims: Claims) -> None:
    """No rate cleans the MMCL model of one seed of six, which alone would be far harder."""

    def outcome(objective: str, seed: int, rate: float) -> tuple[float, float]:
        if objective == "mmcl" and seed == 0:
            return 0.4, 0.9
        return curve(2, noise=0.1)(objective, seed, rate)  # type: ignore[no-any-return]

    rates = measure(made(outcome, claims), "rate_doublings")
    difference = rates["pooled"].difference
    assert difference.at_most
    assert difference.lower is not None
    assert difference.lower > 0
    assert {cell.verdict for cell in rates.values()} == {"undecided"}


def test_the_control_needs_a_backdoor_a_twin_and_a_loss_not_above_the_twins(claims: Claims) -> None:
    def verdicts_on(*frames: pd.DataFrame) -> list[MeasureVerdict]:
        return cell_verdicts(evaluations_of(*frames), ONE, claims.rules, "exact")

    costly = arm(curve(2, costs=0.2), range(5))
    alone = verdicts_on(costly)
    assert measure(alone, "lost_at_cap")["pooled"].verdict == "not tested (control not run)"
    assert measure(alone, "rate_doublings")["pooled"].verdict.startswith("supported")

    # The twin loses nothing where the MMCL model loses a fifth.
    twin = arm(curve(0), range(5), "made/twin", objectives=["mmcl"])
    worse = verdicts_on(costly, twin)
    assert measure(worse, "lost_at_cap")["pooled"].verdict == "not tested (control failed)"

    # Without a twin a model that loses hardly anything is the paper's own control.
    gain = verdicts_on(arm(curve(2), range(5)))
    control = measure(gain, "lost_at_cap")["cc3m", "100k"].control
    assert control is not None
    assert control.holds
    assert control.twin is None

    none = verdicts_on(arm(curve(2), range(5), start=(0.4, 0.0)))[0]
    assert none.verdict == "not tested (control failed)"
    assert none.cells[0].reason == "the MMCL models have no backdoor"


def test_a_verdict_holds_only_against_all_comparators(claims: Claims) -> None:
    """The second kind of MMCL models needs as high a rate as the MMCL + SSL models."""
    easy = curve(2, noise=0.1)

    def hard(_: Any, seed: int, rate: float) -> tuple[float, float]:
        return easy("mmcl_ssl", seed + 50, rate)  # type: ignore[no-any-return]

    first = arm(easy, range(6))
    second = arm(hard, range(6), "made/hard", objectives=["mmcl"])
    evaluations = evaluations_of(first, second)
    comparators = {"up": "made/up", "hard": "made/hard"}
    arms = Arms(mmcl_ssl="made/up", mmcl=comparators)

    judged = cell_verdicts(evaluations, arms, claims.rules, "exact")

    (rates,) = (of for of in judged if of.measure == "rate_doublings")
    assert {(cell.comparator, cell.alone, cell.verdict) for cell in rates.cells} == {
        ("up", "supported, of the paper's size", "undecided"),
        ("up", "supported, smaller than the paper's", "undecided"),
        ("hard", "refuted", "undecided"),
    }
    assert rates.pooled is not None
    assert "against hard: refuted" in rates.pooled.reason


def test_the_confirmation_is_judged_when_all_its_seeds_are_archived(claims: Claims) -> None:
    planned = claims.rules.seeds["mini"]
    arms = claims.comparisons.confirmed["mini"]
    secondary = claims.rules.secondary
    names = {arms.mmcl_ssl, *arms.mmcl.values(), *arms.twins}
    names |= {f"{of.study}/{of.variant}" for of in secondary.values()}
    frames = [arm(curve(2, noise=0.1), planned, name) for name in sorted(names)]
    evaluations = evaluations_of(*frames)
    done = dict.fromkeys([of.study for of in secondary.values()], planned)
    done["confirmation"] = planned

    def with_seeds(archived: dict[str, list[int]]) -> Verdicts:
        return verdicts(evaluations, claims, "mini", archived, "proxy")

    partial = with_seeds(done | {"confirmation": planned[:-1]})
    assert partial.confirmed is None
    assert partial.confirmed_seeds == planned[:-1]

    whole = with_seeds(done)
    assert whole.confirmed
    assert {of.fixed for of in whole.confirmed} == {"2026-11-27"}
    comparators = {cell.comparator for cell in whole.confirmed[0].cells}
    assert comparators == {"confirmed", "norm_groups_64"}
    assert whole.arms == arms
    assert [of.name for of in whole.secondary] == list(secondary)

    partial = with_seeds(done | {secondary["matched"].study: planned[:-1]})
    assert len(partial.secondary) == 1
    assert partial.arms.twins == ["confirmation/twin_mmcl"]


def test_power_grows_with_seeds_and_a_true_zero_is_supported_in_one_of_twenty_draws() -> None:
    """Some of three cells; two standard errors of a share of 5% in 1,000 draws are 1.4%."""

    def is_supported(draw: list[list[float]]) -> bool:
        corrected = holm([p_above(cell) for cell in draw])
        return any(p is not None and p <= 0.05 for p in corrected)

    def supported(mean: float) -> list[float]:
        """The share of draws that are supported, by number of seeds."""
        shares = []
        for seeds in (3, 5, 10, 20):
            generator = np.random.default_rng(seeds)
            draws = generator.normal(mean, 5, (1000, 3, seeds)).tolist()
            shares.append(float(np.mean([is_supported(draw) for draw in draws])))
        return shares

    assert max(supported(0)) <= 0.064
    power = supported(5)
    assert power == sorted(power)
    assert power[0] < 0.5
    assert power[-1] > 0.99


def test_intervals_p_values_and_corrections_are_those_of_scipy() -> None:
    values = [0.1, 0.3, 0.2, 0.5]
    found = estimate({seed: Value(value) for seed, value in enumerate(values)})

    above = stats.ttest_1samp(values, 0, alternative="greater")
    lower = above.confidence_interval(0.95).low
    assert p_above(values) == pytest.approx(above.pvalue)
    assert found.lower == pytest.approx(lower)

    both_sides = stats.ttest_1samp(values, 0).confidence_interval()
    assert found.interval == pytest.approx(tuple(both_sides))

    corrected = holm([0.04, 0.01, None, 0.03])
    assert corrected == pytest.approx([0.09, 0.04, None, 0.09])

    # Two seeds are too few.
    two = {0: Value(1.0), 1: Value(2.0)}
    assert estimate(two).interval is None
    assert p_above([1.0, 2.0]) is None

    # The mean of one further value lies in a wider interval.
    quantile = stats.t.ppf(0.975, 3)
    spread = np.std(values, ddof=1)
    further = student(values, 0.95, further=1)
    assert np.ptp(further) == pytest.approx(2 * quantile * spread * math.sqrt(1.25))


def test_a_negative_weight_turns_a_bound_round() -> None:
    lower = Value(0.3, at_least=True)
    assert lower.times(-2) == Value(-0.6, at_most=True)
    assert lower.times(2) == Value(0.6, at_least=True)

    upper = Value(0.1, at_most=True)
    total = upper.plus(Value(0.2, at_least=True))
    assert total == Value(pytest.approx(0.3), at_least=True, at_most=True)


@pytest.mark.parametrize(
    ("limits", "p", "verdict"),
    [
        ((0.05, 0.3), 0.01, "supported"),
        ((0.05, 0.3), 0.06, "undecided"),
        ((0.01, 0.08), 0.01, "supported, negligible"),
        ((-0.2, 0.08), 0.5, "refuted"),
        ((-INFINITY, 0.3), 0.01, "undecided"),
        ((-0.2, INFINITY), 0.5, "undecided"),
        ((0.25, 0.3), 0.01, "supported, of the paper's size"),
        ((0.15, 0.19), 0.01, "supported, smaller than the paper's"),
        (None, None, "undecided"),
    ],
)
def test_a_contrast_is_judged_by_its_limits_and_its_test(
    limits: tuple[float, float] | None, p: float | None, verdict: str
) -> None:
    """What counts is at least 0.1, and the paper has 0.2 where the verdict speaks of it."""
    paper = [0.2] if "paper" in verdict else []
    above = Contrast(lost_at_cap, {}, ABOVE, counts=(0.1, INFINITY), paper=paper)
    assert judge(above, limits, p) == verdict
    if paper:
        return

    below = Contrast(lost_at_cap, {}, BELOW, counts=(-INFINITY, -0.1))
    mirrored = (-limits[1], -limits[0]) if limits else None
    assert judge(below, mirrored, p) == verdict


def test_the_frontier_is_a_concave_hull_that_stays_at_its_peak() -> None:
    """From (0, 0) straight to (0.1, 0.4), flat from there although a later point is lower."""
    points = [(0.0, 0.0), (0.9, 0.3), (0.1, 0.4), (0.05, 0.1)]
    rising, flat = 0.1 * 0.2, 0.1 * 0.4
    assert hull_mean(points, 0.2) == pytest.approx((rising + flat) / 0.2)

    level = [(0.0, 0.3), (0.5, 0.3)]
    assert hull_mean(level, 0.2) == pytest.approx(0.3)


def test_ones_own_run_is_compared_with_the_other_seeds_of_the_archive(claims: Claims) -> None:
    archived = arm(curve(2, noise=0.3), range(6))

    def values_in(frame: pd.DataFrame) -> list[OwnValue]:
        return list(own_values(evaluated(frame), ONE, claims.rules))

    own = arm(curve(2), [3], "/")
    near = values_in(pd.concat([archived, own], ignore_index=True))
    assert {of.measure for of in near} == {*claims.rules.measures}
    assert {len(of.archived) for of in near} == {5}, "without the own run's seed"
    assert all(of.inside for of in near if of.measure == "rate_doublings")

    own = arm(curve(9), [3], "/")
    frame = pd.concat([archived, own])
    far = values_in(frame)
    assert any(not of.inside for of in far if of.of == "mmcl_ssl")

    is_done = (frame.study != "") | (frame.learning_rate != GRID[-1])
    rates = [
        max(of.archived)
        for of in values_in(frame[is_done])
        if of.of == "mmcl_ssl" and of.measure == "rate_doublings"
    ]
    assert max(rates) <= math.log2(GRID[-2]), "at the rates that both have"


def claim(claims: Claims, **changed: Any) -> Claim:
    """At most 5% is expected, at most 10% keeps the direction."""
    of = next(claim for claim in claims.claims if claim.id == "mmcl-cleans")
    return Claim.model_validate({**of.model_dump(exclude_unset=True), **changed})


def test_the_file_has_the_papers_numbers_and_says_when_each_claim_was_fixed(claims: Claims) -> None:
    assert len(claims.claims) == 22
    assert len(claims.errata) == 22
    assert {of.metric for of in claims.claims} == set(METRICS)
    moved = [of.id for of in claims.claims if of.fixed]
    assert moved == ["poison-in-the-cleaning-set", "adding-ssl-hardens"]
    assert claims.rules.measures.keys() >= {"rate_doublings", "lost_at_cap"}
    assert {of.bears_on for of in claims.errata} == set(ERRATA)
    drop = claims.errata[0].result
    assert drop == pytest.approx(1 - 0.1305 / 0.2386)


@pytest.mark.parametrize(
    ("interval", "absolute", "verdict"),
    [
        ((0.01, 0.04), False, "supported"),
        ((0.01, 0.04), True, "direction only"),
        ((-0.20, -0.10), False, "supported"),
        ((0.01, 0.06), False, "undecided"),
        ((0.01, 0.06), True, "direction only"),
        ((0.06, 0.12), True, "undecided"),
        ((0.101, 0.30), False, "refuted"),
        ((0.01, INFINITY), False, "undecided"),
        ((0.11, INFINITY), False, "refuted"),
    ],
)
def test_an_interval_is_judged_by_the_band_and_by_that_of_the_direction(
    claims: Claims, interval: tuple[float, float], absolute: bool, verdict: str
) -> None:
    contrast = contrast_of(claim(claims, absolute=absolute), {}, stand_in=True)
    assert judge(contrast, interval) == verdict


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        (["supported", "supported"], "supported"),
        (["supported", "direction only"], "direction only"),
        (["supported", "not run"], "undecided"),
        (["supported", "not tested"], "not tested"),
        (["refuted", "undecided"], "refuted"),
        (["not run", "not run"], "not run"),
        ([], "not run"),
    ],
)
def test_a_claim_is_as_good_as_its_worst_cell(verdicts: Any, together: str) -> None:
    assert combine(verdicts) == together


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "taste"}, r"claims\.0\.metric"),
        ({"expect": {"at_least": 0.1, "at_most": 0.2}}, "give exactly one of"),
        ({"expect": {"about": 0.1}}, "about needs a positive margin"),
        ({"loss": None}, "a claim about cleaning names them"),
        ({"datasets": []}, r"claims\.0\.datasets"),
        ({"id": "mmcl-ssl-fails"}, "'mmcl-ssl-fails' is used twice"),
        ({"surplus": 1}, r"claims\.0\.surplus"),
        ({"comparators": ["confirmed"]}, "mmcl: has confirmed, norm_groups_64; allowed"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused_with_its_field(
    root: Path, change: dict[str, Any], message: str
) -> None:
    content = YAML(typ="safe").load(root / "specs/claims.yaml")
    (content["rules"] if "comparators" in change else content["claims"][0]).update(change)
    with pytest.raises(SpecError, match=message):
        check(Claims, content, "claims.yaml")


def judged(
    claims: Claims, outcome: Outcome, seeds: int = 4, **options: Any
) -> dict[str, JudgedClaim]:
    """All claims on the report's own runs, in which MMCL and SSL alone clean like both."""
    both = arm(outcome, range(seeds), "/", **options)
    mmcl = both.assign(loss="mmcl", run=both.run + "mmcl")
    ssl = both.assign(loss="ssl", run=both.run + "ssl")
    evaluations = evaluations_of(both, mmcl, ssl)
    found = verdicts(evaluations, claims, "smoke", {}, "exact")
    claims_found = judged_claims(evaluations, claims, found, "exact")
    return {claim.id: claim for claim in claims_found}


def outcome_of(objective: str, seed: int, rate: float) -> tuple[float, float]:
    """MMCL models are cleaned at no loss, the others lose a half; a thousandth between seeds."""
    kept = 1.0 if objective == "mmcl" else 0.5
    return 0.24 * (kept - 0.001 * seed), 0.01


def test_every_metric_on_models_whose_answer_is_known(claims: Claims) -> None:
    found = judged(claims, outcome_of, start=(0.24, 0.995))
    verdict = {name: claim.verdict for name, claim in found.items()}
    supported = {"mmcl-cleans", "mmcl-cleans-to-low-asr", "mmcl-ssl-fails", "drop-45-cc6m"}
    supported |= {"start-asr", "start-accuracy-cc6m", "starts-are-similar"}
    # The interval of the last one has no width, at zero.
    supported |= {"ssl-finetuning-lowers-asr", "ssl-raises-accuracy"}
    assert {verdict[name] for name in supported} == {"supported"}
    assert verdict["drop-90-200k"] == "undecided"
    assert verdict["start-accuracy-cc3m"] == "undecided"
    assert verdict["mmcl-finetuning-keeps-asr"] == "refuted"
    assert verdict["poison-in-the-cleaning-set"] == "not run"

    # The best evaluation is the only one, and so the last of its run.
    (cell, _) = found["more-epochs-do-not-hurt"].evidence
    assert cell.verdict == "undecided"
    assert cell.estimate is None
    assert cell.without == 4

    drop = found["drop-45-cc6m"]
    assert drop.evidence[0].estimate is not None
    assert drop.expect == "45% within 10 points"


def test_failure_is_no_evidence_where_mmcl_models_fail_as_well(claims: Claims) -> None:
    found = judged(claims, lambda *_: (0.12, 0.01), start=(0.24, 0.995))
    assert found["mmcl-ssl-fails"].verdict == "not tested"
    assert "twin" in found["mmcl-ssl-fails"].evidence[0].note
    assert found["mmcl-cleans"].verdict == "refuted"


def test_a_model_that_no_rate_cleans_is_a_lower_bound_and_no_success(claims: Claims) -> None:
    found = judged(claims, lambda *_: (0.24, 0.5), start=(0.24, 0.995))
    (cell, _) = found["mmcl-cleans"].evidence
    assert cell.estimate is not None
    assert cell.estimate.mean == 0
    assert cell.estimate.at_least
    assert found["mmcl-cleans"].verdict == "undecided"
