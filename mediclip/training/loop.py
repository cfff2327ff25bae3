"""The training loop: Adam on focal and Dice losses over synthesised batches."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from mediclip.errors import SettingsError
from mediclip.model.network import MediClip
from mediclip.rng import Name, generator
from mediclip.training.batches import BatchSource, batch_source
from mediclip.training.losses import anomaly_loss, proximal_penalty

OnStep = Callable[[int, int, float], None]


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
        on_step: Called after each step with steps done, steps in all and the loss.

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
    optimiser = torch.optim.Adam(parameters, lr=recipe.learning_rate, betas=recipe.betas)
    losses = []
    for number in range(first_step, first_step + total):
        indexes = step_indexes(len(support), recipe.batch_size, number, seed=seed, stream=stream)
        batch = batches.batch(indexes, generator(seed, *stream, "step", number))
        loss = anomaly_loss(network.probabilities(batch.tokens), batch.labels)
        objective = loss + proximal_penalty(parameters, start, proximal_mu) if start else loss
        optimiser.zero_grad(set_to_none=True)
        objective.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            message = (
                f"A training's loss must stay finite. It was {losses[-1]} before step {number + 1}; lower "
                "learning_rate in the recipe."
            )
            raise SettingsError(message)
        if on_step is not None:
            on_step(len(losses), total, losses[-1])
    return TrainResult(losses)


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
