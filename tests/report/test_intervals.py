"""Wilson's interval against statsmodels and against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from repro.intervals import wilson


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
