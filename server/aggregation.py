"""From admitted updates to the next global model: one at a time, and the same bits whoever answers first.

Flower's strategies want all replies in a list. These compute the same numbers, which a test holds, from what
each site changed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mediclip.errors import FederationError, SchemaError
from mediclip.model.trainables import Schema, Trainables, check_trainables
from server.admission import Limits, Receipt, Update
from server.difference import split
from server.mean import ExactMean
from server.robust import median, multikrum, trimmed_mean
from server.settings import RoundSettings
from server.spool import Spool

_MEANS: Final = frozenset({"fedavg", "fedprox", "fedadam", "personal", "clustered"})
_BETA_1, _BETA_2, _TAU = 0.9, 0.99, 1e-3
_HEADROOM: Final = 16


class Round(Protocol):
    """The updates of one round so far."""

    def add(self, update: Update) -> None:
        """Take in one update, which need not be kept afterwards."""
        ...

    def result(self) -> NDArray[np.float64]:
        """Return the change of the global model, flat; call it after at least one update."""
        ...


class _MeanRound:
    def __init__(self, size: int, limits: Limits, sites: int) -> None:
        weight = limits.max_examples * sites * _HEADROOM
        self._mean = ExactMean(size, max_norm=limits.max_norm, max_weight=weight)

    def add(self, update: Update) -> None:
        self._mean.add(update.difference, update.receipt.examples)

    def result(self) -> NDArray[np.float64]:
        return self._mean.result()


class _SpooledRound:
    def __init__(self, spool: Spool, size: int, settings: RoundSettings) -> None:
        self._spool, self._size, self._settings = spool, size, settings
        self._examples: dict[str, int] = {}

    def add(self, update: Update) -> None:
        self._examples[update.receipt.site] = update.receipt.examples
        self._spool.add(update.receipt.site, update.difference)

    def result(self) -> NDArray[np.float64]:
        share = self._settings.trim_fraction
        match self._settings.strategy:
            case "fedmedian":
                return median(self._spool, self._size)
            case "fedtrimmedavg":
                return trimmed_mean(self._spool, self._size, share)
            case _:
                return multikrum(self._spool, self._size, share, self._examples)[0]


@dataclass
class Aggregator:
    """How updates become the next global model.

    Attributes:
        settings: Names the strategy: ``fedavg`` and ``personal`` (McMahan et al., arXiv 1602.05629; of a part
            of the tensors 1912.00818), ``fedprox`` (1812.06127,
            whose pull acts at the sites), ``fedadam`` (2003.00295), ``fedmedian`` and ``fedtrimmedavg``
            (1803.01498) or ``multikrum`` (1703.02757).
        schema: The tensors of the model.
        limits: Bounds that every update keeps.
        sites: How many sites are expected.
        folder: Where the robust strategies may put a round's updates.
        server_learning_rate: η of FedAdam, above 0.
        moments: FedAdam's, by ``m_t/NAME`` and ``v_t/NAME``.
    """

    settings: RoundSettings
    schema: Schema
    limits: Limits
    sites: int
    folder: Path
    server_learning_rate: float
    moments: dict[str, NDArray[Any]] = field(default_factory=dict)

    @contextmanager
    def round(self) -> Iterator[Round]:
        """Open a round; what it needs beside its memory is gone when the block ends."""
        size = self.schema.size()
        if self.settings.strategy in _MEANS:
            yield _MeanRound(size, self.limits, self.sites)
            return
        with Spool(self.folder, size) as spool:
            yield _SpooledRound(spool, size, self.settings)

    def step(self, number: int, current: Trainables, round_: Round) -> Trainables:
        """Compute the next global model.

        Args:
            number: The round, from 1.
            current: The global model.
            round_: The round's updates, at least one.

        Returns:
            The tensors in the schema's order, float32 also where a strategy computes in float64.

        Raises:
            FederationError: If the result is not finite.
        """
        changes = split(self.schema, round_.result())
        if self.settings.strategy == "fedadam":
            changes = {name: self._adapted(number, name, change) for name, change in changes.items()}
        with np.errstate(over="ignore", invalid="ignore"):
            tensors = {n: (current[n].astype(np.float64) + c).astype(np.float32) for n, c in changes.items()}
        try:
            check_trainables(self.schema, tensors)
        except SchemaError as error:
            message = (
                "The aggregated model must be finite. It is not, although every update was; lower the "
                "server's learning rate."
            )
            raise FederationError(message) from error
        return tensors

    def _adapted(self, number: int, name: str, change: NDArray[np.float64]) -> NDArray[np.float64]:
        # As Flower's FedAdam has it: round 1 counts as Adam's second step.
        first = _BETA_1 * self.moments.get(f"m_t/{name}", 0.0) + (1 - _BETA_1) * change
        second = _BETA_2 * self.moments.get(f"v_t/{name}", 0.0) + (1 - _BETA_2) * change**2
        self.moments |= {f"m_t/{name}": first, f"v_t/{name}": second}
        debiased = np.sqrt(1 - _BETA_2 ** (number + 1)) / (1 - _BETA_1 ** (number + 1))
        with np.errstate(over="ignore"):
            return np.asarray(self.server_learning_rate * debiased * first / (np.sqrt(second) + _TAU))


def derived_server_rate(learning_rate: float, steps: int) -> float:
    """Choose η of FedAdam from what the sites can do in a round.

    Adam moves a value by about the learning rate at most in a step, and FedAdam by about η in a round once
    its moments have settled: a quarter of the sites' reach is what they move on average.

    Args:
        learning_rate: Of the sites' Adam, above 0.
        steps: Local steps, at least 1.

    Returns:
        η, above 0.
    """
    return learning_rate * steps / 4


def mean_metrics(receipts: Sequence[Receipt]) -> dict[str, float]:
    """Average each metric over the sites that sent it, weighted by their examples.

    Returns:
        One number a metric that at least one site sent, by name.
    """
    means: dict[str, float] = {}
    for name in sorted({name for receipt in receipts for name in receipt.metrics}):
        sent = sorted((r for r in receipts if name in r.metrics), key=lambda r: r.site)
        means[name] = sum(r.metrics[name] * r.examples for r in sent) / sum(r.examples for r in sent)
    return means
