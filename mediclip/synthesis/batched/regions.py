"""Masks of Perlin noise for many anomalies at once.

The noise of one cell is a polynomial of degree 11 in the row and in the column, however the cell is turned.
Twelve by twelve values of it therefore give all others, by two small matrix products.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mediclip.synthesis.batched.axes import CHEBYSHEV, NODES, Matrix, polynomial
from mediclip.synthesis.shapes import PERLIN_LEVEL, PERLIN_MIN_COVER, Mask, Pair

COARSE = 20
_CANDIDATES = 5
_FAR = 2.0**14
_HALF = np.float32(0.5)


Pixels = NDArray[np.float32]
"""``(3, N)``: rows, columns and ones, so that a product with a matrix ``(k, 3)`` is k affine maps at once."""


class Patch(NamedTuple):
    """A mask, and where it lies.

    Attributes:
        corner: Row and column of its first pixel in the image.
        mask: ``(h, w)``, true where the anomaly is.
        at_ends: Whether its first row, last row, first column and last column are those of the box that it
            was drawn in; what of the box is left out is false.
    """

    corner: Pair
    mask: Mask
    at_ends: tuple[bool, bool, bool, bool]

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the mask in an image ``(H, W)``."""
        (row, column), (height, width) = self.corner, self.mask.shape
        return slice(row, row + height), slice(column, column + width)


