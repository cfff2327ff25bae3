from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mediclip.errors import FederationError
from mediclip.model.trainables import Schema, TensorSpec
from server.difference import BLOCK, Difference, split
from server.mean import ExactMean


def difference(values, base=None):
    values = np.asarray(values, np.float32)
    schema = Schema((TensorSpec("x", values.shape),))
    return Difference(schema, {"x": values}, None if base is None else {"x": np.asarray(base, np.float32)})


def mean_of(rows, weights, *, max_norm=2.0, max_weight=1000):
    mean = ExactMean(len(rows[0]), max_norm=max_norm, max_weight=max_weight)
    for row, weight in zip(rows, weights, strict=True):
        mean.add(difference(row), weight)
    return mean.result()


values = st.floats(-1, 1, width=32, allow_subnormal=False)


@given(st.lists(st.tuples(values, st.integers(1, 64)), min_size=1, max_size=12), st.randoms())
def test_the_sum_is_that_of_fractions_to_the_fixed_points_last_place_in_any_order(sites, random):
    expected = sum(Fraction(v) * w for v, w in sites) / sum(w for _, w in sites)
    first = mean_of([[v] for v, _ in sites], [w for _, w in sites])
    random.shuffle(sites)
    assert mean_of([[v] for v, _ in sites], [w for _, w in sites])[0] == first[0]
    assert abs(Fraction(float(first[0])) - expected) < Fraction(1, 2**48)


def test_the_largest_allowed_differences_and_weights_do_not_overflow():
    rows = [[1.9999999]] * 10
    assert mean_of(rows, [100] * 10)[0] == pytest.approx(1.9999999, rel=1e-7)
    assert mean_of([[-1.9999999]] * 10, [100] * 10)[0] == pytest.approx(-1.9999999, rel=1e-7)


def test_more_weight_than_there_is_room_for_is_an_error():
    with pytest.raises(FederationError, match="at most 1,000 in all"):
        mean_of([[1.0]] * 2, [999, 2])


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_blocks_cover_every_value_once_in_order(size):
    rng = np.random.default_rng(size)
    first, second = rng.normal(size=(2, size)).astype(np.float32)
    schema = Schema((TensorSpec("a", (size,)), TensorSpec("b", (2, 3))))
    small = rng.normal(size=(2, 3)).astype(np.float32)
    made = Difference(schema, {"a": first, "b": small}, {"a": second, "b": np.zeros_like(small)})
    blocks = [(offset, block.copy()) for offset, block in made.blocks()]
    flat = np.concatenate([block for _, block in blocks])
    assert [offset for offset, _ in blocks] == list(np.cumsum([0, *(len(b) for _, b in blocks)])[:-1])
    expected = np.concatenate([first.astype(np.float64) - second, small.ravel().astype(np.float64)])
    assert np.array_equal(flat, expected)
    assert made.norm() == pytest.approx(np.linalg.norm(expected))
    assert np.array_equal(split(schema, flat)["b"], small.astype(np.float64))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_norm_is_finite_exactly_where_all_values_are(bad):
    assert not np.isfinite(difference([1.0, bad, 2.0]).norm())
    assert not np.isfinite(difference([1.0, bad], [0.0, bad]).norm())
    assert np.isfinite(difference([3.4e38, -3.4e38], [-3.4e38, 3.4e38]).norm())
