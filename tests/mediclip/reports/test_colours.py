"""Colour maps, judged by CIE lightness: a formula that shares nothing with OKLab."""

import numpy as np
import pytest

from mediclip.reports.colours import difference_table, heat_table


def cie_lightness(table):
    """Compute L* in [0, 100] of sRGB bytes (IEC 61966-2-1, CIE 1976)."""
    values = table / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)


def test_heat_grows_evenly_lighter():
    lightness = cie_lightness(heat_table())
    steps = np.diff(lightness[::15])
    assert lightness[0] < 25
    assert lightness[-1] > 80
    assert steps.min() > 0
    assert steps.max() < 2 * steps.mean()


def test_changes_grow_lighter_on_both_sides_of_black():
    lightness = cie_lightness(difference_table())
    assert lightness[127] < 3
    assert lightness[128] < 3
    assert np.all(np.diff(lightness[:120:8]) < 0)
    assert np.all(np.diff(lightness[136::8]) > 0)
    np.testing.assert_allclose(lightness, lightness[::-1], atol=4)


def test_darker_is_blue_and_brighter_is_orange():
    red, _, blue = difference_table().astype(int).T
    assert np.all(blue[:110] > red[:110])
    assert np.all(red[146:] > blue[146:])


@pytest.mark.parametrize("table", [heat_table, difference_table])
def test_tables_are_shared_and_cannot_be_written(table):
    assert table().shape == (256, 3)
    assert table() is table()
    with pytest.raises(ValueError, match="read-only"):
        table()[0] = 0
