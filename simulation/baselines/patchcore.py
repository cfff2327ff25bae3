"""PatchCore on the patch tokens of a frozen backbone.

Source: Roth et al., *Towards Total Recall in Industrial Anomaly Detection* (arXiv 2106.08265), sections 3.1
to 3.3. The tests hold scores and coreset against anomalib's. What differs from the paper is the backbone:
tapped blocks of a ViT, which all have one grid, in place of two stages of a WideResNet.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.random_projection import SparseRandomProjection, johnson_lindenstrauss_min_dim
from torch import Tensor, nn

from mediclip.model.backbone import Backbone
from mediclip.model.memory import Judgement
from mediclip.model.network import MediClip
from mediclip.rng import Name, generator

SHARE: Final = 0.1
NEIGHBOURS: Final = 9
_PROJECTION_ERROR: Final = 0.9
_BLUR_PX: Final = 4.0
_BATCH: Final = 16


class PatchCore:
    """A bank of normal patch features, and the distance to it.

    Args:
        network: Whose backbone, taps and precision encode images; its trained tensors take no part.
        bank: ``(M, L·C)`` features of normal patches.

    Attributes:
        backbone: The network's.
        taps: The network's.
    """

    def __init__(self, network: MediClip, bank: Tensor) -> None:
        self._network, self._bank = network, bank
        self.backbone: Backbone = network.backbone
        self.taps: tuple[int, ...] = network.taps

    @classmethod
    @torch.no_grad()
    def of(
        cls, network: MediClip, support: NDArray[np.float32], *, seed: int, stream: tuple[Name, ...] = ()
    ) -> "PatchCore":
        """Fill the bank with the coreset of a tenth of the support images' patches.

        Args:
            network: Encodes the images.
            support: ``(K, S, S)`` normal images in [0, 1], at least one.
            seed: The run's seed.
            stream: Names that set this bank's randomness apart.

        Returns:
            The detector.
        """
        parts = [
            patch_features(network.tokens(torch.from_numpy(support[i : i + _BATCH]))).flatten(0, 2)
            for i in range(0, len(support), _BATCH)
        ]
        features = torch.cat(parts)
        rng = generator(seed, *stream, "patchcore")
        count = max(1, int(SHARE * len(features)))
        first = int(rng.integers(len(features)))
        chosen = farthest_first(_projected(features, int(rng.integers(2**31))), count, first)
        return cls(network, features[chosen])

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Encode ``(B, S, S)`` in [0, 1] into one ``(B, h, w, C)`` tensor a tap."""
        return self._network.tokens(images)

    def judge(self, tokens: Sequence[Tensor]) -> Judgement:
        """Score images; distances d are given as d / (1 + d), so that all lies in [0, 1)."""
        features = patch_features(tokens)
        distance, scores = patch_and_image_scores(features, self._bank)
        side = self._network.recipe.image_size
        full = nn.functional.interpolate(
            distance.unsqueeze(1), size=(side, side), mode="bilinear", align_corners=False
        )
        blurred = ndimage.gaussian_filter(full[:, 0].cpu().numpy(), (0, _BLUR_PX, _BLUR_PX), mode="mirror")
        return Judgement(_bounded(torch.from_numpy(blurred)), _bounded(scores))


def patch_features(tokens: Sequence[Tensor]) -> Tensor:
    """Average each patch with its neighbours, 3 by 3, and join the taps: ``(B, h, w, L·C)``."""
    pooled = [
        nn.functional.avg_pool2d(one.permute(0, 3, 1, 2), 3, stride=1, padding=1).permute(0, 2, 3, 1)
        for one in tokens
    ]
    return torch.cat(pooled, dim=-1)


def patch_and_image_scores(features: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Measure how far patches are from the bank, and weigh the farthest of each image.

    Args:
        features: ``(B, h, w, D)``.
        bank: ``(M, D)``.

    Returns:
        Distances ``(B, h, w)``, and ``(B,)`` the largest of each image times one minus the share of its
        nearest remembered patch among that one's nine neighbours (equation 7).
    """
    images, height, width = features.shape[:3]
    flat = features.flatten(1, 2)
    distance, nearest = torch.cdist(flat, bank.expand(images, -1, -1)).min(-1)  # (B, h·w) each
    farthest = distance.argmax(1)
    rows = torch.arange(images, device=distance.device)
    its_nearest = bank[nearest[rows, farthest]]  # (B, D)
    count = min(NEIGHBOURS, len(bank))
    beside = torch.cdist(its_nearest, bank).topk(count, largest=False).indices  # (B, count), itself first
    far = flat[rows, farthest].unsqueeze(1)
    weights = 1 - torch.cdist(far, bank[beside]).squeeze(1).softmax(-1)[:, 0]
    return distance.view(images, height, width), weights * distance[rows, farthest]


def farthest_first(features: Tensor, count: int, first: int) -> Tensor:
    """Choose a coreset: each time the row that is farthest from all chosen before.

    Args:
        features: ``(N, D)``.
        count: Rows to choose, in [1, N].
        first: The row to begin with.

    Returns:
        ``(count,)`` rows in the order of choice.
    """
    chosen = [first]
    distance = torch.linalg.vector_norm(features - features[first], dim=1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, torch.linalg.vector_norm(features - features[chosen[-1]], dim=1))
    return torch.tensor(chosen, device=features.device)


def _projected(features: Tensor, seed: int) -> Tensor:
    """Shorten features by a random projection that keeps distances roughly, where that makes them shorter."""
    if johnson_lindenstrauss_min_dim(len(features), eps=_PROJECTION_ERROR) >= features.shape[1]:
        return features
    projection = SparseRandomProjection(eps=_PROJECTION_ERROR, random_state=seed)
    return torch.from_numpy(projection.fit_transform(features.cpu().numpy()))


def _bounded(distance: Tensor) -> Tensor:
    return distance / (1 + distance)
