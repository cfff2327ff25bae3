"""Smooth intensity change: plateau, ramp and limits."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mediclip.synthesis.shapes import Region
from mediclip.synthesis.smooth_intensity import add_plateau, draw_amplitude, draw_ramp, smooth_intensity

SQUARE = Region((10, 12), np.pad(np.ones((31, 31), bool), 5))


def image_with_range():
    """Mid grey with one black and one white pixel, so that nothing is clipped."""
    image = np.full((64, 64), 0.5, np.float32)
    image[0, 0], image[0, 1] = 0, 1
    return image


def test_an_amplitude_of_zero_changes_nothing():
    image = np.random.default_rng(0).random((64, 64), np.float32)
    np.testing.assert_array_equal(add_plateau(image, SQUARE, 0.0, 5.0), image)


@given(amplitude=st.floats(-0.5, 0.5), ramp=st.floats(1, 40))
def test_the_change_rises_linearly_with_the_distance_from_the_edge(amplitude, ramp):
    image = image_with_range()
    change = (add_plateau(image, SQUARE, amplitude, ramp) - image)[SQUARE.window][5:-5, 5:-5]
    # In a square the nearest pixel outside lies straight ahead: distances 1, 2, ... 16.
    steps = np.minimum(np.arange(31), np.arange(31)[::-1]) + 1
    depth = np.minimum(steps[:, None], steps[None, :])
    expected = amplitude * np.minimum(depth / min(ramp, 16), 1)
    np.testing.assert_allclose(change, expected, atol=1e-6)


def test_the_result_stays_between_the_images_own_darkest_and_brightest_value():
    image = np.random.default_rng(0).uniform(0.3, 0.6, (64, 64)).astype(np.float32)
    for amplitude, limit in [(1.5, image.max()), (-1.5, image.min())]:
        assert add_plateau(image, SQUARE, amplitude, 3.0)[32, 32] == limit


def test_an_even_image_stays_even_because_it_has_no_range():
    even = np.full((64, 64), 0.3, np.float32)
    changed, label = smooth_intensity(even, even, np.random.default_rng(0))
    np.testing.assert_array_equal(changed, even)
    assert label.any()


def test_amplitudes_are_fifteen_levels_and_a_gamma_of_mean_ninety_with_random_sign():
    rng = np.random.default_rng(0)
    levels = 255 * np.array([draw_amplitude(rng) for _ in range(5000)])
    sizes = np.abs(levels)
    assert sizes.min() >= 15 - 1e-9
    assert sizes.mean() == pytest.approx(105, rel=0.03)
    assert sizes.std() == pytest.approx(30 * np.sqrt(3), rel=0.05)
    assert (levels > 0).mean() == pytest.approx(0.5, abs=0.03)


def test_ramps_are_a_fiftieth_of_the_shorter_side_and_a_gamma_of_mean_three_hundredths():
    rng = np.random.default_rng(0)
    ramps = np.array([draw_ramp((300, 200), rng) for _ in range(5000)])
    assert ramps.min() >= 4
    assert ramps.mean() == pytest.approx(10, rel=0.03)
    assert ramps.std() == pytest.approx(2 * np.sqrt(3), rel=0.05)
