"""Masks of Perlin noise for many anomalies at once, and convex shapes row by row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediclip.synthesis.batched.axes import interpolation
from mediclip.synthesis.shapes import PERLIN_LEVEL, PERLIN_MIN_COVER, ConvexShape, Mask, Pair

COARSE = 20
FINE = 32
_CANDIDATES = 5


@dataclass(frozen=True)
class PerlinCells:
    """M turned cells of Perlin noise.

    Attributes:
        boxes: ``(M, 2)``, sides in pixels.
        gradients: ``(M, 2, 2, 2)``, unit gradient (rows, columns) at each corner.
        turns: ``(M, 2)``, cosine and sine of the rotation.
    """

    boxes: NDArray[np.float32]
    gradients: NDArray[np.float32]
    turns: NDArray[np.float32]

    def noise(self, knots: int) -> NDArray[np.float32]:
        """Evaluate the noise at ``knots`` by ``knots`` places that span each box, ``(M, knots, knots)``.

        What a turned cell does not reach is not set to 0 here, see :meth:`inside`.
        """
        span = np.linspace(-0.5, 0.5, knots, dtype=np.float32)
        rows = (self.boxes[:, :1] - 1) * span
        columns = (self.boxes[:, 1:] - 1) * span
        cosine, sine = self.turns[:, :1], self.turns[:, 1:]
        height, width = self.boxes[:, 0, None, None], self.boxes[:, 1, None, None]
        first = (cosine * rows)[:, :, None] - (sine * columns)[:, None, :]
        first += (height - 1) / 2
        first /= height
        second = (sine * rows)[:, :, None] + (cosine * columns)[:, None, :]
        second += (width - 1) / 2
        second /= width
        along = self.gradients[..., None, None]

        def side(j: int) -> NDArray[np.float32]:
            """Blend the two ramps of one side along the first axis."""
            near: NDArray[np.float32] = along[:, 0, j, 0] * first + along[:, 0, j, 1] * (second - j)
            step = (along[:, 1, j, 0] - along[:, 0, j, 0]) * first - along[:, 1, j, 0]
            step += (along[:, 1, j, 1] - along[:, 0, j, 1]) * (second - j)
            step *= fade
            near += step
            return near

        fade = _fade(first)
        left, right = side(0), side(1)
        right -= left
        right *= _fade(second)
        left += right
        left *= np.float32(np.sqrt(2))
        noise: NDArray[np.float32] = left
        return noise

    def ends(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give the first and last column that the turned cell reaches in each row of a box, ``(h,)`` each."""
        height, width = (float(side) for side in self.boxes[index])
        cosine, sine = (float(value) for value in self.turns[index])
        rows = np.arange(int(height), dtype=np.float32) - np.float32((height - 1) / 2)
        middle = np.float32((width - 1) / 2)
        # |cos·r - sin·c| <= (h - 1)/2 and |sin·r + cos·c| <= (w - 1)/2
        low, high = _between(cosine * rows, -sine, (height - 1) / 2)
        other_low, other_high = _between(sine * rows, cosine, (width - 1) / 2)
        return np.maximum(low, other_low) + middle, np.minimum(high, other_high) + middle

    def take(self, chosen: NDArray[np.intp]) -> "PerlinCells":
        """Keep some of the cells."""
        return PerlinCells(self.boxes[chosen], self.gradients[chosen], self.turns[chosen])


