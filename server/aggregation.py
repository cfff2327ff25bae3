"""From admitted updates to the next global model, by the strategies that Flower brings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, FedTrimmedAvg, Strategy
from numpy.typing import NDArray

from mediclip.errors import FederationError, SchemaError
from mediclip.model.trainables import Schema, Trainables, check_trainables
from mediclip.protocol import ARRAYS, CONFIG, NUM_EXAMPLES
from server.admission import Update
from server.settings import StrategyName

_MOMENTS = ("m_t", "v_t")


def make_strategy(
    name: StrategyName,
    *,
    proximal_mu: float = 0.0,
    server_learning_rate: float = 1e-2,
    trim_fraction: float = 0.2,
) -> Strategy:
    """Make a strategy that asks every site and evaluates nothing by messages of its own.

    Args:
        name: ``fedavg`` (McMahan et al., arXiv 1602.05629), ``fedprox`` (1812.06127), ``fedadam``
            (2003.00295), ``fedmedian`` or ``fedtrimmedavg`` (1803.01498).
        proximal_mu: Weight of FedProx's proximal term, at least 0.
        server_learning_rate: η of FedAdam, above 0.
        trim_fraction: β of the trimmed mean in [0, 0.5): ⌊β·n⌋ of n sites are cut off at each end.

    Returns:
        Flower's strategy. Weights are the sites' examples, except for the median and the trimmed mean, which
        have none.
    """
    common: dict[str, Any] = {
        "min_train_nodes": 1,
        "min_available_nodes": 1,
        "weighted_by_key": NUM_EXAMPLES,
        "arrayrecord_key": ARRAYS,
        "configrecord_key": CONFIG,
    }
    match name:
        case "fedavg":
            return FedAvg(**common)
        case "fedprox":
            return FedProx(**common, proximal_mu=proximal_mu)
        case "fedadam":
            return FedAdam(**common, eta=server_learning_rate)
        case "fedmedian":
            return FedMedian(**common)
        case "fedtrimmedavg":
            return FedTrimmedAvg(**common, beta=trim_fraction)


def to_record(tensors: Trainables) -> ArrayRecord:
    """Pack tensors for a message."""
    return ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in tensors.items()})


def aggregate(strategy: Strategy, number: int, updates: Sequence[Update], schema: Schema) -> Trainables:
    """Compute the next global model.

    Floating-point sums depend on their order, so the updates are taken in the order of the sites' names,
    whoever answered first.

    Args:
        strategy: What :func:`make_strategy` made, its ``configure_train`` called for this round.
        number: The round, from 1.
        updates: Admitted updates, at least one; the strategy may empty their records.
        schema: The tensors of the model.

    Returns:
        The tensors in the schema's order, float32 also where a strategy computes in float64.

    Raises:
        FederationError: If there is no update or the result is not finite.
    """
    ordered = sorted(updates, key=lambda update: update.site)
    record, _ = strategy.aggregate_train(number, [update.message for update in ordered])
    if record is None:
        message = "A round must have at least one update to aggregate. It has none; lower no quorum to 0."
        raise FederationError(message)
    with np.errstate(over="ignore"):
        tensors = {spec.name: record[spec.name].numpy().astype(np.float32) for spec in schema.tensors}
    try:
        check_trainables(schema, tensors)
    except SchemaError as error:
        message = (
            "The aggregated model must be finite. It is not, although every update was; lower the server's "
            "learning rate."
        )
        raise FederationError(message) from error
    return tensors


def mean_metrics(updates: Sequence[Update]) -> dict[str, float]:
    """Average each metric over the sites that sent it, weighted by their examples.

    Returns:
        One number a metric that at least one site sent, by name.
    """
    means: dict[str, float] = {}
    for name in sorted({name for update in updates for name in update.metrics}):
        sent = [update for update in updates if name in update.metrics]
        weight = sum(update.examples for update in sent)
        means[name] = sum(u.metrics[name] * u.examples for u in sorted(sent, key=lambda u: u.site)) / weight
    return means


def optimiser_state(strategy: Strategy) -> dict[str, NDArray[Any]]:
    """Copy out what a strategy carries from round to round: FedAdam's moments, nothing for the others."""
    state: dict[str, NDArray[Any]] = {}
    for moment in _MOMENTS:
        for name, value in (getattr(strategy, moment, None) or {}).items():
            state[f"{moment}/{name}"] = np.array(value)
    return state


def restore_optimiser(strategy: Strategy, state: dict[str, NDArray[Any]]) -> None:
    """Put back what :func:`optimiser_state` copied out."""
    for moment in _MOMENTS:
        prefix = f"{moment}/"
        values = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
        if values:
            setattr(strategy, moment, values)
