"""The two intensity changes for many images: a blotchy texture, and an even plateau with a ramp."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mediclip.synthesis.batched.axes import Matrix, blur_of_blocks, reflecting_blur
from mediclip.synthesis.batched.regions import Patch
from mediclip.synthesis.gaussian_intensity import AMPLITUDES, EDGE_SIGMAS, TEXTURE_SIGMAS
from mediclip.synthesis.shapes import Image, Mask, Pair
from mediclip.synthesis.smooth_intensity import GAMMA_SHAPE, RAMP_OFFSET, RAMP_SCALE, SCALE

_BLOCK = 4
# The range of a texture is taken at every third or fourth pixel, of blotches of σ 4 or 7.
_STEPS = {4.0: 3, 7.0: 4}
_NOTHING, _ALL = np.float32(0), np.float32(1)
_FARTHEST = 180  # its square fits into 16 bits, and so does that plus one shift's


class Texture(NamedTuple):
    """A field of soft blotches on [0, 1], and how it is to be added.

    Attributes:
        coins: ``(h, w)`` sums of blocks of coins, so scaled that their blur lies in [0, 1].
        rows: ``(H, h)`` and
        columns: ``(W, w)``, what blurs the coins.
        amplitude: Change where texture and weight are 1.
        edge_sigma: σ of the blur that turns a mask into a weight.
    """

    coins: NDArray[np.float32]
    rows: Matrix
    columns: Matrix
    amplitude: float
    edge_sigma: float


def draw_textures(count: int, image_shape: Pair, rng: np.random.Generator) -> Iterator[Texture]:
    """Draw what :func:`mediclip.synthesis.gaussian_intensity.gaussian_intensity` draws, M times.

    The coins are drawn for blocks of four by four pixels, and blurred where they are wanted.

    Args:
        count: M.
        image_shape: ``(H, W)``.
        rng: Source of the random numbers.

    Yields:
        The textures.
    """
    height, width = image_shape
    blocks = -(-height // _BLOCK), -(-width // _BLOCK)
    drawn = np.frombuffer(rng.bytes(2 * count * blocks[0] * blocks[1]), np.uint16)
    coins = np.bitwise_count(drawn).astype(np.float32).reshape(count, *blocks)
    sigmas = rng.choice(TEXTURE_SIGMAS, count).tolist()
    amplitudes = (rng.uniform(*AMPLITUDES, count) * rng.choice((-1, 1), count)).tolist()
    edges = rng.uniform(*EDGE_SIGMAS, count).tolist()
    for values, sigma, amplitude, edge in zip(coins, sigmas, amplitudes, edges, strict=True):
        step = _STEPS[sigma]
        coarse = blur_of_blocks(height, _BLOCK, step, sigma) @ values
        coarse = (coarse @ blur_of_blocks(width, _BLOCK, step, sigma).T).reshape(-1)
        lowest, highest = coarse.min(), coarse.max()
        values -= lowest * _BLOCK**2  # noqa: PLW2901 - the array, in place: a blur of equal coins is their mean
        if highest > lowest:
            values *= 1 / (highest - lowest)  # noqa: PLW2901
        rows, columns = blur_of_blocks(height, _BLOCK, 1, sigma), blur_of_blocks(width, _BLOCK, 1, sigma)
        yield Texture(values, rows, columns, amplitude, edge)


def add_texture(image: Image, label: Image, patch: Patch, texture: Texture) -> None:
    """Do :func:`mediclip.synthesis.gaussian_intensity.add_texture` in place.

    Args:
        image: ``(H, W)`` float32 in [0, 1]; changed.
        label: ``(H, W)`` float32; 1 in the patch afterwards.
        patch: Where.
        texture: What.
    """
    window, (height, width) = patch.window, patch.mask.shape
    change = texture.rows[window[0]] @ texture.coins @ texture.columns[window[1]].T
    mask = patch.mask.astype(np.float32)
    top, bottom, left, right = patch.at_ends
    down = reflecting_blur(height, texture.edge_sigma, reflects=(top, bottom))
    along = reflecting_blur(width, texture.edge_sigma, reflects=(left, right))
    down *= np.float32(texture.amplitude)
    weight = down @ mask @ along.T
    weight *= mask
    change *= weight
    box = image[window]
    change += box
    _write(change, box, (_NOTHING, _ALL))
    np.copyto(label[window], _ALL, where=patch.mask)


def draw_plateaus(count: int, image_shape: Pair, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Draw M amplitudes and ramps as :mod:`mediclip.synthesis.smooth_intensity` draws them."""
    amplitudes = SCALE / 2 + rng.gamma(GAMMA_SHAPE, SCALE, count)
    amplitudes *= rng.choice((-1, 1), count)
    ramps = min(image_shape) * (RAMP_OFFSET + rng.gamma(GAMMA_SHAPE, RAMP_SCALE, count))
    return list(zip(amplitudes.tolist(), ramps.tolist(), strict=True))


