"""The two intensity changes: a blotchy texture, and an even plateau with a ramp."""

import numpy as np
from numpy.typing import NDArray

from mediclip.synthesis.batched.axes import blur_of_pairs, reflecting_blur
from mediclip.synthesis.gaussian_intensity import AMPLITUDES, EDGE_SIGMAS, TEXTURE_SIGMAS
from mediclip.synthesis.shapes import Image, Mask, Region
from mediclip.synthesis.smooth_intensity import draw_amplitude, draw_ramp

_COINS = np.array([value.bit_count() for value in range(16)], np.float32)
_FARTHEST = 255


def change_texture(image: Image, region: Region, rng: np.random.Generator) -> None:
    """Do :func:`mediclip.synthesis.gaussian_intensity.gaussian_intensity` in place.

    The coins are drawn four at a time, for squares of two by two pixels, and blurred where they are wanted:
    in the region, and at every third pixel for the range of the whole image.

    Args:
        image: ``(H, W)`` float32 in [0, 1]; changed.
        region: Where.
        rng: Source of the random numbers.
    """
    (height, width), window = image.shape, region.window
    shape = -(-height // 2), -(-width // 2)
    number = shape[0] * shape[1]
    drawn = np.frombuffer(rng.bytes(-(-number // 2)), np.uint8)
    coins = _COINS.take(np.concatenate([drawn & 15, drawn >> 4])[:number]).reshape(shape)
    sigma = float(rng.choice(TEXTURE_SIGMAS))
    coarse = blur_of_pairs(height, 3, sigma) @ coins @ blur_of_pairs(width, 3, sigma).T
    lowest, highest = float(coarse.min()), float(coarse.max())
    rows, columns = blur_of_pairs(height, 1, sigma), blur_of_pairs(width, 1, sigma)
    texture = rows[window[0]] @ coins @ columns[window[1]].T
    texture -= lowest
    amplitude = rng.uniform(*AMPLITUDES) * rng.choice((-1, 1))
    edge = rng.uniform(*EDGE_SIGMAS)
    mask = region.mask.astype(np.float32)
    weight = reflecting_blur(mask.shape[0], edge) @ mask @ reflecting_blur(mask.shape[1], edge).T
    texture *= weight
    texture *= mask
    texture *= np.float32(amplitude / (highest - lowest)) if highest > lowest else np.float32(0)
    box = image[window]
    box += texture
    np.clip(box, 0, 1, out=box)


def change_level(image: Image, region: Region, rng: np.random.Generator) -> None:
    """Do :func:`mediclip.synthesis.smooth_intensity.smooth_intensity` in place.

    Args:
        image: ``(H, W)`` float32 in [0, 1]; changed.
        region: Where.
        rng: Source of the random numbers.
    """
    lowest, highest = image.min(), image.max()
    amplitude, ramp = draw_amplitude(rng), draw_ramp((image.shape[0], image.shape[1]), rng)
    depth = capped_depth(region.mask, ramp)
    depth *= np.float32(amplitude / min(ramp, float(depth.max())))
    np.clip(depth, -abs(amplitude), abs(amplitude), out=depth)
    box = image[region.window]
    depth += box
    np.clip(depth, lowest, highest, out=depth)
    np.copyto(box, depth, where=region.mask)


def capped_depth(mask: Mask, cap: float) -> NDArray[np.float32]:
    """Measure how far each pixel of a mask is from the nearest false one, exactly up to a cap.

    Args:
        mask: ``(h, w)``; what lies around the box counts as neither true nor false.
        cap: Distance in pixels from which on the value need not be exact, in [1, 255].

    Returns:
        ``(h, w)`` float32: the Euclidean distance where it is at most ``cap``, at least ``cap`` elsewhere, 0
        outside the mask.

    Source: Felzenszwalb and Huttenlocher, Distance Transforms of Sampled Functions, 2012, with the lower
    envelope by trying all shifts.
    """
    reach = min(int(np.ceil(cap)), _FARTHEST - 1)
    column = np.where(mask, np.uint8(reach + 1), np.uint8(0))
    shift = 1
    while shift <= reach and shift < len(column):  # after each turn right up to 2 · shift - 1 pixels
        before = column.copy()
        np.minimum(column[shift:], before[:-shift] + np.uint8(shift), out=column[shift:])
        np.minimum(column[:-shift], before[shift:] + np.uint8(shift), out=column[:-shift])
        shift *= 2
    square = column.astype(np.uint16) ** 2
    best = square.copy()
    for shift in range(1, min(reach, mask.shape[1] - 1) + 1):
        shifted = square + np.uint16(shift * shift)
        np.minimum(best[:, shift:], shifted[:, :-shift], out=best[:, shift:])
        np.minimum(best[:, :-shift], shifted[:, shift:], out=best[:, :-shift])
    return np.sqrt(best, dtype=np.float32)
