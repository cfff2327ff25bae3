"""Where training batches come from: made and encoded anew at every step, or drawn from a token bank."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mediclip.model.network import MediClip
from mediclip.rng import Name
from mediclip.synthesis.mixture import Mixture
from mediclip.training.batch import Batch, Images, Progress
from mediclip.training.token_bank import TokenBank


class BatchSource(Protocol):
    """Gives the batch of a step from the step's number alone, so that any step can be made again."""

    def batch(self, indexes: NDArray[np.int64], rng: np.random.Generator, *, step: int = 0) -> Batch:
        """Make one batch.

        Args:
            indexes: ``(B,)`` support images to use.
            rng: Generator of this step.
            step: Number of the step.

        Returns:
            The batch.
        """
        ...


class FreshBatches:
    """Synthesises and encodes every image anew, as the published loop does."""

    def __init__(self, network: MediClip, support: Images) -> None:
        self._network = network
        self._support = support
        self._mixture = Mixture(network.recipe.tasks, network.recipe.second_anomaly)

    def batch(self, indexes: NDArray[np.int64], rng: np.random.Generator, *, step: int = 0) -> Batch:  # noqa: ARG002
        """Synthesise on the chosen support images and encode the result."""
        images, labels, _ = self._mixture.draw_batch(self._support[indexes], self._support, rng)
        tokens = self._network.tokens(torch.from_numpy(images))
        return Batch(tokens, torch.from_numpy(labels).to(self._network.backbone.device))


def batch_source(
    network: MediClip,
    support: Images,
    *,
    seed: int,
    stream: tuple[Name, ...] = (),
    on_progress: Progress | None = None,
) -> BatchSource:
    """Give the batch source that the network's recipe asks for.

    Args:
        network: Gives backbone, taps and recipe.
        support: ``(K, S, S)`` in [0, 1].
        seed: The run's seed.
        stream: Names that set this source's randomness apart.
        on_progress: Called while a bank is built.

    Returns:
        A :class:`TokenBank` when the recipe keeps views, otherwise :class:`FreshBatches`.
    """
    if network.recipe.bank_views > 0:
        return TokenBank(network, support, seed=seed, stream=stream, on_progress=on_progress)
    return FreshBatches(network, support)
