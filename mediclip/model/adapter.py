"""The adapter: one linear map a tapped layer, from the image tower's width to the joint embedding."""

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from mediclip.rng import generator

BASE_SEED: Final = 2405_11315


class Adapter(nn.ModuleDict):
    """Maps patch tokens of each tap into the space of the text features.

    A linear map over channels is the 1×1 convolution of the published code; its weight here is ``(D, C)``.

    Args:
        taps: Tapped blocks.
        width: C.
        embed_dim: D.
        rank: None trains the whole map, as published. A number trains a change of that rank to a map that is
            fixed, see :class:`LowRankLinear`; 0 trains nothing.

    Source: METHOD 1.3.
    """

    def __init__(self, taps: Sequence[int], width: int, embed_dim: int, *, rank: int | None = None) -> None:
        # Start values come from named streams; torch's own would be drawn from its global state.
        linears: dict[str, nn.Module] = {
            str(tap): skip_init(nn.Linear, width, embed_dim)  # type: ignore[no-untyped-call]
            if rank is None
            else LowRankLinear(tap, width, embed_dim, rank)
            for tap in taps
        }
        super().__init__(linears)

    def forward(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Adapt the tokens.

        Args:
            tokens: One ``(B, h, w, C)`` tensor a tap, in the order of the taps.

        Returns:
            One ``(B, h, w, D)`` tensor a tap, each token of length 1.
        """
        return [
            nn.functional.normalize(linear(t), dim=-1)
            for linear, t in zip(self.values(), tokens, strict=True)
        ]

    def maps(self) -> list[tuple[Tensor, Tensor]]:
        """Give each tap's weight ``(D, C)`` and bias ``(D,)``; gradients flow through them."""
        layers = (cast(nn.Linear | LowRankLinear, layer) for layer in self.values())
        return [(layer.weight, layer.bias) for layer in layers]


class LowRankLinear(nn.Module):
    """A fixed map and a trained change of low rank: ``W₀ + U·V``, with U ``(D, r)`` and V ``(r, C)``.

    W₀ is the same at every site and in every run, uniform in ±1/√C from a seed of its own: a random map
    keeps the angles between tokens, and nothing of it needs to travel or to be kept in a model file.

    Source: Hu et al., LoRA (arXiv 2106.09685), without its scale α/r; that W₀ is random is ours.
    """

    base: Tensor

    def __init__(self, tap: int, width: int, embed_dim: int, rank: int) -> None:
        super().__init__()
        drawn = generator(BASE_SEED, "adapter", tap).uniform(-1, 1, (embed_dim, width)) / width**0.5
        self.register_buffer("base", torch.from_numpy(drawn.astype("float32")), persistent=False)
        if rank > 0:
            self.down = nn.Parameter(torch.zeros(rank, width))
            self.up = nn.Parameter(torch.zeros(embed_dim, rank))

    @property
    def weight(self) -> Tensor:
        """The whole map, ``(D, C)``."""
        return torch.addmm(self.base, self.up, self.down) if hasattr(self, "up") else self.base

    @property
    def bias(self) -> Tensor:
        """Zeros, ``(D,)``: this map has none."""
        return self.base.new_zeros(len(self.base))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(..., C)`` to ``(..., D)``."""
        mapped = nn.functional.linear(tokens, self.base)
        if hasattr(self, "up"):
            mapped = mapped + nn.functional.linear(nn.functional.linear(tokens, self.down), self.up)
        return mapped
