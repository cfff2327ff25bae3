"""Bootstrap intervals: seeded, stratified, and right where the answer is known."""

import numpy as np
import pytest

from mediclip.errors import SettingsError
from mediclip.evaluation.bootstrap import bootstrap_interval
from mediclip.evaluation.metrics import image_ap, image_auroc
from mediclip.rng import generator


def interval(labels, scores, metric=image_auroc, **settings):
    return bootstrap_interval(labels, scores, metric, rng=generator(0, "test"), **settings)


@pytest.fixture
def noisy():
    rng = np.random.default_rng(1)
    labels = np.arange(120) % 3 == 0
    return labels, rng.normal(size=120) + labels


@pytest.mark.parametrize("metric", [image_auroc, image_ap])
def test_the_interval_holds_the_value_and_the_seed_fixes_it(noisy, metric):
    low, high = interval(*noisy, metric, draws=200)
    assert low < metric(*noisy) < high
    assert (low, high) == interval(*noisy, metric, draws=200)


def test_the_interval_matches_the_known_spread_of_the_auroc(noisy):
    # Hanley and McNeil's standard error: an analytic reference that knows nothing of resampling.
    labels, scores = noisy
    value, n_abnormal, n_normal = image_auroc(labels, scores), labels.sum(), (~labels).sum()
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = (
        value * (1 - value) + (n_abnormal - 1) * (q1 - value**2) + (n_normal - 1) * (q2 - value**2)
    ) / (n_abnormal * n_normal)
    low, high = interval(labels, scores, draws=2000)
    assert (high - low) / (2 * 1.96) == pytest.approx(np.sqrt(variance), rel=0.15)


def test_a_perfect_separation_leaves_no_doubt():
    assert interval([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], draws=50) == (1.0, 1.0)


def test_every_draw_keeps_the_size_of_both_classes(noisy):
    sizes = set()

    def spy(labels, scores):
        sizes.add((len(labels), int(labels.sum()), len(scores)))
        return 0.0

    interval(*noisy, spy, draws=20)
    assert sizes == {(120, 40, 120)}


def test_a_higher_level_gives_a_wider_interval(noisy):
    narrow, wide = interval(*noisy, draws=300, level=0.5), interval(*noisy, draws=300, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_an_undefined_metric_has_no_interval(labels):
    assert interval(labels, np.zeros(len(labels))) is None


@pytest.mark.parametrize(("draws", "level"), [(0, 0.95), (10, 0.0), (10, 1.0)])
def test_impossible_settings_are_refused(draws, level):
    with pytest.raises(SettingsError) as caught:
        interval([0, 1], [0.0, 1.0], draws=draws, level=level)
    assert str(caught.value) == (
        "A bootstrap must have at least 1 draw and a level in (0, 1). "
        f"Got draws={draws} and level={level}; 1000 and 0.95 are usual."
    )
