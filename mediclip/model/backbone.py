"""The frozen CLIP under a detector: any open_clip ViT.

Its weights are found by :mod:`mediclip.model.backbone_loading`.
"""

import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from mediclip.config import Precision
from mediclip.errors import BackboneError, TapError
from mediclip.model.backbone_digest import backbone_digest
from mediclip.model.frozen_blocks import FrozenBlock, Packing, freeze_blocks, has_native_bfloat16
from mediclip.model.trainables import BackboneShapes

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class Backbone(nn.Module):
    """A frozen CLIP that gives patch tokens of images and features of embedded text.

    Attributes:
        spec: What it was loaded from.
        sha256: SHA-256 of its weights and of what else decides its numbers (activations, heads, epsilons,
            input normalisation); equal for the same model from a tag, a file or a folder.
        image_size: Side of the square input in pixels.
        depth: Blocks of the image tower.
        shapes: Widths that the trainables' shapes depend on.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        clip: nn.Module,
        *,
        spec: str,
        mean: Sequence[float] = OPENAI_MEAN,
        std: Sequence[float] = OPENAI_STD,
    ) -> None:
        super().__init__()
        visual: Any = clip.visual
        text: Any = clip.text if hasattr(clip, "text") else clip
        if not isinstance(visual, VisionTransformer) or not hasattr(text, "token_embedding"):
            message = (
                "A backbone must be an open_clip ViT with CLIP's text transformer. "
                f"Got {type(visual).__name__} and {type(text).__name__}; choose one such as ViT-L-14:openai."
            )
            raise BackboneError(message)
        _check_text_tower(text)
        self.spec = spec
        self.visual: VisionTransformer = visual
        self.text = text
        self.depth = int(visual.transformer.layers)
        self.image_size = int(visual.image_size[0])
        self.context_length = int(text.context_length)
        projection = text.text_projection
        embed_dim = projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]
        self.shapes = BackboneShapes(
            width=int(visual.transformer.width),
            embed_dim=int(embed_dim),
            text_width=int(text.token_embedding.weight.shape[1]),
        )
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.eval()
        self.requires_grad_(requires_grad=False)
        self.sha256 = backbone_digest(self)
        self._tokenizer = _tokenizer()
        self._frozen: dict[tuple[str, torch.dtype, torch.device], tuple[FrozenBlock, ...] | None] = {}

    @property
    def name(self) -> str:
        """Name without any folder: safe to print and to store."""
        kind, _, rest = self.spec.partition(":")
        return f"{kind}:{Path(rest).name}" if rest else kind

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.mean.device

    def default_taps(self) -> tuple[int, ...]:
        """Return the published taps for this depth: a half, three quarters and the end of the tower."""
        return tuple(sorted({max(1, math.ceil(self.depth * part)) for part in (0.5, 0.75, 1.0)}))

    def check_taps(self, taps: Sequence[int]) -> tuple[int, ...]:
        """Return the taps when they can be used.

        Args:
            taps: Block numbers, 1-based.

        Raises:
            TapError: If there is none, one stands twice or out of order, or lies outside the tower.
        """
        found = tuple(int(tap) for tap in taps)
        rising = all(a < b for a, b in pairwise(found))
        if not found or not rising or found[0] < 1 or found[-1] > self.depth:
            message = (
                f"Taps must be rising block numbers in [1, {self.depth}] for the backbone {self.name}. "
                f"Got {list(found)}; choose for example {','.join(map(str, self.default_taps()))}."
            )
            raise TapError(message)
        return found

    def normalise(self, images: Tensor) -> Tensor:
        """Turn grey images into what the image tower expects.

        Args:
            images: ``(B, S, S)`` in [0, 1].

        Returns:
            ``(B, 3, S, S)``: three equal channels, shifted and scaled by the backbone's mean and std.
        """
        grey = images.to(self.device, torch.float32).unsqueeze(1)
        pixels: Tensor = (grey - self.mean) / self.std
        return pixels

    @torch.no_grad()
    def patch_tokens(self, pixels: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """Encode images and take the patch tokens after the tapped blocks.

        Args:
            pixels: ``(B, 3, S, S)``, normalised.
            taps: Block numbers, 1-based and rising.

        Returns:
            One ``(B, h, w, C)`` tensor a tap, class token dropped, before the final norm. All taps of a ViT
            have the same grid, so the published upsampling to the largest has nothing to do.

        Source: METHOD 1.2; published MediCLIP code.
        """
        grid = [pixels.shape[2 + i] // self.visual.patch_size[i] for i in range(2)]
        output = self.visual.forward_intermediates(
            pixels,
            indices=[tap - 1 for tap in taps],
            stop_early=True,
            intermediates_only=True,
            normalize_intermediates=False,
            output_fmt="NLC",
        )
        return [t.unflatten(1, grid) for t in output["image_intermediates"]]

    @torch.no_grad()
    def grey_tokens(self, images: Tensor, taps: Sequence[int], *, precision: Precision) -> list[Tensor]:
        """Encode grey images like :meth:`normalise` and :meth:`patch_tokens`, with less work.

        The three equal channels are one convolution, whose weights hold the mean and std; the blocks are
        :mod:`mediclip.model.frozen_blocks`.

        Args:
            images: ``(B, S, S)`` in [0, 1].
            taps: Block numbers, 1-based and rising.
            precision: Of the matrix products; float32 where the device has no fast bfloat16.

        Returns:
            One ``(B, h, w, C)`` float32 tensor a tap: in float32 within rounding of those of
            :meth:`patch_tokens`, in bfloat16 about 1 % from them.
        """
        blocks = self.frozen_blocks("visual", precision)
        visual: Any = self.visual
        if blocks is None:
            return self.patch_tokens(self.normalise(images), taps)
        grey = images.to(self.device, torch.float32).unsqueeze(1)
        weight, bias = self.grey_convolution()
        patches = nn.functional.conv2d(grey, weight, bias, stride=visual.conv1.stride)  # (B, C, h, w)
        grid = patches.shape[2:]
        first = visual.class_embedding.expand(len(grey), 1, -1)
        hidden = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + visual.positional_embedding
        hidden = visual.ln_pre(hidden)
        tapped = []
        for number, block in enumerate(blocks[: taps[-1]], start=1):
            hidden = block(hidden)
            if number in taps:
                tapped.append(hidden[:, 1:].reshape(len(grey), *grid, -1))
        return tapped

    def grey_convolution(self) -> tuple[Tensor, Tensor]:
        """Fold normalisation and three equal channels into weight ``(C, 1, p, p)`` and bias ``(C,)``."""
        conv: Any = self.visual.conv1
        weight = (conv.weight / self.std).sum(1, keepdim=True)
        bias = -(conv.weight * (self.mean / self.std)).sum((1, 2, 3))
        return weight, bias if conv.bias is None else bias + conv.bias

    def frozen_blocks(self, tower: str, precision: Precision) -> tuple[FrozenBlock, ...] | None:
        """Give the lean blocks of the tower ``visual`` or ``text``; None where open_clip's code must run."""
        is_half = precision == "bfloat16" and has_native_bfloat16(self.device)
        dtype = torch.bfloat16 if is_half else torch.float32
        key = tower, dtype, self.device
        if key not in self._frozen:
            self._frozen[key] = freeze_blocks(getattr(self, tower).transformer, dtype)
        return self._frozen[key]

    def token_ids(self, text: str) -> list[int]:
        """Split a text into token numbers, without start and end."""
        return list(self._tokenizer.encode(text))

    @property
    def start_and_end(self) -> tuple[int, int]:
        """Numbers of the start and end tokens."""
        return self._tokenizer.sot_token_id, self._tokenizer.eot_token_id

    def embed(self, ids: Tensor) -> Tensor:
        """Look up token embeddings: ``(P, T)`` numbers to ``(P, T, W)``."""
        embedded: Tensor = self.text.token_embedding(ids)
        return embedded

    def encode_embedded_text(self, sequences: Tensor, ends: Tensor, *, causal: bool) -> Tensor:
        """Run the text tower on embedded tokens and project the feature at each end token.

        Args:
            sequences: ``(P, T, W)`` token embeddings, positions not yet added.
            ends: ``(P,)`` index of each end token, in [0, T).
            causal: Whether each position sees only what stands before it, as CLIP was trained.

        Returns:
            ``(P, D)``, not normalised. Gradients flow to ``sequences``.
        """
        length = sequences.shape[1]
        hidden = sequences + self.text.positional_embedding[:length]
        mask = self.text.attn_mask[:length, :length] if causal else None
        hidden = self.text.ln_final(self.text.transformer(hidden, attn_mask=mask))
        at_end = hidden[torch.arange(len(ends), device=hidden.device), ends]
        return self._project_text(at_end)

    def encode_ends(self, sequences: Tensor, packing: Packing, *, precision: Precision) -> Tensor:
        """Do what :meth:`encode_embedded_text` does with the causal mask, computing only what counts.

        Padding is left out, and in the last block all but the end tokens.

        Args:
            sequences: ``(P, T, W)`` token embeddings, positions not yet added.
            packing: How long each sequence is, its end token included.
            precision: Of the matrix products; float32 where the device has no fast bfloat16.

        Returns:
            ``(P, D)``, not normalised. Gradients flow to ``sequences``.
        """
        blocks = self.frozen_blocks("text", precision)
        if blocks is None:
            return self.encode_embedded_text(sequences, packing.lengths - 1, causal=True)
        hidden = packing.pack(sequences + self.text.positional_embedding[: sequences.shape[1]])
        for block in blocks[:-1]:
            hidden = block.causal(hidden, packing)
        return self._project_text(self.text.ln_final(blocks[-1].last(hidden, packing)))

    def _project_text(self, at_end: Tensor) -> Tensor:
        projection = self.text.text_projection
        features: Tensor = projection(at_end) if isinstance(projection, nn.Linear) else at_end @ projection
        return features


@functools.cache
def _tokenizer() -> SimpleTokenizer:
    """Read CLIP's vocabulary once; it takes longer than building a small backbone."""
    return SimpleTokenizer()


def _check_text_tower(text: Any) -> None:  # noqa: ANN401 - a CLIP or the text tower of another open_clip model
    """Raise unless prompts that are tokenised as CLIP's go through this tower as through CLIP's.

    Other towers would give numbers too, and wrong ones: their tokens mean other words, or their feature is
    not taken at the end token.
    """
    found = {
        "vocabulary": int(text.vocab_size),
        "pooling": getattr(text, "text_pool_type", getattr(text, "pool_type", None)),
        "class token": getattr(text, "cls_emb", None) is not None,
        "causal": text.attn_mask is not None,
    }
    own = {
        "vocabulary": _tokenizer().vocab_size,
        "pooling": "argmax",
        "class token": False,
        "causal": True,
    }
    differing = [f"{name} {found[name]}" for name in own if found[name] != own[name]]
    if differing:
        message = (
            "A backbone's text tower must read CLIP's own tokens, causally, up to an end token. Got one with "
            f"{', '.join(differing)}; choose another, such as ViT-L-14:openai."
        )
        raise BackboneError(message)
