"""Verdicts over seeds and the paper's claims: on the archive, and on curves that are made up."""

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML
from scipy import stats

from repro.intervals import student
from repro.profile import check, load_profile
from repro.report.cells import OBJECTIVES
from repro.report.claims import Arms, Claim, Claims, Condition, Rules, load_claims
from repro.report.comparisons import (
    LATER,
    Judged,
    Verdicts,
    against_all,
    judged_cells,
    under_conditions,
    verdicts,
)
from repro.report.measures import KEYS, MAIN, Context, hull_mean, measured
from repro.report.points import archived_runs, evaluations
from repro.report.reading import ERRATA
from repro.report.seeds import (
    ABOVE,
    BELOW,
    SUM,
    Estimate,
    Expected,
    Verdict,
    contrast,
    difference,
    estimate,
    holm,
    judge,
    p_above,
    pooled,
    seeds_of,
)
from repro.report.statements import (
    METRICS,
    JudgedClaim,
    OwnValue,
    combine,
    expected_of,
    judged_claims,
    own_starts,
    own_values,
)
from repro.spec import SpecError
from repro.study.spec import archive_of
from tests.support.curves import CELLS, GRID, Outcome, arm, evaluated

INFINITY = math.inf
ONE = Arms(mmcl_ssl="made/up", mmcl={"up": "made/up"}, twins=["made/twin"])
TWO = Arms(mmcl_ssl="made/up", mmcl={"up": "made/up", "hard": "made/hard"})
CC3M, CC6M, CC6M_200K = CELLS


@pytest.fixture(scope="module")
def claims() -> Claims:
    return load_claims()


@pytest.fixture(scope="module")
def rules(claims: Claims) -> Rules:
    return claims.rules


# Over seeds: estimates, tests, corrections, contrasts, and the judge.


def frame_of(ends: Mapping[int, tuple[float, float, float]]) -> pd.DataFrame:
    """Value, low and high by seed."""
    return pd.DataFrame.from_dict(ends, "index", columns=["value", "low", "high"])


def exact(*values: float) -> pd.DataFrame:
    return frame_of({seed: (value, value, value) for seed, value in enumerate(values)})


def test_intervals_p_values_and_corrections_are_those_of_scipy() -> None:
    values = [0.1, 0.3, 0.2, 0.5]
    found = estimate(exact(*values))

    above = stats.ttest_1samp(values, 0, alternative="greater")
    assert p_above(values) == pytest.approx(above.pvalue)
    assert found.lower == pytest.approx(above.confidence_interval(0.95).low)
    both_sides = stats.ttest_1samp(values, 0).confidence_interval()
    assert found.interval == pytest.approx(tuple(both_sides))
    assert holm([0.04, 0.01, None, 0.03]) == pytest.approx([0.09, 0.04, None, 0.09])

    # Two seeds are too few.
    assert estimate(exact(1.0, 2.0)).interval is None
    assert p_above([1.0, 2.0]) is None

    # The mean of one further value lies in a wider interval.
    quantile, spread = stats.t.ppf(0.975, 3), np.std(values, ddof=1)
    further = student(values, 0.95, further=1)
    assert np.ptp(further) == pytest.approx(2 * quantile * spread * math.sqrt(1.25))


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


def values_of(rows: Sequence[tuple[str, int, float, float, float]]) -> pd.DataFrame:
    """Accuracy lost of models of one setting: objective, seed, value, low and high."""
    place = {"arm": "made/up", "dataset": "cc3m", "clean_size": "100k", "loss": "mmcl_ssl"}
    names = ("pretrain_objective", "seed", "value", "low", "high")
    known = [{**place, **dict(zip(names, row, strict=True)), "measure": "lost"} for row in rows]
    return pd.DataFrame(known).set_index([*KEYS, "measure", "seed"]).sort_index()


