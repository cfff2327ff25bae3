"""A site attacks its own update: whether who holds the images could tell from it which were trained on.

Real rounds are trained, by the site's own settings and policy, on some of its normal images, and the rest are
those that were not trained on. Nothing leaves and nothing is paid for.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.policy import Policy
from client.service.fit import FitRequest
from client.service.material import Material
from client.service.site import Site
from client.settings import SiteSettings
from mediclip.config import Recipe
from mediclip.data.manifest import open_dataset
from mediclip.data.preprocess import Preprocess, load_images
from mediclip.data.samples import NORMAL
from mediclip.errors import SupportSetError
from mediclip.evaluation.duplicates import image_digest
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.network import MediClip
from mediclip.model.trainables import initial_trainables
from mediclip.privacy.membership import Detection, detect, loss_scores, span_scores
from mediclip.privacy.views import OwnViews
from mediclip.rng import generator

ATTACKERS_VIEWS = 4
MOST_IMAGES = 8  # times the shots


@dataclass(frozen=True)
class Leakage:
    """What the attacks found.

    Attributes:
        shots: Images of each training.
        pool: Normal images that they were drawn from.
        trainings: How many trainings were made.
        steps: Optimiser steps of each.
        mode: The privacy mode.
        span: The span test; None where no adapter is trained.
        loss: The loss-threshold test.
    """

    shots: int
    pool: int
    trainings: int
    steps: int
    mode: str
    span: Detection | None
    loss: Detection

    def as_values(self) -> dict[str, Any]:
        """Write it as plain values."""
        return asdict(self)


def measure_leakage(
    settings: SiteSettings,
    policy: Policy,
    recipe: Recipe,
    *,
    trainings: int,
    steps: int,
    seed: int,
    on_training: Callable[[int, int], None] | None = None,
) -> Leakage:
    """Train rounds on some of a site's normal images, and tell them from the rest by what would leave.

    Args:
        settings: The site's settings; as many images are trained on as its shots or chosen images.
        policy: The site's policy.
        recipe: What is trained.
        trainings: Rounds, each from the start values on a draw of its own, at least 1.
        steps: Optimiser steps of each.
        seed: Seed of the draws and the start values.
        on_training: Called after each with trainings done and in all.

    Returns:
        Both tests over all trainings.

    Raises:
        MediClipError: If the images or the backbone cannot be used.
        SupportSetError: If there are fewer than twice as many different normal images as are trained on.
    """
    backbone = load_backbone(
        settings.backbone,
        image_size=recipe.image_size,
        expected_sha256=settings.backbone_sha256,
        device=settings.device,
    )
    shots = settings.shots or len(settings.support)
    images = _pool(settings, recipe, shots, seed)
    network = MediClip(backbone, recipe.model_copy(update={"bank_views": ATTACKERS_VIEWS}), settings.taps)
    views = OwnViews(network, images, [str(n) for n in range(len(images))], seed=seed, stream=("attacker",))
    encoded = [network.tokens(torch.from_numpy(images[n : n + 1])) for n in range(len(images))]
    tokens = [torch.cat(parts) for parts in zip(*encoded, strict=True)]
    start = initial_trainables(network.schema, seed)
    members = np.zeros((trainings, len(images)), np.bool_)
    spans: list[NDArray[np.float64]] = []
    losses: list[NDArray[np.float64]] = []
    for number in range(trainings):
        chosen = generator(seed, "leakage", number).permutation(len(images))[:shots]
        members[number, chosen] = True
        site = Site(
            settings.name,
            lambda _, chosen=chosen: Material(backbone, images[chosen]),  # type: ignore[misc]
            taps=settings.taps,
            privacy=settings.privacy,
        )
        text = recipe.model_dump_json()
        sent = {spec.name: start[spec.name] for spec in network.shared.tensors}
        request = FitRequest(1, sent, seed + number, text, steps, 0.0, network.shared.digest())
        # Who attacks knows nothing of what the site keeps for itself but its start values.
        left = start | policy.release(request, site.fit(request)).reply.tensors
        losses.append(loss_scores(network, start, left, views))
        span = span_scores(start, left, tokens, network.taps)
        if span is not None:
            spans.append(span)
        if on_training is not None:
            on_training(number + 1, trainings)
    return Leakage(
        shots,
        len(images),
        trainings,
        steps,
        settings.privacy.mode,
        _detect(spans, members) if spans else None,
        _detect(losses, members),
    )


def _pool(settings: SiteSettings, recipe: Recipe, shots: int, seed: int) -> NDArray[Any]:
    samples = [s for s in open_dataset(settings.data, settings.name).train if s.label == NORMAL]
    order = generator(seed, "leakage", "pool").permutation(len(samples))[: MOST_IMAGES * shots]
    images = load_images([samples[int(n)] for n in order], Preprocess(recipe.image_size, recipe.policies))
    different = list({image_digest(image): n for n, image in enumerate(images)}.values())
    if len(different) < 2 * shots:
        message = (
            f"A site that tests itself must have at least {2 * shots} different normal images, twice as many "
            f"as it trains on. It has {len(different)}; add images, or test with fewer shots."
        )
        raise SupportSetError(message)
    return images[different]


def _detect(scores: list[NDArray[Any]], members: NDArray[Any]) -> Detection:
    found = np.stack(scores)
    return detect(found[members], found[~members])
