"""A site at work: it owns scans, backbone and token bank, and gives out trainables and allowed numbers.

Nothing is carried from round to round but caches that can be made again: a replayed round answers the same.
"""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from client.service.fit import FitReply, FitRequest, PrivateState
from client.settings import SiteSettings
from mediclip.config import Recipe, load_recipe
from mediclip.data.manifest import open_dataset
from mediclip.data.policies import check_same
from mediclip.data.preprocess import Preprocess, SquareCache, load_images
from mediclip.data.support import choose_support, draw_support
from mediclip.errors import BackboneError, FederationError, SchemaError, SettingsError
from mediclip.evaluation.pixel_metrics import PixelMetrics
from mediclip.model.backbone import Backbone, load_backbone
from mediclip.model.network import MediClip
from mediclip.model.trainables import Schema, check_trainables
from mediclip.protocol import METRIC_NAMES
from mediclip.rng import Name, generator
from mediclip.synthesis.mixture import Mixture
from mediclip.training.batch import Batch
from mediclip.training.batches import BatchSource, batch_source
from mediclip.training.loop import train
from mediclip.training.losses import anomaly_loss

VALIDATION_IMAGES = 8


@dataclass(frozen=True)
class Material:
    """What a site trains with.

    Attributes:
        backbone: Frozen backbone; sites in one process may share it.
        support: ``(K, S, S)`` normal images in [0, 1].
    """

    backbone: Backbone
    support: NDArray[np.float32]


def load_support(
    settings: SiteSettings, preprocess: Preprocess, cache: SquareCache | None = None
) -> NDArray[np.float32]:
    """Read a site's support images.

    Args:
        settings: The site's settings.
        preprocess: How, as the recipe says.
        cache: Where squares are kept from start to start, if anywhere.

    Returns:
        ``(K, S, S)`` in [0, 1].

    Raises:
        DataError: If the data folder or an image cannot be used, or there are fewer images than shots.
        SettingsError: If the data folder asks for another policy than the recipe.
    """
    dataset = open_dataset(settings.data, settings.name)
    check_same(preprocess.policies, dataset.policies, name=settings.name)
    train_split = dataset.train
    samples = (
        choose_support(train_split, settings.support)
        if settings.shots is None
        else draw_support(train_split, settings.shots, settings.seed)
    )
    return load_images(samples, preprocess, cache)


