"""The batched forms draw what the per-image forms draw: two-sample Kolmogorov-Smirnov tests for each task."""

import numpy as np
import pytest
from scipy import ndimage, stats

from mediclip.errors import DataError, SettingsError
from mediclip.rng import generator
from mediclip.synthesis import TASKS, Mixture
from mediclip.synthesis.batched import BatchedMixture

SIZE = 160
DRAWS = 600
CHANGING = [task for task in TASKS if task != "identity"]
STATISTICS = ("area", "regions", "mean change", "spread of change")
# Bonferroni: all comparisons together fail with probability 0.01 where both sides agree.
THRESHOLD = 0.01 / (len(CHANGING) * len(STATISTICS))


@pytest.fixture(scope="module")
def scans():
    """Smooth textures with a dark border, as scans have them."""
    rng = generator(0, "scans")
    fields = ndimage.gaussian_filter(rng.standard_normal((8, SIZE, SIZE)), (0, 5, 5))
    fields -= fields.min(axis=(1, 2), keepdims=True)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    body = fields / fields.max(axis=(1, 2), keepdims=True) * (x**2 + y**2 < 0.8)
    return np.ascontiguousarray(body, np.float32)


def statistics(before, after, label):
    is_changed = label > 0
    change = 255 * np.abs(after - before)[is_changed]
    return is_changed.mean(), ndimage.label(is_changed)[1], change.mean(), change.std()


@pytest.fixture(scope="module")
def samples(scans):
    """For each task the statistics of both forms, ``(DRAWS, 4)`` each."""
    found = {}
    for task in CHANGING:
        rng = generator(1, "plain", task)
        order = np.arange(DRAWS) % len(scans)
        plain = Mixture({task: 1.0}, 0.5).draw_batch(scans[order], scans, rng)
        batched = BatchedMixture({task: 1.0}, 0.5, scans).draw(order, generator(1, "batched", task))
        found[task] = [
            np.array([statistics(scans[o], *pair) for o, *pair in zip(order, *made[:2], strict=True)])
            for made in (plain, batched)
        ]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(STATISTICS)), ids=STATISTICS)
@pytest.mark.parametrize("task", CHANGING)
def test_a_task_has_the_distribution_of_its_per_image_form(samples, task, number):
    plain, batched = samples[task]
    # The asymptotic law: the exact one fails where half the draws are equal, as numbers of regions are.
    found = stats.ks_2samp(plain[:, number], batched[:, number], method="asymp")
    assert found.pvalue > THRESHOLD


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 2], ids=["area", "mean change"])
def test_the_comparison_would_notice_a_quarter_more(samples, number):
    plain, batched = samples["gaussian_intensity"]
    assert stats.ks_2samp(plain[:, number], 1.25 * batched[:, number]).pvalue < THRESHOLD


def test_the_mixture_draws_tasks_and_seconds_by_their_weights(scans):
    weights = {"cut_paste": 0.5, "source": 0.2, "identity": 0.3}
    _, labels, tasks = BatchedMixture(weights, 0.0, scans).draw(np.arange(400) % 8, generator(0, "weights"))
    counts = {task: tasks.count(task) for task in TASKS}
    assert sum(counts[task] for task in weights) == 400
    for task, weight in weights.items():
        assert abs(counts[task] - 400 * weight) < 4 * np.sqrt(400 * weight * (1 - weight))
    assert all(not label.any() for label, task in zip(labels, tasks, strict=True) if task == "identity")


@pytest.mark.parametrize("task", TASKS)
def test_nothing_changes_where_the_label_is_empty_and_nothing_leaves_its_range(scans, task):
    order = np.arange(48) % 8
    images, labels, _ = BatchedMixture({task: 1.0}, 0.5, scans).draw(order, generator(0, "outside", task))
    assert images.dtype == labels.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert labels.min() >= 0
    assert labels.max() <= 1
    np.testing.assert_array_equal(images[labels == 0], scans[order][labels == 0])


@pytest.mark.parametrize("task", TASKS)
def test_the_same_state_gives_the_same_images_and_the_support_is_left_alone(scans, task):
    before = scans.copy()
    mixture = BatchedMixture({task: 1.0}, 0.5, scans)
    first, again = (mixture.draw(np.arange(8), generator(3, "same")) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(scans, before)


def test_images_that_are_not_square_are_drawn_too(scans):
    wide = np.ascontiguousarray(scans[:, :64])
    images, labels, _ = BatchedMixture(dict.fromkeys(TASKS, 1.0), 0.5, wide).draw(
        np.arange(64) % 8, generator(0, "wide")
    )
    assert images.shape == labels.shape == (64, 64, SIZE)
    assert labels.any(axis=(1, 2)).mean() > 0.5


def test_what_cannot_be_drawn_from_is_refused(scans):
    with pytest.raises(DataError, match="The support of a synthesis must lie in"):
        BatchedMixture({"source": 1.0}, 0.5, scans * 2)
    with pytest.raises(SettingsError, match="'second_anomaly' setting must lie in"):
        BatchedMixture({"source": 1.0}, 1.5, scans)
