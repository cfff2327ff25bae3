"""Streaming pixel metrics against plain, slow definitions that share no code with them."""

from collections import deque
from itertools import pairwise

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from mediclip.errors import DataError
from mediclip.evaluation.metrics import PixelMetrics

BINS = 16  # values are multiples of 1/16, so that a histogram of 16 bins loses nothing


@st.composite
def maps_and_masks(draw, *, max_images=4, max_side=7):
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=max_side))
    shape = (min(shape[0], max_images), *shape[1:])
    levels = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, BINS - 1)))
    masks = draw(hnp.arrays(np.bool_, shape, elements=st.booleans()))
    return levels / BINS, masks


def both_kinds(case):
    return case[1].any() and not case[1].all()


def lesions(mask):
    """Flood-fill 8-connected lesions, one list of pixels each."""
    left = {tuple(p) for p in np.argwhere(mask)}
    found = []
    while left:
        queue = deque([left.pop()])
        lesion = []
        while queue:
            row, column = queue.popleft()
            lesion.append((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            queue.extend(near)
        found.append(lesion)
    return found


def plain_aupro(maps, masks, limit):
    """Sweep every threshold, cover every lesion, add up trapezoids."""
    points = [(0.0, 0.0)]
    all_lesions = [
        (image, lesion) for image, mask in zip(maps, masks, strict=True) for lesion in lesions(mask)
    ]
    for threshold in sorted(set(maps.ravel()), reverse=True):
        flagged = maps >= threshold
        false_rate = np.sum(flagged & ~masks) / np.sum(~masks)
        covered = [np.mean([image[p] >= threshold for p in lesion]) for image, lesion in all_lesions]
        points.append((false_rate, float(np.mean(covered))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < limit:
            y_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + y_limit) / 2
    return area / limit


def plain_best_dice(maps, masks):
    flags = [maps >= t for t in set(maps.ravel())]
    return max(2 * np.sum(f & masks) / (np.sum(f) + np.sum(masks)) for f in flags)


def counted(maps, masks, *, bins=BINS):
    metrics = PixelMetrics(bins=bins)
    metrics.update(maps, masks)
    return metrics


@given(maps_and_masks().filter(both_kinds), st.sampled_from([0.05, 0.3, 0.5, 1.0]))
def test_aupro_agrees_with_a_plain_sweep_over_lesions(case, limit):
    assert counted(*case).aupro(limit) == pytest.approx(plain_aupro(*case, limit), abs=1e-12)


@given(maps_and_masks().filter(both_kinds))
def test_pixel_auroc_and_dice_agree_with_their_definitions(case):
    maps, masks = case
    metrics = counted(maps, masks)
    expected = sklearn.metrics.roc_auc_score(masks.ravel(), maps.ravel())
    assert metrics.pixel_auroc() == pytest.approx(expected, abs=1e-12)
    assert metrics.best_dice() == pytest.approx(plain_best_dice(maps, masks), abs=1e-12)


@given(
    hnp.arrays(np.float32, (2, 6, 6), elements=st.floats(0, 1, width=32)),
    hnp.arrays(np.bool_, (2, 6, 6)),
)
def test_pixel_auroc_of_any_values_stays_within_the_stated_bound(maps, masks):
    metrics = counted(maps, masks, bins=32)
    if not metrics.is_defined():
        assert metrics.pixel_auroc() is None
        return
    tied = metrics.normal / metrics.normal.sum() * (metrics.abnormal / metrics.abnormal.sum())
    exact = sklearn.metrics.roc_auc_score(masks.ravel(), maps.ravel())
    assert abs(metrics.pixel_auroc() - exact) <= tied.sum() / 2 + 1e-12


def test_values_crowded_around_a_half_lose_less_than_a_hundred_thousandth():
    rng = np.random.default_rng(3)
    masks = rng.random((8, 96, 96)) < 0.05
    logits = 0.05 * (rng.normal(size=masks.shape) + 1.2 * masks)
    maps = (1 / (1 + np.exp(-logits))).astype(np.float32)  # within 0.45 to 0.55, as cosines give
    metrics = PixelMetrics()
    metrics.update(maps, masks)
    exact = sklearn.metrics.roc_auc_score(masks.ravel(), maps.ravel())
    assert metrics.pixel_auroc() == pytest.approx(exact, abs=1e-5)


@settings(max_examples=30)
@given(st.lists(maps_and_masks(), min_size=1, max_size=4))
def test_merged_parts_equal_one_pass(cases):
    whole, merged = PixelMetrics(bins=BINS), PixelMetrics(bins=BINS)
    for case in cases:
        whole.update(*case)
        merged.merge(counted(*case))
    np.testing.assert_array_equal(whole.normal, merged.normal)
    np.testing.assert_array_equal(whole.abnormal, merged.abnormal)
    np.testing.assert_allclose(whole.overlap, merged.overlap, rtol=1e-12)
    assert whole.regions == merged.regions == sum(len(lesions(m)) for _, masks in cases for m in masks)


@given(maps_and_masks(max_images=4))
def test_the_size_of_a_batch_does_not_matter(case):
    maps, masks = case
    one_by_one = PixelMetrics(bins=BINS)
    for i in range(len(maps)):
        one_by_one.update(maps[i : i + 1], masks[i : i + 1])
    whole = counted(maps, masks)
    np.testing.assert_allclose(whole.overlap, one_by_one.overlap, rtol=1e-12)
    assert whole.regions == one_by_one.regions


def test_a_perfect_map_scores_one_and_its_opposite_nothing():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 2:5, 2:5] = True
    perfect, opposite = counted(masks * 1.0, masks), counted(1.0 - masks, masks)
    assert (perfect.pixel_auroc(), perfect.aupro(), perfect.best_dice()) == (1.0, 1.0, 1.0)
    assert (opposite.pixel_auroc(), opposite.aupro()) == (0.0, 0.0)
    assert opposite.best_dice() == pytest.approx(2 * 9 / (128 + 9))  # everything is flagged


def test_small_lesions_weigh_as_much_as_large_ones():
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 0:10, 0:10] = True
    masks[0, 15, 15] = True
    only_large = np.where(np.arange(20)[:, None] < 10, masks, False) * 1.0
    assert counted(only_large, masks).aupro() == pytest.approx(0.5 + 0.5 * 0.15, abs=1e-12)
    assert counted(only_large, masks).best_dice() == pytest.approx(200 / 201)


def test_lesions_touch_at_corners_but_not_between_images():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 3, 3] = True
    masks[1, 1, 1] = True
    assert counted(np.zeros((2, 4, 4)), masks).regions == 3


