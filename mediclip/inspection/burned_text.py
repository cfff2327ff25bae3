"""Guesses from the pixels alone whether letters are burned into an image.

Overlays are drawn in strokes a few pixels wide that are much brighter than what is around them, and letters
stand in lines: several pieces of one height and brightness side by side. Tissue has bright strokes too, but
seldom in such rows.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MIN_LETTERS: Final = 4
"""Letters in one line from which on an image counts as at risk."""
_STROKE: Final = 9
_CONTRAST: Final = 50
_LEVEL: Final = 120
_INK: Final = 25
_UNEVEN: Final = 0.05
_HEIGHTS: Final = (6, 48)
_LARGEST_SIDE: Final = 1024


@dataclass(frozen=True)
class _Letter:
    top: int
    bottom: int
    left: int
    right: int
    ink: float

    @property
    def height(self) -> int:
        return self.bottom - self.top


def letters_in_line(image: NDArray[np.uint8] | NDArray[np.float32]) -> int:
    """Count what looks like letters in the longest line of them.

    Args:
        image: ``(H, W)`` grey at its own size, uint8 or float32 in [0, 1].

    Returns:
        Letters, 0 or more; ``MIN_LETTERS`` or more are a risk.
    """
    levels = image if image.dtype == np.uint8 else np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    step = -(-max(levels.shape) // _LARGEST_SIDE)
    letters = _letters(np.ascontiguousarray(levels[::step, ::step]))
    return max((len(line) for line in _lines(letters)), default=0)


def _letters(levels: NDArray[np.uint8]) -> list[_Letter]:
    """Find bright strokes of a letter's size that stand alone."""
    ground = ndimage.grey_opening(levels, size=(_STROKE, _STROKE))
    strokes = (levels.astype(np.int16) - ground > _CONTRAST) & (levels > _LEVEL)
    pieces, count = ndimage.label(strokes, np.ones((3, 3)))
    if not count:
        return []
    areas = np.bincount(pieces.ravel())[1:]
    found = []
    for number, (box, area) in enumerate(zip(ndimage.find_objects(pieces), areas, strict=True), start=1):
        rows, columns = box
        height, width = rows.stop - rows.start, columns.stop - columns.start
        low, high = _HEIGHTS
        if low <= height <= high and width <= 1.6 * height and 0.15 < area / (height * width) <= 0.95:
            ink = float(np.quantile(levels[box][pieces[box] == number], 0.8))
            found.append(_Letter(rows.start, rows.stop, columns.start, columns.stop, ink))
    return found


def _lines(letters: list[_Letter]) -> list[list[_Letter]]:
    """Put letters of one height that stand side by side into lines, from left to right."""
    lines: list[list[_Letter]] = []
    for letter in sorted(letters, key=lambda one: one.left):
        for line in lines:
            if _continues(line[-1], letter):
                line.append(letter)
                break
        else:
            lines.append([letter])
    return lines


def _continues(last: _Letter, letter: _Letter) -> bool:
    height = max(last.height, letter.height)
    gap = letter.left - last.right
    level = abs(last.bottom - letter.bottom) <= _UNEVEN * height + 1
    alike = min(last.height, letter.height) >= 0.6 * height and abs(last.ink - letter.ink) <= _INK
    return level and alike and -0.2 * height <= gap <= 1.2 * height
