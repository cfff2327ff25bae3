"""The training loop: Adam on focal and Dice losses over synthesised batches."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mediclip.errors import SettingsError
from mediclip.model.network import MediClip
from mediclip.rng import Name, generator
from mediclip.training.batch import Batch
from mediclip.training.batches import BatchSource, batch_source
from mediclip.training.fused_loss import fused_anomaly_loss
from mediclip.training.losses import anomaly_loss, proximal_penalty

OnStep = Callable[[int, int, float], None]
REPORT_EVERY: Final = 25


@dataclass(frozen=True)
class TrainResult:
    """What training did.

    Attributes:
        losses: Focal plus Dice loss before each step.
        steps: Optimiser steps made.
    """

    losses: list[float] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Count the optimiser steps."""
        return len(self.losses)


def train(
    network: MediClip,
    support: NDArray[np.float32],
    *,
    seed: int,
    stream: tuple[Name, ...] = (),
    steps: int | None = None,
    first_step: int = 0,
    proximal_mu: float = 0.0,
    source: BatchSource | None = None,
    on_step: OnStep | None = None,
    report_every: int | None = None,
) -> TrainResult:
    """Train adapters and prompts in place.

    The batch of a step depends on the seed, the stream and the step's number alone, so a part of a training
    that is made again is the same. Adam starts fresh at each call.

    Args:
        network: Detector with start values loaded; trained in place.
        support: ``(K, S, S)`` normal images in [0, 1].
        seed: The run's seed.
        stream: Names that set this training's randomness apart, such as the site's.
        steps: Optimiser steps; as many as the recipe says for K images when omitted.
        first_step: Number of the first step, for a training that is made in parts.
        proximal_mu: FedProx's μ around the start values, at least 0.
        source: Where batches come from; made from the recipe when omitted.
        on_step: Called with steps done, steps in all and the latest loss, whenever losses are read.
        report_every: Steps after which losses are read and checked, which makes a GPU wait; 1 on a CPU and 25
            elsewhere when omitted.

    Returns:
        The losses of all steps.

    Raises:
        SettingsError: If there is no support image or the loss does not stay finite.

    Source: METHOD 1.6 and 1.7.
    """
    if len(support) == 0:
        message = "A training must have at least 1 support image. Got 0; raise --shots."
        raise SettingsError(message)
    recipe = network.recipe
    total = recipe.steps(len(support)) if steps is None else steps
    batches = source or batch_source(network, support, seed=seed, stream=stream)
    parameters = list(network.parameters())
    start = [p.detach().clone() for p in parameters] if proximal_mu > 0 else []
    optimiser = torch.optim.Adam(
        parameters, lr=recipe.learning_rate, betas=recipe.betas, fused=True if recipe.lean else None
    )
    every = report_every or (1 if network.backbone.device.type == "cpu" else REPORT_EVERY)
    waiting: list[Tensor] = []
    losses: list[float] = []
    for number in range(first_step, first_step + total):
        indexes = step_indexes(len(support), recipe.batch_size, number, seed=seed, stream=stream)
        batch = batches.batch(indexes, generator(seed, *stream, "step", number), step=number)
        loss = step_loss(network, batch)
        objective = loss + proximal_penalty(parameters, start, proximal_mu) if start else loss
        optimiser.zero_grad(set_to_none=True)
        objective.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        waiting.append(loss.detach())
        if len(waiting) < every and number + 1 < first_step + total:
            continue
        losses += torch.stack(waiting).tolist()
        _check_finite(losses[-len(waiting) :], number)
        waiting.clear()
        if on_step is not None:
            on_step(len(losses), total, losses[-1])
    return TrainResult(losses)


def _check_finite(losses: list[float], last: int) -> None:
    """Raise if one of the latest losses is not finite; ``last`` is the number of the last one's step."""
    for number, loss in enumerate(losses, start=last + 2 - len(losses)):
        if not math.isfinite(loss):
            message = (
                f"A training's loss must stay finite. It was {loss} before step {number}; lower "
                "learning_rate in the recipe."
            )
            raise SettingsError(message)


def step_loss(network: MediClip, batch: Batch) -> Tensor:
    """Compute focal plus Dice loss of a batch, in the form that the network's recipe asks for."""
    if network.recipe.lean:
        grid = network.contrast(batch.tokens)
        return fused_anomaly_loss(grid, batch.labels, *network.upsampling(grid.shape[1:]))
    return anomaly_loss(network.probabilities(batch.tokens), batch.labels)


def step_indexes(
    shots: int, batch_size: int, number: int, *, seed: int, stream: tuple[Name, ...] = ()
) -> NDArray[np.int64]:
    """Say which support images a step uses.

    Every epoch goes through all images once in an order of its own; the last batch may be smaller.

    Args:
        shots: Support images K.
        batch_size: Images in a full batch.
        number: Number of the step, from 0.
        seed: The run's seed.
        stream: The training's names.

    Returns:
        ``(B,)`` indexes in [0, K).
    """
    per_epoch = -(-shots // batch_size)
    epoch, place = divmod(number, per_epoch)
    order = generator(seed, *stream, "order", epoch).permutation(shots)
    return order[place * batch_size : (place + 1) * batch_size].astype(np.int64)
