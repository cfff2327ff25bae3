"""Each part of the batched forms against SciPy's or the per-image form's own numbers."""

import numpy as np
import pytest
from scipy import ndimage, stats

from mediclip.rng import generator
from mediclip.synthesis.batched.axes import (
    CHEBYSHEV,
    NODES,
    blur_of_blocks,
    polynomial,
    reflecting_blur,
)
from mediclip.synthesis.batched.convex import draw_convex_shapes, draw_pixels, pixels_between
from mediclip.synthesis.batched.intensity import squared_depth
from mediclip.synthesis.batched.pasting import close_and_fill, draw_views
from mediclip.synthesis.batched.regions import (
    PerlinCells,
    _accept,
    _cut,
    draw_perlin_patches,
    index_row,
    pixels_of,
)
from mediclip.synthesis.batched.tables import SplineTable
from mediclip.synthesis.batched.warps import Warp, sink_stretch, source_stretch
from mediclip.synthesis.cut_paste import draw_view, label_difference
from mediclip.synthesis.deformation import HIGH, LOW, Deformation, look_up, sink_radius, source_radius
from mediclip.synthesis.shapes import (
    PERLIN_LEVEL,
    PERLIN_MIN_COVER,
    ConvexShape,
    Region,
    draw_convex_shape,
    perlin_cell,
)


@pytest.mark.parametrize(("size", "sigma"), [(5, 4.0), (16, 4.0), (31, 1.0), (90, 2.7), (179, 4.0)])
def test_the_blur_of_a_mask_is_scipys(size, sigma):
    values = generator(size, "blur").random(size, np.float32)
    want = ndimage.gaussian_filter1d(values, sigma)
    np.testing.assert_allclose(reflecting_blur(size, sigma) @ values, want, atol=2e-6)


