"""The two colour maps of the figures, computed in a space in which equal steps look equal.

Nothing is read from a file: a map is a path through OKLCH (lightness, chroma, hue), kept inside sRGB by
taking chroma away where a colour would lie outside.

Source: Ottosson, "A perceptual color space for image processing" (2020), for OKLab and its matrices.
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVELS: Final = 256

_OKLAB_TO_LMS: Final = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
_LMS_TO_LINEAR_RGB: Final = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)


@cache
def heat_table() -> NDArray[np.uint8]:
    """Give the colours of anomaly values: dark violet, magenta, orange, pale yellow.

    Lightness rises evenly, so the order survives a grey print and any colour vision.

    Returns:
        ``(256, 3)`` sRGB, read-only, from the lowest value to the highest.
    """
    t = np.linspace(0, 1, LEVELS)
    hue = 292 + 170 * t + 12 * np.sin(np.pi * t)
    chroma = 0.13 + 0.065 * np.sin(np.pi * t)
    return _table(0.34 + 0.58 * t, chroma, hue)


@cache
def difference_table() -> NDArray[np.uint8]:
    """Give the colours of changes: blue where darker, black where equal, orange where brighter.

    Returns:
        ``(256, 3)`` sRGB, read-only, from the most negative change to the most positive.
    """
    t = np.linspace(-1, 1, LEVELS)
    size = np.abs(t) ** 0.65
    return _table(0.88 * size, 0.27 * size * (1 - 0.66 * size), np.where(t < 0, 245.0, 62.0))


def _table(lightness: Floats, chroma: Floats, hue: Floats) -> NDArray[np.uint8]:
    """Turn ``(T,)`` lightness in [0, 1], chroma and hue in degrees into ``(T, 3)`` sRGB bytes."""
    low, high = np.zeros_like(chroma), chroma.copy()
    for _ in range(24):  # the largest chroma inside sRGB, by halving
        middle = (low + high) / 2
        inside = _is_displayable(_linear_rgb(lightness, middle, hue))
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    linear = np.clip(_linear_rgb(lightness, low, hue), 0, 1)
    table = np.round(255 * _gamma(linear)).astype(np.uint8)
    table.flags.writeable = False
    return table


def _linear_rgb(lightness: Floats, chroma: Floats, hue: Floats) -> Floats:
    angle = np.deg2rad(hue)
    lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1)
    linear: Floats = (lab @ np.array(_OKLAB_TO_LMS).T) ** 3 @ np.array(_LMS_TO_LINEAR_RGB).T
    return linear


def _is_displayable(linear: Floats) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.all((linear >= -1e-6) & (linear <= 1 + 1e-6), axis=-1)
    return inside


def _gamma(linear: Floats) -> Floats:
    """Apply the transfer curve of sRGB (IEC 61966-2-1) to values in [0, 1]."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
