"""Where training batches come from: made and encoded anew at every step, or drawn from a token bank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mediclip.model.network import MediClip
from mediclip.rng import Name, generator
from mediclip.synthesis.mixture import Mixture

Images = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Batch:
    """Tokens of synthesised images and their labels.

    Attributes:
        tokens: One ``(B, h, w, C)`` tensor a tap.
        labels: ``(B, S, S)`` in [0, 1].
    """

    tokens: list[Tensor]
    labels: Tensor


class BatchSource(Protocol):
    """Gives the batch of a step from the step's number alone, so that any step can be made again."""

    def batch(self, indexes: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """Make one batch.

        Args:
            indexes: ``(B,)`` support images to use.
            rng: Generator of this step.

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

    def batch(self, indexes: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """Synthesise on the chosen support images and encode the result."""
        images, labels, _ = self._mixture.draw_batch(self._support[indexes], self._support, rng)
        tokens = self._network.tokens(torch.from_numpy(images))
        return Batch(tokens, torch.from_numpy(labels).to(self._network.backbone.device))


class TokenBank:
    """Encoded views of the support images, made once.

    The image tower is frozen, so the tokens of a synthesised image never change. Tokens and labels are kept
    in half precision: K·V·(L·h·w·C + S²)·2 bytes for K images, V views and L taps.
    """

    def __init__(self, tokens: Sequence[Tensor], labels: Tensor, device: torch.device) -> None:
        self._tokens = list(tokens)
        self._labels = labels
        self._device = device

    @classmethod
    def build(
        cls,
        network: MediClip,
        support: Images,
        *,
        seed: int,
        stream: tuple[Name, ...] = (),
        on_progress: Progress | None = None,
    ) -> "TokenBank":
        """Synthesise ``recipe.bank_views`` views of each support image and encode them.

        Args:
            network: Gives backbone, taps and recipe; its trainables are not used.
            support: ``(K, S, S)`` in [0, 1].
            seed: The run's seed.
            stream: Names that set this bank's randomness apart, such as the site's.
            on_progress: Called with views done and views in all.

        Returns:
            The bank.
        """
        recipe = network.recipe
        mixture = Mixture(recipe.tasks, recipe.second_anomaly)
        total = recipe.bank_views * len(support)
        tokens: list[list[Tensor]] = [[] for _ in network.taps]
        labels = []
        for view in range(recipe.bank_views):
            rng = generator(seed, *stream, "bank", view)
            images, soft, _ = mixture.draw_batch(support, support, rng)
            for start in range(0, len(images), recipe.batch_size):
                part = torch.from_numpy(images[start : start + recipe.batch_size])
                for kept, encoded in zip(tokens, network.tokens(part), strict=True):
                    kept.append(encoded.half().cpu())
            labels.append(torch.from_numpy(soft).half())
            if on_progress is not None:
                on_progress((view + 1) * len(support), total)
        flat = [torch.cat(t) for t in tokens]  # (V·K, h, w, C) each
        by_view = [t.view(recipe.bank_views, len(support), *t.shape[1:]) for t in flat]
        return cls(by_view, torch.stack(labels), network.backbone.device)

    def batch(self, indexes: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """Take a random view of each chosen support image."""
        views = torch.from_numpy(rng.integers(len(self._labels), size=len(indexes)))
        chosen = torch.from_numpy(indexes)
        tokens = [t[views, chosen].to(self._device).float() for t in self._tokens]
        return Batch(tokens, self._labels[views, chosen].to(self._device).float())


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
        return TokenBank.build(network, support, seed=seed, stream=stream, on_progress=on_progress)
    return FreshBatches(network, support)
