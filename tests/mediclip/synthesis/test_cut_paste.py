"""CutPaste: the view against plain indexing, the label against its formula and a slow reconstruction."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from mediclip.synthesis.cut_paste import View, cut_paste, draw_view, grey_difference, label_difference, look
from mediclip.synthesis.shapes import rotation

seeds = st.integers(0, 2**32 - 1)


def test_an_upright_view_of_scale_one_is_the_crop_itself():
    source = np.random.default_rng(0).random((40, 50), np.float32)
    view = View((slice(5, 25), slice(10, 40)), np.eye(2), np.zeros(2))
    seen = look(source, view, np.ones((20, 30), bool))
    np.testing.assert_allclose(seen.reshape(20, 30), source[5:25, 10:40], atol=1e-5)


def test_a_view_turned_by_a_quarter_is_rot90_of_the_crop():
    source = np.random.default_rng(0).random((40, 40), np.float32)
    view = View((slice(3, 33), slice(6, 36)), rotation(np.pi / 2), np.array([29.0, 0.0]))
    seen = look(source, view, np.ones((30, 30), bool))
    np.testing.assert_allclose(seen.reshape(30, 30), np.rot90(source[3:33, 6:36], -1), atol=1e-5)


def test_a_view_agrees_with_an_affine_transform_of_the_crop():
    source = ndimage.gaussian_filter(np.random.default_rng(0).random((90, 90), np.float32), 1.5)
    box, rng = (30, 42), np.random.default_rng(4)
    view = draw_view(box, (90, 90), rng)
    expected = ndimage.affine_transform(source[view.crop], view.matrix, view.offset, box, order=3)
    seen = look(source, view, np.ones(box, bool)).reshape(box)
    np.testing.assert_allclose(seen[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-4)


def test_only_the_masked_pixels_are_sampled_in_their_order():
    source = np.random.default_rng(0).random((40, 40), np.float32)
    view = draw_view((20, 15), (40, 40), np.random.default_rng(1))
    mask = np.random.default_rng(2).random((20, 15)) < 0.3
    whole = look(source, view, np.ones((20, 15), bool)).reshape(20, 15)
    np.testing.assert_array_equal(look(source, view, mask), whole[mask])


@given(
    seed=seeds,
    box=st.tuples(st.integers(3, 134), st.integers(3, 134)),
    shape=st.tuples(st.integers(32, 256), st.integers(32, 256)),
)
def test_a_view_lies_inside_the_source_and_its_pixels_inside_the_crop(seed, box, shape):
    view = draw_view(box, shape, np.random.default_rng(seed))
    extent = np.array([part.stop - part.start for part in view.crop])
    for part, side in zip(view.crop, shape, strict=True):
        assert 0 <= part.start < part.stop <= side
        assert part.stop - part.start <= 0.8 * side + 2
    corners = np.array([[0, 0, box[0] - 1, box[0] - 1], [0, box[1] - 1, 0, box[1] - 1]])
    places = view.matrix @ corners + view.offset[:, None]
    assert places.min() >= -1e-9
    assert (places <= extent[:, None]).all()


def test_angles_and_scales_of_small_boxes_have_the_published_distribution():
    rng = np.random.default_rng(0)
    matrices = np.array([draw_view((20, 20), (224, 224), rng).matrix for _ in range(4000)])
    scales = np.sqrt(np.linalg.det(matrices))
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert np.abs(angles).max() <= 45
    assert angles.std() == pytest.approx(90 / np.sqrt(12), rel=0.03)
    assert (scales > 1).mean() == pytest.approx(0.5, abs=0.03)
    assert np.abs(np.log(scales)).max() > 0.3
    assert (scales[scales > 1] - 1).mean() == pytest.approx(0.1, rel=0.1)
    assert (1 / scales[scales < 1] - 1).mean() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("levels", "label"), [(0, 0.0), (1, 1 - math.exp(-12.5)), (2, 1.0), (255, 1.0)], ids=str
)
def test_an_even_change_is_labelled_by_the_flipped_gaussian(levels, label):
    difference = np.full((5, 5), float(levels))
    np.testing.assert_allclose(label_difference(difference), label, rtol=1e-7)


def test_a_change_is_counted_in_whole_grey_levels():
    before = np.full((1, 5), 0.5, np.float32)
    after = before + np.array([[0, 0.4, 0.6, -1.6, 40]], np.float32) / 255
    assert grey_difference(before, after).tolist() == [[0, 0, 1, 2, 40]]


def test_gaps_are_closed_and_holes_filled_but_bays_stay_open():
    changed = np.zeros((13, 13))
    changed[2:11, 2:11] = 9
    changed[4:9, 4:9] = 0  # a hole
    changed[2, 9] = 0  # a gap of one pixel
    label = label_difference(changed)
    expected = np.zeros((13, 13))
    expected[2:11, 2:11] = 1
    np.testing.assert_array_equal(label, expected)
    changed[5:8, 8:11] = 0  # the hole now opens to the right, three pixels wide
    assert label_difference(changed)[6, 6] == 0


@given(seed=seeds, density=st.floats(0.05, 0.9))
@settings(max_examples=40, deadline=None)
def test_filling_is_the_grey_reconstruction_by_erosion(seed, density):
    rng = np.random.default_rng(seed)
    difference = rng.integers(1, 4, (15, 18)) * (ndimage.gaussian_filter(rng.random((15, 18)), 0.7) < density)
    soft = (1 - np.exp(-(difference.astype(float) ** 2) / 0.08)).astype(np.float32)
    closed = ndimage.grey_closing(np.pad(soft, 1), size=(3, 3))
    filled = np.full_like(closed, closed.max())
    filled[[0, -1], :], filled[:, [0, -1]] = closed[[0, -1], :], closed[:, [0, -1]]
    while True:
        lowered = np.maximum(ndimage.grey_erosion(filled, size=(3, 3)), closed)
        lowered = np.minimum(lowered, filled)
        if (lowered == filled).all():
            break
        filled = lowered
    label = label_difference(difference)
    np.testing.assert_array_equal(label, filled[1:-1, 1:-1])
    assert (label >= soft).all()


def test_pasting_from_an_even_image_onto_itself_changes_and_labels_nothing():
    even = np.full((48, 48), 0.3, np.float32)
    changed, label = cut_paste(even, even, np.random.default_rng(0))
    np.testing.assert_array_equal(changed, even)
    assert not label.any()


def test_the_content_comes_from_the_source_and_its_label_is_where_it_lies():
    image, source = np.full((64, 64), 0.2, np.float32), np.full((80, 96), 0.9, np.float32)
    changed, label = cut_paste(image, source, np.random.default_rng(0))
    pasted = changed == np.float32(0.9)
    assert pasted.any()
    np.testing.assert_array_equal(changed[~pasted], image[~pasted])
    np.testing.assert_array_equal(label[pasted], 1)


def test_pasted_values_stay_in_the_range_of_the_source():
    rng = np.random.default_rng(0)
    source = np.where(rng.random((64, 64)) < 0.5, 0.4, 0.6).astype(np.float32)
    image = np.zeros((64, 64), np.float32)
    for seed in range(10):
        changed, label = cut_paste(image, source, np.random.default_rng(seed))
        inside = changed[changed > 0]
        assert inside.min() >= np.float32(0.4)
        assert inside.max() <= np.float32(0.6)
        assert (label[changed > 0] > 0).all()
