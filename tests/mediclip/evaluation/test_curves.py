"""The area under a curve, cut at a limit."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mediclip.evaluation.curves import area_under, cumulative_share


def test_cumulative_share_goes_from_zero_to_one():
    np.testing.assert_array_equal(cumulative_share(np.array([1, 0, 3])), [0, 0.25, 0.25, 1])


@pytest.mark.parametrize(
    ("limit", "area"),
    [(1.0, 0.5), (0.5, 0.125), (0.25, 0.03125)],
)
def test_area_under_the_diagonal_is_half_the_limit_squared(limit, area):
    assert area_under(np.array([0.0, 1.0]), np.array([0.0, 1.0]), limit=limit) == area


def test_a_vertical_step_at_the_limit_adds_nothing():
    x, y = np.array([0.0, 0.3, 0.3, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])
    assert area_under(x, y, limit=0.3) == 0.0


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=12).filter(any),
    st.integers(1, 99).map(lambda p: p / 100),
    st.randoms(use_true_random=False),
)
def test_a_cut_area_agrees_with_a_fine_sum_over_the_interpolated_curve(steps, limit, random):
    x = cumulative_share(np.array(steps))
    y = np.array(sorted(random.random() for _ in x))
    # Vertical steps are spread over 1e-9, so that interpolation has one value at every place.
    apart = x + np.arange(len(x)) * 1e-9
    grid = np.linspace(0, limit, 20_001)
    middle = np.interp((grid[1:] + grid[:-1]) / 2, apart, y)
    assert area_under(x, y, limit=limit) == pytest.approx(middle.mean() * limit, abs=1e-4)
