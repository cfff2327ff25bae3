"""Cumulative counts over falling thresholds and the area under them, for images and pixels alike."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def cumulative_share(counts: NDArray[np.number]) -> Floats:
    """Turn counts per threshold into the share that lies at or above each threshold.

    Args:
        counts: ``(T,)`` at least 0, by falling threshold, with a sum above 0.

    Returns:
        ``(T + 1,)`` from exactly 0 to exactly 1, never falling.
    """
    rising: Floats = np.concatenate(([0.0], np.cumsum(counts, dtype=np.float64)))
    share: Floats = rising / rising[-1]
    return share


def area_under(x: Floats, y: Floats, *, limit: float = 1.0) -> float:
    """Integrate a curve of straight segments from 0 to a limit.

    Args:
        x: ``(T,)`` never falling, from 0 to 1; equal neighbours are a vertical step.
        y: ``(T,)`` values at ``x``.
        limit: Right end in (0, 1]; the segment that crosses it is cut there.

    Returns:
        The area in [0, ``limit``] for ``y`` in [0, 1], not yet divided by the limit.
    """
    end = int(np.searchsorted(x, limit, side="right"))
    if end == len(x):
        return float(np.trapezoid(y, x))
    inside = float(np.trapezoid(y[:end], x[:end]))
    slope = (y[end] - y[end - 1]) / (x[end] - x[end - 1])
    width = limit - x[end - 1]
    return inside + float(width * (y[end - 1] + 0.5 * slope * width))
