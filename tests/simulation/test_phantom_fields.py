import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from simulation.phantom import fields
from simulation.phantom.fields import Frame


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


frames = st.builds(
    Frame,
    size=st.integers(16, 80),
    angle=st.floats(-3, 3),
    shift=st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
    zoom=st.floats(0.5, 2),
)


@given(frames)
def test_a_frame_finds_each_pixel_from_its_own_body_coordinates(frame: Frame):
    row, column = frame.pixels(frame.x, frame.y)
    expected = np.indices((frame.size, frame.size))
    # Centres lie half a pixel from the next pixel; float32 cannot cross that.
    assert np.array_equal(row, expected[0])
    assert np.array_equal(column, expected[1])


def test_a_frame_at_rest_spans_minus_one_to_one_with_y_down():
    frame = Frame(4)
    assert frame.x[0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert frame.y[:, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert frame.pixel == 0.5


def test_a_quarter_turn_moves_the_right_hand_side_down():
    row, column = Frame(100, angle=math.pi / 2).pixels(np.array([0.5]), np.array([0.0]))
    assert (int(row[0]), abs(int(column[0]) - 50) <= 1) == (75, True)


def test_the_nearest_point_of_a_curve_agrees_with_a_search_of_all_points():
    frame = Frame(48, angle=0.3, shift=(0.1, -0.05), zoom=0.9)
    points = fields.smooth_curve([(-0.6, -0.5), (0.2, -0.3), (0.4, 0.5)], 0.5 * frame.pixel)
    distance, index = frame.nearest(points)
    brute = np.hypot(frame.x[..., None] - points[:, 0], frame.y[..., None] - points[:, 1])
    assert np.allclose(distance, np.take_along_axis(brute, index[..., None], 2)[..., 0], atol=1e-5)
    excess = distance - brute.min(axis=2)
    assert excess.max() < math.sqrt(2) * frame.pixel
    assert excess.mean() < 0.25 * frame.pixel


def test_points_outside_the_image_are_far_away():
    distance, index = Frame(8).nearest(np.array([[5.0, 5.0]], np.float32))
    assert (distance == 9).all()
    assert (index == 0).all()


@pytest.mark.parametrize("cells", [(4, None), (3, 9), (40, 40)])
def test_smooth_noise_has_unit_variance_and_no_mean(cells: tuple[int, int | None]):
    source = rng(1)
    draws = np.stack([fields.smooth_noise(source, 64, *cells) for _ in range(200)])
    assert draws.dtype == np.float32
    assert abs(draws.mean()) < 0.1
    assert draws.std() == pytest.approx(1, abs=0.08)


@given(st.integers(1, 30), st.integers(0, 1000))
def test_smooth_noise_is_the_same_pattern_at_twice_the_size(cells: int, seed: int):
    small, large = (fields.smooth_noise(rng(seed), size, cells) for size in (64, 128))
    # The centre of a pixel is the corner of four pixels at twice the size: their mean differs by curvature.
    mean = large.reshape(64, 2, 64, 2).mean(axis=(1, 3))
    assert np.abs(mean - small).max() < 0.02 + 4 * (cells / 128) ** 2


def test_spline_weights_add_up_to_one():
    assert np.allclose(fields._spline_matrix(50, 7).sum(axis=1), 1, atol=1e-6)


def test_fractal_noise_of_one_octave_is_smooth_noise_and_more_octaves_keep_the_variance():
    assert np.array_equal(fields.fractal_noise(rng(), 32, 4, 1), fields.smooth_noise(rng(), 32, 4, 4))
    source = rng(3)
    assert np.std([fields.fractal_noise(source, 32, 4, 4) for _ in range(300)]) == pytest.approx(1, abs=0.05)


def test_coverage_is_a_half_on_the_edge_and_saturates():
    distance = np.array([-1, -0.05, 0, 0.05, 1], np.float32)
    assert fields.coverage(distance, 0.1).tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-5)


def test_chord_and_dome_are_the_thickness_of_a_sphere():
    assert fields.chord(np.array([0, 0.6, 1, 2.0]), 1.0).tolist() == pytest.approx([1, 0.8, 0, 0])
    assert fields.dome(np.array([-1, 0, 0.4, 1, 3.0]), 1.0).tolist() == pytest.approx([0, 0, 0.8, 1, 1])


def test_a_smooth_ellipse_has_its_area_and_a_rough_one_about_the_same():
    frame = Frame(256)
    for roughness, tolerance in ((0.0, 0.01), (0.1, 0.15)):
        inside = (
            fields.rough_ellipse(frame, rng(4), (0.1, 0), (0.5, 0.25), angle=0.4, roughness=roughness) > 0
        )
        assert inside.sum() * frame.pixel**2 == pytest.approx(math.pi * 0.5 * 0.25, rel=tolerance)


def test_a_profile_runs_through_its_knots_and_holds_beyond_them():
    knots, values = [0.0, 0.4, 1.0], [1.0, 3.0, 2.0]
    at = np.array([-5, 0, 0.4, 1, 5.0])
    assert fields.profile(at, knots, values).tolist() == pytest.approx([1, 1, 3, 2, 2], abs=1e-3)
    assert fields.profile(np.linspace(0, 1, 99), knots, values).max() <= 3


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1)), min_size=2, max_size=6))
def test_a_smooth_curve_runs_through_its_control_points(control: list[tuple[float, float, float]]):
    points = fields.smooth_curve(control, 0.01)
    for knot in control:
        assert np.abs(points - np.array(knot)).sum(axis=1).min() < 1e-5


def test_a_curve_of_a_straight_line_has_points_within_the_step():
    points = fields.smooth_curve([(0, 0), (0.5, 0), (1, 0)], 0.02)
    assert np.diff(points[:, 0]).max() <= 0.02
    assert (points[:, 1] == 0).all()


def test_walks_start_where_told_have_their_lengths_and_without_bend_are_straight():
    starts = np.array([[0, 0], [0.5, 0.5]])
    headings, lengths = np.array([0, math.pi / 2]), np.array([0.4, 0.2])
    straight = fields.wandering_curves(rng(), starts, headings, lengths, bend=0, step=0.01)
    assert np.allclose(straight[:, 0], starts)
    assert np.allclose(straight[:, -1], [[0.4, 0], [0.5, 0.7]], atol=1e-6)
    bent = fields.wandering_curves(rng(), starts, headings, lengths, bend=1, step=0.01)
    steps = np.hypot(*np.moveaxis(np.diff(bent, axis=1), 2, 0))
    assert np.allclose(steps.sum(axis=1), lengths, atol=1e-5)
    assert steps.max() <= 0.0101
    assert not np.allclose(bent[:, -1], straight[:, -1], atol=1e-2)


def test_a_place_is_picked_where_there_is_room_else_where_there_is_most():
    frame = Frame(40)
    for seed in range(20):
        x, y = fields.pick_place(rng(seed), frame, 0.2 - np.hypot(frame.x - 0.5, frame.y))
        assert math.hypot(x - 0.5, y) < 0.2
    x, y = fields.pick_place(rng(), frame, -np.hypot(frame.x - 0.31, frame.y + 0.7))
    assert (x, y) == pytest.approx((0.31, -0.7), abs=frame.pixel)
