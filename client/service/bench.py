"""A site's network for one recipe, with what can be kept between rounds, and one round's training on it."""

from dataclasses import dataclass

import numpy as np
import torch

from client.service.fit import FitRequest
from client.service.material import Material
from client.service.own_part import shared_part
from mediclip.evaluation.pixel_metrics import PixelMetrics
from mediclip.model.network import MediClip
from mediclip.model.trainables import Trainables
from mediclip.privacy.dp_sgd import GradientNoise, train_with_noise
from mediclip.privacy.gaussian import release_update
from mediclip.privacy.plan import PrivacyPlan, make_plan
from mediclip.privacy.randomness import Randomness
from mediclip.privacy.settings import PrivacySettings
from mediclip.privacy.views import OwnViews
from mediclip.rng import Name, generator
from mediclip.synthesis.mixture import Mixture
from mediclip.training.batch import Batch
from mediclip.training.batches import BatchSource, batch_source
from mediclip.training.loop import train
from mediclip.training.losses import anomaly_loss

VALIDATION_IMAGES = 8


@dataclass(frozen=True)
class _Prepared:
    seed: int
    source: BatchSource
    exam: Batch


class Bench:
    """A network on a site's material.

    Args:
        network: The network.
        material: What it is trained with.
        stream: Names that set the site's randomness apart.
    """

    def __init__(self, network: MediClip, material: Material, stream: tuple[Name, ...]) -> None:
        self.network = network
        self.material = material
        self._support = material.support
        self.stream = stream
        self._prepared: _Prepared | None = None
        self._views: tuple[int, OwnViews] | None = None

    def with_network(self, network: MediClip) -> "Bench":
        """Put another network on the same images and their encoded views.

        Args:
            network: Of a recipe that differs in what is private alone.
        """
        bench = Bench(network, self.material, self.stream)
        bench._prepared, bench._views = self._prepared, self._views
        return bench

    def plan(self, privacy: PrivacySettings) -> PrivacyPlan:
        """Find the noise for these images and this recipe; errors as for :func:`make_plan`."""
        recipe = self.network.recipe
        return make_plan(privacy, images=len(self._support), batch_size=recipe.batch_size)

    def train(self, request: FitRequest) -> tuple[Trainables, dict[str, float]]:
        """Judge the loaded model, then train it for one round.

        Returns:
            The trained tensors that travel, and ``train_loss``, ``val_loss`` and, where it is defined,
            ``val_pixel_auroc``.
        """
        prepared = self._prepare(request.seed)
        metrics = _judge(self.network, prepared.exam)
        result = train(
            self.network,
            self._support,
            seed=request.seed,
            stream=self.stream,
            steps=request.local_steps,
            first_step=(request.number - 1) * request.local_steps,
            proximal_mu=request.proximal_mu,
            source=prepared.source,
        )
        metrics["train_loss"] = float(np.mean(result.losses))
        return shared_part(self.network), metrics

    def train_with_noise(self, request: FitRequest, plan: PrivacyPlan, random: Randomness) -> Trainables:
        """Train the loaded model for one round, and hide in noise what the plan says is hidden.

        No number comes out beside the tensors: a loss says something about the images too.
        """
        if plan.settings.mode == "site":
            tensors, _ = self.train(request)
            return release_update(
                request.tensors, tensors, clip=plan.clip, noise_std=plan.noise_std, random=random
            )
        if self._views is None or self._views[0] != request.seed:
            names = self.material.image_digests()
            views = OwnViews(self.network, self._support, names, seed=request.seed, stream=self.stream)
            self._views = (request.seed, views)
        noise = GradientNoise(plan.clip, plan.noise_std, plan.sampling_rate)
        train_with_noise(
            self.network,
            self._views[1],
            noise,
            random,
            steps=request.local_steps,
            proximal_mu=request.proximal_mu,
        )
        return shared_part(self.network)

    def _prepare(self, seed: int) -> _Prepared:
        """Give the batch source and the validation batch of a seed; both depend on seed and site alone."""
        if self._prepared is None or self._prepared.seed != seed:
            source = batch_source(self.network, self._support, seed=seed, stream=self.stream)
            self._prepared = _Prepared(seed, source, self._exam(seed))
        return self._prepared

    def _exam(self, seed: int) -> Batch:
        recipe = self.network.recipe
        mixture = Mixture(recipe.tasks, recipe.second_anomaly)
        images = self._support[np.arange(VALIDATION_IMAGES) % len(self._support)]
        rng = generator(seed, *self.stream, "validation")
        changed, labels, _ = mixture.draw_batch(images, self._support, rng)
        tokens = self.network.tokens(torch.from_numpy(changed))
        return Batch(tokens, torch.from_numpy(labels).to(self.network.backbone.device))


@torch.no_grad()
def _judge(network: MediClip, exam: Batch) -> dict[str, float]:
    probabilities = network.probabilities(exam.tokens)
    metrics = {"val_loss": float(anomaly_loss(probabilities, exam.labels))}
    pixels = PixelMetrics()
    maps = probabilities[:, 1].clamp(0, 1).cpu().numpy()
    pixels.update(maps, exam.labels.cpu().numpy() > 0.5)
    auroc = pixels.pixel_auroc()
    return metrics if auroc is None else metrics | {"val_pixel_auroc": auroc}
