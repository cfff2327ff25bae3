"""Clipping: the norm is NumPy's, the direction stays, and nothing breaks at zero."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from mediclip.privacy.clipping import clip_factor, clip_update, update_norm

VALUES = hnp.arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32))


def flat(tensors):
    return np.concatenate([value.astype(np.float64).ravel() for value in tensors.values()])


@settings(deadline=None)
@given(VALUES)
def test_the_norm_is_that_of_numpy_over_all_tensors(value):
    before = {"a": np.zeros((3, 4), np.float32), "b": np.ones(2, np.float32)}
    after = {"a": value, "b": np.full(2, 3, np.float32)}
    assert update_norm(before, after) == pytest.approx(np.linalg.norm(flat(after) - flat(before)))


@settings(deadline=None)
@given(VALUES, VALUES, st.floats(1e-3, 1e4))
def test_a_clipped_update_is_within_its_bound_and_clipping_again_changes_nothing(start, end, bound):
    before, after = {"a": start}, {"a": end}
    found = clip_update(before, after, bound)
    assert update_norm(before, found.tensors) <= bound
    assert found.norm == pytest.approx(update_norm(before, after))
    assert found.is_clipped is (found.norm > bound)
    again = clip_update(before, found.tensors, bound)
    assert again.tensors is found.tensors
    assert not again.is_clipped


def test_a_small_update_is_left_as_it_is():
    before, after = {"a": np.zeros(4, np.float32)}, {"a": np.ones(4, np.float32)}
    assert clip_update(before, after, 2.0).tensors is after


def test_a_large_update_keeps_its_direction_over_all_tensors():
    before = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}
    after = {"a": np.array([30, 0], np.float32), "b": np.array([0, 40], np.float32)}
    found = clip_update(before, after, 5.0)
    assert np.allclose(flat(found.tensors), [3, 0, 0, 4], atol=1e-5)
    assert found.norm == 50


def test_an_update_of_zero_is_no_division_by_zero():
    still = {"a": np.ones(3, np.float32)}
    assert clip_factor(0.0, 1.0) == 1
    assert not clip_update(still, still, 1e-9).is_clipped


def test_a_bound_that_float32_cannot_hold_leaves_no_update():
    before, after = {"a": np.full(3, 100, np.float32)}, {"a": np.full(3, 101, np.float32)}
    found = clip_update(before, after, 1e-9)
    assert np.array_equal(found.tensors["a"], before["a"])
    assert found.is_clipped