def test_a_difference_has_the_seeds_of_both_models_and_turns_the_bound_of_mmcl_round() -> None:
    values = values_of(
        [
            ("mmcl", 0, 0.1, -INFINITY, 0.1),
            ("mmcl", 1, 0.2, 0.2, 0.2),
            ("mmcl", 2, 0.3, 0.3, 0.3),
            ("mmcl_ssl", 0, 0.5, 0.5, 0.5),
            ("mmcl_ssl", 1, 0.5, 0.5, INFINITY),
            ("mmcl_ssl", 3, 0.9, 0.9, 0.9),
        ]
    )
    found = contrast(values, difference(["made/up"], ["made/up"], *CC3M))
    total = seeds_of(found, "lost")
    assert total.value.to_dict() == pytest.approx({0: 0.4, 1: 0.3})
    assert total.low.to_dict() == pytest.approx({0: 0.4, 1: 0.3})
    assert [*total.high] == [INFINITY, INFINITY]
    assert estimate(total).at_least
    assert not estimate(total).at_most
    assert seeds_of(found, "lost", "mmcl").value.to_dict() == {0: 0.1, 1: 0.2}


def test_a_mean_over_settings_has_the_seeds_of_all_and_their_bounds() -> None:
    def setting(ends: dict[int, tuple[float, float, float]]) -> pd.DataFrame:
        frame = pd.concat({SUM: frame_of(ends)}, axis=1)
        return pd.concat({"lost": frame}, names=["measure", "seed"])

    first = setting({0: (0.1, 0.1, 0.1), 1: (0.2, 0.2, 0.2), 2: (0.3, 0.3, INFINITY)})
    second = setting({0: (0.3, 0.3, 0.3), 1: (0.4, -INFINITY, 0.4)})
    found = seeds_of(pooled([first, second]), "lost")
    assert found.value.to_dict() == pytest.approx({0: 0.2, 1: 0.3})
    # The lower bound is of a seed that the second setting lacks.
    assert not estimate(found).at_least
    assert estimate(found).at_most


@pytest.mark.parametrize(
    ("limits", "p", "verdict"),
    [
        ((0.05, 0.3), 0.01, "supported"),
        ((0.05, 0.3), 0.06, "undecided"),
        ((0.01, 0.08), 0.01, "supported, negligible"),
        ((-0.2, 0.08), 0.5, "refuted"),
        ((-INFINITY, 0.3), 0.01, "undecided"),
        ((-0.2, INFINITY), 0.5, "undecided"),
        ((0.01, INFINITY), 0.01, "supported"),
        ((0.25, 0.3), 0.01, "supported, of the paper's size"),
        ((0.15, 0.19), 0.01, "supported, smaller than the paper's"),
        ((0.15, INFINITY), 0.01, "supported"),
        (None, None, "undecided"),
    ],
)
def test_a_mean_is_judged_by_its_limits_and_its_test(
    limits: tuple[float, float] | None, p: float | None, verdict: str
) -> None:
    """What counts is at least 0.1, and the paper has 0.2. Below zero it is the same."""
    paper = [0.2] if limits and limits[0] > 0.1 else []
    assert judge(Expected(ABOVE, (0.1, INFINITY), paper), limits, p) == verdict
    if not paper:
        mirrored = (-limits[1], -limits[0]) if limits else None
        assert judge(Expected(BELOW, (-INFINITY, -0.1)), mirrored, p) == verdict


@pytest.mark.parametrize(
    ("alone", "together"),
    [
        ([Verdict.SMALLER, Verdict.SMALLER], Verdict.SMALLER),
        ([Verdict.SMALLER, Verdict.SUPPORTED], Verdict.SUPPORTED),
        ([Verdict.LIKE_PAPER, Verdict.SMALLER], Verdict.SUPPORTED),
        ([Verdict.LIKE_PAPER, Verdict.SUPPORTED], Verdict.SUPPORTED),
        ([Verdict.NEGLIGIBLE, Verdict.SMALLER], Verdict.NEGLIGIBLE),
        ([Verdict.SUPPORTED, Verdict.REFUTED], Verdict.UNDECIDED),
        ([Verdict.SUPPORTED, Verdict.UNDECIDED], Verdict.UNDECIDED),
        ([Verdict.REFUTED, Verdict.REFUTED], Verdict.REFUTED),
    ],
)
def test_a_verdict_holds_against_all_comparators(alone: list[str], together: str) -> None:
    """One that supports may be a bound, which has no upper limit."""
    assert against_all(alone) == together
    assert against_all(alone[::-1]) == together


