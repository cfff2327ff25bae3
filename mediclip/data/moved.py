"""Slightly moved copies of images: what the same organ could look like in another patient's scan."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_ANGLE_DEGREES = 8.0
_LOG_SCALE = 0.08
_SHIFT_SHARE = 1 / 28
_LOG_GAMMA = 0.2


def moved_copies(images: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Turn, scale and shift each image a little and change its contrast.

    Rotations are uniform in ±8°, scales e^U(±0.08), shifts ±1/28 of the side, gammas e^U(±0.2); what comes in
    at the edge repeats it. No image is mirrored: a heart on the wrong side is not normal.

    Args:
        images: ``(K, S, S)`` in [0, 1].
        count: Copies of each image, at least 0.
        rng: Source of the draws; its state moves on.

    Returns:
        ``(K·count, S, S)`` in [0, 1], the copies of one image next to each other.
    """
    copies = [_moved(image, rng) for image in images for _ in range(count)]
    return np.stack(copies) if copies else np.empty((0, *images.shape[1:]), dtype=np.float32)


def _moved(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    side = image.shape[0]
    angle = math.radians(rng.uniform(-_ANGLE_DEGREES, _ANGLE_DEGREES))
    scale = math.exp(rng.uniform(-_LOG_SCALE, _LOG_SCALE))
    shift = rng.uniform(-_SHIFT_SHARE, _SHIFT_SHARE, 2) * side
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * scale
    centre = np.full(2, (side - 1) / 2)
    warped = ndimage.affine_transform(image, turn, centre - turn @ (centre + shift), order=1, mode="nearest")
    gamma = math.exp(rng.uniform(-_LOG_GAMMA, _LOG_GAMMA))
    return np.power(np.clip(warped, 0, 1), gamma, dtype=np.float32)
