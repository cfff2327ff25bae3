"""Geometry against scalar formulas, bisection and an image rotation that share no code with it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from mediclip.synthesis.shapes import (
    ConvexShape,
    Region,
    draw_convex_shape,
    draw_corner,
    draw_perlin_mask,
    draw_sides,
    perlin_cell,
    rotation,
)

seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(["rectangle", "ellipse"])


def scalar_perlin(row, column, box, angles):
    """Textbook Perlin noise at one pixel of one upright cell, in Python floats."""
    place = (row / box[0], column / box[1])
    dots = {}
    for i in (0, 1):
        for j in (0, 1):
            gradient = (math.cos(angles[i][j]), math.sin(angles[i][j]))
            dots[i, j] = gradient[0] * (place[0] - i) + gradient[1] * (place[1] - j)
    fade = [6 * t**5 - 15 * t**4 + 10 * t**3 for t in place]
    left = dots[0, 0] * (1 - fade[0]) + dots[1, 0] * fade[0]
    right = dots[0, 1] * (1 - fade[0]) + dots[1, 1] * fade[0]
    return math.sqrt(2) * (left * (1 - fade[1]) + right * fade[1])


@given(seed=seeds, height=st.integers(3, 12), width=st.integers(3, 12))
def test_an_upright_perlin_cell_is_the_textbook_formula_at_every_pixel(seed, height, width):
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, (2, 2))
    expected = [[scalar_perlin(r, c, (height, width), angles) for c in range(width)] for r in range(height)]
    np.testing.assert_allclose(perlin_cell((height, width), angles, 0.0), expected, atol=1e-5)


@given(seed=seeds, side=st.integers(3, 40))
def test_a_quarter_turn_of_a_square_perlin_cell_is_rot90(seed, side):
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, (2, 2))
    upright, turned = (perlin_cell((side, side), angles, angle) for angle in (0.0, np.pi / 2))
    # Rounding may put the outermost ring just outside the cell, where the noise is 0.
    inner = (slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(turned[inner], np.rot90(upright, -1)[inner], atol=1e-5)


@pytest.mark.parametrize("degrees", [-67.0, -20.0, 33.0, 80.0])
@pytest.mark.parametrize("box", [(80, 80), (60, 110)])
def test_a_turned_perlin_cell_is_the_rotated_picture_of_the_upright_one(box, degrees):
    angles = np.random.default_rng(3).uniform(0, 2 * np.pi, (2, 2))
    upright = perlin_cell(box, angles, 0.0)
    picture = ndimage.rotate(upright, -degrees, reshape=False, order=1, cval=np.nan)
    turned = perlin_cell(box, angles, np.radians(degrees))
    seen = np.isfinite(picture)
    assert seen.mean() > 0.3
    np.testing.assert_allclose(turned[seen], picture[seen], atol=2e-3)
    assert (turned[~ndimage.binary_dilation(seen, iterations=2)] == 0).all()


@given(seed=seeds, height=st.integers(3, 60), width=st.integers(3, 60))
@settings(max_examples=50)
def test_a_perlin_mask_covers_a_fifth_of_its_box_and_never_its_corners(seed, height, width):
    longer, shorter = max(height, width), min(height, width)
    box = (height, width) if longer <= 4 * shorter else (shorter, shorter)
    mask = draw_perlin_mask(box, np.random.default_rng(seed))
    assert mask.shape == box
    assert mask.dtype == np.bool_
    assert mask.mean() >= 0.2
    assert not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_box_sides_are_uniform_between_their_ends_and_independent():
    rng = np.random.default_rng(0)
    sides = np.array([draw_sides((224, 100), 0.1, 0.6, rng) for _ in range(4000)])
    assert sides.min(axis=0).tolist() == [22, 10]
    assert sides.max(axis=0).tolist() == [133, 59]
    np.testing.assert_allclose(sides.mean(axis=0), [77.5, 34.5], rtol=0.03)
    assert abs(np.corrcoef(sides.T)[0, 1]) < 0.06


def test_corners_are_uniform_over_every_place_where_the_box_fits():
    rng = np.random.default_rng(0)
    corners = np.array([draw_corner((10, 9), (7, 9), rng) for _ in range(4000)])
    assert (corners[:, 1] == 0).all()
    np.testing.assert_allclose(np.bincount(corners[:, 0]) / 4000, [0.25] * 4, atol=0.03)


def test_a_regions_label_is_its_mask_at_its_corner():
    region = Region((2, 1), np.array([[True, False], [True, True], [False, True]]))
    expected = np.zeros((6, 4))
    for row, column in [(2, 1), (3, 1), (3, 2), (4, 2)]:
        expected[row, column] = 1
    label = region.label((6, 4))
    assert label.dtype == np.float32
    np.testing.assert_array_equal(label, expected)


@given(kind=kinds, seed=seeds)
def test_a_shapes_mask_has_the_area_that_its_determinant_says(kind, seed):
    rng = np.random.default_rng(seed)
    matrix = rotation(rng.uniform(-1.5, 1.5)) @ (np.eye(2) + np.fliplr(np.diag(rng.normal(0, 0.2, 2))))
    half_sides = rng.uniform(20, 60, 2)
    area = abs(np.linalg.det(matrix)) * np.prod(2 * half_sides) * (1 if kind == "rectangle" else np.pi / 4)
    assert ConvexShape(kind, half_sides, matrix).mask().sum() == pytest.approx(area, rel=0.05)


def test_an_upright_rectangle_and_a_circle_are_drawn_as_they_are():
    rectangle = ConvexShape("rectangle", np.array([2.0, 3.0]), np.eye(2)).mask()
    circle = ConvexShape("ellipse", np.array([5.0, 5.0]), rotation(0.7)).mask()
    assert rectangle.shape == (5, 7)
    assert rectangle.all()
    rows, columns = (
        np.mgrid[: circle.shape[0], : circle.shape[1]] - (np.array(circle.shape) // 2)[:, None, None]
    )
    np.testing.assert_array_equal(circle, rows**2 + columns**2 <= 25 + 1e-9)


@given(kind=kinds, seed=seeds)
@settings(max_examples=50)
def test_the_distance_to_the_edge_is_where_bisection_leaves_the_shape(kind, seed):
    rng = np.random.default_rng(seed)
    matrix = rotation(rng.uniform(-1.5, 1.5)) @ (np.eye(2) + np.fliplr(np.diag(rng.normal(0, 0.2, 2))))
    half_sides = rng.uniform(5, 60, 2)
    shape = ConvexShape(kind, half_sides, matrix)
    origin = matrix @ (rng.uniform(-0.7, 0.7, 2) * half_sides)
    bearings = rng.uniform(0, 2 * np.pi, 20)
    rays = np.stack([np.cos(bearings), np.sin(bearings)])

    def is_inside(point):
        share = np.linalg.solve(matrix, point) / half_sides
        return np.abs(share).max() <= 1 if kind == "rectangle" else np.hypot(*share) <= 1

    for ray, found in zip(rays.T, shape.edge_distance(origin, rays), strict=True):
        low, high = 0.0, 500.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if is_inside(origin + middle * ray) else (low, middle)
        assert found == pytest.approx(low, abs=1e-6)


def test_a_ray_along_a_side_or_from_the_edge_outwards_has_a_finite_distance():
    square = ConvexShape("rectangle", np.array([2.0, 2.0]), np.eye(2))
    corner_ways = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(square.edge_distance(np.array([2.0, 0.5]), corner_ways), [0, 1.5, 4])


@given(seed=seeds, height=st.integers(32, 128), width=st.integers(32, 128))
def test_a_drawn_shape_fits_the_image_with_its_centre_inside(seed, height, width):
    shape = draw_convex_shape((height, width), 0.2, 0.6, np.random.default_rng(seed))
    mask = shape.mask()
    assert mask.shape[0] <= round(0.6 * height) + 2
    assert mask.shape[1] <= round(0.6 * width) + 2
    assert mask[shape.half_box]
    np.testing.assert_array_equal(mask, mask[::-1, ::-1])


def test_half_of_the_drawn_shapes_are_ellipses():
    rng = np.random.default_rng(0)
    drawn = [draw_convex_shape((64, 64), 0.2, 0.6, rng).kind for _ in range(1000)]
    assert drawn.count("ellipse") / 1000 == pytest.approx(0.5, abs=0.05)
