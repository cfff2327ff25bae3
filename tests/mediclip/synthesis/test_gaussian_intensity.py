"""Gaussian intensity change: the texture, its weight and its limits."""

import numpy as np
import pytest

from mediclip.synthesis.gaussian_intensity import add_texture, draw_texture, gaussian_intensity
from mediclip.synthesis.shapes import Region

GREY = np.full((64, 64), 0.5, np.float32)
SQUARE = Region((10, 12), np.pad(np.ones((30, 30), bool), 5))


def test_a_texture_spans_the_unit_interval_and_is_smooth():
    for seed in range(5):
        texture = draw_texture((96, 64), np.random.default_rng(seed))
        assert texture.shape == (96, 64)
        assert texture.dtype == np.float32
        assert texture.min() == 0
        assert texture.max() == 1
        assert np.abs(np.diff(texture, axis=0)).max() < 0.2


def test_a_texture_is_blurred_by_one_of_two_widths_with_equal_odds():
    # White noise blurred by σ has a mean square slope of var / (2 σ²) along each axis.
    rng = np.random.default_rng(0)
    widths = []
    for _ in range(60):
        texture = draw_texture((160, 160), rng).astype(np.float64)
        inner = texture[30:-30, 30:-30]
        widths.append(np.sqrt(inner.var() / (2 * np.mean(np.diff(inner, axis=0) ** 2))))
    narrow = np.array(widths) < 5.3
    assert np.median(np.array(widths)[narrow]) == pytest.approx(4, rel=0.15)
    assert np.median(np.array(widths)[~narrow]) == pytest.approx(7, rel=0.15)
    assert 0.3 < narrow.mean() < 0.7


def test_an_amplitude_of_zero_changes_nothing():
    image = np.random.default_rng(0).random((64, 64), np.float32)
    texture = draw_texture((64, 64), np.random.default_rng(1))
    np.testing.assert_array_equal(add_texture(image, SQUARE, texture, 0.0, 2.0), image)


@pytest.mark.parametrize("amplitude", [0.4, -0.4])
def test_deep_inside_the_whole_texture_is_added_and_half_of_it_at_the_edge(amplitude):
    texture = np.full((64, 64), 0.8, np.float32)
    change = add_texture(GREY, SQUARE, texture, amplitude, 2.0) - GREY
    assert change[32, 32] == pytest.approx(0.8 * amplitude, abs=1e-5)
    # Half the blur's weight lies beyond an edge through the middle between two pixels.
    edge, beyond = change[15, 32], change[14, 32]
    assert 0.5 < edge / (0.8 * amplitude) < 0.65
    assert beyond == 0


def test_values_are_clipped_and_nothing_outside_the_mask_is_touched():
    image = np.random.default_rng(0).random((64, 64), np.float32)
    texture = np.ones((64, 64), np.float32)
    outside = SQUARE.label((64, 64)) == 0
    for amplitude, limit in [(1.0, 1.0), (-1.0, 0.0)]:
        changed = add_texture(image, SQUARE, texture, amplitude, 1.0)
        assert changed[32, 32] == limit
        np.testing.assert_array_equal(changed[outside], image[outside])


def test_one_anomaly_only_brightens_or_only_darkens_by_at_most_six_tenths():
    signs, largest = [], []
    for seed in range(60):
        changed, label = gaussian_intensity(GREY, GREY, np.random.default_rng(seed))
        change = changed - GREY
        assert (change >= 0).all() or (change <= 0).all()
        assert set(np.unique(label)) == {0, 1}
        signs.append(np.sign(change.sum()))
        largest.append(np.abs(change).max())
    assert 0.3 < np.mean(np.array(signs) > 0) < 0.7
    assert max(largest) <= 0.5
    assert np.median(largest) > 0.3


def test_a_constant_texture_field_is_zero_and_not_a_division_by_zero():
    class EvenCoins(np.random.Generator):
        """A real generator whose coins all fall on one side."""

        def random(self, size=None, dtype=np.float64, out=None):
            return np.zeros(size, dtype) if out is None else out

    assert not draw_texture((32, 32), EvenCoins(np.random.PCG64(0))).any()
