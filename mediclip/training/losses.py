"""The two losses of the published recipe."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_FLOOR = 1e-5


def focal_loss(probabilities: Tensor, labels: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Weigh the cross-entropy of each pixel down where it is already right.

    With y the one-hot label clamped to [1e-5, 1 - 1e-5] and p the probabilities, p_t = Σ y·p + 1e-5 over the
    classes; the loss is the mean of -(1 - p_t)^γ ln p_t. With γ = 0 it is the cross-entropy.

    Args:
        probabilities: ``(B, 2, S, S)`` in [0, 1], summing to 1 over the classes.
        labels: ``(B, S, S)`` in [0, 1]. Soft labels are truncated to integers, as published: only a full 1
            counts as abnormal here.
        gamma: γ, at least 0.

    Returns:
        A scalar, at least 0 up to the floor of 1e-5.

    Source: METHOD 1.6; published MediCLIP code; Lin et al. 2017, equation 4.
    """
    one_hot = nn.functional.one_hot(labels.long(), num_classes=2).permute(0, 3, 1, 2)
    target = one_hot.to(probabilities.dtype).clamp(_FLOOR, 1 - _FLOOR)
    true_probability = (target * probabilities).sum(1) + _FLOOR
    loss: Tensor = -((1 - true_probability) ** gamma) * true_probability.log()
    return loss.mean()


def dice_loss(anomaly: Tensor, labels: Tensor) -> Tensor:
    """Measure how little a map and a soft label overlap.

    For each image 1 - (2 Σ p·g + 1) / (Σ p + Σ g + 1), then the mean over images.

    Args:
        anomaly: ``(B, S, S)``, probability p of *abnormal*.
        labels: ``(B, S, S)`` in [0, 1], the soft label g.

    Returns:
        A scalar in [0, 1).

    Source: METHOD 1.6; published MediCLIP code.
    """
    p, g = anomaly.flatten(1), labels.flatten(1).to(anomaly.dtype)
    overlap = (2 * (p * g).sum(1) + 1) / (p.sum(1) + g.sum(1) + 1)
    return (1 - overlap).mean()


def anomaly_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Sum the focal loss and the Dice loss of the anomaly channel.

    Args:
        probabilities: ``(B, 2, S, S)`` in [0, 1].
        labels: ``(B, S, S)`` in [0, 1].

    Returns:
        A scalar.
    """
    return focal_loss(probabilities, labels) + dice_loss(probabilities[:, 1], labels)


def proximal_penalty(parameters: Sequence[Tensor], start: Sequence[Tensor], mu: float) -> Tensor:
    """Hold parameters near where a round began: μ/2 · Σ ||w - w₀||².

    Args:
        parameters: Trained tensors w.
        start: The same tensors w₀ at the start of the round.
        mu: μ, at least 0; with 0 the penalty is 0.

    Returns:
        A scalar.

    Source: Li et al., Federated Optimization in Heterogeneous Networks (FedProx), equation 2.
    """
    squares = [((w - w0) ** 2).sum() for w, w0 in zip(parameters, start, strict=True)]
    return 0.5 * mu * torch.stack(squares).sum()
