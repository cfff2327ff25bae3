"""Named random streams."""

import numpy as np
from hypothesis import given, strategies as st

from mediclip.rng import derive_seed, generator

NAMES = st.lists(st.one_of(st.text(max_size=5), st.integers(-5, 5)), max_size=3).map(tuple)


@given(st.integers(), NAMES)
def test_the_same_name_gives_the_same_stream(seed, names):
    assert generator(seed, *names).random() == generator(seed, *names).random()
    assert 0 <= derive_seed(seed, *names) < 2**128


@given(st.integers(), NAMES, NAMES)
def test_different_names_give_different_streams(seed, one, other):
    same = [type(n) for n in one] == [type(n) for n in other] and one == other
    assert (derive_seed(seed, *one) == derive_seed(seed, *other)) is same


def test_the_stream_is_pinned_so_that_results_can_be_repeated_for_years():
    assert derive_seed(0, "support") == 95668256132884598212211519335347815895
    assert generator(0, "support").integers(1000, size=3).tolist() == [688, 771, 326]


def test_a_number_and_its_text_are_different_names():
    assert derive_seed(0, 1) != derive_seed(0, "1")


def test_global_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - that it is left alone is the point
    generator(1, "x").random(10)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_a_name_that_holds_the_separator_is_told_apart_from_two_names():
    assert derive_seed(0, "a\x1fstr:b") != derive_seed(0, "a", "b")
    assert derive_seed(0, "a\\x1f") != derive_seed(0, "a\x1f")


def test_a_number_names_the_same_stream_whether_python_or_numpy_counted_it():
    assert derive_seed(0, "step", np.int64(7)) == derive_seed(0, "step", 7)
    assert derive_seed(np.uint8(3), "step") == derive_seed(3, "step")


def test_streams_of_neighbouring_names_are_not_correlated():
    drawn = np.stack([generator(0, "step", number).standard_normal(4000) for number in range(20)])
    correlation = np.corrcoef(drawn) - np.eye(20)
    assert np.abs(correlation).max() < 5 / 4000**0.5
