"""The two losses of the recipe from the grid of contrasts: one pass forward gives the gradient too."""

from typing import Any

import torch
from torch import Tensor

from mediclip.model.contrast import enlarge

_FLOOR = 1e-5


class _AnomalyLoss(torch.autograd.Function):
    """Focal (γ = 2) plus Dice loss of ``sigmoid`` of the enlarged grid."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, labels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:  # noqa: ANN401
        # With the label y in {0, 1} and z the logit, the probability of the true class is q = σ(±z), and
        # p_t = Σ y·p + 1e-5 of the focal loss is (1 - 2e-5) q + 2e-5.
        sign = (labels >= 1).to(grid.dtype).mul_(2).sub_(1)
        true = enlarge(grid, rows, columns).mul_(sign).sigmoid_()
        p_t = true * (1 - 2 * _FLOOR) + 2 * _FLOOR
        log, wrong = p_t.log(), 1 - p_t
        pixels, side = true.numel(), true.shape[0]
        focal = -(wrong.square() * log).sum() / pixels
        slope = (2 * wrong * log - wrong.square() / p_t) * (
            (1 - 2 * _FLOOR) / pixels
        )  # of the focal loss by q
        anomaly = (true - 0.5) * sign + 0.5  # (B, S, S), p of *abnormal*
        shared = (anomaly * labels).sum((1, 2))
        both = anomaly.sum((1, 2)) + labels.sum((1, 2)) + 1
        dice = (1 - (2 * shared + 1) / both).mean()
        # Of the Dice loss by p: -(2 g · both - (2 Σ p·g + 1)) / both² / B.
        slope.mul_(sign).sub_(labels * (2 / both / side)[:, None, None])
        slope.add_(((2 * shared + 1) / both.square() / side)[:, None, None])
        slope.mul_(true).mul_(1 - true)  # σ'(z), the same for z and -z
        ctx.save_for_backward(rows.t() @ slope @ columns)
        return focal + dice

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None, None


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
