"""The blocks of a frozen CLIP tower without what only training them needs; products may be bfloat16.

The numbers are those of open_clip's blocks up to rounding. open_clip's own code stays the reference, which
:meth:`mediclip.model.backbone.Backbone.patch_tokens` calls.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def has_native_bfloat16(device: torch.device) -> bool:
    """Say whether a device multiplies bfloat16 faster than float32; where it does not, float32 is used."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001 - no public one


@dataclass(frozen=True)
class Packing:
    """Where the tokens of sequences of different lengths lie when they are put end to end.

    Attributes:
        shape: Sequences P, and positions T of the longest.
        places: ``(N,)``, index in ``P·T`` of each token, rising.
        last: ``(P,)``, index in N of the last token of each sequence.
        lengths: ``(P,)``.
        is_token: ``(P, T)``, false behind each sequence's end.
        is_before: ``(T, T)``, whether the token of a column is one that the token of the row sees.
    """

    shape: tuple[int, int]
    places: Tensor
    last: Tensor
    lengths: Tensor
    is_token: Tensor
    is_before: Tensor

    @classmethod
    def of(cls, lengths: Tensor) -> "Packing":
        """Describe sequences of ``(P,)`` lengths, each at least 1."""
        longest = int(lengths.max())
        is_token = torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)
        places = is_token.flatten().nonzero().squeeze(1)
        is_before = torch.ones(longest, longest, dtype=torch.bool, device=lengths.device).tril()
        shape = len(lengths), longest
        return cls(shape, places, lengths.cumsum(0) - 1, lengths, is_token, is_before)

    def pack(self, padded: Tensor) -> Tensor:
        """Turn ``(P, T, C)`` into ``(N, C)``."""
        return padded.flatten(0, 1).index_select(0, self.places)

    def pad(self, packed: Tensor) -> Tensor:
        """Turn ``(N, C)`` into ``(P, T, C)``, zero behind each sequence's end."""
        sequences, longest = self.shape
        empty = packed.new_zeros(sequences * longest, packed.shape[-1])
        padded: Tensor = empty.index_copy(0, self.places, packed).view(sequences, longest, -1)
        return padded


