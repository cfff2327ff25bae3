"""The weighted mean of differences, one at a time, whose bits do not depend on who answers first."""

import math

import numpy as np
from numpy.typing import NDArray

from mediclip.errors import FederationError
from server.difference import BLOCK, Difference

_BITS = 62  # of an int64, less its sign and one for safety


class ExactMean:
    """A sum in 64-bit fixed point: whole numbers, which add to the same in any order.

    Each value is rounded to a multiple of 2⁻ᵏ once, after its weight; k is the largest with which the sum
    cannot overflow. With 1,000 sites of 64 images and the largest norm of 40 steps at 1e-3 that is 2⁻³⁹, a
    hundredth of float32's last place at 0.01. One array of eight bytes a value is held, however many sites
    there are.

    Args:
        size: Number of values.
        max_norm: Largest Euclidean norm of one difference, above 0.
        max_weight: Largest sum of the weights, at least 1.
    """

    def __init__(self, size: int, *, max_norm: float, max_weight: int) -> None:
        self._scale = 2.0 ** (_BITS - math.ceil(math.log2(max_norm)) - math.ceil(math.log2(max_weight)))
        self._max_weight = max_weight
        self._sum = np.zeros(size, np.int64)
        self._weight = 0

    def add(self, difference: Difference, weight: int) -> None:
        """Add one difference.

        Args:
            difference: Finite, its norm at most ``max_norm``.
            weight: Its weight, at least 1.

        Raises:
            FederationError: If the weights exceed ``max_weight`` in all.
        """
        if self._weight + weight > self._max_weight:
            message = (
                f"A round's examples must be at most {self._max_weight:,} in all. There are more; raise "
                "'sites' to the number of sites that take part."
            )
            raise FederationError(message)
        self._weight += weight
        whole = np.empty(BLOCK, np.int64)
        for offset, block in difference.blocks():
            np.multiply(block, self._scale * weight, out=block)
            np.rint(block, out=block)
            part = whole[: len(block)]
            np.copyto(part, block, casting="unsafe")
            self._sum[offset : offset + len(block)] += part

    def result(self) -> NDArray[np.float64]:
        """Return the mean, flat; call it after at least one :meth:`add`."""
        return self._sum / (self._scale * self._weight)
