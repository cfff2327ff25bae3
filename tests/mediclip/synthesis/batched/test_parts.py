"""Each part of the batched forms against SciPy's or the per-image form's own numbers."""

import numpy as np
import pytest
from scipy import ndimage

from mediclip.rng import generator
from mediclip.synthesis.batched.axes import blur_of_pairs, interpolation, reflecting_blur
from mediclip.synthesis.batched.intensity import capped_depth
from mediclip.synthesis.batched.regions import PerlinCells, convex_mask, draw_perlin_masks
from mediclip.synthesis.batched.tables import SplineTable
from mediclip.synthesis.batched.warps import Warp, close_and_fill, pixels_of, sink_share, source_share
from mediclip.synthesis.cut_paste import label_difference
from mediclip.synthesis.deformation import Deformation, look_up, sink_radius, source_radius
from mediclip.synthesis.shapes import PERLIN_LEVEL, Region, draw_convex_shape, perlin_cell


@pytest.mark.parametrize(("size", "sigma"), [(5, 4.0), (16, 4.0), (31, 1.0), (90, 2.7), (179, 4.0)])
def test_the_blur_of_a_mask_is_scipys(size, sigma):
    values = generator(size, "blur").random(size, np.float32)
    want = ndimage.gaussian_filter1d(values, sigma)
    np.testing.assert_allclose(reflecting_blur(size, sigma) @ values, want, atol=2e-6)


@pytest.mark.parametrize("sigma", [4.0, 7.0])
@pytest.mark.parametrize("step", [1, 3])
def test_the_blur_of_pairs_is_that_of_their_pixels(sigma, step):
    coins = np.repeat(generator(0, "coins").integers(0, 3, 80), 2).astype(np.float32) / 2
    want = ndimage.gaussian_filter1d(coins, sigma, truncate=6)[::step]
    np.testing.assert_allclose(blur_of_pairs(160, step, sigma) @ coins.reshape(80, 2).sum(1), want, atol=4e-3)


def test_interpolation_is_linear_between_knots():
    knots = generator(0, "knots").random(7).astype(np.float32)
    want = np.interp(np.linspace(0, 6, 50), np.arange(7), knots)
    np.testing.assert_allclose(interpolation(50, 7) @ knots, want, atol=1e-6)


@pytest.mark.parametrize("cap", [1.0, 4.5, 11.2, 60.0])
def test_the_depth_is_the_euclidean_distance_up_to_its_cap(cap):
    rng = generator(0, "depth")
    for number in range(20):
        field = ndimage.gaussian_filter(rng.standard_normal((40 + number, 63)), 4)
        mask = field > np.quantile(field, 0.3)
        want = np.minimum(ndimage.distance_transform_edt(mask), cap)
        np.testing.assert_allclose(np.minimum(capped_depth(mask, cap), cap), want, rtol=1e-6)


def test_closing_and_filling_is_that_of_the_label():
    rng = generator(0, "fill")
    for _ in range(30):
        field = ndimage.gaussian_filter(rng.standard_normal((33, 47)), 1.5)
        levels = np.digitize(np.abs(field), np.quantile(np.abs(field), [0.5, 0.6])).astype(np.uint8)
        soft = np.array([0, 1 - np.exp(-12.5), 1 - np.exp(-50)], np.float32)
        np.testing.assert_allclose(
            soft[close_and_fill(levels)], label_difference(levels.astype(np.float64)), rtol=1e-6
        )


def test_a_table_gives_the_cubic_spline_of_the_image():
    rng = generator(0, "table")
    images = np.stack([ndimage.gaussian_filter(rng.random((40, 56)), 1.5) for _ in range(3)]).astype(
        np.float32
    )
    table = SplineTable(images)
    places = np.stack([rng.uniform(0, 39, 500), rng.uniform(0, 55, 500)]).astype(np.float32)
    places[:, :4] = [[0, 39, 0, 39], [0, 55, 55, 0]]
    for index, image in enumerate(images):
        want = ndimage.map_coordinates(image, places, order=3, mode="mirror")
        # Half a grey level: bilinear look-up at quarter pixels leaves 1/128 of the second difference.
        np.testing.assert_allclose(table.look(index, *places), want, atol=0.5 / 255)
    whole = np.mgrid[:40, :56].reshape(2, -1).astype(np.float32)
    np.testing.assert_allclose(table.look(0, *whole), images[0].reshape(-1), atol=1e-5)


@pytest.mark.parametrize("box", [(60, 60), (45, 130), (3, 20)])
def test_the_noise_of_a_cell_is_that_of_the_per_image_form(box):
    rng = generator(0, "cell")
    for _ in range(20):
        angles, turn = rng.uniform(0, 2 * np.pi, (2, 2)), rng.uniform(-np.pi / 2, np.pi / 2)
        cells = PerlinCells(
            np.array([box], np.float32),
            np.stack([np.cos(angles), np.sin(angles)], -1)[None].astype(np.float32),
            np.array([[np.cos(turn), np.sin(turn)]], np.float32),
        )
        want = perlin_cell(box, angles, turn)
        low, high = cells.ends(0)
        columns = np.arange(box[1])
        inside = (columns >= low[:, None]) & (columns <= high[:, None])
        fine = cells.noise(96)[0]
        got = interpolation(box[0], 96) @ fine @ interpolation(box[1], 96).T * inside
        edge = inside != (want != 0)
        assert edge.mean() < 0.01
        np.testing.assert_allclose(got[~edge], want[~edge], atol=5e-3)


def test_masks_cover_a_fifth_of_their_boxes_and_end_before_the_corners():
    boxes = [(30 + i, 120 - i) for i in range(80)]
    masks = draw_perlin_masks(boxes, generator(0, "masks"))
    assert [mask.shape for mask in masks] == boxes
    assert min(mask.mean() for mask in masks) > 0.18
    assert draw_perlin_masks([], generator(0, "none")) == []
    assert PERLIN_LEVEL > 0


def test_shapes_and_their_rays_are_those_of_the_per_image_form():
    rng = generator(0, "shapes")
    for _ in range(60):
        shape = draw_convex_shape((160, 160), 0.2, 0.6, rng)
        mask = shape.mask()
        assert (convex_mask(shape) != mask).mean() < 2e-3  # pixels on the very edge
        inside, rows, columns = pixels_of(mask)
        np.testing.assert_array_equal(np.stack([rows, columns]), np.nonzero(mask))
        np.testing.assert_array_equal(inside, np.flatnonzero(mask))
        centre = tuple(np.argwhere(mask)[rng.integers(mask.sum())].tolist())
        factor = 2 ** rng.uniform(0.5, 2)
        for share, radius in ((source_share, source_radius), (sink_share, sink_radius)):
            region = Region((0, 0), mask)
            want = look_up(Deformation(shape, region, centre, factor), radius)
            got = Warp(shape, region, centre, factor, share).places(rows.copy(), columns.copy())
            # Rays of nearly no length, at the centre or from an edge, have no direction in float32.
            assert np.quantile(np.abs(np.stack(got) - want), 0.995) < 0.05