@dataclass(frozen=True)
class FrozenBlock:
    """One residual block: attention, then the two linear maps, each behind a layer norm.

    Attributes:
        heads: Attention heads.
        norms: Weight, bias and epsilon of both layer norms, in float32.
        joint: Weight ``(3C, C)`` and bias of query, key and value.
        out: Weight ``(C, C)`` and bias behind the attention.
        up: Weight ``(4C, C)`` and bias.
        down: Weight ``(C, 4C)`` and bias.
        activation: Between ``up`` and ``down``.
        scales: What the two branches are multiplied with before they are added.
    """

    heads: int
    norms: tuple[tuple[Tensor, Tensor, float], ...]
    joint: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    activation: nn.Module
    scales: tuple[nn.Module, nn.Module]

    @classmethod
    def of(cls, block: Any, dtype: torch.dtype) -> "FrozenBlock":  # noqa: ANN401 - open_clip's block
        """Take the weights of one open_clip block; those of products are kept in ``dtype``."""

        def pair(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
            return weight.detach().to(dtype), bias.detach().to(dtype)

        attention, mlp = block.attn, block.mlp
        return cls(
            heads=attention.num_heads,
            norms=tuple((n.weight.detach(), n.bias.detach(), n.eps) for n in (block.ln_1, block.ln_2)),
            joint=pair(attention.in_proj_weight, attention.in_proj_bias),
            out=pair(attention.out_proj.weight, attention.out_proj.bias),
            up=pair(mlp.c_fc.weight, mlp.c_fc.bias),
            down=pair(mlp.c_proj.weight, mlp.c_proj.bias),
            activation=mlp.gelu,
            scales=(block.ls_1, block.ls_2),
        )

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map ``(B, T, C)`` float32 to ``(B, T, C)`` float32, every position seeing all."""
        query, key, value = self._heads_of(nn.functional.linear(self._norm(0, hidden), *self.joint))
        attend = _attend_by_products if _is_half_on_cpu(query) else nn.functional.scaled_dot_product_attention
        return self._rest(hidden, _merged(attend(query, key, value)))

    def causal(self, hidden: Tensor, packing: Packing) -> Tensor:
        """Map packed ``(N, C)`` float32 to the same shape, each token seeing itself and what is before it."""
        joint = packing.pad(nn.functional.linear(self._norm(0, hidden), *self.joint))
        query, key, value = self._heads_of(joint)
        attended = _attend_briefly(query, key, value, packing.is_before)
        return self._rest(hidden, packing.pack(_merged(attended)))

    def last(self, hidden: Tensor, packing: Packing) -> Tensor:
        """Map packed ``(N, C)`` float32 to ``(P, C)``: what :meth:`causal` gives for each last token."""
        width = hidden.shape[-1]
        normed = self._norm(0, hidden)
        weight, bias = self.joint
        query = nn.functional.linear(normed[packing.last], weight[:width], bias[:width]).unsqueeze(1)
        both = packing.pad(nn.functional.linear(normed, weight[width:], bias[width:]))
        query, key, value = map(self._split, (query, *both.chunk(2, dim=-1)))
        attended = _attend_briefly(query, key, value, packing.is_token[:, None, None])
        return self._rest(hidden[packing.last], _merged(attended).squeeze(1))

    def _norm(self, number: int, hidden: Tensor) -> Tensor:
        weight, bias, eps = self.norms[number]
        normed = nn.functional.layer_norm(hidden, weight.shape, weight, bias, eps)
        return normed.to(self.joint[0].dtype)

    def _split(self, joint: Tensor) -> Tensor:
        """Turn ``(B, T, C)`` into ``(B, heads, T, C / heads)``."""
        return joint.view(*joint.shape[:2], self.heads, -1).transpose(1, 2)

    def _heads_of(self, joint: Tensor) -> Iterable[Tensor]:
        """Turn ``(B, T, 3C)`` into query, key and value."""
        return map(self._split, joint.chunk(3, dim=-1))

    def _rest(self, hidden: Tensor, merged: Tensor) -> Tensor:
        hidden = hidden + self.scales[0](nn.functional.linear(merged, *self.out))
        raised = self.activation(nn.functional.linear(self._norm(1, hidden), *self.up))
        result: Tensor = hidden + self.scales[1](nn.functional.linear(raised, *self.down))
        return result


def _attend_briefly(query: Tensor, key: Tensor, value: Tensor, is_seen: Tensor) -> Tensor:
    """Attend over short sequences, for which the kernels for long ones cost more, backward above all."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    weights = scores.masked_fill(~is_seen, -torch.inf).softmax(dim=-1)
    attended: Tensor = weights @ value
    return attended


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend by two products of whole matrices: in bfloat16, a CPU is slower at torch's own kernel."""
    shape = query.shape
    query, key, value = (part.flatten(0, 1) for part in (query * query.shape[-1] ** -0.5, key, value))
    weights = torch.bmm(query, key.transpose(1, 2)).softmax(dim=-1)
    attended: Tensor = torch.bmm(weights, value).view(shape)
    return attended


def _is_half_on_cpu(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.bfloat16


def _merged(attended: Tensor) -> Tensor:
    """Turn ``(B, heads, T, C / heads)`` into ``(B, T, C)``."""
    return attended.transpose(1, 2).flatten(2)


def freeze_blocks(transformer: Any, dtype: torch.dtype) -> tuple[FrozenBlock, ...] | None:  # noqa: ANN401
    """Take the blocks of an open_clip transformer.

    Args:
        transformer: ``visual.transformer`` or ``text.transformer``.
        dtype: Of the matrix products; sums, norms and what is handed on stay in float32.

    Returns:
        The blocks in order, or None when they are of a kind that is not CLIP's plain one: then open_clip's
        own code has to run.
    """
    blocks = list(transformer.resblocks)
    if not all(map(_is_plain, blocks)):
        return None
    return tuple(FrozenBlock.of(block, dtype) for block in blocks)


def _is_plain(block: Any) -> bool:  # noqa: ANN401 - whatever open_clip built
    attention: Any = getattr(block, "attn", None)
    return bool(
        type(block).__name__ == "ResidualAttentionBlock"
        and type(attention) is nn.MultiheadAttention
        and getattr(attention, "in_proj_weight", None) is not None
        and getattr(attention, "in_proj_bias", None) is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not hasattr(block, "ln_1_kv")
    )
