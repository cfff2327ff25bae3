"""Batched augmentation in torch: crop and turn, flip, tone, noise and blur, one draw an image."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_SCALE = (0.65, 1.1)  # side of the crop over the image's
_TURN = math.radians(20)
_TONE = 0.5
_NOISE = 0.06
_BLURRED_SHARE, _INVERTED_SHARE = 0.2, 0.1


def augment(images: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Change images and masks alike, as another patient position, scanner and display would.

    Args:
        images: ``(B, S, S)`` float32 in [0, 1].
        masks: ``(B, S, S)`` float32 in [0, 1].
        rng: Source of randomness.

    Returns:
        The same shapes and ranges; outside the image is its nearest pixel, and no mask.
    """
    count, size = images.shape[0], images.shape[-1]
    grid = functional.affine_grid(_views(count, rng).to(images), [count, 1, size, size], align_corners=False)
    seen = functional.grid_sample(
        images[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0]
    where = functional.grid_sample(masks[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
    return _tone(seen, rng), where


def _views(count: int, rng: np.random.Generator) -> Tensor:
    scale = rng.uniform(*_SCALE, count)
    stretch = np.exp(rng.uniform(-0.1, 0.1, count))
    turn = rng.uniform(-_TURN, _TURN, count)
    flip = rng.choice((-1.0, 1.0), count)
    room = np.clip(1 - scale, 0.02, None)
    shift = rng.uniform(-1, 1, (2, count)) * room
    c, s = np.cos(turn) * scale, np.sin(turn) * scale
    rows = [[c * stretch * flip, -s * flip, shift[0]], [s / stretch, c / stretch, shift[1]]]
    return torch.from_numpy(np.moveaxis(np.array(rows), 2, 0).astype(np.float32))


def _tone(images: Tensor, rng: np.random.Generator) -> Tensor:
    count = len(images)

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(images).view(-1, 1, 1)

    gamma = column(np.exp(rng.uniform(-_TONE, _TONE, count)))
    gain, lift = column(rng.uniform(0.75, 1.2, count)), column(rng.uniform(-0.1, 0.1, count))
    toned = images.clamp(0, 1).pow(gamma) * gain + lift
    blurred = functional.avg_pool2d(toned[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    toned = torch.where(column(rng.random(count) < _BLURRED_SHARE) > 0, blurred, toned)
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32)).to(images)
    toned = toned + noise * column(_NOISE * rng.random(count) ** 2)
    return torch.where(column(rng.random(count) < _INVERTED_SHARE) > 0, 1 - toned, toned).clamp(0, 1)
