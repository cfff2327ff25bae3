"""The stored values of a grey frame, each one once: what is computed of a value is computed once per level.

A frame of 16 bits has millions of pixels and some thousand levels, so that windows, percentiles and look-up
tables cost little beside decoding, and are plain functions of a vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mediclip.data.raster import Grey

_SOME: Final = 1024
_AT_ONCE: Final = 2**18
_COUNTED_AT_ONCE: Final = 2**16
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True)
class Levels:
    """A frame as levels and an index.

    Attributes:
        stored: ``(n,)`` stored values in ascending order, float64 (integers up to 53 bits are exact).
        index: ``(H, W)`` which level each pixel has.
    """

    stored: NDArray[np.float64]
    index: NDArray[Any]

    @cached_property
    def counts(self) -> NDArray[np.intp]:
        """``(n,)`` how many pixels have each level; 0 is possible."""
        flat = self.index.ravel()
        if self.index.dtype == np.uint8:  # Pillow counts bytes in half the time
            return np.array(Image.fromarray(self.index).histogram()[: len(self.stored)])
        counts = np.zeros(len(self.stored), dtype=np.intp)
        for start in range(0, flat.size, _COUNTED_AT_ONCE):
            part = flat[start : start + _COUNTED_AT_ONCE]
            # The lowest level is often a third of an image, and adding to one number again and again is slow.
            counts += np.bincount(part[part > 0], minlength=len(counts))
        counts[0] = flat.size - counts.sum()
        return counts

    @classmethod
    def of(cls, values: NDArray[Any]) -> "Levels":
        """Sort a frame into levels.

        Args:
            values: ``(H, W)`` integers or floating point, perhaps with NaN.

        Returns:
            Its levels.
        """
        if values.dtype.kind in "iub":
            low, high = int(values.min()), int(values.max())
            if high - low < max(256, values.size):
                return cls(np.arange(low, high + 1, dtype=np.float64), _above(values, low))
        stored, index = np.unique(values, return_inverse=True)
        return cls(stored.astype(np.float64), index.reshape(values.shape))

    def spread(self, of_level: NDArray[np.float64]) -> NDArray[np.float32]:
        """Give each pixel what was computed of its level.

        Args:
            of_level: ``(n,)``.

        Returns:
            ``(H, W)``.
        """
        return self._taken(of_level.astype(np.float32))

    def greys(self, of_level: NDArray[np.float64]) -> Grey:
        """Give each pixel the grey of its level, in 8 bits where these hold all greys of the image.

        Args:
            of_level: ``(n,)`` in [0, 1].

        Returns:
            ``(H, W)``: uint8 in [0, 255], which is resized as any 8-bit image, or float32 in [0, 1].
        """
        unit = of_level.astype(np.float32)
        eight = np.rint(unit * np.float32(255)).astype(np.uint8)
        exact = np.equal(eight / np.float32(255), unit)
        # Some pixels nearly always tell, without counting the others.
        some = self.index.ravel()[:: max(1, self.index.size // _SOME)]
        if exact[some].all() and (exact.all() or exact[self.counts > 0].all()):
            return self._taken(eight)
        return self._taken(unit)

    def _taken(self, of_level: NDArray[_T]) -> NDArray[_T]:
        """Look each pixel's level up, some at once: NumPy makes 8 bytes of each index beforehand."""
        flat = self.index.ravel()
        out = np.empty(flat.size, dtype=of_level.dtype)
        for start in range(0, flat.size, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            np.take(of_level, flat[part], out=out[part], mode="clip")  # faster than "raise"
        return out.reshape(self.index.shape)


def _above(values: NDArray[Any], low: int) -> NDArray[Any]:
    """Subtract the lowest value, without making short numbers long: these are read faster."""
    if values.dtype.itemsize > 2:
        return values.astype(np.intp) - low
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    short = np.dtype(f"u{values.dtype.itemsize}")
    # A difference that does not fit into the signed type does into the unsigned one, in the same bits.
    return values.view(short) - short.type(low % 2 ** (8 * short.itemsize)) if low else values.view(short)


def percentiles(
    values: NDArray[np.float64], counts: NDArray[np.intp], percents: Sequence[float]
) -> list[float]:
    """Compute percentiles of values that come more than once, as :func:`numpy.percentile` does.

    Args:
        values: ``(n,)``, n >= 1, in any order.
        counts: ``(n,)`` how often each comes, not all 0.
        percents: Which, in [0, 100].

    Returns:
        Each percentile, interpolated linearly between the two values beside it.
    """
    if np.any(values[1:] < values[:-1]):
        order = np.argsort(values, kind="stable")
        values, counts = values[order], counts[order]
    ends = np.cumsum(counts)
    last = int(ends[-1]) - 1
    found = []
    for percent in percents:
        place = percent / 100 * last
        below = int(place)
        beside = np.searchsorted(ends, [below, min(below + 1, last)], side="right")
        low, high = (float(value) for value in values[beside])
        found.append(low + (high - low) * (place - below))
    return found
