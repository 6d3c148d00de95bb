"""Intervals and paired comparisons against values worked out by hand or by statsmodels."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import proportion_confint

from repro.intervals import wilson
from repro.report.numbers import intervals as s


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


def test_a_paired_difference_of_images_gained_alone_is_above_zero():
    """Ten images gained and none lost of 1,000."""
    value, (low, high) = s.paired_difference(10, 0, 1000, 0.95)
    assert value == 0.01
    assert 0 < low < value < high


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


def test_spread_of_one_seed_has_no_standard_deviation():
    assert s.spread([0.3]).sd is None
    assert s.spread([0.1, 0.3]).sd == pytest.approx(math.sqrt(0.02))