def test_the_frontier_is_a_concave_hull_that_stays_at_its_peak() -> None:
    """From (0, 0) straight to (0.1, 0.4), flat from there although a later point is lower."""
    points = [(0.0, 0.0), (0.9, 0.3), (0.1, 0.4), (0.05, 0.1)]
    rising, flat = 0.1 * 0.2, 0.1 * 0.4
    assert hull_mean(points, 0.2) == pytest.approx((rising + flat) / 0.2)
    assert hull_mean([(0.0, 0.3), (0.5, 0.3)], 0.2) == pytest.approx(0.3)


# MMCL + SSL against MMCL, on curves that are made up.


def curve(needs: float, costs: float = 0.0, noise: float = 0.1) -> Outcome:
    """MMCL models need a rate of 1.5e-4, others `needs` doublings more, give or take `noise` by
    seed; each doubling beyond 1e-4 `costs` a share of the accuracy.
    """

    def outcome(objective: str, seed: int, rate: float) -> tuple[float, float]:
        extra = needs + noise * (seed % 3 - 1) if objective == "mmcl_ssl" else 0.0
        doublings = math.log2(rate / 1.5e-4) - extra
        accuracy = 0.4 * (1 - costs * math.log2(rate / 1e-4))
        return accuracy, 1 / (1 + 19 * 4**doublings)

    return outcome


def shifted(by: float, noise: float = 0.001) -> Outcome:
    """All models are cleaned by any rate; MMCL + SSL models are more accurate."""

    def outcome(objective: str, seed: int, rate: float) -> tuple[float, float]:
        return 0.4 + (by + noise * (seed % 3 - 1)) * (objective == "mmcl_ssl"), 0.01

    return outcome


def cells_of(
    rules: Rules, *frames: pd.DataFrame, arms: Arms = ONE, confirmed: bool = False
) -> list[Judged]:
    by_arm = evaluated(pd.concat(frames, ignore_index=True))
    return judged_cells(measured(by_arm), by_arm, arms, rules, confirmed)


def made(outcome: Outcome, rules: Rules, seeds: int = 6, **options: Any) -> list[Judged]:
    """One arm, whose never-poisoned twin loses as much at each rate."""
    twin = arm(outcome, range(seeds), "made/twin", objectives=["mmcl"], **options)
    return cells_of(rules, arm(outcome, range(seeds), **options), twin)


def by_setting(found: Sequence[Judged], measure: str) -> dict[Any, Judged]:
    """Cells of a measure by setting; that over all settings has the key None."""
    return {cell.of.setting: cell for cell in found if cell.measure.name == measure}


def words(found: Sequence[Judged], measure: str) -> set[str]:
    return {cell.verdict for cell in by_setting(found, measure).values()}


def never(objective: str, seed: int, rate: float) -> tuple[float, float]:
    """No rate cleans a model."""
    return 0.4, 0.9


def but_one(objective: str, seed: int, rate: float) -> tuple[float, float]:
    """No rate cleans the MMCL model of one seed of six."""
    cleaned = (objective, seed) != ("mmcl", 0)
    return curve(2)(objective, seed, rate) if cleaned else (0.4, 0.9)


