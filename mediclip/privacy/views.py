"""Training images of which each depends on one image alone, so that noise for one image is noise enough."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mediclip.model.network import MediClip
from mediclip.privacy.randomness import Randomness
from mediclip.rng import Name, generator
from mediclip.synthesis.mixture import Mixture
from mediclip.training.batch import Batch

DEFAULT_VIEWS = 32


class OwnViews:
    """Encoded views of each support image, made from that image and from its own random numbers.

    CutPaste takes its pieces from the image itself, and the numbers are named after the image: taking another
    image out of the set changes nothing here. Tokens and labels are kept in half precision.

    Args:
        network: Gives backbone, taps and recipe; ``bank_views`` views are made, 32 where the recipe keeps
            none.
        support: ``(K, S, S)`` in [0, 1].
        names: What each image's random numbers are named after, such as its digest; different for each.
        seed: The run's seed. It need not be secret: the views are as private as the images.
        stream: Names that set these views apart.
    """

    def __init__(
        self,
        network: MediClip,
        support: NDArray[np.float32],
        names: Sequence[str],
        *,
        seed: int,
        stream: tuple[Name, ...] = (),
    ) -> None:
        recipe = network.recipe
        mixture = Mixture(recipe.tasks, recipe.second_anomaly)
        self._views = recipe.bank_views or DEFAULT_VIEWS
        self._device = network.backbone.device
        tokens: list[list[Tensor]] = [[] for _ in network.taps]
        labels = []
        for image, name in zip(support, names, strict=True):
            rng = generator(seed, *stream, "own-views", name)
            repeated = np.repeat(image[None], self._views, axis=0)
            drawn, soft, _ = mixture.draw_batch(repeated, image[None], rng)
            encoded = [
                network.tokens(torch.from_numpy(drawn[start : start + recipe.batch_size]))
                for start in range(0, self._views, recipe.batch_size)
            ]
            for tap, kept in enumerate(tokens):
                kept.append(torch.cat([part[tap] for part in encoded]).half().cpu())
            labels.append(torch.from_numpy(soft).half())
        self._tokens = [torch.stack(kept) for kept in tokens]  # (K, V, h, w, C) each
        self._labels = torch.stack(labels)  # (K, V, S, S)

    def __len__(self) -> int:
        """Count the support images."""
        return len(self._labels)

    def all_of(self, index: int) -> Batch:
        """Give all views of one support image."""
        tokens = [kept[index].to(self._device).float() for kept in self._tokens]
        return Batch(tokens, self._labels[index].to(self._device).float())

    def draw(self, indexes: NDArray[np.int64], random: Randomness) -> Batch:
        """Take a random view of each chosen support image.

        Args:
            indexes: ``(B,)`` support images to use, B at least 1.
            random: Where the choice comes from, for each image on its own.
        """
        views = torch.from_numpy((random.random(len(indexes)) * self._views).astype(np.int64))
        chosen = torch.from_numpy(indexes)
        tokens = [kept[chosen, views].to(self._device).float() for kept in self._tokens]
        return Batch(tokens, self._labels[chosen, views].to(self._device).float())
