"""A site at work: it owns scans, backbone and token bank, and gives out trainables and allowed numbers.

What a recipe calls private is handed back beside the answer and given in with the next round. The site itself
carries nothing from round to round but caches that can be made again: a replayed round answers the same,
except where noise is added, which is new each time.
"""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from client.service.bench import Bench
from client.service.candidates import conclude
from client.service.conclusion import Conclusion, FinalRequest
from client.service.fit import FitReply, FitRequest, PrivateState
from client.service.material import Material, load_material
from client.service.own_part import own_part, with_own_part
from client.settings import SiteSettings
from mediclip.config import Recipe, load_recipe
from mediclip.data.preprocess import Preprocess, SquareCache
from mediclip.errors import BackboneError, FederationError, SchemaError, SettingsError
from mediclip.model.backbone import Backbone
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.descriptor import describe
from mediclip.model.network import MediClip
from mediclip.model.trainables import Schema, check_trainables
from mediclip.privacy.plan import PrivacyPlan
from mediclip.privacy.randomness import Randomness, SecretRandom
from mediclip.privacy.settings import PrivacySettings
from mediclip.protocol import METRIC_NAMES

WEIGHT_WITH_NOISE: Final = 1
"""What a site counts as in the average where noise hides its images, in place of how many there are."""


class Site:
    """One site, in the process that may see its scans.

    Args:
        name: What the server calls the site, and what its randomness is named after.
        material: Gives backbone and support images for a preprocessing; called once for a recipe.
        taps: Tapped blocks, 1-based; the backbone's default when omitted.
        recipe: The only recipe that is allowed; any when omitted.
        max_rounds: Last round that is answered; no limit when omitted.
        metrics: Which numbers may leave; none does where noise is added.
        privacy: What is hidden by noise. Paying for it is the ledger's part, not the site's.
        random: Where the noise comes from; anything but a secret source is for tests.
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
        privacy: PrivacySettings | None = None,
        random: Randomness | None = None,
    ) -> None:
        self._name = name
        self._material = material
        self._taps = taps
        self._recipe = recipe
        self._max_rounds = max_rounds
        self._metrics = frozenset(metrics)
        self._privacy = privacy or PrivacySettings()
        self._random = random or SecretRandom()
        self._bench: Bench | None = None
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
            return load_material(settings, loaded, preprocess, cache)

        return cls(
            settings.name,
            material,
            taps=settings.taps,
            recipe=None if settings.recipe is None else load_recipe(settings.recipe),
            max_rounds=settings.max_rounds,
            metrics=settings.metrics,
            privacy=settings.privacy,
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
        return self.network(recipe).shared

    def backbone_sha256(self, recipe: str) -> str:
        """Digest the backbone; arguments and errors as for :meth:`schema_digest`."""
        return self.network(recipe).backbone.sha256

    def network(self, recipe: str) -> MediClip:
        """Give the network, whatever it was last trained to; arguments and errors as above."""
        with self._lock:
            return self._bench_for(recipe).network

    def privacy_plan(self, recipe: str) -> PrivacyPlan:
        """Say how much noise is added, for a site that adds any; arguments and errors as above."""
        with self._lock:
            return self._bench_for(recipe).plan(self._privacy)

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
            return len(self._bench_for(recipe).material.support)

    def descriptor(self, recipe: str) -> tuple[float, ...]:
        """Describe the support images; arguments and errors as for :meth:`count_images`."""
        with self._lock:
            bench = self._bench_for(recipe)
            return describe(bench.network, bench.material.support)

    def image_digests(self, recipe: str) -> tuple[str, ...]:
        """Digest each support image for the ledger; arguments and errors as for :meth:`count_images`."""
        with self._lock:
            return self._bench_for(recipe).material.image_digests()

    def fit_from(self, request: FitRequest, private: PrivateState) -> tuple[FitReply, PrivateState]:
        """Judge the global model with the site's own part in it, then train both for one round.

        Args:
            request: The round's work.
            private: What was kept after the round before; empty before the first, when the own part has its
                start values.

        Returns:
            The trained tensors that travel, the number of support images and the numbers that may leave; and
            the own part as it is now, empty where the recipe calls nothing private.

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
            self._check_schema(network, request)
            network.load(with_own_part(network, request, private))
            metrics: dict[str, float] = {}
            if self._privacy.is_on:
                tensors = bench.train_with_noise(request, bench.plan(self._privacy), self._random)
            else:
                tensors, metrics = bench.train(request)
            kept = own_part(network)
        check_trainables(network.shared, tensors)
        examples = WEIGHT_WITH_NOISE if self._privacy.is_on else len(bench.material.support)
        reply = FitReply(tensors, examples, {n: v for n, v in metrics.items() if n in self._metrics})
        return reply, kept

    def fit(self, request: FitRequest) -> FitReply:
        """Train for one round from the start values of what is private; see :meth:`fit_from`."""
        return self.fit_from(request, {})[0]

    def conclude(self, request: FinalRequest, private: PrivateState, folder: Path | None) -> Conclusion:
        """Decide what the site keeps of a run; see :func:`client.service.candidates.conclude`.

        Raises:
            CheckpointError: If what was kept does not fit the model.
            SchemaError: If the delivered tensors are not the site's own kind.
            SettingsError: If the recipe is not one or not the site's.
        """
        with self._lock:
            bench = self._bench_for(request.last.recipe)
            self._check_schema(bench.network, request.last)
            return conclude(bench, request, private, folder)

    def _check_schema(self, network: MediClip, request: FitRequest) -> None:
        if network.shared.digest() != request.schema_digest:
            message = (
                f"The model of {self._name} must have the server's tensors. It has others; "
                "use the same recipe, taps and backbone on both sides."
            )
            raise SchemaError(message)

    def _bench_for(self, text: str) -> Bench:
        try:
            values = json.loads(text)
        except ValueError as error:
            message = "The server's recipe must be JSON. It is not; run the same version on both sides."
            raise SettingsError(message) from error
        recipe = Recipe.parse(values, source="the server's recipe")
        if self._recipe is not None and not _shares_no_more(recipe, self._recipe):
            message = (
                f"The recipe must be {self._recipe.name!r}, as the settings of {self._name} say. "
                f"Got another, {recipe.name!r}; agree on one."
            )
            raise SettingsError(message)
        if self._bench is None or self._bench.network.recipe.digest() != recipe.digest():
            if self._bench is not None and _is_alike(recipe, self._bench.network.recipe):
                network = MediClip(self._bench.material.backbone, recipe, self._taps)
                self._bench = self._bench.with_network(network)
                return self._bench
            material = self._material(Preprocess(recipe.image_size, recipe.policies))
            network = MediClip(material.backbone, recipe, self._taps)
            material.check_units(self._privacy)
            self._bench = Bench(network, material, ("site", self._name))
        return self._bench


def _shares_no_more(asked: Recipe, agreed: Recipe) -> bool:
    """Say whether a recipe is the agreed one, or that with further groups that stay at the site."""
    return _is_alike(asked, agreed) and set(agreed.private) <= set(asked.private)


def _is_alike(first: Recipe, second: Recipe) -> bool:
    """Say whether two recipes differ at most in what is private."""
    return first == second.model_copy(update={"private": first.private})
