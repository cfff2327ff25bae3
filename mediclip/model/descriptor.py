"""What a site's scans look like to the frozen tower, in a few numbers that find sites that are alike.

Mean and standard deviation of every channel of the patch tokens, over all patches of all support images, tap
by tap: no image and no place stands out in them. Each is brought to length 1, since taps differ in scale, and
projected to few numbers by a fixed random matrix, which keeps angles roughly.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mediclip.model.network import MediClip
from mediclip.rng import generator

PROJECTED: Final = 32
"""Numbers of each tap's mean and of its deviation."""

_SEED: Final = 2405_11315
_BATCH: Final = 16


@torch.no_grad()
def describe(network: MediClip, support: NDArray[np.float32]) -> tuple[float, ...]:
    """Describe a site's support images.

    Args:
        network: Gives tower and taps; its trained tensors have no part in it.
        support: ``(K, S, S)`` in [0, 1], K at least 1.

    Returns:
        2·L·:data:`PROJECTED` numbers for L taps, of Euclidean length 1, each rounded to six decimals.

    Source: METHOD 4; the projection Johnson and Lindenstrauss (1984), with a matrix of N(0, 1/n).
    """
    batches = [
        network.tokens(torch.from_numpy(support[start : start + _BATCH]))
        for start in range(0, len(support), _BATCH)
    ]
    parts = []
    for tap, channels in enumerate(zip(*batches, strict=True)):
        mean, deviation = _moments(channels)
        for kind, moment in (("mean", mean), ("deviation", deviation)):
            drawn = generator(_SEED, "descriptor", tap, kind).normal(
                0, PROJECTED**-0.5, (len(moment), PROJECTED)
            )
            parts.append(_unit(_unit(moment) @ drawn))
    return tuple(np.round(_unit(np.concatenate(parts)), 6).tolist())


def _moments(batches: Sequence[Tensor]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give mean and deviation ``(C,)`` of every channel over batches of ``(B, h, w, C)``."""
    tokens = torch.cat([batch.flatten(0, 2) for batch in batches]).double()
    return tokens.mean(0).cpu().numpy(), tokens.std(0, correction=0).cpu().numpy()


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values / max(float(np.linalg.norm(values)), 1e-12)
