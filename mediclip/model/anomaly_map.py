"""From adapted tokens and text features to a map of probabilities and a score."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def class_probabilities(adapted: Sequence[Tensor], text: Tensor, size: int) -> Tensor:
    """Compare every token with both classes.

    Args:
        adapted: One ``(B, h, w, D)`` tensor a tap, each token of length 1.
        text: ``(D, 2)``, columns of length 1.
        size: Side S of the map in pixels.

    Returns:
        ``(B, 2, S, S)``: softmax, with no temperature, of the cosines averaged over the taps and upsampled
        bilinearly with aligned corners. Values in [0, 1], summing to 1 over the classes.

    Source: METHOD 1.5.
    """
    cosines = torch.stack([tokens @ text for tokens in adapted]).mean(0)  # (B, h, w, 2)
    grid = cosines.permute(0, 3, 1, 2)
    full = nn.functional.interpolate(grid, size=(size, size), mode="bilinear", align_corners=True)
    return full.softmax(dim=1)


def image_score(maps: Tensor, top_share: float = 0.0) -> Tensor:
    """Sum each map up in one number.

    Args:
        maps: ``(B, H, W)``.
        top_share: Share in [0, 1) of the highest values to average, rounded down but at least one; 0 takes
            the maximum.

    Returns:
        ``(B,)``, in the range of the maps.
    """
    if top_share == 0:
        return maps.amax(dim=(1, 2))
    flat = maps.flatten(1)
    count = max(1, math.floor(top_share * flat.shape[1]))
    return flat.topk(count, dim=1).values.mean(1)