@pytest.mark.parametrize(
    ("outcome", "options", "measure", "verdict"),
    [
        (curve(2), {"seeds": 2}, "rate_doublings", "undecided"),
        (curve(0), {}, "rate_doublings", "refuted"),
        (curve(0.4), {}, "rate_doublings", "supported, negligible"),
        (shifted(0), {}, "accuracy_at_cap", "MMCL + SSL not higher"),
        (shifted(0.008), {}, "accuracy_at_cap", "MMCL + SSL higher, negligible"),
        (shifted(0.05), {}, "accuracy_at_cap", "MMCL + SSL higher"),
        # No rate cleans MMCL + SSL models, and rates cost nothing: at least no loss.
        (curve(9), {}, "lost_at_cap", "undecided"),
        (but_one, {}, "rate_doublings", "undecided"),
        # A grid that ends before it cleans either model tests nothing.
        (curve(2), {"rates": GRID[:1]}, "rate_doublings", "not tested (control failed)"),
        (never, {}, "asr_left_at_rate", "not tested (control failed)"),
        (curve(2), {"start": (0.4, 0.0)}, "rate_doublings", "not tested (control failed)"),
    ],
)
def test_a_setting_whose_verdict_is_known(
    rules: Rules, outcome: Outcome, options: dict[str, Any], measure: str, verdict: str
) -> None:
    found = made(outcome, rules, cells=[CC6M], **options)
    assert words(found, measure) == {verdict}


def test_a_shift_of_two_doublings_is_supported_and_costs_what_a_rate_costs(rules: Rules) -> None:
    """The best MMCL model has a rate of 2e-4, the best other one 8e-4: two doublings, 8%.

    The paper has 1.6 doublings on CC3M, 3.3 on CC6M, and 2.7 in the mean of the three settings.
    """
    found = made(curve(1.9, costs=0.04), rules)
    rates = by_setting(found, "rate_doublings")
    assert rates[None].difference.mean == pytest.approx(1.9, abs=0.02)
    assert {key: cell.verdict for key, cell in rates.items()} == {
        CC3M: "supported, of the paper's size",
        CC6M: "supported, smaller than the paper's",
        CC6M_200K: "supported, smaller than the paper's",
        None: "supported",
    }
    lost = by_setting(found, "lost_at_cap")[CC3M]
    assert lost.difference.mean == pytest.approx(0.08)
    assert lost.verdict == "supported, smaller than the paper's"
    assert lost.of.controls["mmcl"].holds


def test_tests_are_corrected_over_settings_and_one_that_lacks_seeds_counts(rules: Rules) -> None:
    frames = [arm(curve(1), range(6 if cell != CC6M else 2), cells=[cell]) for cell in CELLS]
    rates = by_setting(cells_of(rules, *frames), "rate_doublings")
    one = rates[CC3M].p
    assert one
    assert [rates[cell].p_holm for cell in CELLS] == [
        pytest.approx(3 * one),
        None,
        pytest.approx(3 * one),
    ]
    assert rates[CC6M].reason == "fewer than 3 seeds"
    assert rates[None].difference.seeds == 2, "of all settings"


def test_the_mean_of_one_dataset_is_compared_with_the_papers_of_that_dataset(rules: Rules) -> None:
    of_cc6m = rules.model_copy(update={"cells": [CC6M, CC6M_200K]})
    found = cells_of(of_cc6m, arm(curve(2), range(6)))
    assert words(found, "rate_doublings") == {"supported, smaller than the paper's"}


def test_a_bound_is_told_as_one(rules: Rules) -> None:
    found = made(curve(9), rules, cells=[CC6M])
    rates, lost = (by_setting(found, name)[None] for name in ("rate_doublings", "lost_at_cap"))
    assert rates.difference.at_least
    assert rates.mmcl_ssl.mean == math.log2(GRID[-1])
    assert lost.difference.at_least
    assert lost.difference.mean == 0
    assert lost.reason.startswith("a bound")

    upper = by_setting(made(but_one, rules, cells=[CC6M]), "rate_doublings")[CC6M].difference
    assert upper.at_most
    assert upper.lower is not None
    assert upper.lower > 0, "it would be supported"