class PerlinCells(NamedTuple):
    """M turned cells of Perlin noise.

    Attributes:
        boxes: ``(M, 2)``, sides in pixels.
        gradients: ``(M, 2, 2, 2)``, unit gradient (rows, columns) at each corner.
        turns: ``(M, 2)``, cosine and sine of the rotation.
    """

    boxes: NDArray[np.float32]
    gradients: NDArray[np.float32]
    turns: NDArray[np.float32]

    def noise(self, places: NDArray[np.float32]) -> NDArray[np.float32]:
        """Evaluate the noise on a grid.

        Args:
            places: ``(n,)`` in [-1, 1], from the first pixel of a side to its last.

        Returns:
            ``(M, n, n)``. What a turned cell does not reach is not set to 0, see :meth:`ends`.
        """
        first, second = self._turned(places)
        along = self.gradients[..., None, None]
        height, width = self.boxes[:, 0, None, None], self.boxes[:, 1, None, None]
        first += (height - 1) / 2
        first /= height
        second += (width - 1) / 2
        second /= width
        fade = _fade(first)

        def blend(j: int) -> NDArray[np.float32]:
            """Blend the two ramps of one side along the first axis."""
            near: NDArray[np.float32] = along[:, 0, j, 0] * first + along[:, 0, j, 1] * (second - j)
            step = (along[:, 1, j, 0] - along[:, 0, j, 0]) * first - along[:, 1, j, 0]
            step += (along[:, 1, j, 1] - along[:, 0, j, 1]) * (second - j)
            step *= fade
            near += step
            return near

        left, right = blend(0), blend(1)
        right -= left
        right *= _fade(second)
        left += right
        left *= np.float32(np.sqrt(2))
        noise: NDArray[np.float32] = left
        return noise

    def is_reached(self, places: NDArray[np.float32]) -> Mask:
        """Say which places of a grid as in :meth:`noise` the turned cells reach, ``(M, n, n)``."""
        limits = (self.boxes - 1)[:, :, None, None] / 2
        first, second = self._turned(places)
        reached: Mask = np.abs(first, out=first) <= limits[:, 0]
        reached &= np.abs(second, out=second) <= limits[:, 1]
        return reached

    def ends(self) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
        """Give the first and last column that each turned cell reaches in each row.

        Returns:
            ``(M, R)`` each, for the R rows of the highest box; below a box, values without meaning. The last
            lies before the first where a row is not reached.
        """
        height, width = self.boxes[:, :1], self.boxes[:, 1:]
        down, across = _HALF * (height - 1), _HALF * (width - 1)
        rows = np.arange(int(height.max()), dtype=np.float32) - down
        cosine, sine = (_not_zero(self.turns[:, i, None]) for i in range(2))
        # |cos·r - sin·c| <= (h - 1)/2 and |sin·r + cos·c| <= (w - 1)/2
        low, high = _around(cosine * rows / sine, down / sine)
        other_low, other_high = _around(-sine * rows / cosine, across / cosine)
        low, high = np.maximum(low, other_low), np.minimum(high, other_high)
        return whole_ends(low + across, high + across)

    def take(self, chosen: NDArray[np.intp]) -> "PerlinCells":
        """Keep some of the cells."""
        return PerlinCells(self.boxes[chosen], self.gradients[chosen], self.turns[chosen])

    def _turned(self, places: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give the places' coordinates along the cells' own axes, in pixels from their middles."""
        half = _HALF * (self.boxes - 1)
        rows, columns = half[:, :1] * places, half[:, 1:] * places
        cosine, sine = self.turns[:, :1], self.turns[:, 1:]
        first = (cosine * rows)[:, :, None] - (sine * columns)[:, None, :]
        second = (sine * rows)[:, :, None] + (cosine * columns)[:, None, :]
        return first, second


def _fade(place: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute 6t⁵ - 15t⁴ + 10t³."""
    result = place * 6
    result -= 15
    result *= place
    result += 10
    result *= place * place
    result *= place
    return result


def _not_zero(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.abs(values) < 1e-6, np.float32(1e-6), values)


def _around(
    middle: NDArray[np.float32], reach: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give the lower and upper end of ``middle ± reach``, whatever the sign of ``reach``."""
    reach = np.abs(reach)
    return middle - reach, middle + reach


def whole_ends(
    low: NDArray[np.float32], high: NDArray[np.float32]
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Round ends inwards to whole pixels."""
    first, last = np.clip(np.ceil(low), -_FAR, _FAR), np.clip(np.floor(high), -_FAR, _FAR)
    return first.astype(np.int16), last.astype(np.int16)


def rows_between(first: NDArray[np.int16], last: NDArray[np.int16], start: int, stop: int) -> Mask:
    """Give ``(h, stop - start)``, true from the ``first`` to the ``last`` column of each of h rows."""
    columns = np.arange(start, stop, dtype=np.int16)
    mask: Mask = columns >= first[:, None]
    mask &= columns <= last[:, None]
    return mask


def draw_perlin_patches(
    boxes: NDArray[np.int64], corners: NDArray[np.int64], rng: np.random.Generator
) -> list[Patch]:
    """Draw a mask like :func:`mediclip.synthesis.shapes.draw_perlin_mask` for each of M boxes.

    Cells are accepted by their cover on a grid of 20 by 20 places; the rows and columns beyond the outermost
    of these that the mask covers, and one more for safety, are left out.

    Args:
        boxes: ``(M, 2)``, height and width in pixels, at least 3.
        corners: ``(M, 2)``, where they lie in the image.
        rng: Source of the random numbers.

    Returns:
        M patches.
    """
    patches: dict[int, Patch] = {}
    pending = np.arange(len(boxes))
    candidates = _CANDIDATES
    while len(pending):
        cells = _draw_cells(np.repeat(boxes[pending], candidates, axis=0).astype(np.float32), rng)
        values = cells.noise(CHEBYSHEV)
        accepted, covered = _accept(cells, values)
        if len(accepted) == 0:
            continue
        owners, firsts = np.unique(accepted // candidates, return_index=True)
        chosen = accepted[firsts]
        made = _cut(cells.take(chosen), values[chosen], covered[firsts], corners[pending[owners]])
        patches.update(zip(pending[owners].tolist(), made, strict=True))
        pending = np.delete(pending, owners)
        candidates = 3 * _CANDIDATES  # for the few that are left
    return [patches[owner] for owner in range(len(boxes))]


def _draw_cells(boxes: NDArray[np.float32], rng: np.random.Generator) -> PerlinCells:
    angles = rng.random((len(boxes), 2, 2), np.float32) * np.float32(2 * np.pi)
    turns = (rng.random(len(boxes), np.float32) - np.float32(0.5)) * np.float32(np.pi)
    return PerlinCells(
        boxes,
        np.stack([np.cos(angles), np.sin(angles)], axis=-1),
        np.stack([np.cos(turns), np.sin(turns)], axis=-1),
    )


@functools.cache
def _coarse() -> tuple[Matrix, NDArray[np.float32], NDArray[np.float32]]:
    """Give what takes 12 by 12 values to 20 by 20, these places, and the share that each stands for."""
    one = polynomial(COARSE)
    weight = np.ones(COARSE, np.float32)
    weight[[0, -1]] = 0.5  # the outermost places stand for half a cell
    share = np.outer(weight, weight).reshape(-1) / np.float32((COARSE - 1) ** 2)
    return np.kron(one, one).T.copy(), np.linspace(-1, 1, COARSE, dtype=np.float32), share


def _accept(cells: PerlinCells, values: NDArray[np.float32]) -> tuple[NDArray[np.intp], Mask]:
    """Find the cells whose masks cover enough, rising, and what they cover of 20 by 20 places."""
    matrix, places, share = _coarse()
    is_mask = values.reshape(-1, NODES**2) @ matrix > PERLIN_LEVEL
    scale = ((cells.boxes - 1) / cells.boxes).prod(axis=1)  # a mask's edge is never covered
    hopeful = np.flatnonzero((is_mask @ share) * scale >= PERLIN_MIN_COVER)
    covered = is_mask[hopeful]
    covered &= cells.take(hopeful).is_reached(places).reshape(-1, COARSE**2)
    good = np.flatnonzero((covered @ share) * scale[hopeful] >= PERLIN_MIN_COVER)
    return hopeful[good], covered[good].reshape(-1, COARSE, COARSE)


def _cut(
    cells: PerlinCells, values: NDArray[np.float32], covered: Mask, corners: NDArray[np.int64]
) -> Iterator[Patch]:
    """Compute the masks of M cells where they may be true."""
    boxes = cells.boxes.astype(np.int64)
    first, last = cells.ends()
    starts, stops = np.empty_like(boxes), np.empty_like(boxes)
    for axis in range(2):
        is_covered: Mask = np.logical_or.reduce(covered, axis=2 - axis)  # (M, COARSE)
        side = boxes[:, axis]
        lowest, highest = is_covered.argmax(axis=1), COARSE - is_covered[:, ::-1].argmax(axis=1)
        starts[:, axis] = np.maximum((lowest - 1) * (side - 1) // (COARSE - 1), 0)
        stops[:, axis] = np.minimum(-(-highest * (side - 1) // (COARSE - 1)) + 1, side)
    is_start, is_stop = starts == 0, stops == boxes
    at_ends = np.stack([is_start[:, 0], is_stop[:, 0], is_start[:, 1], is_stop[:, 1]], axis=1)
    limits = np.concatenate([boxes, starts, stops, corners + starts], axis=1)
    for number, (height, width, top, left, bottom, right, row, column) in enumerate(limits.tolist()):
        noise = polynomial(height)[top:bottom] @ values[number] @ polynomial(width)[left:right].T
        mask = noise > PERLIN_LEVEL
        mask &= rows_between(first[number, top:bottom], last[number, top:bottom], left, right)
        yield Patch((row, column), mask, tuple(at_ends[number].tolist()))


def pixels_of(mask: Mask) -> tuple[NDArray[np.intp], Pixels]:
    """List a mask's true pixels: ``(N,)`` indexes in the flat mask, and places."""
    inside = np.flatnonzero(mask)
    width = mask.shape[1]
    pixels = np.ones((3, len(inside)), np.float32)
    rows, columns = pixels[0], pixels[1]
    columns[...] = inside  # exact, since a mask has fewer than 2^24 pixels
    np.add(columns, np.float32(0.5), out=rows)
    rows *= np.float32(1 / width)
    np.floor(rows, out=rows)
    columns -= rows * np.float32(width)
    return inside, pixels


def index_row(corner: Pair, width: int) -> tuple[float, float, float]:
    """Give what turns :data:`Pixels` of a box at a corner into indexes of a flat image ``width`` pixels wide.

    The product is exact, since an image has fewer than 2^24 pixels.
    """
    return width, 1, corner[0] * width + corner[1]
