"""Which scans a report shows."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mediclip.evaluation.cases import choose_cases, positions_of, rank_among_normals

LABELS = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.75, 0.2, 0.1, 0.05, 0.01])


def test_best_worst_and_ordinary_cases_of_both_classes_are_chosen():
    chosen = {c.title: c.positions for c in choose_cases(LABELS, SCORES, each=2)}
    assert chosen == {
        "Abnormal, highest scores": (0, 1),
        "Abnormal, lowest scores": (6, 5),
        "Abnormal, around the median": (2, 3),
        "Normal, highest scores": (7, 8),
        "Normal, around the median": (9,),
    }


@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), max_size=30),
    st.integers(1, 5),
)
def test_nothing_is_chosen_twice_or_for_the_wrong_class(pairs, each):
    labels = np.array([label for label, _ in pairs], dtype=int)
    scores = np.array([score for _, score in pairs], dtype=float)
    choices = choose_cases(labels, scores, each=each)
    positions = positions_of(choices)
    assert len(positions) == len(set(positions))
    assert all(1 <= len(c.positions) <= each for c in choices)
    for choice in choices:
        expected = int(choice.title.startswith("Abnormal"))
        assert {int(labels[p]) for p in choice.positions} == {expected}


def test_the_highest_score_of_each_class_is_always_shown():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 50), rng.random(50)
    positions = positions_of(choose_cases(labels, scores, each=1))
    for c in (0, 1):
        assert int(np.argmax(np.where(labels == c, scores, -1))) in positions


@pytest.mark.parametrize(("score", "share"), [(0.0, 0.0), (0.15, 0.6), (0.9, 1.0)])
def test_a_score_is_placed_among_the_normal_images(score, share):
    assert rank_among_normals(score, LABELS == 1, SCORES) == pytest.approx(share)


def test_without_normal_images_there_is_no_rank():
    assert rank_among_normals(0.5, np.array([True]), np.array([0.4])) is None