def add_plateau(image: Image, label: Image, patch: Patch, amplitude: float, ramp: float) -> None:
    """Do :func:`mediclip.synthesis.smooth_intensity.add_plateau` in place.

    Args:
        image: ``(H, W)`` float32 in [0, 1]; changed.
        label: ``(H, W)`` float32; 1 in the patch afterwards.
        patch: Where.
        amplitude: Change on the plateau.
        ramp: Pixels from the edge to the plateau.
    """
    flat, window = image.reshape(-1), patch.window
    ends = np.minimum.reduce(flat), np.maximum.reduce(flat)
    square = squared_depth(patch.mask, ramp)
    farthest = int(np.maximum.reduce(square, axis=None))
    depth = np.sqrt(np.arange(farthest + 1, dtype=np.float32))
    depth *= np.float32(1 / min(ramp, float(depth[-1])))
    np.minimum(depth, _ALL, out=depth)
    depth *= np.float32(amplitude)
    change = depth.take(square)
    box = image[window]
    change += box
    _write(change, box, ends)
    np.copyto(label[window], _ALL, where=patch.mask)


def _write(values: NDArray[Any], box: Image, ends: tuple[np.float32, np.float32]) -> None:
    """Clip values to a range, in place, and copy them into a box."""
    flat = values.reshape(-1)
    np.minimum(np.maximum(flat, ends[0], out=flat), ends[1], out=flat)
    box[...] = values


def squared_depth(mask: Mask, cap: float) -> NDArray[np.uint16]:
    """Measure how far each pixel of a mask is from the nearest false one, exactly up to a cap.

    Args:
        mask: ``(h, w)``; what lies around the box counts as neither true nor false.
        cap: Distance in pixels from which on the value need not be exact, in [1, 180].

    Returns:
        ``(h, w)``: the squared Euclidean distance where it is at most ``cap²``, at least that elsewhere, 0
        outside the mask.

    Source: Felzenszwalb and Huttenlocher, Distance Transforms of Sampled Functions, 2012, with the lower
    envelope by trying all shifts.
    """
    height, width = mask.shape
    reach = min(int(np.ceil(cap)), _FARTHEST - 1)
    sides = min(reach, width - 1)
    # Rows end with padding that is as far as can be, so that a shift may run across their ends.
    row = width + sides
    column = np.full((height, row), reach + 1, np.uint8)
    np.multiply(mask, np.uint8(reach + 1), out=column[:, :width], casting="unsafe")
    flat = column.reshape(-1)
    shift = 1
    while shift <= reach and shift < height:  # after each turn right up to 2 · shift - 1 pixels
        farther = flat + np.uint8(shift)
        ahead, behind = flat[shift * row :], flat[: -shift * row]
        np.minimum(behind, farther[shift * row :], out=behind)
        np.minimum(ahead, farther[: -shift * row], out=ahead)
        shift *= 2
    square = np.multiply(flat, flat, dtype=np.uint16)
    best = square.copy()
    shifted = np.empty_like(square)
    for shift in range(1, sides + 1):
        np.add(square, np.uint16(shift * shift), out=shifted)
        np.minimum(best[shift:], shifted[:-shift], out=best[shift:])
        np.minimum(best[:-shift], shifted[shift:], out=best[:-shift])
    depth: NDArray[np.uint16] = best.reshape(height, row)[:, :width]
    return depth
