"""The tasks that move pixels: CutPaste, source and sink."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mediclip.synthesis.batched.regions import convex_mask, upright_map
from mediclip.synthesis.batched.tables import SplineTable
from mediclip.synthesis.cut_paste import GREY_LEVELS, LABEL_SD, draw_view
from mediclip.synthesis.deformation import HIGH, LOW
from mediclip.synthesis.shapes import ConvexShape, Image, Mask, Region, draw_convex_shape, draw_corner

_EIGHT = np.ones((3, 3), np.bool_)
# The label of a change by 0, 1 and at least 2 whole grey levels.
_LABELS = (1 - np.exp(-(np.arange(3.0) ** 2) / (2 * LABEL_SD**2))).astype(np.float32)

Places = tuple[NDArray[np.float32], NDArray[np.float32]]
Share = Callable[[NDArray[np.float32], float], NDArray[np.float32]]


def paste(
    image: Image,
    label: Image,
    region: Region,
    table: SplineTable,
    index: int,
    ends: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Do :func:`mediclip.synthesis.cut_paste.cut_paste` in place.

    Args:
        image: ``(H, W)`` float32 in [0, 1]; changed.
        label: ``(H, W)`` float32; raised where the image changes.
        region: Where to paste.
        table: Source images.
        index: Which of them to cut from.
        ends: Its darkest and brightest value.
        rng: Source of the random numbers.
    """
    view = draw_view((region.mask.shape[0], region.mask.shape[1]), table.shape, rng)
    inside, rows, columns = pixels_of(region.mask)
    matrix, offset = view.matrix.astype(np.float32), view.offset.astype(np.float32)
    from_rows = matrix[0, 0] * rows + matrix[0, 1] * columns
    from_rows += offset[0] + np.float32(view.crop[0].start)
    from_columns = matrix[1, 0] * rows + matrix[1, 1] * columns
    from_columns += offset[1] + np.float32(view.crop[1].start)
    pasted = table.look(index, from_rows, from_columns)
    np.clip(pasted, *ends, out=pasted)
    where = in_image(rows, columns, region, image.shape[1])
    before = image.reshape(-1).take(where)
    levels = pasted - before
    levels *= GREY_LEVELS
    np.abs(levels, out=levels)
    np.rint(levels, out=levels)
    np.copyto(pasted, before, where=levels == 0)
    image.reshape(-1)[where] = pasted
    change = np.zeros(region.mask.size, np.uint8)
    change[inside] = np.minimum(levels, 2, out=levels)
    box = label[region.window]
    np.maximum(box, _LABELS.take(close_and_fill(change.reshape(region.mask.shape))), out=box)