def test_a_measure_that_is_younger_than_the_rules_is_exploratory(rules: Rules) -> None:
    young = rules.measures["lost_at_cap"].model_copy(update={"fixed": date(2026, 12, 1)})
    later = rules.model_copy(update={"measures": {**rules.measures, "lost_at_cap": young}})
    frame = arm(curve(2), range(3), cells=[CC6M])

    found = cells_of(later, frame, confirmed=True)

    fixed = {cell.measure.name: (cell.fixed, LATER in cell.marks) for cell in found}
    assert fixed["lost_at_cap"] == ("exploratory", True)
    assert fixed["rate_doublings"] == ("2026-11-27", False)
    unconfirmed = {(cell.fixed, LATER in cell.marks) for cell in cells_of(later, frame)}
    assert unconfirmed == {("exploratory", False)}


@pytest.mark.parametrize(
    ("poisoned", "twin", "holds", "reason"),
    [
        (curve(2, costs=0.2), None, None, "too few never-poisoned twins at the same rates"),
        (curve(2, costs=0.2), curve(2, costs=0.2), True, "loses less than 5% of the accuracy more"),
        # The twin loses nothing where the MMCL model loses a fifth.
        (curve(2, costs=0.2), curve(2), False, "may lose 5% of the accuracy more than the twin"),
        # Without a twin a model that loses hardly anything is the paper's own control.
        (curve(2), None, True, "loses less than 5% of the accuracy"),
        (never, None, False, "MMCL models were cleaned on 0 of 5 seeds"),
    ],
)
def test_the_control_needs_a_cleaned_model_and_a_loss_not_above_its_twins(
    rules: Rules, poisoned: Outcome, twin: Outcome | None, holds: bool | None, reason: str
) -> None:
    frames = [arm(poisoned, range(5), cells=[CC6M])]
    if twin:
        frames.append(arm(twin, range(5), "made/twin", objectives=["mmcl"], cells=[CC6M]))
    found = cells_of(rules, *frames)
    lost = by_setting(found, "lost_at_cap")
    control = lost[CC6M].of.controls["mmcl"]
    assert control.holds is holds
    assert control.reason.startswith(reason)
    assert (control.twin is None) == (twin is None)

    word = {None: "not tested (control not run)", False: "not tested (control failed)"}
    assert (lost[CC6M].verdict in word.values()) == (not holds)
    if not holds:
        assert words(found, "lost_at_cap") == {word[holds]}
    # The learning rate that cleans needs only that CleanCLIP removes the backdoor of MMCL models.
    assert words(found, "rate_doublings").isdisjoint(word.values()) == control.removes


def test_without_a_backdoor_there_is_no_control(rules: Rules) -> None:
    found = cells_of(rules, arm(curve(2), range(3), cells=[CC6M], start=(0.4, 0.0)))
    assert found[0].reason == "the MMCL models have no backdoor"


def test_a_second_comparator_that_needs_as_high_a_rate_leaves_it_undecided(rules: Rules) -> None:
    def hard(_: Any, seed: int, rate: float) -> tuple[float, float]:
        return curve(2)("mmcl_ssl", seed, rate)

    second = arm(hard, range(6), "made/hard", objectives=["mmcl"])
    found = cells_of(rules, arm(curve(2), range(6)), second, arms=TWO)

    rates = [cell for cell in found if cell.measure.name == "rate_doublings"]
    assert {
        (cell.of.comparator, cell.alone, cell.verdict) for cell in rates if cell.of.setting
    } == {
        ("up", "supported, of the paper's size", "undecided"),
        ("up", "supported, smaller than the paper's", "undecided"),
        ("hard", "refuted", "undecided"),
    }
    [of_all] = [cell for cell in rates if not cell.of.setting]
    assert of_all.of.comparator == "up"
    assert "against hard: refuted" in of_all.reason


