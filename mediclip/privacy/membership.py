"""Membership tests: what someone who has an update and an image can tell of whether it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from mediclip.errors import DataError
from mediclip.model.network import MediClip
from mediclip.model.trainables import Trainables
from mediclip.privacy.views import OwnViews
from mediclip.training.batch import Batch
from mediclip.training.losses import anomaly_loss

FALSE_POSITIVE_RATE: Final = 0.05
FEWEST_OTHERS: Final = 20
_LOWEST: Final = 1e-9
_CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Detection:
    """How well a score tells members from others.

    Attributes:
        true_positive_rate: Share of the members above the threshold, in [0, 1].
        low: Lower end of its 95 % interval (Clopper and Pearson), which takes the members for independent.
        high: Upper end.
        false_positive_rate: Share of the others above the threshold, at most 0.05.
        members: Number of scores of members.
        others: Number of scores of others.
    """

    true_positive_rate: float
    low: float
    high: float
    false_positive_rate: float
    members: int
    others: int


def detect(members: NDArray[np.float64], others: NDArray[np.float64]) -> Detection:
    """Set a threshold that at most 5 % of the others pass, and count the members that do.

    Args:
        members: ``(M,)`` scores, larger where membership is likelier, M at least 1.
        others: ``(N,)``, N at least 20: fewer hold no 5 %.

    Returns:
        The rates at that threshold. Without any leak the first is 0.05 or less on average.

    Raises:
        DataError: If there are too few scores.

    Source: Carlini et al., Membership Inference Attacks From First Principles (arXiv 2112.03570).
    """
    if len(members) < 1 or len(others) < FEWEST_OTHERS:
        message = (
            f"A membership test must have a member and at least {FEWEST_OTHERS} others. It has "
            f"{len(members)} and {len(others)}; use more images or more trainings."
        )
        raise DataError(message)
    passing = int(FALSE_POSITIVE_RATE * len(others))
    threshold = np.sort(others)[len(others) - 1 - passing]
    found = int((members > threshold).sum())
    interval = binomtest(found, len(members)).proportion_ci(_CONFIDENCE, method="exact")
    return Detection(
        found / len(members),
        float(interval.low),
        float(interval.high),
        float((others > threshold).mean()),
        len(members),
        len(others),
    )


def span_scores(
    before: Trainables, after: Trainables, tokens: Sequence[Tensor], taps: Sequence[int]
) -> NDArray[np.float64] | None:
    """Say how much of each image's tokens lies in the directions in which the adapters moved.

    A plain gradient of a linear map is a sum of tokens times something, so that with few images its row space
    holds the tokens of those images and no others. Of a full row space the stronger half is used.

    Args:
        before: The model that the update starts from.
        after: The model with the update.
        tokens: One ``(N, h, w, C)`` tensor a tap, of the images that are asked about.
        taps: The tapped blocks.

    Returns:
        ``(N,)`` in [0, 1], mean over the taps; None where no adapter is trained.
    """
    captured = []
    for tap, encoded in zip(taps, tokens, strict=True):
        moved = _map_of(after, tap, encoded.shape[-1])
        if moved is None:
            return None
        change = moved - _known(before, tap, encoded.shape[-1])
        _, strength, directions = np.linalg.svd(change, full_matrices=False)
        used = min(int((strength > _LOWEST * max(strength[0], _LOWEST)).sum()), change.shape[1] // 2)
        flat = encoded.double().flatten(1, 2).cpu().numpy()  # (N, h·w, C)
        inside = np.linalg.norm(flat @ directions[:used].T, axis=(1, 2))
        captured.append(inside / np.linalg.norm(flat, axis=(1, 2)))
    mean: NDArray[np.float64] = np.mean(captured, axis=0)
    return mean


def _map_of(model: Trainables, tap: int, width: int) -> NDArray[np.float64] | None:
    """Give the trained part of a tap's map, ``(D, C)``; None if there is none."""
    prefix = f"adapter.{tap}"
    if f"{prefix}.weight" in model:
        return model[f"{prefix}.weight"].astype(np.float64).reshape(-1, width)
    if f"{prefix}.up" in model:
        return model[f"{prefix}.up"].astype(np.float64) @ model[f"{prefix}.down"]
    return None


def _known(model: Trainables, tap: int, width: int) -> NDArray[np.float64]:
    found = _map_of(model, tap, width)
    assert found is not None  # noqa: S101 - both models have one schema
    return found


@torch.no_grad()
def loss_scores(
    network: MediClip, before: Trainables, after: Trainables, views: OwnViews
) -> NDArray[np.float64]:
    """Say by how much training has lowered the loss on each image's own anomalies.

    Args:
        network: The network of both models; it holds ``after`` when this returns.
        before: The model that the update starts from.
        after: The model with the update.
        views: Views of N images, made by whoever asks: not those that were trained on.

    Returns:
        ``(N,)``, mean loss before minus mean loss after.

    Source: Yeom et al., Privacy Risk in Machine Learning (arXiv 1709.01604), with the loss of the known start
        as the reference of each image.
    """
    losses = []
    for model in (before, after):
        network.load(model)
        losses.append([_loss(network, views.all_of(image)) for image in range(len(views))])
    lowered: NDArray[np.float64] = np.array(losses[0]) - np.array(losses[1])
    return lowered


def _loss(network: MediClip, batch: Batch) -> float:
    return float(anomaly_loss(network.probabilities(batch.tokens), batch.labels))
