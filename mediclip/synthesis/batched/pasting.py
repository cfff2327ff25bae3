"""CutPaste for many images."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mediclip.synthesis.batched.regions import Patch, index_row, pixels_of
from mediclip.synthesis.batched.tables import SplineTable
from mediclip.synthesis.cut_paste import GREY_LEVELS, LABEL_SD, MAX_ANGLE, MAX_SOURCE_SHARE, SCALE_MEAN
from mediclip.synthesis.shapes import Image, Mask, Pair

_EIGHT = np.ones((3, 3), np.bool_)
# The label of a change by 0, 1 and at least 2 whole grey levels.
_LABELS = (1 - np.exp(-(np.arange(3.0) ** 2) / (2 * LABEL_SD**2))).astype(np.float32)


class Views(NamedTuple):
    """M looks at a source image like :class:`mediclip.synthesis.cut_paste.View`.

    Attributes:
        matrices: ``(M, 2, 2)``, take steps in the box that is filled to steps in the source.
        offsets: ``(M, 2)``, place in the source of each box's first pixel.
    """

    matrices: NDArray[np.float64]
    offsets: NDArray[np.float64]


def draw_views(boxes: NDArray[np.int64], source_shape: Pair, rng: np.random.Generator) -> Views:
    """Draw what :func:`mediclip.synthesis.cut_paste.draw_view` draws for each of M boxes ``(M, 2)``."""
    count, size = len(boxes), np.array(source_shape)
    angle = rng.uniform(-MAX_ANGLE, MAX_ANGLE, count)
    scale = 1 + rng.exponential(SCALE_MEAN, count)
    scale = np.where(rng.random(count) < 0.5, 1 / scale, scale)
    cosine, sine = np.cos(angle), np.sin(angle)
    turns = np.stack([cosine, -sine, sine, cosine], axis=1).reshape(-1, 2, 2)
    low, high = _reach(turns, boxes)
    scale = np.minimum(scale, (MAX_SOURCE_SHARE * size / (high - low)).min(axis=1))
    matrices = scale[:, None, None] * turns
    low, high = _reach(matrices, boxes)
    corners = rng.integers(size - (high - low).astype(np.int64) + 1)
    return Views(matrices, corners - low)


def _reach(
    matrices: NDArray[np.float64], boxes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the whole-pixel bounds ``(M, 2)`` each of transformed boxes that start at the origin."""
    sides = matrices * boxes[:, None, :]
    return np.floor(np.minimum(sides, 0).sum(axis=2)), np.ceil(np.maximum(sides, 0).sum(axis=2))


class Piece(NamedTuple):
    """What is to be pasted.

    Attributes:
        inside: ``(N,)``, indexes in the flat mask of its true pixels.
        where: ``(N,)``, their indexes in the flat image.
        values: ``(N,)``.
    """

    inside: NDArray[np.intp]
    where: NDArray[np.intp]
    values: Image


def look(
    patch: Patch, table: SplineTable, index: int, matrix: NDArray[np.float64], place: NDArray[np.float64]
) -> Piece:
    """Sample a view.

    Args:
        patch: Where it is going to be pasted.
        table: Source images.
        index: Which of them to look at.
        matrix: ``(2, 2)``, takes steps in the patch to steps in the source.
        place: ``(2,)``, place in the source of the patch's first pixel.

    Returns:
        The piece, in the range of the source although splines overshoot.
    """
    inside, pixels = pixels_of(patch.mask)
    (a, b), (c, d) = matrix.tolist()
    row, column = place.tolist()
    maps = [(c, d, column), (a, b, row), index_row(patch.corner, table.shape[1])]
    mapped = np.array(maps, np.float32) @ pixels
    values, (lowest, highest) = table.look(index, mapped[:2]), table.ends[index]
    np.minimum(np.maximum(values, lowest, out=values), highest, out=values)
    return Piece(inside, mapped[2].astype(np.intp), values)


def paste(image: Image, label: Image, patch: Patch, piece: Piece) -> None:
    """Do :func:`mediclip.synthesis.cut_paste.cut_paste` in place.

    Args:
        image: ``(H, W)`` float32 in [0, 1]; changed.
        label: ``(H, W)`` float32; raised where the image changes.
        patch: Where to paste.
        piece: What.
    """
    flat = image.reshape(-1)
    before = flat.take(piece.where)
    levels = piece.values - before
    levels *= np.float32(GREY_LEVELS)
    np.abs(levels, out=levels)
    # Whole grey levels: halves are rounded to even ones.
    is_changed = levels > np.float32(0.5)
    flat[piece.where] = np.where(is_changed, piece.values, before)
    change = np.zeros(patch.mask.shape, np.uint8)
    change.reshape(-1)[piece.inside] = is_changed.view(np.uint8) + (levels >= np.float32(1.5)).view(np.uint8)
    part = label[patch.window]
    np.maximum(part, _LABELS.take(close_and_fill(change)), out=part)


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
    # Each row ends with four pixels of padding, so neighbours may be taken across the ends of rows.
    flat, row = padded.reshape(-1), width + 4
    closed = _extreme(_extreme(flat, row, np.maximum), row, np.minimum)
    # The first of these is the pixel (0, 0) of the result; the last row is short of its padding.
    framed = np.zeros((height + 2, row), np.uint8)
    framed.reshape(-1)[row + 1 : row + 1 + len(closed)] = closed
    highest = np.maximum.reduce(framed, axis=1)
    for level in (1, 2):
        is_at_least = framed >= level
        begins = is_at_least[:, 1:] > is_at_least[:, :-1]
        # Without a gap in a row there is no hole.
        if np.count_nonzero(begins) > np.count_nonzero(highest >= level):
            _fill(framed, ~is_at_least, level)
    return framed[1:-1, 1 : width + 1]


def _extreme(values: NDArray[np.uint8], row: int, of: np.ufunc) -> NDArray[np.uint8]:
    """Take the extreme of each pixel and its successors in a 3x3 square, of flat rows ``row`` pixels long."""
    pairs = of(values[:-1], values[1:])
    along = of(pairs[:-1], values[2:])
    pairs = of(along[:-row], along[row:])
    result: NDArray[np.uint8] = of(pairs[:-row], along[2 * row :])
    return result


def _fill(levels: NDArray[np.uint8], is_outside: Mask, level: int) -> None:
    """Raise what is outside, and not connected with the frame over sides and corners, to a level."""
    parts = np.empty(is_outside.shape, np.int32)
    if ndimage.label(is_outside, _EIGHT, output=parts) > 1:
        holes = is_outside
        holes &= parts != parts[0, 0]
        levels[holes] = level
