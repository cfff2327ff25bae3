"""What the ClientApp asks of a site and gets back, in NumPy and plain values: the seam for a daemon."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mediclip.exchange.parcel import Parcel
from mediclip.model.trainables import Trainables


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
