"""Rectangles and ellipses for many anomalies at once, row by row."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mediclip.synthesis.batched.regions import Pixels, whole_ends
from mediclip.synthesis.shapes import (
    SHEAR_SD,
    SIDE_GAMMA_SCALE,
    SIDE_GAMMA_SHAPE,
    SIDE_OFFSET,
    Mask,
    Pair,
)

_NEVER = np.float32(np.inf)


class ConvexShapes(NamedTuple):
    """M shapes like :class:`mediclip.synthesis.shapes.ConvexShape`.

    Attributes:
        is_rectangle: ``(M,)``; the others are ellipses.
        upright: ``(M, 2, 2)``, takes a place relative to the centre to the square or circle of half side 1.
        half_boxes: ``(M, 2)``, whole pixels from the centre to the edge of the bounding box.
    """

    is_rectangle: Mask
    upright: NDArray[np.float64]
    half_boxes: NDArray[np.int64]

    def ends(self) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
        """Give the first and last column of each row.

        Returns:
            ``(M, R)`` each, counted from the first column of each bounding box, for the R rows of the
            highest; below a box, and where a row is empty, the last lies before the first.
        """
        half_rows, half_columns = self.half_boxes[:, :1], self.half_boxes[:, 1:]
        rows = np.arange(2 * int(half_rows.max()) + 1) - half_rows
        (a, b), (c, d) = self.upright.transpose(1, 2, 0)[..., None]
        # Rectangle: |a·r + b·c| <= 1 and |c·r + d·c| <= 1.
        b, d = (np.where(np.abs(v) < 1e-9, 1e-9, v) for v in (b, d))
        low = np.maximum(-a * rows / b - 1 / np.abs(b), -c * rows / d - 1 / np.abs(d))
        high = np.minimum(-a * rows / b + 1 / np.abs(b), -c * rows / d + 1 / np.abs(d))
        # Ellipse: the sum of their squares is at most 1.
        square, mixed = b * b + d * d, (a * b + c * d) * rows
        room = mixed * mixed - square * ((a * a + c * c) * rows * rows - 1)
        root = np.where(room >= 0, np.sqrt(np.maximum(room, 0)), -_NEVER)
        is_rectangle = self.is_rectangle[:, None]
        low = np.where(is_rectangle, low, (-mixed - root) / square) + half_columns
        high = np.where(is_rectangle, high, (-mixed + root) / square) + half_columns
        low[rows > half_rows] = _NEVER
        return whole_ends(low.astype(np.float32), high.astype(np.float32))


def draw_convex_shapes(
    count: int, image_shape: Pair, low: float, high: float, rng: np.random.Generator
) -> ConvexShapes:
    """Draw what :func:`mediclip.synthesis.shapes.draw_convex_shape` draws, many times.

    Args:
        count: M.
        image_shape: ``(H, W)``.
        low: Smallest side as a share of the image's.
        high: Largest side, and largest side of the box, as a share of the image's.
        rng: Source of the random numbers.

    Returns:
        The shapes.
    """
    size = np.array(image_shape)
    is_rectangle = rng.random(count) < 0.5
    share = SIDE_OFFSET + rng.gamma(SIDE_GAMMA_SHAPE, SIDE_GAMMA_SCALE, (count, 2))
    halves = np.floor(np.clip(share * size, np.round(low * size), np.round(high * size))) / 2
    shear = rng.normal(0, SHEAR_SD, (count, 2))
    angle = rng.uniform(-np.pi / 2, np.pi / 2, count)
    cosine, sine = np.cos(angle), np.sin(angle)
    # Turned after it is sheared: [[cos, -sin], [sin, cos]] · [[1, s₀], [s₁, 1]].
    matrix = np.empty((count, 2, 2))
    matrix[:, 0, 0], matrix[:, 0, 1] = cosine - sine * shear[:, 1], cosine * shear[:, 0] - sine
    matrix[:, 1, 0], matrix[:, 1, 1] = sine + cosine * shear[:, 1], sine * shear[:, 0] + cosine
    half_boxes = _half_boxes(matrix, halves)
    excess = ((2 * half_boxes + 1) / np.round(high * size)).max(axis=1)
    matrix /= np.maximum(excess, 1)[:, None, None]
    upright = np.linalg.inv(matrix) / halves[:, :, None]
    return ConvexShapes(is_rectangle, upright, _half_boxes(matrix, halves))


def _half_boxes(matrix: NDArray[np.float64], halves: NDArray[np.float64]) -> NDArray[np.int64]:
    reach = (np.abs(matrix) * halves[:, None, :]).sum(axis=2)
    whole: NDArray[np.int64] = np.ceil(reach).astype(np.int64)
    return whole


def draw_pixels(
    first: NDArray[np.int16], last: NDArray[np.int16], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw one pixel of each of M masks, uniformly.

    Args:
        first: ``(M, R)`` first column of each row.
        last: ``(M, R)`` last column.
        rng: Source of the random numbers.

    Returns:
        ``(M, 2)`` rows and columns.
    """
    lengths = np.maximum(last.astype(np.int64) - first + 1, 0)
    until = lengths.cumsum(axis=1)
    number = rng.integers(until[:, -1])  # of a pixel in its mask
    row = (until <= number[:, None]).sum(axis=1)
    every = np.arange(len(row))
    column = first[every, row] + number - (until[every, row] - lengths[every, row])
    return np.stack([row, column], axis=1)


def pixels_between(first: NDArray[np.int16], last: NDArray[np.int16]) -> list[Pixels]:
    """List the pixels of M masks, each in C order.

    Args:
        first: ``(M, R)`` first column of each row.
        last: ``(M, R)`` last column.

    Returns:
        M lists of pixels.
    """
    lengths = np.maximum(last.astype(np.int64) - first + 1, 0)
    flat = lengths.reshape(-1)
    until = flat.cumsum()
    pixels = np.ones((3, until[-1]), np.float32)
    pixels[0] = np.repeat(np.tile(np.arange(lengths.shape[1], dtype=np.float32), len(lengths)), flat)
    pixels[1] = np.arange(until[-1]) - np.repeat(until - flat - first.reshape(-1), flat)
    ends = until[lengths.shape[1] - 1 :: lengths.shape[1]].tolist()
    return [pixels[:, start:stop] for start, stop in zip([0, *ends], ends, strict=False)]
