"""Image metrics against scikit-learn, over ties, one class and impossible input."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, strategies as st

from mediclip.errors import DataError
from mediclip.evaluation.metrics import image_ap, image_auroc, roc_curve, sensitivity_at_specificity

# Few distinct scores make ties common; any finite float may appear beside them.
score = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(allow_nan=False, allow_infinity=False))
labelled = st.lists(st.tuples(st.integers(0, 1), score), min_size=2, max_size=60)
two_classes = labelled.filter(lambda pairs: {label for label, _ in pairs} == {0, 1})


def split(pairs):
    return np.array([label for label, _ in pairs]), np.array([score for _, score in pairs])


@given(two_classes)
def test_auroc_and_ap_agree_with_scikit_learn(pairs):
    labels, scores = split(pairs)
    assert image_auroc(labels, scores) == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12
    )
    expected = sklearn.metrics.average_precision_score(labels, scores)
    assert image_ap(labels, scores) == pytest.approx(expected, abs=1e-12)


@given(two_classes)
def test_the_roc_curve_agrees_with_scikit_learn(pairs):
    labels, scores = split(pairs)
    curve = roc_curve(labels, scores)
    false_rate, true_rate, thresholds = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rate, false_rate, atol=1e-12)
    np.testing.assert_allclose(curve.true_positive_rate, true_rate, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


@given(two_classes, st.integers(0, 100).map(lambda p: p / 100))
def test_sensitivity_is_that_of_the_best_threshold_that_spares_enough_normals(pairs, specificity):
    labels, scores = split(pairs)
    normal, abnormal = scores[labels == 0], scores[labels == 1]
    allowed = [
        np.mean(abnormal >= t)
        for t in [*scores, np.inf]
        if np.sum(normal < t) >= specificity * len(normal) - 1e-9
    ]
    found = sensitivity_at_specificity(labels, scores, specificity=specificity)
    assert found == pytest.approx(max(allowed), abs=1e-12)


@given(two_classes)
def test_auroc_is_mirrored_when_classes_change_places(pairs):
    labels, scores = split(pairs)
    assert image_auroc(1 - labels, scores) == pytest.approx(1 - image_auroc(labels, scores), abs=1e-12)


@given(two_classes, st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    assert image_auroc(*split(shuffled)) == image_auroc(*split(pairs))
    assert image_ap(*split(shuffled)) == image_ap(*split(pairs))


def test_constant_scores_are_chance():
    labels = [0, 0, 0, 1]
    assert image_auroc(labels, [0.5] * 4) == 0.5
    assert image_ap(labels, [0.5] * 4) == 0.25
    assert sensitivity_at_specificity(labels, [0.5] * 4) == 0.0


def test_separated_scores_are_perfect():
    labels, scores = [0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]
    assert image_auroc(labels, scores) == 1.0
    assert image_ap(labels, scores) == 1.0
    assert sensitivity_at_specificity(labels, scores) == 1.0


def test_ninety_five_percent_of_twenty_normals_may_leave_one_above():
    scores = [*range(20), 18.5, 17.5]
    labels = [0] * 20 + [1, 1]
    assert sensitivity_at_specificity(labels, scores, specificity=0.95) == 0.5


@pytest.mark.parametrize("metric", [image_auroc, image_ap, roc_curve, sensitivity_at_specificity])
@pytest.mark.parametrize("labels", [[], [0, 0, 0], [1, 1, 1]])
def test_metrics_are_none_without_both_classes(metric, labels):
    assert metric(labels, np.linspace(0, 1, len(labels))) is None


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (
            [0, 1],
            [0.5],
            "Labels and scores must both have shape (N,). Got (2,) and (1,); give one of each per image.",
        ),
        (
            [[0, 1]],
            [[0.5, 0.6]],
            "Labels and scores must both have shape (N,). Got (1, 2) and (1, 2); give one of each per image.",
        ),
        (
            [0, 2],
            [0.5, 0.6],
            "Labels must be 0 (normal) or 1 (abnormal). Got 2 for image 1; correct it in the sample list.",
        ),
        (
            [0, 1],
            [np.nan, 0.6],
            "Scores must be finite. Got nan for image 0; check that the model was trained without overflow.",
        ),
        (
            [0, 1],
            [0.1, -np.inf],
            "Scores must be finite. Got -inf for image 1; check that the model was trained without overflow.",
        ),
    ],
)
@pytest.mark.parametrize("metric", [image_auroc, image_ap, roc_curve, sensitivity_at_specificity])
def test_input_that_cannot_be_scored_is_refused_by_every_metric(metric, labels, scores, message):
    with pytest.raises(DataError) as caught:
        metric(labels, scores)
    assert str(caught.value) == message
