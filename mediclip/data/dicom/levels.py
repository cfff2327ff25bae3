"""The stored values of a grey frame, each one once: what is computed of a value is computed once per level.

A frame of 16 bits has millions of pixels and some thousand levels, so that windows, percentiles and look-up
tables cost little beside decoding, and are plain functions of a vector.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Levels:
    """A frame as levels and an index.

    Attributes:
        stored: ``(n,)`` stored values in ascending order, float64 (integers up to 53 bits are exact).
        counts: ``(n,)`` how many pixels have each; 0 is possible.
        index: ``(H, W)`` which level each pixel has.
    """

    stored: NDArray[np.float64]
    counts: NDArray[np.intp]
    index: NDArray[Any]

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
                index = values.astype(np.intp)  # which bincount and take would make of it, one time each
                index -= low
                counts = np.bincount(index.ravel(), minlength=high - low + 1)
                return cls(np.arange(low, high + 1, dtype=np.float64), counts, index)
        stored, index, counts = np.unique(values, return_inverse=True, return_counts=True)
        return cls(stored.astype(np.float64), counts, index.reshape(values.shape))

    def spread(self, of_level: NDArray[np.float64]) -> NDArray[np.float32]:
        """Give each pixel what was computed of its level.

        Args:
            of_level: ``(n,)``.

        Returns:
            ``(H, W)``.
        """
        return np.take(of_level.astype(np.float32), self.index, mode="clip")  # faster than "raise"


def percentile(values: NDArray[np.float64], counts: NDArray[np.intp], percent: float) -> float:
    """Compute a percentile of values that come more than once, as :func:`numpy.percentile` does.

    Args:
        values: ``(n,)``, n >= 1, in any order.
        counts: ``(n,)`` how often each comes, not all 0.
        percent: In [0, 100].

    Returns:
        The percentile, interpolated linearly between the two values beside it.
    """
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(counts[order])
    place = percent / 100 * (int(ends[-1]) - 1)
    below = int(place)
    beside = np.searchsorted(ends, [below, min(below + 1, int(ends[-1]) - 1)], side="right")
    low, high = (float(value) for value in values[order[beside]])
    return low + (high - low) * (place - below)
