"""The two losses of the recipe from the grid of contrasts: one pass forward gives the gradient too."""

import math
from typing import Any

import torch
from torch import Tensor

_FLOOR = 1e-5


class _AnomalyLoss(torch.autograd.Function):
    """Focal (γ = 2) plus Dice loss of ``sigmoid`` of the enlarged grid."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, labels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:  # noqa: ANN401
        # A processor has room for one image's maps at hand; a GPU is quicker with all images at once.
        size = 1 if grid.device.type == "cpu" else len(grid)
        spaces = [grid.new_empty(size, *labels.shape[1:]) for _ in range(5)]
        slope = torch.empty_like(grid)
        losses = [
            _loss_of(grid[i : i + size], labels[i : i + size], rows, columns, spaces, slope[i : i + size])
            for i in range(0, len(grid), size)
        ]
        ctx.save_for_backward(slope.div_(len(grid)))
        return torch.stack(losses).sum() / len(grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None, None


def _loss_of(
    grid: Tensor, labels: Tensor, rows: Tensor, columns: Tensor, spaces: list[Tensor], slope: Tensor
) -> Tensor:
    """Sum the losses of some images, each as if it were alone.

    Args:
        grid: ``(b, h, w)``.
        labels: ``(b, S, S)``.
        rows: ``(S, h)``.
        columns: ``(S, w)``.
        spaces: Five tensors ``(b, S, S)`` to work in.
        slope: ``(b, h, w)``, becomes the gradient of the sum by the grid.

    Returns:
        A scalar.
    """
    anomaly, other, true, log, space = spaces
    is_normal = labels < 1
    torch.matmul(rows @ grid, columns.t(), out=anomaly).sigmoid_()  # p of *abnormal*
    torch.sub(1, anomaly, out=other)
    # p_t = Σ y·p + 1e-5 of the focal loss is (1 - 2e-5) q + 2e-5, with q the probability of the true class.
    torch.where(is_normal, other, anomaly, out=true)
    true.mul_(1 - 2 * _FLOOR).add_(2 * _FLOOR)
    torch.log(true, out=log)
    shared, both = _dot(anomaly, labels), anomaly.sum((1, 2)) + labels.sum((1, 2)) + 1
    overlap = (2 * shared + 1) / both
    anomaly.mul_(other)  # σ'(z), the same for z and -z

    wrong, square = torch.sub(1, true, out=other), space
    torch.mul(wrong, wrong, out=square)
    pixels = math.prod(labels.shape[1:])
    loss: Tensor = (1 - overlap - _dot(square, log) / pixels).sum()
    # Of the focal loss by q: (2 (1 - p_t) ln p_t - (1 - p_t)² / p_t) (1 - 2e-5) / pixels; p is q or 1 - q.
    wrong.mul_(log).mul_(2).sub_(square.div_(true)).mul_((1 - 2 * _FLOOR) / pixels)
    torch.where(is_normal, torch.neg(wrong, out=log), wrong, out=true)
    # Of the Dice loss by p: -(2 g · both - (2 Σ p·g + 1)) / both².
    true.sub_(torch.mul(labels, (2 / both)[:, None, None], out=space)).add_((overlap / both)[:, None, None])
    true.mul_(anomaly)
    torch.matmul(rows.t() @ true, columns, out=slope)
    return loss


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Sum the products of each image's pixels: ``(b, S, S)`` twice to ``(b,)``."""
    return torch.bmm(one.flatten(1).unsqueeze(1), other.flatten(1).unsqueeze(2)).flatten()


def fused_anomaly_loss(grid: Tensor, labels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Compute :func:`mediclip.training.losses.anomaly_loss` of the map that a grid gives, up to rounding.

    Args:
        grid: ``(B, h, w)`` from :func:`mediclip.model.contrast.contrast`.
        labels: ``(B, S, S)`` in [0, 1].
        rows: ``(S, h)`` from :func:`mediclip.model.contrast.upsampling_matrix`.
        columns: ``(S, w)``, likewise.

    Returns:
        A scalar; its gradient reaches the grid alone.

    Source: METHOD 1.5 and 1.6.
    """
    loss: Tensor = _AnomalyLoss.apply(grid, labels, rows, columns)
    return loss
