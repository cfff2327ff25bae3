"""The detector as one module: a frozen backbone with the adapter and prompts that train."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mediclip.config import Recipe
from mediclip.errors import SettingsError
from mediclip.model.adapter import Adapter
from mediclip.model.anomaly_map import class_probabilities, image_score
from mediclip.model.backbone import Backbone
from mediclip.model.contrast import contrast, enlarge, upsampling_matrix
from mediclip.model.memory import Judgement, NormalityMemory
from mediclip.model.prompts import PromptLearner
from mediclip.model.trainables import (
    Trainables,
    check_trainables,
    initial_trainables,
    schema_for,
    shared_schema,
)


class MediClip(nn.Module):
    """Few-shot anomaly detector on a frozen CLIP.

    Many may be made on one backbone, which they share. Trainables are zero until :meth:`load` or
    :meth:`initialise` is called.

    Attributes:
        recipe: How it is trained and used.
        taps: Tapped blocks, 1-based.
        schema: The tensors that train: exactly those that :meth:`trainables` gives.
        shared: Those of them that may leave a site; all but what the recipe calls private.
        memory: A site's own memory, private to it and no part of :meth:`trainables`; None without one.
    """

    memory: NormalityMemory | None

    def __init__(self, backbone: Backbone, recipe: Recipe, taps: Sequence[int] | None = None) -> None:
        """Build the detector.

        Args:
            backbone: Frozen backbone for ``recipe.image_size``.
            recipe: Phrases, context and text settings.
            taps: Blocks to tap, 1-based and rising; the backbone's published taps when omitted.

        Raises:
            PromptError: If a phrase does not fit the text tower.
            SettingsError: If the recipe's image size is not the backbone's, or all its tensors are private.
            TapError: If a tap lies outside the tower.
        """
        super().__init__()
        if recipe.image_size != backbone.image_size:
            message = (
                f"The backbone must take images of {recipe.image_size} px, as recipe {recipe.name!r} says. "
                f"It takes {backbone.image_size} px; load it with image_size={recipe.image_size}."
            )
            raise SettingsError(message)
        self.recipe = recipe
        self.taps = backbone.check_taps(backbone.default_taps() if taps is None else taps)
        # In a tuple, so that the backbone is neither a submodule nor copied, counted or saved with the model.
        self._backbone = (backbone,)
        shapes = backbone.shapes
        self.adapter = Adapter(self.taps, shapes.width, shapes.embed_dim, rank=recipe.adapter_rank)
        self.prompt = PromptLearner(backbone, recipe)
        self.schema = schema_for(shapes, self.taps, recipe.prompts, adapter_rank=recipe.adapter_rank)
        self.shared = shared_schema(self.schema, recipe.private)
        self.to(backbone.device)
        self.memory = None
        self._text_cache: tuple[tuple[tuple[int, int], ...], Tensor] | None = None
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone."""
        return self._backbone[0]

    def initialise(self, seed: int) -> "MediClip":
        """Load the start values of :func:`initial_trainables` and return the network."""
        self.load(initial_trainables(self.schema, seed))
        return self

    def trainables(self) -> Trainables:
        """Copy the trained tensors out, in the schema's order."""
        values = dict(self.named_parameters())
        return {t.name: values[t.name].detach().cpu().numpy().copy() for t in self.schema.tensors}

    def load(self, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Set the trained tensors; a memory belongs to those before and is given up.

        Raises:
            SchemaError: If they are not exactly those of the schema, or not finite. Nothing is changed then.
        """
        check_trainables(self.schema, values)
        self.memory = None
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                # A copy, since what came over the network may be read-only, which torch warns of.
                parameter.copy_(torch.from_numpy(np.array(values[name], np.float32)))

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Encode grey images, ``(B, S, S)`` in [0, 1], into one ``(B, h, w, C)`` tensor a tap."""
        if self.recipe.lean:
            return self.backbone.grey_tokens(images, self.taps, precision=self.recipe.precision)
        return self.backbone.patch_tokens(self.backbone.normalise(images), self.taps)

    def text_features(self) -> Tensor:
        """Compute the two text columns, ``(D, 2)``; computed once while no gradient is wanted."""
        if torch.is_grad_enabled():
            features: Tensor = self.prompt(self.backbone)
            return features
        # In-place updates raise a parameter's version, so the key changes with every step and load.
        key = tuple((p.data_ptr(), p._version) for p in self.prompt.parameters())  # noqa: SLF001
        if self._text_cache is None or self._text_cache[0] != key:
            self._text_cache = (key, self.prompt(self.backbone))
        return self._text_cache[1]

    def probabilities(self, tokens: Sequence[Tensor]) -> Tensor:
        """Turn tokens into class probabilities, ``(B, 2, S, S)`` in [0, 1]."""
        return class_probabilities(self.adapter(tokens), self.text_features(), self.recipe.image_size)

    def contrast(self, tokens: Sequence[Tensor]) -> Tensor:
        """Say how much nearer each token is to *abnormal*: ``(B, h, w)``; no gradient to the tokens."""
        return contrast(self.adapter.maps(), tokens, self.text_features())

    def upsampling(self, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Give the matrices that enlarge a ``(h, w)`` grid to the image: ``(S, h)`` and ``(S, w)``."""
        found = [upsampling_matrix(self.recipe.image_size, cells, self.backbone.device) for cells in grid]
        return found[0], found[1]

    def anomaly_map(self, tokens: Sequence[Tensor]) -> Tensor:
        """Turn tokens into the probability of *abnormal*, ``(B, S, S)`` in [0, 1]."""
        if self.recipe.lean:
            grid = self.contrast(tokens)
            return enlarge(grid, *self.upsampling(grid.shape[1:])).sigmoid()
        return self.probabilities(tokens)[:, 1]

    def judge(self, tokens: Sequence[Tensor]) -> Judgement:
        """Say how abnormal images are: the one way from tokens to the scores that anybody sees.

        Args:
            tokens: One ``(B, h, w, C)`` tensor a tap.

        Returns:
            Maps and scores, of text and memory together where there is a memory, else of the text map alone.
        """
        if self.memory is not None:
            return self.memory.judge(tokens, self.contrast(tokens), self.recipe.image_size)
        maps = self.anomaly_map(tokens)
        return Judgement(maps, image_score(maps, self.recipe.top_share))

    def forward(self, images: Tensor) -> Tensor:
        """Map grey images, ``(B, S, S)`` in [0, 1], to the probability of *abnormal*, ``(B, S, S)``."""
        return self.anomaly_map(self.tokens(images))

    def describe(self) -> dict[str, Any]:
        """Say what the network is made of, in plain values."""
        return {
            "backbone": {"name": self.backbone.name, "sha256": self.backbone.sha256},
            "taps": list(self.taps),
            "image_size": self.recipe.image_size,
            "schema": self.schema.digest(),
            "trainable_values": self.schema.size(),
        }