@pytest.mark.parametrize(("size", "sigma"), [(40, 1.0), (90, 2.7)])
def test_a_blur_that_does_not_reflect_sees_zeros_beyond_the_end(size, sigma):
    values = generator(size, "blur").random(size, np.float32)
    for reflects in ((True, False), (False, True), (False, False)):
        parts = [
            values[::-1] if reflects[0] else 0 * values,
            values,
            values[::-1] if reflects[1] else 0 * values,
        ]
        want = ndimage.gaussian_filter1d(np.concatenate(parts), sigma, mode="constant")[size : 2 * size]
        got = reflecting_blur(size, sigma, reflects=reflects) @ values
        np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("sigma", [4.0, 7.0])
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("block", [1, 2])
def test_the_blur_of_blocks_is_that_of_their_pixels(sigma, step, block):
    coins = np.repeat(generator(0, "coins").integers(0, 2, 160 // block), block).astype(np.float32)
    want = ndimage.gaussian_filter1d(coins, sigma, truncate=6)[::step]
    sums = coins.reshape(-1, block).sum(1)
    np.testing.assert_allclose(blur_of_blocks(160, block, step, sigma) @ sums, want, atol=4e-3)


@pytest.mark.parametrize("sigma", [4.0, 7.0])
@pytest.mark.parametrize("block", [2, 4])
def test_noise_in_blocks_has_the_covariance_of_noise_in_pixels(sigma, block):
    each = ndimage.gaussian_filter1d(np.eye(160), sigma, axis=0, truncate=6)
    blocks = blur_of_blocks(160, block, 1, sigma).astype(np.float64)
    want, got = each @ each.T, block * blocks @ blocks.T
    np.testing.assert_allclose(got, want, atol=0.02 * want.max())
    assert abs(np.trace(got) / np.trace(want) - 1) < 2e-3


@pytest.mark.parametrize("size", [2, 7, 50])
def test_polynomials_are_exact_up_to_degree_eleven(size):
    rng = generator(size, "polynomial")
    places = np.linspace(-1, 1, size)
    for degree in range(NODES):
        values = np.polynomial.Chebyshev(rng.uniform(-1, 1, degree + 1))
        got = polynomial(size) @ values(CHEBYSHEV).astype(np.float32)
        np.testing.assert_allclose(got, values(places), atol=2e-5)
    beyond = np.polynomial.Chebyshev([0] * NODES + [1])  # vanishes at all the places
    assert np.abs(polynomial(size) @ beyond(CHEBYSHEV)).max() < 1e-4


@pytest.mark.parametrize("cap", [1.0, 4.5, 11.2, 60.0])
def test_the_depth_is_the_euclidean_distance_up_to_its_cap(cap):
    rng = generator(0, "depth")
    for number in range(20):
        field = ndimage.gaussian_filter(rng.standard_normal((40 + number, 63)), 4)
        mask = field > np.quantile(field, 0.3)
        want = np.minimum(ndimage.distance_transform_edt(mask), cap)
        np.testing.assert_allclose(np.minimum(np.sqrt(squared_depth(mask, cap)), cap), want, rtol=1e-6)


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
        np.testing.assert_allclose(table.look(index, places[::-1].copy()), want, atol=0.5 / 255)
    whole = np.mgrid[:40, :56].reshape(2, -1).astype(np.float32)
    np.testing.assert_allclose(table.look(0, whole[::-1].copy()), images[0].reshape(-1), atol=1e-5)


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
        first, last = (ends[0] for ends in cells.ends())
        columns = np.arange(box[1])
        inside = (columns >= first[:, None]) & (columns <= last[:, None])
        got = polynomial(box[0]) @ cells.noise(CHEBYSHEV)[0] @ polynomial(box[1]).T * inside
        edge = inside != (want != 0)
        assert edge.mean() < 0.01
        np.testing.assert_allclose(got[~edge], want[~edge], atol=5e-3)


def test_patches_cover_a_fifth_of_their_boxes_and_lie_in_them():
    boxes = np.array([(30 + i, 120 - i) for i in range(80)])
    corners = np.stack([np.arange(80), 100 - np.arange(80)], axis=1)
    patches = draw_perlin_patches(boxes, corners, generator(0, "masks"))
    sizes = np.array([patch.mask.shape for patch in patches])
    starts = np.array([patch.corner for patch in patches]) - corners
    assert (starts >= 0).all()
    assert (starts + sizes <= boxes).all()
    assert sizes.prod(axis=1).mean() < 0.9 * boxes.prod(axis=1).mean()  # some of a box is left out
    ends = np.stack([starts[:, 0] == 0, (starts + sizes == boxes)[:, 0], starts[:, 1] == 0], axis=1)
    np.testing.assert_array_equal(ends, [patch.at_ends[:3] for patch in patches])
    cover = np.array([patch.mask.sum() for patch in patches]) / boxes.prod(axis=1)
    assert cover.min() > PERLIN_MIN_COVER - 0.02
    assert draw_perlin_patches(boxes[:0], corners[:0], generator(0, "none")) == []


def test_nothing_of_a_mask_is_left_out_of_its_patch():
    boxes, rng = np.tile([[90, 61]], (200, 1)), generator(0, "whole")
    cells = PerlinCells(
        boxes.astype(np.float32), *(np.empty((200, *shape), np.float32) for shape in ((2, 2, 2), (2,)))
    )
    angles, turns = rng.uniform(0, 2 * np.pi, (200, 2, 2)), rng.uniform(-np.pi / 2, np.pi / 2, 200)
    cells.gradients[...] = np.stack([np.cos(angles), np.sin(angles)], -1)
    cells.turns[...] = np.stack([np.cos(turns), np.sin(turns)], -1)
    values = cells.noise(CHEBYSHEV)
    accepted, covered = _accept(cells, values)
    patches = list(
        _cut(cells.take(accepted), values[accepted], covered, np.zeros((len(accepted), 2), np.int64))
    )
    assert len(patches) > 20
    for number, patch in zip(accepted.tolist(), patches, strict=True):
        want = perlin_cell((90, 61), angles[number], turns[number]) > PERLIN_LEVEL
        got = np.zeros_like(want)
        got[patch.window] = patch.mask
        assert np.count_nonzero(got != want) < 0.01 * want.sum()  # pixels on the very edge


def test_the_pixels_of_a_mask_are_listed_in_order_and_found_in_the_image():
    mask = generator(0, "pixels").random((37, 53)) < 0.3
    inside, pixels = pixels_of(mask)
    np.testing.assert_array_equal(inside, np.flatnonzero(mask))
    np.testing.assert_array_equal(pixels[:2], np.nonzero(mask))
    image = np.zeros((224, 300), np.bool_)
    image[180:217, 240:293] = mask
    where = np.array(index_row((180, 240), 300), np.float32) @ pixels
    np.testing.assert_array_equal(where, np.flatnonzero(image))


def test_views_stay_in_the_source_and_are_turned_and_scaled_as_those_of_the_per_image_form():
    boxes = np.tile([[40, 120]], (2000, 1))
    views = draw_views(boxes, (160, 150), generator(0, "views"))
    ends = np.stack([np.zeros((2000, 2)), *(boxes * step for step in ([1, 0], [0, 1], [1, 1]))], axis=2)
    places = views.matrices @ ends + views.offsets[:, :, None]
    assert places.min() >= 0
    assert (places.max(axis=(0, 2)) <= [160, 150]).all()
    rng = generator(1, "views")
    plain = [draw_view((40, 120), (160, 150), rng) for _ in range(2000)]
    for got, want in (
        (views.matrices[:, 0, 0], [view.matrix[0, 0] for view in plain]),
        (views.matrices[:, 1, 0], [view.matrix[1, 0] for view in plain]),
        (views.offsets[:, 0], [view.offset[0] + view.crop[0].start for view in plain]),
        (views.offsets[:, 1], [view.offset[1] + view.crop[1].start for view in plain]),
    ):
        assert stats.ks_2samp(got, want).pvalue > 1e-3


def test_shapes_are_drawn_as_those_of_the_per_image_form():
    shapes = draw_convex_shapes(1500, (160, 200), LOW, HIGH, generator(0, "many"))
    rng = generator(1, "many")
    plain = [draw_convex_shape((160, 200), LOW, HIGH, rng) for _ in range(1500)]
    upright = [np.linalg.inv(shape.matrix) / shape.half_sides[:, None] for shape in plain]
    assert abs(shapes.is_rectangle.mean() - 0.5) < 0.06
    pairs = [(shapes.half_boxes[:, axis], [shape.half_box[axis] for shape in plain]) for axis in range(2)]
    pairs += [(shapes.upright[:, i, j], [u[i, j] for u in upright]) for i in range(2) for j in range(2)]
    for got, want in pairs:
        assert stats.ks_2samp(got, want).pvalue > 1e-3


def test_a_pixel_is_drawn_uniformly_from_a_mask():
    first, last = np.array([[3, 0, 1]], np.int16), np.array([[2, 1, 3]], np.int16)  # rows of 0, 2 and 3
    drawn = draw_pixels(np.repeat(first, 5000, axis=0), np.repeat(last, 5000, axis=0), generator(0, "pixel"))
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    np.testing.assert_array_equal(found, [[1, 0], [1, 1], [2, 1], [2, 2], [2, 3]])
    assert stats.chisquare(counts).pvalue > 1e-3


def test_shapes_and_their_rays_are_those_of_the_per_image_form():
    shapes, rng = draw_convex_shapes(60, (160, 160), LOW, HIGH, generator(0, "shapes")), generator(0, "rays")
    found = zip(shapes.is_rectangle.tolist(), shapes.upright, pixels_between(*shapes.ends()), strict=True)
    for is_rectangle, upright, pixels in found:
        plain = ConvexShape("rectangle" if is_rectangle else "ellipse", np.ones(2), np.linalg.inv(upright))
        mask = plain.mask()
        got_mask = np.zeros_like(mask)
        got_mask[tuple(pixels[:2].astype(int))] = True
        assert (got_mask != mask).mean() < 2e-3  # pixels on the very edge
        _, inside = pixels_of(mask)
        centre = tuple(np.argwhere(mask)[rng.integers(mask.sum())].tolist())
        factor = 2 ** rng.uniform(0.5, 2)
        for stretch, radius in ((source_stretch, source_radius), (sink_stretch, sink_radius)):
            want = look_up(Deformation(plain, Region((0, 0), mask), centre, factor), radius)
            one = Warp(is_rectangle, upright, (0, 0), mask.shape, centre, factor, pixels)
            got = one.places(inside, stretch)[::-1]
            # Rays of nearly no length, at the centre or from an edge, have no direction in float32.
            assert np.quantile(np.abs(got - want), 0.995) < 0.05
