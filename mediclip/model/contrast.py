"""The lean way from tokens to the map: with two classes and no temperature one number a token is enough.

``softmax`` over the cosines with *normal* and *abnormal* is the logistic function of their difference, and
the bilinear upsampling is linear, so the difference is taken first, token by token.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_SHORTEST = 1e-12  # torch's own floor in normalize


class _Contrast(torch.autograd.Function):
    """``(x Wᵀ + b) · d / |x Wᵀ + b|`` with the one product in its backward pass that is needed."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor, direction: Tensor) -> Tensor:  # noqa: ANN401
        adapted = torch.addmm(bias, tokens, weight.t())  # (N, D)
        length = torch.linalg.vector_norm(adapted, dim=1).clamp_min(_SHORTEST)
        cosine: Tensor = (adapted @ direction) / length
        ctx.save_for_backward(tokens, adapted, length, cosine, direction)
        return cosine

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        tokens, adapted, length, cosine, direction = ctx.saved_tensors
        along = gradients[0] / length  # (N,)
        shrink = along * cosine / length
        to_weight = to_bias = None
        if ctx.needs_input_grad[1]:
            turned = adapted * shrink.unsqueeze(1)
            to_weight = torch.outer(direction, along @ tokens).addmm_(turned.t(), tokens, alpha=-1)
            to_bias = direction * along.sum() - turned.sum(0)
        return None, to_weight, to_bias, along @ adapted


def contrast(layers: Sequence[tuple[Tensor, Tensor]], tokens: Sequence[Tensor], text: Tensor) -> Tensor:
    """Say how much nearer each token lies to *abnormal* than to *normal*.

    Args:
        layers: Weight ``(D, C)`` and bias ``(D,)`` of each tap's adapter.
        tokens: One ``(B, h, w, C)`` tensor a tap; no gradient flows to them.
        text: ``(D, 2)``, columns of length 1.

    Returns:
        ``(B, h, w)`` in [-2, 2]: cosine with *abnormal* less cosine with *normal*, mean over the taps.

    Source: METHOD 1.3 and 1.5.
    """
    direction = text[:, 1] - text[:, 0]
    shape = tokens[0].shape[:3]
    parts = [
        _Contrast.apply(t.flatten(0, 2), weight, bias, direction)
        for (weight, bias), t in zip(layers, tokens, strict=True)
    ]
    return torch.stack(parts).mean(0).view(shape)


@functools.cache
def upsampling_matrix(size: int, cells: int, device: torch.device) -> Tensor:
    """Give the matrix ``(size, cells)`` of bilinear upsampling along one axis, ends aligned.

    Args:
        size: Pixels, at least 1.
        cells: Cells of the grid, at least 1.
        device: Where to put it.

    Returns:
        float32, each row summing to 1.
    """
    pixels = torch.arange(size, dtype=torch.float64)
    places = pixels * ((cells - 1) / (size - 1) if size > 1 else 0.0)
    rows = (1 - (places.unsqueeze(1) - torch.arange(cells, dtype=torch.float64)).abs()).clamp_min(0)
    return rows.to(device, torch.float32)


def enlarge(grid: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Upsample ``(B, h, w)`` to ``(B, S, S')`` with the matrices ``(S, h)`` and ``(S', w)``."""
    return rows @ grid @ columns.t()