def test_normal_images_count_among_the_false_positives():
    masks = np.zeros((1, 4, 4), bool)
    masks[0, 0] = True
    maps = np.zeros((1, 4, 4))
    maps[0, 0] = 0.5
    metrics = counted(maps, masks)
    assert metrics.aupro() == 1.0
    metrics.update(np.ones((1, 4, 4)), np.zeros((1, 4, 4), bool))
    # All 16 pixels of the normal image lie above the lesion: 16 of 28 normal pixels, more than the limit.
    assert metrics.aupro() == 0.0


@pytest.mark.parametrize("fill", [None, False, True], ids=["nothing", "no lesion", "only lesion"])
def test_pixel_metrics_are_none_without_both_kinds_of_pixels(fill):
    metrics = PixelMetrics()
    if fill is not None:
        metrics.update(np.full((1, 3, 3), 0.5), np.full((1, 3, 3), fill))
    assert (metrics.pixel_auroc(), metrics.aupro(), metrics.best_dice()) == (None, None, None)


def test_memory_does_not_grow_with_images():
    metrics = PixelMetrics()
    sizes = []
    for _ in range(3):
        metrics.update(np.full((4, 32, 32), 0.5, np.float32), np.eye(32, dtype=bool)[None].repeat(4, 0))
        sizes.append(metrics.normal.nbytes + metrics.abnormal.nbytes + metrics.overlap.nbytes)
    assert sizes == [3 * 65_536 * 8] * 3


def test_half_precision_maps_keep_their_values():
    masks = np.zeros((1, 2, 2), bool)
    masks[0, 0, 0] = True
    maps = np.where(masks, 1.0, 0.5).astype(np.float16)
    assert counted(maps, masks, bins=65_536).pixel_auroc() == 1.0


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (
            np.zeros((1, 2, 2)),
            np.zeros((1, 2, 3), bool),
            (
                "Maps and masks must both have shape (B, H, W). Got (1, 2, 2) and (1, 2, 3); "
                "give one mask of the same size per map."
            ),
        ),
        (
            np.zeros((2, 2)),
            np.zeros((2, 2), bool),
            (
                "Maps and masks must both have shape (B, H, W). Got (2, 2) and (2, 2); "
                "give one mask of the same size per map."
            ),
        ),
        (
            np.zeros((1, 2, 2)),
            np.zeros((1, 2, 2)),
            (
                "Maps must be floating point and masks bool. Got float64 and float64; "
                "convert them before counting."
            ),
        ),
        (
            np.array([[[0.5]], [[np.nan]]]),
            np.zeros((2, 1, 1), bool),
            (
                "Anomaly values must lie in [0, 1]. Map 1 of the batch has a value that does not; give "
                "probabilities, not logits, and check that the model was trained without overflow."
            ),
        ),
        (
            np.array([[[1.5]]]),
            np.zeros((1, 1, 1), bool),
            (
                "Anomaly values must lie in [0, 1]. Map 0 of the batch has a value that does not; give "
                "probabilities, not logits, and check that the model was trained without overflow."
            ),
        ),
    ],
)
def test_maps_that_cannot_be_counted_are_refused_and_nothing_is_counted(maps, masks, message):
    metrics = PixelMetrics()
    with pytest.raises(DataError) as caught:
        metrics.update(maps, masks)
    assert str(caught.value) == message
    assert not metrics.normal.any()
    assert not metrics.abnormal.any()


def test_histograms_of_different_widths_are_not_merged():
    with pytest.raises(DataError) as caught:
        PixelMetrics(bins=16).merge(PixelMetrics(bins=32))
    assert str(caught.value) == (
        "Pixel metrics must have the same number of bins to be merged. Got 16 and 32; "
        "make both with the same 'bins'."
    )
