"""A network that remembers the tokens that it has made: the tower is frozen, and they never change."""

import hashlib
from collections.abc import Sequence

from torch import Tensor

from mediclip.config import Recipe
from mediclip.model.network import MediClip


class KnownTokens:
    """The tower of a network, for building several memories on the same images.

    Args:
        network: The network; its trained tensors may change, its tower not.
        recipe: Recipe of the memory; it differs from the network's in that alone.
        known: What was encoded before, by the images' digest; shared by whoever has the same tower.
    """

    def __init__(self, network: MediClip, recipe: Recipe, known: dict[bytes, list[Tensor]]) -> None:
        self._network, self.recipe, self._known = network, recipe, known

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Encode images, or remember that they were."""
        key = hashlib.sha256(images.numpy().tobytes()).digest()
        if key not in self._known:
            self._known[key] = self._network.tokens(images)
        return self._known[key]

    def contrast(self, tokens: Sequence[Tensor]) -> Tensor:
        """Ask the network."""
        return self._network.contrast(tokens)
