"""A hostile site for benchmarks: it trains like the others, and sends or learns what hurts most."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from client.service.fit import FitReply, FitRequest
from client.service.site import Site
from mediclip.rng import generator
from mediclip.training.batch import Batch
from mediclip.training.batches import BatchSource

Guise = Literal["flipped", "mislabelled"]
HOSTILE: Final[Sequence[Guise]] = ("flipped", "mislabelled")
FACTOR: Final = 3.0
"""By how much a flipped update is longer than the honest one; ten times as long would be refused."""


class Hostile:
    """A site whose updates hurt.

    Args:
        honest: What it would be.
        guise: ``flipped`` sends three times its update, the other way; ``mislabelled`` trains on masks of
            other images, half of them turned inside out.
        seed: Seed of the false masks.
    """

    def __init__(self, honest: Site, guise: Guise, *, seed: int) -> None:
        self._honest, self._guise, self._seed = honest, guise, seed
        self.name = honest.name

    def schema_digest(self, recipe: str) -> str:
        """Say what an honest site would."""
        return self._honest.schema_digest(recipe)

    def fit(self, request: FitRequest) -> FitReply:
        """Train a round, and spoil it."""
        if self._guise == "mislabelled":
            return self._honest_on_false_masks(request)
        reply = self._honest.fit(request)
        flipped = {
            name: (value - np.float32(FACTOR) * (reply.tensors[name] - value)).astype(np.float32)
            for name, value in request.tensors.items()
        }
        return replace(reply, tensors=flipped)

    def _honest_on_false_masks(self, request: FitRequest) -> FitReply:
        bench = self._honest._bench_for(request.recipe)  # noqa: SLF001 - a hostile site owns its own code
        plain = bench._prepare(request.seed)  # noqa: SLF001 - as above
        bench._prepared = replace(plain, source=FalseMasks(plain.source, self._seed))  # noqa: SLF001 - as above
        try:
            return self._honest.fit(request)
        finally:
            bench._prepared = plain  # noqa: SLF001 - as above


class FalseMasks:
    """Batches with masks that are not those of their images.

    Args:
        source: Where the batches come from.
        seed: Seed of the masks.
    """

    def __init__(self, source: BatchSource, seed: int) -> None:
        self._source, self._seed = source, seed

    def batch(self, indexes: NDArray[np.int64], rng: np.random.Generator, *, step: int = 0) -> Batch:
        """Give a batch whose masks are shuffled, half of them turned inside out."""
        batch = self._source.batch(indexes, rng, step=step)
        draw = generator(self._seed, "false masks", step)
        labels = batch.labels[draw.permutation(len(indexes)).tolist()]
        inside_out = torch.from_numpy(draw.random(len(indexes)) < 0.5).to(labels.device)
        return Batch(batch.tokens, torch.where(inside_out[:, None, None], 1 - labels, labels))
