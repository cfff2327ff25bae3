"""Sources and sinks: what stays, what grows and what shrinks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mediclip.synthesis.deformation import (
    Deformation,
    deform,
    draw_deformation,
    look_up,
    sink,
    sink_radius,
    source,
    source_radius,
)
from mediclip.synthesis.shapes import ConvexShape, Region

seeds = st.integers(0, 2**32 - 1)
radii = pytest.mark.parametrize("new_radius", [source_radius, sink_radius])


def disc_in_the_middle(side, radius, factor):
    """A round deformation about the middle of an image of odd side."""
    shape = ConvexShape("ellipse", np.array([radius, radius], float), np.eye(2))
    corner = side // 2 - radius
    return Deformation(shape, Region((corner, corner), shape.mask()), (radius, radius), factor)


@radii
@given(seed=seeds)
@settings(max_examples=30)
def test_with_factor_one_nothing_moves(new_radius, seed):
    rng = np.random.default_rng(seed)
    image = rng.random((64, 48), np.float32)
    deformation = replace(draw_deformation((64, 48), rng), factor=1.0)
    places = look_up(deformation, new_radius)
    np.testing.assert_allclose(places, np.stack(np.nonzero(deformation.region.mask)), atol=1e-9)
    np.testing.assert_allclose(deform(image, deformation.region, places), image, atol=1e-5)


@radii
def test_the_centre_and_the_edge_stay_and_the_radius_grows_in_between(new_radius):
    edge = np.full(101, 7.0)
    moved = new_radius(np.linspace(0, 7, 101), edge, 2.5)
    assert moved[0] == 0
    assert moved[-1] == pytest.approx(7)
    assert (np.diff(moved) >= 0).all()


@given(share=st.floats(0, 1), edge=st.floats(0.1, 100), factor=st.floats(1, 4))
def test_a_source_looks_inwards_and_a_sink_is_its_mirror(share, edge, factor):
    radius, edges = np.array([share * edge]), np.array([edge])
    inwards = source_radius(radius, edges, factor)
    assert inwards[0] <= radius[0] + 1e-9
    mirrored = edges - source_radius(edges - radius, edges, factor)
    np.testing.assert_allclose(sink_radius(radius, edges, factor), mirrored, atol=1e-9 * edge)


def test_the_radii_follow_the_published_formulas():
    # By hand: r = 2, R = 4, f = 3 gives 2³/4² = 0.5 and 4 - 2³/4² = 3.5.
    radius, edge = np.array([2.0]), np.array([4.0])
    assert source_radius(radius, edge, 3.0) == pytest.approx([0.5])
    assert sink_radius(radius, edge, 3.0) == pytest.approx([3.5])


def test_a_centre_on_the_edge_gives_finite_places():
    nothing = np.zeros(1)
    assert source_radius(nothing, nothing, 2.0) == 0
    assert sink_radius(nothing, nothing, 2.0) == 0


@radii
@given(seed=seeds)
@settings(max_examples=50)
def test_every_pixel_looks_inside_the_shape_along_its_own_ray(new_radius, seed):
    deformation = draw_deformation((50, 70), np.random.default_rng(seed))
    mask = deformation.region.mask
    places = look_up(deformation, new_radius)
    pixels = np.stack(np.nonzero(mask))
    upright = np.linalg.solve(deformation.shape.matrix, places - (np.array(mask.shape)[:, None] - 1) / 2)
    share = np.abs(upright) / deformation.shape.half_sides[:, None]
    reach = share.max(axis=0) if deformation.shape.kind == "rectangle" else np.hypot(*share)
    assert reach.max() <= 1 + 1e-6
    start = np.array(deformation.centre)[:, None]
    before, after = pixels - start, places - start
    np.testing.assert_allclose(before[0] * after[1], before[1] * after[0], atol=1e-6)
    assert ((before * after).sum(axis=0) >= -1e-9).all()
    at_centre = (pixels == start).all(axis=0)
    np.testing.assert_array_equal(places[:, at_centre], start)


@radii
def test_a_smooth_picture_is_read_at_the_places(new_radius):
    def picture(rows, columns):
        return 0.5 + 0.3 * np.sin(rows / 15) * np.cos(columns / 18)

    image = picture(*np.mgrid[:101, :101]).astype(np.float32)
    deformation = disc_in_the_middle(101, 40, 2.0)
    places = look_up(deformation, new_radius)
    changed = deform(image, deformation.region, places)[deformation.region.window][deformation.region.mask]
    np.testing.assert_allclose(changed, picture(*(places + deformation.region.corner[0])), atol=2e-3)


def test_a_source_enlarges_what_lies_at_its_centre_and_a_sink_shrinks_it():
    rows, columns = np.mgrid[:101, :101] - 50
    disc = (np.hypot(rows, columns) <= 12).astype(np.float32)
    deformation = disc_in_the_middle(101, 40, 2.0)
    grown, shrunk = (
        deform(disc, deformation.region, look_up(deformation, r)) for r in (source_radius, sink_radius)
    )
    # By hand for R = 40: the disc's edge goes where r²/40 = 12, and where 40 - (40 - r)²/40 = 12.
    assert np.sqrt((grown > 0.5).sum() / np.pi) == pytest.approx(np.sqrt(480), abs=0.5)
    assert np.sqrt((shrunk > 0.5).sum() / np.pi) == pytest.approx(40 - np.sqrt(1120), abs=0.5)


@pytest.mark.parametrize(("task", "new_radius"), [(source, source_radius), (sink, sink_radius)])
def test_each_task_applies_its_own_radius(task, new_radius):
    image = np.random.default_rng(1).random((64, 64), np.float32)
    deformation = draw_deformation((64, 64), np.random.default_rng(2))
    changed, label = task(image, image, np.random.default_rng(2))
    expected = deform(image, deformation.region, look_up(deformation, new_radius))
    np.testing.assert_array_equal(changed, expected)
    np.testing.assert_array_equal(label, deformation.region.label((64, 64)))


@pytest.mark.parametrize("task", [source, sink])
def test_the_label_is_the_shape_and_every_pixel_outside_it_stays(task):
    image = np.random.default_rng(1).random((64, 64), np.float32)
    for seed in range(20):
        changed, label = task(image, image, np.random.default_rng(seed))
        assert set(np.unique(label)) == {0, 1}
        np.testing.assert_array_equal(changed[label == 0], image[label == 0])
        assert (changed[label == 1] != image[label == 1]).mean() > 0.9


def test_factors_are_powers_of_two_with_exponents_between_a_half_and_two():
    rng = np.random.default_rng(0)
    exponents = np.log2([draw_deformation((64, 64), rng).factor for _ in range(2000)])
    assert exponents.min() >= 0.5
    assert exponents.max() <= 2
    assert exponents.mean() == pytest.approx(1.25, abs=0.03)
