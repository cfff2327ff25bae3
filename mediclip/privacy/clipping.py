"""The size of an update, and making it smaller: one Euclidean norm over all tensors, in float64."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from mediclip.model.trainables import Trainables

_TRIES: Final = 8


@dataclass(frozen=True)
class Clipped:
    """An update that is no larger than a bound.

    Attributes:
        tensors: The model after the update.
        norm: Norm of the update as it was.
        is_clipped: Whether it was made smaller.
    """

    tensors: Trainables
    norm: float
    is_clipped: bool


def update_norm(before: Trainables, after: Trainables) -> float:
    """Return the Euclidean norm of ``after - before`` over all tensors, in float64."""
    squares = 0.0
    for name, value in after.items():
        difference = value.astype(np.float64) - before[name]
        squares += float(np.vdot(difference, difference))
    return math.sqrt(squares)


def clip_factor(norm: float, bound: float) -> float:
    """Give the factor min(1, C/‖u‖) that takes an update of a norm to at most the bound; 1 for a zero update.

    Args:
        norm: ‖u‖, at least 0.
        bound: C, above 0.

    Source: Abadi et al., Deep Learning with Differential Privacy, algorithm 1 (arXiv 1607.00133).
    """
    return bound / norm if norm > bound else 1.0


def clip_update(before: Trainables, after: Trainables, bound: float) -> Clipped:
    """Shorten an update to a bound, in its own direction.

    Args:
        before: The model that the update starts from.
        after: The model with the update, finite.
        bound: Largest norm, above 0.

    Returns:
        float32 tensors whose update has at most this norm also after rounding, so that clipping them again
        changes nothing; ``after`` itself where it is small enough.
    """
    norm = update_norm(before, after)
    if norm <= bound:
        return Clipped(after, norm, is_clipped=False)
    factor = clip_factor(norm, bound)
    for _ in range(_TRIES):
        scaled = {n: (before[n] + factor * (v.astype(np.float64) - before[n])) for n, v in after.items()}
        tensors = {n: v.astype(np.float32) for n, v in scaled.items()}
        reached = update_norm(before, tensors)
        if reached <= bound:
            return Clipped(tensors, norm, is_clipped=True)
        factor *= (1 - 1e-6) * clip_factor(reached, bound)
    # The bound lies below what float32 can tell apart: no update is left.
    return Clipped({n: before[n].copy() for n in after}, norm, is_clipped=True)
