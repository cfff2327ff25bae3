"""What the ClientApp asks of a site and gets back, in NumPy and plain values: the seam for a daemon."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mediclip.exchange.parcel import Parcel
from mediclip.model.trainables import Trainables

if TYPE_CHECKING:
    from client.service.conclusion import Conclusion, FinalRequest


@dataclass(frozen=True)
class RoundQuestion:
    """One round's work as it came over the network.

    Attributes:
        number: The round, from 1.
        parcel: The global model, whole or as a difference from one that the site holds.
        seed: The run's seed, at least 0.
        recipe: The recipe as JSON.
        local_steps: Optimiser steps, at least 1.
        proximal_mu: Weight of FedProx's pull towards the global model, at least 0.
        answer_codec: Codec of the answer, a name with version.
        differences_follow: Whether the model must be kept, because differences from it will be sent.
    """

    number: int
    parcel: Parcel
    seed: int
    recipe: str
    local_steps: int
    proximal_mu: float
    answer_codec: str
    differences_follow: bool = False

    def run_goes_on(self) -> "RoundQuestion":
        """Give the question of the round after this one, for looking up what was kept up to it."""
        return replace(self, number=self.number + 1)


@dataclass(frozen=True)
class FinalQuestion:
    """The end of a run as it came over the network.

    Attributes:
        last: The last round's work; its parcel is the delivered model, whole.
        origin: ``global``, or ``cluster`` for the model of the site's cluster.
        safeguard: Whether the site compares it with others and keeps the best.
    """

    last: RoundQuestion
    origin: str
    safeguard: bool


@dataclass(frozen=True)
class RoundAnswer:
    """What leaves the site after a round, and nothing else.

    Attributes:
        parcel: The locally trained model, whole or as a difference from the global model.
        examples: Number of support images.
        metrics: Numbers that the site's settings allow.
    """

    parcel: Parcel
    examples: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class FitRequest:
    """One round's work, decoded.

    Attributes:
        number: The round, from 1.
        tensors: The global model.
        seed: The run's seed, at least 0.
        recipe: The recipe as JSON.
        local_steps: Optimiser steps, at least 1.
        proximal_mu: Weight of FedProx's pull towards the global model, at least 0.
        schema_digest: Digest of the tensors that the server expects.
    """

    number: int
    tensors: Trainables
    seed: int
    recipe: str
    local_steps: int
    proximal_mu: float
    schema_digest: str


@dataclass(frozen=True)
class FitReply:
    """What a site makes of a round, before it is encoded.

    Attributes:
        tensors: The locally trained model, with noise where the site adds any.
        examples: Number of support images; always the same number where noise hides them.
        metrics: Numbers that the site's settings allow.
    """

    tensors: Trainables
    examples: int
    metrics: dict[str, float]


PrivateState = Mapping[str, NDArray[np.generic]]
"""What a site keeps for itself from round to round, by name: tensors, optimiser state; it never leaves."""


class Named(Protocol):
    """What every view of a site has."""

    @property
    def name(self) -> str:
        """What the server calls the site."""
        ...

    def schema_digest(self, recipe: str) -> str:
        """Digest the tensors that the site would send.

        Args:
            recipe: The recipe as JSON.

        Raises:
            MediClipError: If the site cannot or will not train with it.
        """
        ...


class Fitter(Named, Protocol):
    """A site that trains and keeps nothing: enough for a simulation without private parts."""

    def fit(self, request: FitRequest) -> FitReply:
        """Train for one round; the same request gets the same reply.

        Raises:
            MediClipError: If the site cannot or will not.
        """
        ...


@runtime_checkable
class Keeper(Named, Protocol):
    """A site that trains from what it kept, and leaves keeping it to others."""

    def descriptor(self, recipe: str) -> tuple[float, ...]:
        """Describe the support images for a recipe in JSON; see :mod:`mediclip.model.descriptor`."""
        ...

    def conclude(self, request: "FinalRequest", private: PrivateState, folder: Path | None) -> "Conclusion":
        """Decide what the site keeps of a run; see :func:`client.service.candidates.conclude`."""
        ...

    def fit_from(self, request: FitRequest, private: PrivateState) -> tuple[FitReply, PrivateState]:
        """Train for one round from what the site kept before it.

        Args:
            request: The round's work.
            private: What the site kept after the round before; empty at first.

        Returns:
            What may leave, and what the site keeps; the same for the same arguments.

        Raises:
            MediClipError: If the site cannot or will not.
        """
        ...


class Trainer(Keeper, Protocol):
    """A site as its daemon sees it: it trains, and leaves keeping and deciding to others."""

    def count_images(self, recipe: str) -> int:
        """Count the support images that a recipe in JSON would be trained with."""
        ...

    def image_digests(self, recipe: str) -> tuple[str, ...]:
        """Digest each support image, as the privacy ledger knows it, for a recipe in JSON."""
        ...


class SiteService(Named, Protocol):
    """A site as the ClientApp sees it, whether it lives in this process or behind a socket."""

    def choose_codec(self, wanted: str) -> str:
        """Choose the codec of the site's answers, all names with version.

        Raises:
            MediClipError: If the site allows none that the server can read.
        """
        ...

    def answer(self, question: RoundQuestion) -> RoundAnswer:
        """Train for one round; the same question gets the same answer.

        Raises:
            MediClipError: If the site cannot or will not.
        """
        ...

    def descriptor(self, recipe: str) -> tuple[float, ...]:
        """Describe the scans, for a recipe in JSON.

        Raises:
            MediClipError: If the site cannot or will not.
        """
        ...

    def conclude(self, question: FinalQuestion) -> dict[str, float]:
        """Take a run's model in, and give the numbers that may leave; again for the same question.

        Raises:
            MediClipError: If the site cannot or will not.
        """
        ...
