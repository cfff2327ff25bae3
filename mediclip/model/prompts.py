"""Learnable prompts: each class's phrases around context vectors that training moves."""

from typing import cast

import torch
from torch import Tensor, nn

from mediclip.config import CLASSES, PhrasePosition, Precision, PromptSettings, Recipe
from mediclip.errors import PromptError
from mediclip.model.backbone import Backbone
from mediclip.model.frozen_blocks import Packing


class ClassPrompts(nn.ParameterDict):
    """The prompts of one class: a context tensor for each position of the phrase.

    A context is ``(P, n_ctx, W)`` when class-specific and ``(n_ctx, W)`` when shared by the phrases. What
    does not train (embeddings of phrases, places of the context) are buffers, so that they follow ``.to()``.
    """

    embeddings: Tensor
    ends: Tensor

    def __init__(self, backbone: Backbone, settings: PromptSettings, class_name: str, *, trim: bool) -> None:
        super().__init__()
        phrases = settings.phrases(class_name)
        ids, ends = _tokenise(backbone, phrases, settings.n_ctx)
        length = int(ends.max()) + 1 if trim else backbone.context_length
        shared = (settings.n_ctx, backbone.shapes.text_width)
        shape = (len(phrases), *shared) if settings.class_specific else shared
        lengths = [len(backbone.token_ids(phrase)) for phrase in phrases]
        self.trimmed_length = length
        with torch.no_grad():
            self.register_buffer("ends", ends.to(backbone.device), persistent=False)
            for position in settings.positions:
                self[position] = nn.Parameter(torch.zeros(shape, device=backbone.device))
                order = _order(ids.shape[1], lengths, settings.n_ctx, position)
                arranged = torch.gather(ids, 1, order)[:, :length]
                self.register_buffer(
                    f"embeddings_{position}", backbone.embed(arranged.to(backbone.device)), persistent=False
                )
                slots = torch.tensor(_context_slots(lengths, settings.n_ctx, position))
                self.register_buffer(f"slots_{position}", slots.to(backbone.device), persistent=False)

    def sequences(self, position: PhrasePosition, length: int) -> Tensor:
        """Put the context into its places.

        Args:
            position: Where the phrase stands.
            length: Positions T to give, at least the longest prompt.

        Returns:
            ``(P, T, W)`` token embeddings.
        """
        base: Tensor = getattr(self, f"embeddings_{position}")[:, :length]
        slots: Tensor = getattr(self, f"slots_{position}")
        context: Tensor = self[position]
        rows = torch.arange(len(base), device=base.device).unsqueeze(1)
        if context.ndim == 2:
            context = context.expand(len(base), -1, -1)
        return base.index_put((rows, slots), context)


class PromptLearner(nn.ModuleDict):
    """The prompts of both classes and the text features that they give.

    Source: METHOD 1.4. With ``trim_text`` the text tower sees as many positions as the longest prompt of both
    classes; under the causal mask this changes no number. With ``lean`` it sees no padding at all.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe) -> None:
        settings = recipe.prompts
        classes = {name: ClassPrompts(backbone, settings, name, trim=recipe.trim_text) for name in CLASSES}
        super().__init__(classes)
        self._causal = recipe.causal_text
        self._precision: Precision | None = recipe.precision if recipe.lean else None
        self._positions = settings.positions
        ends = [prompts.ends for prompts in classes.values() for _ in settings.positions]
        self._packing = Packing.of(torch.cat(ends) + 1)

    def forward(self, backbone: Backbone) -> Tensor:
        """Compute the two text columns.

        Args:
            backbone: The one that the prompts were made for.

        Returns:
            ``(D, 2)``: normal and abnormal. A class's features are averaged over phrases and positions
            without normalising each; the mean has length 1.
        """
        prompts = [cast(ClassPrompts, self[name]) for name in CLASSES]
        sequences, ends, counts = [], [], []
        length = max(p.trimmed_length for p in prompts)
        for prompt in prompts:
            parts = [prompt.sequences(position, length) for position in self._positions]
            padded = [nn.functional.pad(part, (0, 0, 0, length - part.shape[1])) for part in parts]
            sequences.extend(padded)
            ends.extend([prompt.ends] * len(parts))
            counts.append(sum(len(part) for part in parts))
        # One pass for both classes: attention never mixes rows.
        joined = torch.cat(sequences)
        if self._precision is None:
            features = backbone.encode_embedded_text(joined, torch.cat(ends), causal=self._causal)
        else:
            features = backbone.encode_ends(joined, self._packing, precision=self._precision)
        columns = [nn.functional.normalize(group.mean(0), dim=0) for group in torch.split(features, counts)]
        return torch.stack(columns, dim=1)


def _tokenise(backbone: Backbone, phrases: tuple[str, ...], n_ctx: int) -> tuple[Tensor, Tensor]:
    """Give ``(P, T)`` numbers of start, placeholders, phrase, full stop, end and padding, and the ends."""
    start, end = backbone.start_and_end
    placeholder = backbone.token_ids("X")
    rows, ends = [], []
    for index, phrase in enumerate(phrases):
        row = [start, *(placeholder * n_ctx), *backbone.token_ids(f"{phrase}."), end]
        if len(row) > backbone.context_length:
            message = (
                f"A prompt must fit into {backbone.context_length} tokens with its {n_ctx} context vectors. "
                f"Phrase {index} needs {len(row)}; shorten it or lower n_ctx."
            )
            raise PromptError(message)
        ends.append(len(row) - 1)
        rows.append(row + [0] * (backbone.context_length - len(row)))
    return torch.tensor(rows), torch.tensor(ends)


def _order(length: int, phrase_lengths: list[int], n_ctx: int, position: PhrasePosition) -> Tensor:
    """Say which token of *start, context, phrase, rest* comes at each place: ``(P, T)``."""
    rows = []
    for size in phrase_lengths:
        context = list(range(1, 1 + n_ctx))
        phrase = list(range(1 + n_ctx, 1 + n_ctx + size))
        half = n_ctx // 2
        middle = {
            "end": [*context, *phrase],
            "middle": [*context[:half], *phrase, *context[half:]],
            "front": [*phrase, *context],
        }[position]
        rows.append([0, *middle, *range(1 + n_ctx + size, length)])
    return torch.tensor(rows)


def _context_slots(phrase_lengths: list[int], n_ctx: int, position: PhrasePosition) -> list[list[int]]:
    """Say at which places the context vectors stand: ``(P, n_ctx)``."""
    half = n_ctx // 2
    before = {"end": n_ctx, "middle": half, "front": 0}[position]
    return [[1 + i if i < before else 1 + size + i for i in range(n_ctx)] for size in phrase_lengths]
