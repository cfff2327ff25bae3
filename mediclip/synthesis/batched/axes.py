"""Matrices that interpolate and blur along one axis; two of them treat an image."""

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Matrix = NDArray[np.float32]


@functools.lru_cache(maxsize=1024)
def interpolation(size: int, knots: int) -> Matrix:
    """Interpolate linearly between knots that span an axis from the first pixel to the last.

    Args:
        size: Pixels.
        knots: At least 2.

    Returns:
        ``(size, knots)``, each row summing to 1.
    """
    places = np.linspace(0, knots - 1, size)
    rows = 1 - np.abs(places[:, None] - np.arange(knots))
    weights: Matrix = np.maximum(rows, 0).astype(np.float32)
    return weights


@functools.lru_cache(maxsize=64)
def blur_of_pairs(size: int, step: int, sigma: float) -> Matrix:
    """Blur with a Gaussian an axis of which the sums of two neighbours are known, reflected at its ends.

    Args:
        size: Pixels, padded to an even number.
        step: Every ``step``-th pixel is wanted.
        sigma: σ in pixels.

    Returns:
        ``(ceil(size / step), ceil(size / 2))``; the two pixels of a pair get the same weight.
    """
    pairs = -(-size // 2)
    wanted = np.arange(0, size, step)[:, None]
    middles = 2 * np.arange(pairs) + 0.5
    rows = np.zeros((len(wanted), pairs))
    for image in (middles, -1 - middles, 4 * pairs - 1 - middles):
        rows += np.exp(-((wanted - image) ** 2) / (2 * sigma**2))
    weights: Matrix = (rows / (2 * rows.sum(1, keepdims=True))).astype(np.float32)
    return weights


def reflecting_blur(size: int, sigma: float) -> Matrix:
    """Blur an axis as ``scipy.ndimage.gaussian_filter`` does: cut at 4σ, reflected at its ends.

    Args:
        size: Pixels.
        sigma: σ in pixels.

    Returns:
        ``(size, size)``, each row summing to 1.
    """
    radius = int(4 * sigma + 0.5)
    if radius > size:  # reflected more than once
        small: Matrix = ndimage.gaussian_filter1d(np.eye(size, dtype=np.float32), sigma, axis=0)
        return small
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.zeros(2 * (size + radius) + 1, np.float32)
    padded[size : size + 2 * radius + 1] = kernel / kernel.sum()
    # A row of the Toeplitz matrix is the padded kernel, one place further to the left each time.
    stride = padded.strides[0]
    width = size + 2 * radius
    rows = np.lib.stride_tricks.as_strided(padded[size:], (size, width), (-stride, stride))
    matrix = rows[:, radius : radius + size].copy()
    matrix[:, :radius] += rows[:, :radius][:, ::-1]
    matrix[:, size - radius :] += rows[:, radius + size :][:, ::-1]
    return matrix
