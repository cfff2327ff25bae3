"""Training with noise in every gradient, so that the model hides whether any one image took part (DP-SGD).

What an image can reach is clipped and noised: the gradient of the adapters, and of the two text columns in
place of the prompts behind them. The prompts' gradient is the noised columns' gradient, sent back through the
text tower: it sees no image and costs no privacy (post-processing). Neither does Adam.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mediclip.model.anomaly_map import class_probabilities
from mediclip.model.network import MediClip
from mediclip.privacy.clipping import clip_factor
from mediclip.privacy.randomness import Randomness
from mediclip.privacy.views import OwnViews
from mediclip.training.batch import Batch
from mediclip.training.losses import anomaly_loss, proximal_penalty


@dataclass(frozen=True)
class GradientNoise:
    """How much each step's gradient is clipped and noised.

    Attributes:
        clip: C, largest norm of one image's gradient, above 0.
        noise_std: Standard deviation of the noise in each value of the sum, z·C, at least 0.
        sampling_rate: q in (0, 1], probability of an image in a step.
    """

    clip: float
    noise_std: float
    sampling_rate: float


def noised_values(network: MediClip) -> int:
    """Count the values whose gradient is clipped and noised: the adapters' and both text columns', 2·D."""
    columns = 2 * network.backbone.shapes.embed_dim
    return columns + sum(parameter.numel() for parameter in network.adapter.parameters())


def train_with_noise(
    network: MediClip,
    views: OwnViews,
    noise: GradientNoise,
    random: Randomness,
    *,
    steps: int,
    proximal_mu: float = 0.0,
) -> None:
    """Train adapters and prompts in place; nothing but the trained network comes out, no loss.

    In each step every image takes part with probability q. Their gradients, each at most C long over
    adapters and text columns together, are summed, N(0, s²) is added to every value, and the sum is divided
    by the expected number of images q·K, not by the number that came. Without clip and noise and with q = 1
    a step is one of :func:`mediclip.training.loop.train` on the same batch.

    Args:
        network: Detector with start values loaded.
        views: Views of the support images.
        noise: Clip, noise and sampling.
        random: Where noise, sampling and the choice of views come from; secret wherever the result leaves a
            site.
        steps: Optimiser steps.
        proximal_mu: FedProx's μ around the start values, at least 0.

    Source: Abadi et al., Deep Learning with Differential Privacy, algorithm 1 (arXiv 1607.00133), with Adam.
    """
    recipe = network.recipe
    parameters = list(network.parameters())
    start = [p.detach().clone() for p in parameters] if proximal_mu > 0 else []
    optimiser = torch.optim.Adam(parameters, lr=recipe.learning_rate, betas=recipe.betas)
    expected = noise.sampling_rate * len(views)
    for _ in range(steps):
        chosen = np.flatnonzero(random.random(len(views)) < noise.sampling_rate)
        batch = views.draw(chosen, random) if len(chosen) else None
        columns = network.text_features()
        total = _clipped_sum(network, batch, columns.detach(), noise.clip)
        noisy = [(part + noise.noise_std * _normal(part, random)) / expected for part in total]
        optimiser.zero_grad(set_to_none=True)
        columns.backward(noisy[-1].to(columns))  # type: ignore[no-untyped-call]
        for parameter, gradient in zip(network.adapter.parameters(), noisy[:-1], strict=True):
            parameter.grad = gradient.to(parameter)
        if start:
            proximal_penalty(parameters, start, proximal_mu).backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def _clipped_sum(network: MediClip, batch: Batch | None, columns: Tensor, clip: float) -> list[Tensor]:
    """Sum each image's clipped gradient of the adapters' tensors and, last, of the columns ``(D, 2)``."""
    inputs = [*network.adapter.parameters(), columns.requires_grad_()]
    total = [torch.zeros(value.shape, dtype=torch.float64) for value in inputs]
    for index in range(0 if batch is None else len(batch.labels)):
        assert batch is not None  # noqa: S101 - for the type checker
        adapted = network.adapter([tokens[index : index + 1] for tokens in batch.tokens])
        probabilities = class_probabilities(adapted, columns, network.recipe.image_size)
        loss = anomaly_loss(probabilities, batch.labels[index : index + 1])
        gradient = [part.double().cpu() for part in torch.autograd.grad(loss, inputs)]
        norm = float(torch.cat([part.flatten() for part in gradient]).norm())
        if not np.isfinite(norm):
            continue  # as if the image had not been drawn: a sum that is not finite would have no bound
        factor = clip_factor(norm, clip)
        total = [whole + factor * part for whole, part in zip(total, gradient, strict=True)]
    return total


def _normal(like: Tensor, random: Randomness) -> Tensor:
    return torch.from_numpy(random.standard_normal(like.numel())).view_as(like)