def test_a_comparator_without_the_measure_decides_nothing(rules: Rules) -> None:
    """No rate cleans the second kind of MMCL models, which then has no accuracy when cleaned."""
    hard = arm(never, range(3), "made/hard", objectives=["mmcl"], cells=[CC6M])
    found = cells_of(rules, arm(shifted(0.1), range(3), cells=[CC6M]), hard, arms=TWO)
    accuracy = by_setting(found, "accuracy_at_cap")
    assert {cell.of.comparator for cell in accuracy.values()} == {"up"}
    assert accuracy[CC6M].alone == "MMCL + SSL higher"
    assert words(found, "accuracy_at_cap") == {"undecided"}


def test_the_confirmation_is_judged_when_all_its_seeds_are_archived(claims: Claims) -> None:
    planned = [15, 16, 17]
    rules = claims.rules.model_copy(update={"seeds": {"mini": planned}})
    claims = claims.model_copy(update={"rules": rules})
    arms, secondary = claims.comparisons.confirmed["mini"], claims.rules.secondary
    names = {arms.mmcl_ssl, *arms.mmcl.values(), *arms.twins}
    names |= {f"{of.study}/{of.variant}" for of in secondary.values()}
    frames = [arm(curve(2), planned, name, cells=[CC6M]) for name in sorted(names)]
    by_arm = evaluated(pd.concat(frames, ignore_index=True))
    values = measured(by_arm)
    done: dict[str, Collection[int]] = dict.fromkeys((n.split("/")[0] for n in names), planned)

    def with_seeds(archived: dict[str, Collection[int]]) -> Verdicts:
        return verdicts(values, by_arm, claims, "mini", done | archived)

    partial = with_seeds({"confirmation": planned[:-1]})
    assert not partial.confirmed
    assert partial.confirmed_seeds == planned[:-1]

    whole = with_seeds({})
    assert {of.fixed for of in whole.confirmed} == {"2026-11-27"}
    assert {cell.of.comparator for cell in whole.confirmed} == {"confirmed", "norm_groups_64"}
    assert whole.arms == arms
    assert whole.seeds == planned
    assert [*whole.secondary] == [*secondary]

    partial = with_seeds({secondary["matched"].study: planned[:-1]})
    assert [*partial.secondary] == ["held_out"]
    assert partial.arms.twins == ["confirmation/twin_mmcl"]


def test_a_condition_has_its_own_settings_rate_seeds_and_measures(rules: Rules) -> None:
    """Each draw has a seed of its own, and an MMCL model as weak as the rules mark."""
    draws = [arm(curve(2), [seed], f"draws/{seed}", cells=[CC6M]) for seed in range(3)]
    weak = [frame.assign(asr=frame.asr.mask(frame.step == 0, 0.89)) for frame in draws]
    values = measured(evaluated(pd.concat(weak, ignore_index=True)))
    condition = Condition.model_validate(
        {
            "name": "draws",
            "says": "over other draws",
            "mmcl": "draws/*",
            "mmcl_ssl": "draws/*",
            "settings": [CC6M],
            "rate": GRID[1],
        }
    )
    found = under_conditions(values, [condition], rules, ["draws"])["draws"]
    assert found.seeds == 3
    assert found.weak
    assert {*found.differences} == {*MAIN}
    assert found.differences["rate_doublings"].mean == pytest.approx(2, abs=0.02)
    left = [curve(2)("mmcl_ssl", seed, GRID[1])[1] for seed in range(3)]
    assert found.means["asr_left_at_rate"]["mmcl_ssl"].mean == pytest.approx(np.mean(left))
    assert under_conditions(values, [condition], rules, []) == {}, "its study is not whole"


# One's own run beside the archive.


