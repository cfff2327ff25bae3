"""Distances from patch tokens to their likes: the pure functions of :mod:`mediclip.model.memory`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# At most so many float32 values of similarities at a time, 256 MiB.
_MAX_VALUES = 2**26


def pooled_features(tokens: Sequence[Tensor], neighbourhood: int) -> Tensor:
    """Join the tokens of several taps into one direction per patch, each averaged with its neighbours.

    Args:
        tokens: One ``(B, h, w, C)`` tensor a tap.
        neighbourhood: Odd side of the square to average over; at the edge over what there is of it.

    Returns:
        ``(B, h, w, L·C)`` of length 1, every tap with equal weight.

    Source:
        Roth et al., PatchCore (arXiv 2106.08265), section 3.1, with directions in place of raw values: the
        towers have a few channels so large that they would decide alone.
    """
    parts = []
    for one in tokens:
        grid = one.permute(0, 3, 1, 2)
        mean = nn.functional.avg_pool2d(
            grid, neighbourhood, stride=1, padding=neighbourhood // 2, count_include_pad=False
        )
        parts.append(nn.functional.normalize(mean.permute(0, 2, 3, 1), dim=-1))
    joined: Tensor = torch.cat(parts, dim=-1) / len(parts) ** 0.5
    return joined


def nearest_around(queries: Tensor, memory: Tensor, radius: int, *, leave_own_out: bool = False) -> Tensor:
    """Find how far each token is from the nearest remembered one at about the same place.

    Args:
        queries: ``(B, h, w, C)`` of length 1.
        memory: ``(K, h, w, C)`` of length 1.
        radius: Rows and columns of patches that the places may differ by, at least 0.
        leave_own_out: Whether query i must not find itself in image i; B is K then.

    Returns:
        ``(B, h, w)`` one minus the largest cosine, in [0, 2].
    """
    height, width = queries.shape[1:3]
    # Rearranged once, unless it already lies so in memory: what is in a row is one batch of products then,
    # and nothing is copied again.
    asked, known = queries.permute(1, 2, 0, 3).contiguous(), memory.permute(1, 2, 0, 3).contiguous()
    best = queries.new_full(asked.shape[:3], -1.0)  # (h, w, B)
    for row in range(height):
        for other in range(max(0, row - radius), min(height, row + radius + 1)):
            for right in range(-radius, radius + 1):
                here, there = _overlap(width, right), _overlap(width, -right)
                cosines = torch.bmm(asked[row, here], known[other, there].transpose(1, 2))  # (w', B, K)
                if leave_own_out:
                    cosines.diagonal(dim1=1, dim2=2).fill_(-1.0)
                part = best[row, here]
                torch.maximum(part, cosines.amax(2), out=part)
    best = best.permute(2, 0, 1)
    return (1 - best).clamp_min(0)


def nearest_anywhere(queries: Tensor, memory: Tensor, *, owners: Tensor | None = None) -> Tensor:
    """Find how far each token is from the nearest remembered one, wherever that was.

    Args:
        queries: ``(B, h, w, C)`` of length 1.
        memory: ``(M, C)`` of length 1.
        owners: ``(M,)`` which query image each remembered token came from, so that image i does not find its
            own; none is left out when omitted.

    Returns:
        ``(B, h, w)`` one minus the largest cosine, in [0, 2].
    """
    images, height, width = queries.shape[:3]
    step = max(1, _MAX_VALUES // (height * width * len(memory)))
    parts = []
    for start in range(0, images, step):
        cosines = queries[start : start + step] @ memory.T  # (b, h, w, M)
        if owners is not None:
            numbers = torch.arange(start, start + len(cosines), device=owners.device)
            own = numbers[:, None] == owners
            cosines.masked_fill_(own[:, None, None], -1.0)
        parts.append(cosines.amax(-1))
    return (1 - torch.cat(parts)).clamp_min(0)


def _overlap(length: int, offset: int) -> slice:
    """Say which places have a neighbour ``offset`` further on."""
    return slice(min(length, max(0, -offset)), max(0, min(length, length - offset)))
