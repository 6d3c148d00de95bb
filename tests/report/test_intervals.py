"""Intervals, paired comparisons and honest selection against values worked out by hand or by
statsmodels.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import proportion_confint

from repro.intervals import wilson
from repro.report.numbers import intervals as s
from repro.report.numbers import selection


@settings(deadline=None)
@given(
    st.integers(1, 60_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.9, 0.95, 0.99]),
)
def test_wilson_equals_statsmodels_and_stays_in_bounds(counts: tuple[int, int], confidence: float):
    successes, total = counts
    low, high = wilson(successes, total, confidence)
    expected = proportion_confint(successes, total, alpha=1 - confidence, method="wilson")
    assert (low, high) == pytest.approx(expected, abs=1e-9)
    assert 0 <= low <= successes / total <= high <= 1


def test_wilson_is_defined_at_no_and_at_all_successes():
    """For 0 of n the upper end is z^2 / (n + z^2)."""
    z2 = 1.959963985**2
    assert wilson(0, 100) == pytest.approx((0.0, z2 / (100 + z2)))
    assert wilson(100, 100) == pytest.approx((100 / (100 + z2), 1.0))


@pytest.mark.parametrize(("successes", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_counts_that_cannot_be(successes: int, total: int):
    with pytest.raises(ValueError, match=f"{successes} successes of {total}"):
        wilson(successes, total)


def test_the_papers_first_cell_straddles_the_cap():
    """2,459 of 49,950 attacks are 4.92%, but their interval reaches over 5%."""
    assert s.standing(2459, 49950, 0.05, 0.95) == "undecided"
    assert s.standing(1508, 49950, 0.05, 0.95) == "below"
    assert s.standing(3000, 49950, 0.05, 0.95) == "above"


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_equals_statsmodels(gained: int, lost: int):
    expected = (
        reference_mcnemar([[0, gained], [lost, 0]], exact=True).pvalue if gained + lost else 1.0
    )
    assert s.mcnemar(gained, lost) == pytest.approx(float(expected), abs=1e-9)


def test_mcnemar_of_one_against_nine_by_hand():
    """Twice the chance of at most one head in ten throws: 2 (1 + 10) / 1024."""
    assert s.mcnemar(1, 9) == pytest.approx(22 / 1024)


def test_paired_difference_is_narrower_than_the_unpaired_one():
    """Ten images gained and none lost of 1,000: sure although 0.50 and 0.51 of independent samples
    are not.
    """
    value, (low, high) = s.paired_difference(10, 0, 1000, 0.95)
    assert value == 0.01
    assert 0 < low < value < high
    unpaired = s.difference(0.51, wilson(510, 1000), 0.50, wilson(500, 1000))[1]
    assert unpaired[0] < 0 < unpaired[1]


def test_relative_drop_by_hand_and_tighter_when_paired():
    """From 200 to 100 of 1,000 images, all of the 100 among the 200: half is lost."""
    value, paired = s.relative_drop(200, 100, 1000, 100, 0.95)
    _, unpaired = s.relative_drop(200, 100, 1000, None, 0.95)
    assert value == 0.5
    se = math.sqrt((200.5 + 100.5 - 2 * 100.5) / (200.5 * 100.5))
    assert paired[0] == pytest.approx(1 - 100.5 / 200.5 * math.exp(1.959964 * se))
    assert unpaired[0] < paired[0] < value < paired[1] < unpaired[1]


def test_relative_drop_of_a_model_that_loses_everything_has_an_interval():
    value, (low, high) = s.relative_drop(200, 0, 1000, 0, 0.95)
    assert value == 1.0
    assert 0.9 < low < high < 1.0


def test_relative_drop_refuses_a_start_without_a_right_image():
    with pytest.raises(ValueError, match="no image was right"):
        s.relative_drop(0, 0, 10, 0, 0.95)


def test_difference_of_a_number_and_itself_is_centred_on_zero():
    value, (low, high) = s.difference(0.5, (0.4, 0.6), 0.5, (0.4, 0.6))
    assert (value, low, high) == (
        0.0,
        pytest.approx(-math.sqrt(0.02)),
        pytest.approx(math.sqrt(0.02)),
    )


def test_spread_of_one_seed_has_no_standard_deviation():
    assert s.spread([0.3])["sd"] is None
    assert s.spread([0.1, 0.3])["sd"] == pytest.approx(math.sqrt(0.02))


def test_honest_selection_shrinks_what_chance_chose():
    """Forty coin-tossing models: the best of them looks better than a coin on the images it was
    chosen on, and not on others.
    """
    generator = np.random.default_rng(0)
    correct = generator.random((40, 400)) < 0.5
    attacked = np.zeros((40, 400), bool)
    result = selection.select_on_halves(
        correct, attacked, np.ones(400, bool), 0.05, splits=50, seed=0
    )
    assert result["chosen"] == 50
    assert result["naive"] == correct.mean(1).max()
    assert result["naive"] > 0.54
    assert result["accuracy"] == pytest.approx(0.5, abs=0.03)
    assert result["held"] == 1.0


@pytest.mark.faults(14)
def test_honest_selection_leaves_the_target_class_out_of_the_denominator():
    """One image of four is of the target class and attacked: ASR 0 without it, 25% with it."""
    correct, attacked = np.ones((1, 4), bool), np.array([[True, False, False, False]])
    without = selection.select_on_halves(
        correct, attacked, np.array([False, True, True, True]), 0.05, splits=5, seed=0
    )
    with_it = selection.select_on_halves(
        correct, attacked, np.ones(4, bool), 0.05, splits=5, seed=0
    )
    assert (without["naive"], with_it["naive"]) == (1.0, None)


def test_honest_selection_says_so_when_nothing_meets_the_cap():
    result = selection.select_on_halves(
        np.ones((2, 10), bool), np.ones((2, 10), bool), np.ones(10, bool), 0.05, splits=3, seed=0
    )
    assert (result["chosen"], result["naive"], result["accuracy"], result["held"]) == (
        0,
        None,
        None,
        None,
    )


def test_threshold_sweep_keeps_only_steps_that_gain():
    assert selection.threshold_sweep([0.3, 0.2, 0.4, 0.3], [0.1, 0.2, 0.5, 0.1]) == [
        (0.1, 0.3),
        (0.5, 0.4),
    ]


def test_best_of_n_grows_with_n_and_its_band_holds_the_curve():
    curve = selection.best_of_n([0.1, 0.2, 0.3, 0.4, 0.0, 0.25], 0.95)
    assert [row[0] for row in curve] == [1, 2, 3, 4, 5, 6]
    medians = [row[2] for row in curve]
    assert medians == sorted(medians)
    assert all((low is None or low <= middle) and middle <= high for _, low, middle, high in curve)


def test_a_try_that_cleans_nothing_is_no_accuracy_of_nought() -> None:
    """Of four rates three clean nothing: one try most often gives none, four of them something."""
    curve = selection.best_of_n([None, 0.3, None, None], 0.95)
    assert curve[0][2] is None
    assert curve[-1][2] == 0.3
    assert selection.best_of_n([None, None], 0.95)[1][1:3] == (None, None)
    assert selection.best_of_n([0.0, 0.0], 0.95)[1][2] == 0.0, "cleaned, and right on no image"


def test_ratios_are_averaged_in_their_logarithms() -> None:
    found = s.geometric_spread([0.5, 2.0])
    assert found["mean"] == pytest.approx(1.0), "as far below one as above it"
    assert found["sd"] == pytest.approx(math.exp(math.sqrt(2) * math.log(2)))