def _fade(place: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute 6t⁵ - 15t⁴ + 10t³."""
    result = place * 6
    result -= 15
    result *= place
    result += 10
    result *= place * place
    result *= place
    return result


def _between(
    offset: NDArray[np.float32], slope: float, limit: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Solve ``|offset + slope · c| <= limit`` for c, for each offset."""
    if abs(slope) < 1e-6:
        reach = np.where(np.abs(offset) <= limit, np.float32(np.inf), np.float32(-np.inf))
        return -reach, reach
    one, other = (-limit - offset) / np.float32(slope), (limit - offset) / np.float32(slope)
    return np.minimum(one, other), np.maximum(one, other)


def draw_perlin_masks(boxes: Sequence[Pair], rng: np.random.Generator) -> list[Mask]:
    """Draw a mask like :func:`mediclip.synthesis.shapes.draw_perlin_mask` for each of M boxes.

    Cells are accepted by their cover on a grid of 20 by 20 places, and drawn by linear interpolation of 32
    by 32 noise values, which moves their edge by a fraction of a pixel.

    Args:
        boxes: ``(h, w)`` in pixels, both at least 3.
        rng: Source of the random numbers.

    Returns:
        M masks, each of its box's shape.
    """
    if not boxes:
        return []
    sides = np.array(boxes, np.float32)
    accepted: list[tuple[NDArray[np.intp], PerlinCells]] = []
    pending = np.arange(len(boxes))
    while len(pending):
        cells = _draw_cells(np.repeat(sides[pending], _CANDIDATES, axis=0), rng)
        is_good = (_cover(cells) >= PERLIN_MIN_COVER).reshape(-1, _CANDIDATES)
        found = np.flatnonzero(is_good.any(axis=1))
        accepted.append((pending[found], cells.take(found * _CANDIDATES + is_good[found].argmax(axis=1))))
        pending = np.setdiff1d(pending, pending[found], assume_unique=True)
    masks: dict[int, Mask] = {}
    for owners, cells in accepted:
        fine = cells.noise(FINE)
        for place, owner in enumerate(owners.tolist()):
            height, width = boxes[owner]
            noise = interpolation(height, FINE) @ fine[place] @ interpolation(width, FINE).T
            mask = noise > PERLIN_LEVEL
            low, high = cells.ends(place)
            mask &= _rows_between(low, high, width)
            masks[owner] = mask
    return [masks[owner] for owner in range(len(boxes))]


def _draw_cells(boxes: NDArray[np.float32], rng: np.random.Generator) -> PerlinCells:
    angles = rng.random((len(boxes), 2, 2), np.float32) * np.float32(2 * np.pi)
    turns = (rng.random(len(boxes), np.float32) - np.float32(0.5)) * np.float32(np.pi)
    return PerlinCells(
        boxes,
        np.stack([np.cos(angles), np.sin(angles)], axis=-1),
        np.stack([np.cos(turns), np.sin(turns)], axis=-1),
    )


def _cover(cells: PerlinCells) -> NDArray[np.float32]:
    """Estimate which share of its box each mask covers."""
    is_mask = cells.noise(COARSE) > PERLIN_LEVEL
    span = np.linspace(-0.5, 0.5, COARSE, dtype=np.float32)
    rows, columns = (cells.boxes[:, :1] - 1) * span, (cells.boxes[:, 1:] - 1) * span
    cosine, sine = cells.turns[:, :1], cells.turns[:, 1:]
    limits = (cells.boxes - 1)[:, :, None, None] / 2
    is_mask &= np.abs((cosine * rows)[:, :, None] - (sine * columns)[:, None, :]) <= limits[:, 0]
    is_mask &= np.abs((sine * rows)[:, :, None] + (cosine * columns)[:, None, :]) <= limits[:, 1]
    weight = np.ones(COARSE, np.float32)
    weight[[0, -1]] = 0.5  # the outermost places stand for half a cell
    share = (is_mask @ weight) @ weight / np.float32((COARSE - 1) ** 2)
    cover: NDArray[np.float32] = share * ((cells.boxes - 1) / cells.boxes).prod(
        axis=1
    )  # its edge is never covered
    return cover


def _rows_between(low: NDArray[np.float32], high: NDArray[np.float32], width: int) -> Mask:
    """Give ``(h, width)``, true from the column ``low`` to ``high`` of each row, both included."""
    columns = np.arange(width, dtype=np.float32)
    mask: Mask = columns >= low[:, None]
    mask &= columns <= high[:, None]
    return mask


def convex_mask(shape: ConvexShape) -> Mask:
    """Compute :meth:`mediclip.synthesis.shapes.ConvexShape.mask` from the ends of its rows."""
    half_rows, half_columns = shape.half_box
    upright = upright_map(shape)
    rows = np.arange(-half_rows, half_rows + 1, dtype=np.float32)
    if shape.kind == "rectangle":
        ends = [_between(upright[i, 0] * rows, float(upright[i, 1]), 1.0) for i in range(2)]
        low, high = np.maximum(ends[0][0], ends[1][0]), np.minimum(ends[0][1], ends[1][1])
    else:
        square = float((upright[:, 1] ** 2).sum())
        mixed = float(upright[:, 0] @ upright[:, 1]) * rows
        room = mixed**2 - square * (float((upright[:, 0] ** 2).sum()) * rows**2 - 1)
        root = np.sqrt(np.maximum(room, 0))
        low = np.where(room >= 0, (-mixed - root) / square, np.inf).astype(np.float32)
        high = np.where(room >= 0, (-mixed + root) / square, -np.inf).astype(np.float32)
    return _rows_between(low + half_columns, high + half_columns, 2 * half_columns + 1)


def upright_map(shape: ConvexShape) -> NDArray[np.float32]:
    """Give the matrix ``(2, 2)`` that takes the shape to the square or circle of half side 1."""
    (a, b), (c, d) = shape.matrix.tolist()
    first, second = (shape.half_sides * (a * d - b * c)).tolist()
    return np.array([[d / first, -b / first], [-c / second, a / second]], np.float32)