def test_ones_own_run_is_compared_with_the_other_seeds_of_the_archive(rules: Rules) -> None:
    archived = arm(curve(1.5, noise=0.3), range(6), cells=[CC6M])

    def values_in(*frames: pd.DataFrame) -> list[OwnValue]:
        return list(own_values(evaluated(pd.concat(frames, ignore_index=True)), ONE, rules))

    near = values_in(archived, arm(curve(1.5), [3], "/", cells=[CC6M]))
    assert {of.measure for of in near} == {*rules.measures}
    assert {of.of for of in near} == {"mmcl", "mmcl_ssl", "difference"}
    assert {len(of.archived) for of in near} == {5}, "without the own run's seed"
    assert all(of.inside for of in near if of.measure == "rate_doublings")

    own = arm(curve(9), [3], "/", cells=[CC6M])
    far = {(of.measure, of.of): of for of in values_in(archived, own)}
    assert not far["rate_doublings", "mmcl_ssl"].inside

    fewer = values_in(archived, own[own.learning_rate != GRID[-1]])
    [rates] = [of for of in fewer if (of.measure, of.of) == ("rate_doublings", "mmcl_ssl")]
    assert max(rates.archived) <= math.log2(GRID[-2]), "at the rates that both have"
    assert values_in(archived[archived.seed < 3], own.assign(seed=2)) == [], "two other seeds"


def test_starts_of_ones_own_run_are_compared_too() -> None:
    archived = arm(curve(2), range(4), cells=[CC6M])
    archived = archived.assign(stage="pretrain", run="p", handed_on=True)
    archived = archived[archived.step == 0]
    archived = archived.assign(accuracy=0.4 + 0.01 * archived.seed)
    own = archived[archived.seed == 3].assign(study="", variant="", accuracy=0.6)
    values = measured(evaluated(pd.concat([archived, own], ignore_index=True)))
    found = {(of.measure, of.of): of for of in own_starts(values, ONE)}
    assert {*found} == {(name, o) for name in ("start_accuracy", "start_asr") for o in OBJECTIVES}
    assert found["start_accuracy", "mmcl"].archived == pytest.approx([0.40, 0.41, 0.42])
    assert not found["start_accuracy", "mmcl"].inside


# The archive.


@pytest.fixture(scope="module")
def mini(claims: Claims, root: Path) -> Verdicts:
    """The exploratory verdicts, from the archives that they are of alone."""
    profile = load_profile("mini")
    frames = [
        evaluations(tuple(archived_runs(root / archive_of(name))), "all").assign(study=name)
        for name in ("control", "seeds")
    ]
    by_arm = evaluated(pd.concat(frames, ignore_index=True), Context.of(claims, profile))
    return verdicts(measured(by_arm), by_arm, claims, "mini", {})


def shown(of: Estimate | None, scale: float = 100, digits: int = 1) -> tuple[float, ...]:
    """Mean and interval as a table shows them."""
    assert of is not None and of.interval is not None
    return tuple(round(scale * value, digits) for value in (of.mean, *of.interval))


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
    cells = by_setting(mini.exploratory, name)
    for key, expected in zip([*CELLS, None], PRINTED[name], strict=True):
        if expected is not None:
            assert shown(cells[key].difference, scale) == pytest.approx(expected, abs=0.051), key


def test_tests_controls_and_marks_of_the_archived_seeds(mini: Verdicts) -> None:
    lost = by_setting(mini.exploratory, "lost_at_cap")
    corrected = [lost[cell].p_holm for cell in CELLS]
    assert [round(p or 0, 3) for p in corrected] == [0.029, 0.011, 0.067]
    assert lost[CC3M].verdict == "not tested (control not run)"
    assert lost[CC6M].marks == ["best MMCL + SSL model at the highest rate on 2/5 seeds"]
    assert lost[CC6M_200K].verdict == "undecided"

    # The twin loses 2.1 points more at the same rates and steps, on three seeds.
    control, with_ssl = (lost[CC6M_200K].of.controls[of] for of in ("mmcl", "mmcl_ssl"))
    assert control.holds
    assert shown(control.twin) == (-2.1, -5.7, 1.5)
    assert control.loss is not None
    assert round(control.loss.mean, 3) == 0.049
    assert control.cleaned == 5
    assert shown(with_ssl.twin) == (0.4, -9.6, 10.5)

    rates = by_setting(mini.exploratory, "rate_doublings")
    assert {cell.verdict for cell in rates.values()} == {"supported"}
    assert rates[CC6M].difference.at_least
    assert rates[CC3M].marks == ["weak backdoor"]
    assert rates[CC6M_200K].marks == []

    # The MMCL + SSL model is the more accurate one after cleaning.
    deployed = by_setting(mini.exploratory, "accuracy_at_cap")[CC6M_200K]
    assert shown(deployed.difference) == (5.9, 0.1, 11.8)
    # Two seeds of CC6M, 100K, have no test, which counts in the family of three.
    assert deployed.verdict == "undecided"

    assert mini.confirmed == []
    assert mini.confirmed_seeds == []
    assert len(mini.planned_seeds) == 10


