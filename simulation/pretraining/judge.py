"""What a pretrained backbone knows without adaptation: phrases alone, on phantoms that it has not seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mediclip.config import load_recipe
from mediclip.evaluation.image_metrics import image_auroc
from mediclip.evaluation.pixel_metrics import PixelMetrics
from mediclip.model.backbone import Backbone
from mediclip.rng import generator
from simulation.baselines.winclip import phrase_columns
from simulation.phantom import ORGANS, draw_phantom, draw_scanner

_BATCH = 16


@dataclass(frozen=True)
class ZeroShot:
    """How well phrases tell ill phantoms of one organ from healthy ones.

    Attributes:
        organ: The organ.
        image_auroc: By the class token.
        map_auroc: By the mean of the most abnormal hundredth of the pixels.
        pixel_auroc: By the map, over all pixels.
    """

    organ: str
    image_auroc: float
    map_auroc: float
    pixel_auroc: float


def judge(
    backbone: Backbone,
    *,
    seed: int,
    images: int = 60,
    on_organ: Callable[[int, int], None] | None = None,
) -> list[ZeroShot]:
    """Score unseen phantoms with the recipe's phrases and no training at all.

    Args:
        backbone: The backbone.
        seed: Seed of the phantoms; the corpus has streams of its own, so no phantom is in both.
        images: Phantoms an organ, half of them ill.
        on_organ: Called with organs done and in all.

    Returns:
        One result an organ.
    """
    columns = phrase_columns(backbone, load_recipe("default"))
    results = []
    for done, organ in enumerate(ORGANS):
        scans, masks = _phantoms(organ, seed, images, backbone.image_size)
        labels = masks.any((1, 2)).astype(np.int64)
        overall, maps = _scores(backbone, scans, columns)
        top = np.sort(maps.reshape(len(maps), -1), axis=1)[:, -max(1, maps[0].size // 100) :].mean(1)
        pixels = PixelMetrics()
        pixels.update(maps, masks)
        results.append(
            ZeroShot(
                organ,
                float(image_auroc(labels, overall) or 0),
                float(image_auroc(labels, top) or 0),
                float(pixels.pixel_auroc() or 0),
            )
        )
        if on_organ:
            on_organ(done + 1, len(ORGANS))
    return results


def _phantoms(organ: str, seed: int, images: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    drawn = [
        draw_phantom(
            organ,
            generator(seed, "judge", organ, i),
            size=size,
            finding="random" if i % 2 else None,
            scanner=draw_scanner(seed, i),
        )
        for i in range(images)
    ]
    return np.stack([d.image for d in drawn]).astype(np.float32), np.stack([d.mask for d in drawn])


@torch.no_grad()
def _scores(
    backbone: Backbone, scans: NDArray[np.float32], columns: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return ``(N,)`` margins of the class token and ``(N, S, S)`` maps in [0, 1] of the patch tokens."""
    margin = columns[:, 1] - columns[:, 0]
    overall: list[Sequence[float]] = []
    maps: list[Tensor] = []
    for first in range(0, len(scans), _BATCH):
        pixels = backbone.normalise(torch.from_numpy(scans[first : first + _BATCH]))
        output = backbone.visual.forward_intermediates(
            pixels, indices=1, normalize_intermediates=True, output_fmt="NLC"
        )
        image = functional.normalize(output["image_features"], dim=-1)
        overall.append((image @ margin).tolist())
        tokens = functional.normalize(output["image_intermediates"][-1] @ backbone.visual.proj, dim=-1)
        side = round(tokens.shape[1] ** 0.5)
        small = (tokens @ margin).view(-1, 1, side, side)
        size = pixels.shape[-1]
        maps.append(functional.interpolate(small, (size, size), mode="bilinear", align_corners=True)[:, 0])
    return np.concatenate([np.array(part) for part in overall]), ((torch.cat(maps) + 2) / 4).numpy()
