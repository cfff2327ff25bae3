"""Matrices that interpolate and blur along one axis; two of them treat an image."""

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Matrix = NDArray[np.float32]

NODES = 12
_ANGLES = (np.arange(NODES) + 0.5) * np.pi / NODES
CHEBYSHEV = np.cos(_ANGLES).astype(np.float32)
"""Places in [-1, 1] where a polynomial of degree 11 is sampled."""


@functools.lru_cache(maxsize=1024)
def polynomial(size: int) -> Matrix:
    """Evaluate polynomials of degree below 12 from their values at the Chebyshev places.

    Args:
        size: Pixels, at least 2; they span [-1, 1] from the first to the last.

    Returns:
        ``(size, NODES)``, each row summing to 1.
    """
    orders = np.arange(NODES)
    here = np.cos(orders * np.arccos(np.linspace(-1, 1, size))[:, None])
    to_coefficients = np.cos(orders[:, None] * _ANGLES) * np.where(orders, 2, 1)[:, None] / NODES
    weights: Matrix = (here @ to_coefficients).astype(np.float32)
    return weights


@functools.lru_cache(maxsize=64)
def blur_of_blocks(size: int, block: int, step: int, sigma: float) -> Matrix:
    """Blur with a Gaussian an axis of which the sums of blocks of pixels are known, reflected at its ends.

    The sums stand in the middles of their blocks. White noise that is blurred in this way has the covariance
    that it has when its pixels are blurred one by one, ``exp(-d² / 4σ²)`` up to a factor.

    Args:
        size: Pixels, padded to a multiple of ``block``.
        block: Pixels that are summed, at most ``sigma``.
        step: Every ``step``-th pixel is wanted.
        sigma: σ in pixels.

    Returns:
        ``(ceil(size / step), ceil(size / block))``; the pixels of a block get the same weight.
    """
    blocks = -(-size // block)
    wanted = np.arange(0, size, step)[:, None]
    middles = block * np.arange(blocks) + (block - 1) / 2
    rows = np.zeros((len(wanted), blocks))
    for image in (middles, -1 - middles, 2 * block * blocks - 1 - middles):
        rows += np.exp(-((wanted - image) ** 2) / (2 * sigma**2))
    weights: Matrix = (rows / (block * rows.sum(1, keepdims=True))).astype(np.float32)
    return weights


def reflecting_blur(size: int, sigma: float, *, reflects: tuple[bool, bool] = (True, True)) -> Matrix:
    """Blur an axis as ``scipy.ndimage.gaussian_filter`` does: cut at 4σ, reflected at its ends.

    Args:
        size: Pixels.
        sigma: σ in pixels.
        reflects: Whether the first and the last pixel are followed by their reflections, or by zeros.

    Returns:
        ``(size, size)``, each row summing to 1 if both ends reflect.
    """
    radius = int(4 * sigma + 0.5)
    if radius > size:  # reflected more than once
        small: Matrix = ndimage.gaussian_filter1d(np.eye(size, dtype=np.float32), sigma, axis=0)
        return small
    kernel = np.exp(_SQUARES[:, _REACH - radius : _REACH + radius + 1] * (-0.5 / sigma**2))[0]
    width = size + 2 * radius
    padded = np.zeros(size + width, np.float32)
    padded[size : size + 2 * radius + 1] = kernel / np.add.reduce(kernel)
    # A row of the Toeplitz matrix is the padded kernel, one place further to the left each time.
    rows: Matrix = np.ndarray((size, width), np.float32, padded, 4 * size, (-4, 4))
    matrix = rows[:, radius : radius + size].copy()
    if reflects[0]:
        matrix[:radius, :radius] += rows[:radius, :radius][:, ::-1]
    if reflects[1]:
        matrix[size - radius :, size - radius :] += rows[size - radius :, radius + size :][:, ::-1]
    return matrix


_REACH = 64
_SQUARES = np.arange(-_REACH, _REACH + 1, dtype=np.float32)[None] ** 2