def pixels_of(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
    """List a mask's true pixels: ``(N,)`` indexes in the flat mask, rows and columns."""
    inside = np.flatnonzero(mask)
    width = mask.shape[1]
    columns = inside.astype(np.float32)  # exact, since a mask has fewer than 2^24 pixels
    rows = columns + np.float32(0.5)
    rows *= np.float32(1 / width)
    np.floor(rows, out=rows)
    columns -= rows * np.float32(width)
    return inside, rows, columns


def in_image(
    rows: NDArray[np.float32], columns: NDArray[np.float32], region: Region, width: int
) -> NDArray[np.int32]:
    """Turn places in a region's box into indexes of the flat image that is ``width`` pixels wide."""
    top, left = region.corner
    where = rows * np.float32(width)
    where += columns
    found: NDArray[np.int32] = where.astype(np.int32)
    found += top * width + left
    return found


def close_and_fill(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Close with a 3x3 square and fill holes, as :func:`mediclip.synthesis.cut_paste.label_difference` does.

    Args:
        levels: ``(h, w)`` of 0, 1 and 2; what lies around is 0.

    Returns:
        ``(h, w)`` of 0, 1 and 2.
    """
    height, width = levels.shape
    padded = np.zeros((height + 4, width + 4), np.uint8)
    padded[2:-2, 2:-2] = levels
    closed = _extreme(_extreme(padded, np.maximum), np.minimum)  # (h, w)
    result = np.zeros_like(closed)
    for level in (1, 2):
        outside = np.ones((height + 2, width + 2), np.bool_)
        np.less(closed, level, out=outside[1:-1, 1:-1])
        parts = np.empty(outside.shape, np.int32)
        if ndimage.label(outside, _EIGHT, output=parts) > 1:
            outside = parts == parts[0, 0]
        result += ~outside[1:-1, 1:-1]
    return result


def _extreme(values: NDArray[np.uint8], of: np.ufunc) -> NDArray[np.uint8]:
    """Take the extreme of each 3x3 square that lies inside: ``(h, w)`` to ``(h - 2, w - 2)``."""
    along = of(of(values[:-2], values[1:-1]), values[2:])
    result: NDArray[np.uint8] = of(of(along[:, :-2], along[:, 1:-1]), along[:, 2:])
    return result


@dataclass(frozen=True)
class Warp:
    """A shape whose inside moves.

    Attributes:
        shape: The shape.
        region: Its mask, and where that lies in the image.
        centre: Row and column in the box from which all rays start.
        factor: f, at least 1.
        share: Turns r / R into the share of R that is looked at.
    """

    shape: ConvexShape
    region: Region
    centre: tuple[float, float]
    factor: float
    share: Share

    def places(self, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Places:
        """Say where pixels look, in the box: ``(N,)`` rows and columns inside the shape to the same."""
        middle = (np.array(self.region.mask.shape) - 1) / 2
        way = upright_map(self.shape)
        point = way @ (np.array(self.centre) - middle).astype(np.float32)
        down, right = rows - np.float32(self.centre[0]), columns - np.float32(self.centre[1])
        # The pixel is at 1 on its ray, so the edge's distance t is R / r, whatever the length of the ray.
        first = way[0, 0] * down + way[0, 1] * right
        second = way[1, 0] * down + way[1, 1] * right
        if self.shape.kind == "rectangle":
            inverse = np.maximum(_toward(first, point[0]), _toward(second, point[1]))  # r / R
        else:
            square = first * first + second * second
            mixed = point[0] * first + point[1] * second
            room = np.float32(max(1 - float(point @ point), 0.0))
            # 1/t of the positive root of square·t² + 2·mixed·t = room
            inverse = (mixed + np.sqrt(mixed * mixed + square * room)) / max(room, np.float32(1e-9))
        np.clip(inverse, 1e-6, 1, out=inverse)
        stretch = self.share(inverse, self.factor)
        stretch /= inverse  # what r is multiplied with
        down *= stretch
        right *= stretch
        down += np.float32(self.centre[0])
        right += np.float32(self.centre[1])
        return down, right


def _toward(way: NDArray[np.float32], point: np.float32) -> NDArray[np.float32]:
    """Give 1/t for the wall at ±1 that ``point + t · way`` meets: ``|way| / (1 - sign(way) · point)``."""
    ahead, behind = max(float(1 - point), 1e-6), max(float(1 + point), 1e-6)
    inverse: NDArray[np.float32] = np.maximum(way * np.float32(1 / ahead), way * np.float32(-1 / behind))
    return inverse


def source_share(share: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Compute ``s^f``: looks nearer to the centre."""
    power: NDArray[np.float32] = np.exp2(np.log2(share) * np.float32(factor))
    return power


def sink_share(share: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Compute ``1 - (1 - s)^f``: looks nearer to the edge."""
    return 1 - np.exp2(np.log2(np.maximum(1 - share, np.float32(1e-12))) * np.float32(factor))


def draw_warp(image_shape: tuple[int, int], share: Share, rng: np.random.Generator) -> Warp:
    """Draw what :func:`mediclip.synthesis.deformation.draw_deformation` draws."""
    shape = draw_convex_shape(image_shape, LOW, HIGH, rng)
    mask = convex_mask(shape)
    corner = draw_corner(image_shape, (mask.shape[0], mask.shape[1]), rng)
    inside = np.flatnonzero(mask)
    row, column = divmod(int(inside[int(rng.integers(len(inside)))]), mask.shape[1])
    return Warp(shape, Region(corner, mask), (row, column), 2 ** rng.uniform(0.5, 2), share)


def warp(image: Image, label: Image, warps: list[Warp], table: SplineTable, index: int) -> None:
    """Do :func:`mediclip.synthesis.deformation.source` or ``sink`` once or twice, in place.

    A second warp looks through the first at the untouched image, so that values are interpolated only once.

    Args:
        image: ``(H, W)`` float32 in [0, 1]; changed.
        label: ``(H, W)`` float32; 1 in the shapes afterwards.
        warps: In the order in which they happen.
        table: Where the untouched image is looked up.
        index: Which image it is.
    """
    done: list[Warp] = []
    for one in warps:
        top, left = one.region.corner
        _, rows, columns = pixels_of(one.region.mask)
        where = in_image(rows, columns, one.region, image.shape[1])
        places = one.places(rows, columns)
        places[0].__iadd__(np.float32(top))
        places[1].__iadd__(np.float32(left))
        for earlier in reversed(done):
            _look_through(earlier, places)
        values = table.look(index, *places)
        np.clip(values, 0, 1, out=values)
        image.reshape(-1)[where] = values
        label.reshape(-1)[where] = 1
        done.append(one)


def _look_through(earlier: Warp, places: Places) -> None:
    """Replace places inside an earlier shape by those that it looked at, in place."""
    top, left = earlier.region.corner
    height, width = earlier.region.mask.shape
    rows, columns = np.rint(places[0]).astype(np.intp) - top, np.rint(places[1]).astype(np.intp) - left
    near = np.flatnonzero((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width))
    near = near[earlier.region.mask[rows[near], columns[near]]]
    if len(near):
        moved = earlier.places(places[0][near] - top, places[1][near] - left)
        places[0][near] = np.clip(moved[0], 0, height - 1) + top
        places[1][near] = np.clip(moved[1], 0, width - 1) + left
