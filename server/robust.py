"""Rules that a minority of hostile sites cannot move far, on float64 differences from the global model.

Distances and orders of raw float32 weights lose what tells an honest site from another: the weights are alike
in nearly all of their digits. What a site changed has them all.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from server.spool import Spool


def tolerated(share: float, sites: int) -> int:
    """Say how many sites a rule gives up, for a share that may be hostile.

    The share of so many sites rounded down, but at least one where a share is asked for at all and three
    sites are there: a fifth of four sites would be none, and the rule a plain mean with a reassuring name. Of
    two sites none can be told from the other.

    Args:
        share: In [0, 0.5).
        sites: Number of sites, at least 1.

    Returns:
        A number below half of the sites.
    """
    if share == 0 or sites < 3:
        return 0
    return max(1, int(share * sites))


def median(spool: Spool, size: int) -> NDArray[np.float64]:
    """Take the median of each value.

    Args:
        spool: The round's differences, at least one.
        size: Number of values.

    Returns:
        Flat float64.

    Source: Yin et al., definition 1 (arXiv 1803.01498).
    """
    result = np.empty(size)
    for offset, block in spool.columns():
        result[offset : offset + block.shape[1]] = np.median(block, axis=0, overwrite_input=True)
    return result


def trimmed_mean(spool: Spool, size: int, share: float) -> NDArray[np.float64]:
    """Take the mean of each value without the smallest and largest ones.

    Args:
        spool: The round's differences, at least one.
        size: Number of values.
        share: Share that is cut at each end; see :func:`tolerated`.

    Returns:
        Flat float64. Sites count alike, whatever their number of examples.

    Source: Yin et al., definition 2 (arXiv 1803.01498).
    """
    cut = tolerated(share, len(spool.sites))
    result = np.empty(size)
    for offset, block in spool.columns():
        block.sort(axis=0)
        result[offset : offset + block.shape[1]] = block[cut : len(block) - cut].mean(axis=0)
    return result


def multikrum(
    spool: Spool, size: int, share: float, weights: Mapping[str, int]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Take the weighted mean of the sites that lie closest to their neighbours.

    A site's score is the sum of its squared distances to its n − f − 2 nearest neighbours (at least one), and
    the n − f sites with the lowest scores are kept; f is :func:`tolerated`. The proof asks for n ≥ 2f + 3.

    Args:
        spool: The round's differences, at least one.
        size: Number of values.
        share: Share of the sites that may be hostile.
        weights: Examples of each site.

    Returns:
        Flat float64, and the names of the sites that were kept.

    Source: Blanchard et al., sections 4 and 5 (arXiv 1703.02757).
    """
    sites = spool.sites
    kept = _closest(_squared_distances(spool), tolerated(share, len(sites)))
    chosen = tuple(sites[place] for place in sorted(kept))
    counts = np.array([weights[site] for site in chosen], np.float64)
    result = np.empty(size)
    for offset, block in spool.columns(chosen):
        result[offset : offset + block.shape[1]] = (counts[:, None] * block).sum(axis=0) / counts.sum()
    return result, chosen


def _squared_distances(spool: Spool) -> NDArray[np.float64]:
    count = len(spool.sites)
    products = np.zeros((count, count))
    for _, block in spool.columns():
        products += block @ block.T
    squares = np.diag(products)
    return np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)


def _closest(distances: NDArray[np.float64], hostile: int) -> list[int]:
    count = len(distances)
    neighbours = max(1, count - hostile - 2)
    ordered = np.sort(distances, axis=1)[:, 1 : 1 + neighbours]  # the first is the site's own, zero
    scores = ordered.sum(axis=1)
    return [int(place) for place in np.argsort(scores, kind="stable")[: count - hostile]]