class Site:
    """One site, in the process that may see its scans.

    Args:
        name: What the server calls the site, and what its randomness is named after.
        material: Gives backbone and support images for a preprocessing; called once for a recipe.
        taps: Tapped blocks, 1-based; the backbone's default when omitted.
        recipe: The only recipe that is allowed; any when omitted.
        max_rounds: Last round that is answered; no limit when omitted.
        metrics: Which numbers may leave.
    """

    def __init__(
        self,
        name: str,
        material: Callable[[Preprocess], Material],
        *,
        taps: Sequence[int] | None = None,
        recipe: Recipe | None = None,
        max_rounds: int | None = None,
        metrics: Sequence[str] = METRIC_NAMES,
    ) -> None:
        self._name = name
        self._material = material
        self._taps = taps
        self._recipe = recipe
        self._max_rounds = max_rounds
        self._metrics = frozenset(metrics)
        self._bench: _Bench | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, settings: SiteSettings, backbone: Backbone | None = None, cache: SquareCache | None = None
    ) -> "Site":
        """Open the site that its settings describe; scans are read when a round asks for them.

        Args:
            settings: The site's settings.
            backbone: A loaded backbone to share; loaded from the settings when omitted.
            cache: Where preprocessed images are kept from start to start, if anywhere.

        Returns:
            The site.

        Raises:
            SettingsError: If the settings name a recipe that does not exist.
        """

        def material(preprocess: Preprocess) -> Material:
            loaded = backbone or load_backbone(
                settings.backbone, image_size=preprocess.image_size, device=settings.device
            )
            expected = settings.backbone_sha256
            if expected is not None and loaded.sha256 != expected:
                message = (
                    f"The backbone of {settings.name} must have the SHA-256 {expected[:16]}…. It has "
                    f"{loaded.sha256[:16]}…; correct 'backbone' in the site's settings."
                )
                raise BackboneError(message)
            return Material(loaded, load_support(settings, preprocess, cache))

        return cls(
            settings.name,
            material,
            taps=settings.taps,
            recipe=None if settings.recipe is None else load_recipe(settings.recipe),
            max_rounds=settings.max_rounds,
            metrics=settings.metrics,
        )

    @property
    def name(self) -> str:
        """What the server calls the site."""
        return self._name

    def schema_digest(self, recipe: str) -> str:
        """Digest the tensors that the site would send, as hexadecimal.

        Args:
            recipe: The recipe as JSON.

        Raises:
            DataError: If the scans cannot be used.
            BackboneError: If the backbone cannot be loaded or is another.
            SettingsError: If the recipe is not one, or not the site's.
        """
        return self.schema(recipe).digest()

    def schema(self, recipe: str) -> Schema:
        """List the tensors that the site would send; arguments and errors as for :meth:`schema_digest`."""
        with self._lock:
            return self._bench_for(recipe).network.schema

    def backbone_sha256(self, recipe: str) -> str:
        """Digest the backbone; arguments and errors as for :meth:`schema_digest`."""
        with self._lock:
            return self._bench_for(recipe).network.backbone.sha256

    def count_images(self, recipe: str) -> int:
        """Count the support images.

        Args:
            recipe: The recipe as JSON.

        Raises:
            DataError: If the scans cannot be used.
            BackboneError: If the backbone cannot be loaded or is another.
            SettingsError: If the recipe is not one, or not the site's.
        """
        with self._lock:
            return len(self._bench_for(recipe).support)

    def fit_from(self, request: FitRequest, private: PrivateState) -> tuple[FitReply, PrivateState]:
        """Train for one round as :meth:`fit` does, and hand on what the site keeps for itself.

        Args:
            request: The round's work.
            private: What was kept after the round before; this model has no private part and changes none.

        Returns:
            What may leave, and what is kept.

        Raises:
            MediClipError: As :meth:`fit` does.
        """
        return self.fit(request), private

    def fit(self, request: FitRequest) -> FitReply:
        """Judge the global model, then train it for one round.

        Args:
            request: The round's work.

        Returns:
            The trained tensors, the number of support images and the numbers that may leave.

        Raises:
            DataError: If the scans cannot be used.
            BackboneError: If the backbone cannot be loaded or is another.
            FederationError: If the round lies beyond what the site allows.
            SchemaError: If the tensors are not the site's own kind, before or after training.
            SettingsError: If the recipe is not one or not the site's, or the loss did not stay finite.
        """
        if self._max_rounds is not None and request.number > self._max_rounds:
            message = (
                f"A round must be at most {self._max_rounds}, as the settings of {self._name} say. "
                f"Got {request.number}; raise 'max_rounds' if that is wanted."
            )
            raise FederationError(message)
        with self._lock:
            bench = self._bench_for(request.recipe)
            network = bench.network
            if network.schema.digest() != request.schema_digest:
                message = (
                    f"The model of {self._name} must have the server's tensors. It has others; "
                    "use the same recipe, taps and backbone on both sides."
                )
                raise SchemaError(message)
            network.load(request.tensors)
            source, exam = bench.prepared(request.seed)
            metrics = _judge(network, exam)
            result = train(
                network,
                bench.support,
                seed=request.seed,
                stream=bench.stream,
                steps=request.local_steps,
                first_step=(request.number - 1) * request.local_steps,
                proximal_mu=request.proximal_mu,
                source=source,
            )
            metrics["train_loss"] = float(np.mean(result.losses))
            tensors = network.trainables()
        check_trainables(network.schema, tensors)
        allowed = {name: value for name, value in metrics.items() if name in self._metrics}
        return FitReply(tensors, len(bench.support), allowed)

    def _bench_for(self, text: str) -> "_Bench":
        try:
            values = json.loads(text)
        except ValueError as error:
            message = "The server's recipe must be JSON. It is not; run the same version on both sides."
            raise SettingsError(message) from error
        recipe = Recipe.parse(values, source="the server's recipe")
        if self._recipe is not None and recipe.digest() != self._recipe.digest():
            message = (
                f"The recipe must be {self._recipe.name!r}, as the settings of {self._name} say. "
                f"Got another, {recipe.name!r}; agree on one."
            )
            raise SettingsError(message)
        if self._bench is None or self._bench.network.recipe.digest() != recipe.digest():
            material = self._material(Preprocess(recipe.image_size, recipe.policies))
            network = MediClip(material.backbone, recipe, self._taps)
            self._bench = _Bench(network, material.support, ("site", self._name))
        return self._bench


class _Bench:
    """A site's network for one recipe, with what can be kept between rounds."""

    def __init__(self, network: MediClip, support: NDArray[np.float32], stream: tuple[Name, ...]) -> None:
        self.network = network
        self.support = support
        self.stream = stream
        self._prepared: tuple[int, BatchSource, Batch] | None = None

    def prepared(self, seed: int) -> tuple[BatchSource, Batch]:
        """Give the batch source and the validation batch of a seed; both depend on seed and site alone."""
        if self._prepared is None or self._prepared[0] != seed:
            source = batch_source(self.network, self.support, seed=seed, stream=self.stream)
            self._prepared = (seed, source, self._exam(seed))
        return self._prepared[1:]

    def _exam(self, seed: int) -> Batch:
        recipe = self.network.recipe
        mixture = Mixture(recipe.tasks, recipe.second_anomaly)
        images = self.support[np.arange(VALIDATION_IMAGES) % len(self.support)]
        rng = generator(seed, *self.stream, "validation")
        changed, labels, _ = mixture.draw_batch(images, self.support, rng)
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