# The paper's claims.


def test_the_file_has_the_papers_numbers_and_says_when_each_claim_was_fixed(claims: Claims) -> None:
    assert len(claims.claims) == 22
    assert len(claims.errata) == 22
    assert {of.metric for of in claims.claims} == set(METRICS)
    moved = [of.id for of in claims.claims if of.fixed]
    assert moved == ["poison-in-the-cleaning-set", "adding-ssl-hardens"]
    assert claims.rules.measures.keys() >= {"rate_doublings", "lost_at_cap"}
    assert {of.bears_on for of in claims.errata} == set(ERRATA)
    assert claims.errata[0].result == pytest.approx(1 - 0.1305 / 0.2386)


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
    """At most 5% is expected, at most 10% keeps the direction."""
    [claim] = [claim for claim in claims.claims if claim.id == "mmcl-cleans"]
    changed = Claim.model_validate(claim.model_dump(exclude_unset=True) | {"absolute": absolute})
    assert judge(expected_of(changed, stand_in=True), interval) == verdict


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


def judged(claims: Claims, outcome: Outcome, only: Sequence[str] = ()) -> dict[str, JudgedClaim]:
    """Claims on the report's own runs, in which MMCL and SSL alone clean like both."""
    both = arm(outcome, range(4), "/", rates=GRID[1:3], start=(0.24, 0.995))
    frames = [both.assign(loss=loss, run=both.run + loss) for loss in ("mmcl", "ssl", "mmcl_ssl")]
    if only:
        claims = claims.model_copy(
            update={"claims": [claim for claim in claims.claims if claim.id in only]}
        )
        frames = frames[-1:]
    by_arm = evaluated(pd.concat(frames, ignore_index=True))
    values = measured(by_arm)
    found = verdicts(values, by_arm, claims, "smoke", {})
    return {of.claim.id: of for of in judged_claims(values, claims, found, "exact")}


def test_every_metric_on_models_whose_answer_is_known(claims: Claims) -> None:
    """MMCL models are cleaned at no loss, the others lose a half; a thousandth between seeds."""

    def outcome(objective: str, seed: int, rate: float) -> tuple[float, float]:
        kept = 1.0 if objective == "mmcl" else 0.5
        return 0.24 * (kept - 0.001 * seed), 0.01

    found = judged(claims, outcome)
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
    assert drop.claim.expect.words == "45% within 10 points"


def test_failure_is_no_evidence_where_mmcl_models_fail_as_well(claims: Claims) -> None:
    found = judged(claims, lambda *_: (0.12, 0.01), ["mmcl-ssl-fails", "mmcl-cleans"])
    assert found["mmcl-ssl-fails"].verdict == "not tested"
    assert "twin" in found["mmcl-ssl-fails"].evidence[0].note
    assert found["mmcl-cleans"].verdict == "refuted"


def test_a_model_that_no_rate_cleans_is_a_lower_bound_and_no_success(claims: Claims) -> None:
    found = judged(claims, lambda *_: (0.24, 0.5), ["mmcl-cleans"])["mmcl-cleans"]
    (cell, _) = found.evidence
    assert cell.estimate is not None
    assert cell.estimate.mean == 0
    assert cell.estimate.at_least
    assert found.verdict == "undecided"
