"""Random numbers that nobody outside can repeat: noise that could be drawn again would protect nothing."""

import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

_BITS = 53


class Randomness(Protocol):
    """What a private mechanism draws from; a NumPy generator is one too, for tests alone."""

    def random(self, size: int) -> NDArray[np.float64]:
        """Draw ``(size,)`` numbers uniform in [0, 1)."""
        ...

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """Draw ``(size,)`` numbers from N(0, 1)."""
        ...


class SecretRandom:
    """Draws from the operating system's entropy, which no seed repeats and no output gives away.

    A NumPy generator would not do: whoever sees enough of its noise can find its state.
    """

    def random(self, size: int) -> NDArray[np.float64]:
        """Draw ``(size,)`` numbers uniform in [0, 1), in steps of 2⁻⁵³."""
        return _integers(size) * 2.0**-_BITS

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """Draw ``(size,)`` numbers from N(0, 1), by the inverse of its distribution function."""
        drawn: NDArray[np.float64] = ndtri((_integers(size) + 0.5) * 2.0**-_BITS)
        return drawn


def _integers(size: int) -> NDArray[np.float64]:
    whole = np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(64 - _BITS)
    return whole.astype(np.float64)
