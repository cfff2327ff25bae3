"""From adapted tokens and text features to a map of probabilities and a score."""

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


def image_score(maps: Tensor) -> Tensor:
    """Take the maximum of each anomaly map: ``(B, S, S)`` in [0, 1] to ``(B,)``."""
    return maps.amax(dim=(1, 2))
