"""The models of clusters beside the model of all sites: which one a site is sent, and how each goes on."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from flwr.serverapp import Grid
from numpy.typing import NDArray

from mediclip.config import Recipe
from mediclip.exchange.parcel import model_digest, pack_values
from mediclip.model.trainables import Schema, Trainables
from server.admission import Update
from server.aggregation import Aggregator, Round
from server.checkpointing import RoundState
from server.clusters import FEWEST, Clusters
from server.conclusion import Delivery
from server.descriptors import Descriptors
from server.downlink import Outgoing
from server.roster import Roster
from server.settings import RunSettings

_log = logging.getLogger("mediclip.server")
CLUSTERED: Final = "clustered"


class PartedRound:
    """A round's updates, each counted in the mean of all and in that of its cluster.

    Args:
        whole: The round of all sites.
        parts: The rounds of the clusters that have a model, by number.
        number_of: Gives the cluster of a site.
    """

    def __init__(
        self, whole: Round, parts: Mapping[int, Round], number_of: Callable[[str], int | None]
    ) -> None:
        self._whole, self._parts, self._number_of = whole, parts, number_of
        self.counts: dict[int, int] = dict.fromkeys(parts, 0)

    def add(self, update: Update) -> None:
        """Take in one update, whatever model it starts from: what counts is what the site changed."""
        self._whole.add(update)
        number = self._number_of(update.receipt.site)
        if number is not None:
            self._parts[number].add(update)
            self.counts[number] += 1

    def result(self) -> NDArray[Any]:
        """Return the change of the model of all sites, flat."""
        return self._whole.result()

    def part(self, number: int) -> Round:
        """Give the round of a cluster."""
        return self._parts[number]


@dataclass
class Parts:
    """The clusters of a run and their models; without any, all sites have the one model.

    Attributes:
        settings: Of the run: strategy, floor, and after which round clusters part.
        schema: The tensors of a model.
        clusters: Who is in which.
        descriptors: Asks the sites for theirs.
        models: Model of each cluster that has one, by its number.
    """

    settings: RunSettings
    schema: Schema
    clusters: Clusters
    descriptors: Descriptors
    models: dict[int, Trainables] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: RunSettings, schema: Schema, recipe: Recipe, state: RoundState) -> "Parts":
        """Go on with the clusters of a round."""
        clusters = Clusters.restore(settings.cluster_distance, state.clusters)
        return cls(settings, schema, clusters, Descriptors(recipe.model_dump_json()), dict(state.models))

    @property
    def floor(self) -> int:
        """Fewest sites of a cluster that has a model."""
        return max(FEWEST, self.settings.min_sites)

    def find_alike(self, grid: Grid, roster: Roster) -> None:
        """Give the sites of the roster that have no cluster yet one, where the strategy has clusters."""
        if self.settings.strategy == CLUSTERED:
            timeout_s = self.settings.join_timeout_s
            self.clusters.take_in(self.descriptors.ask(grid, roster, self.clusters, timeout_s))

    def part(self, number: int, current: Trainables) -> None:
        """Give every cluster that is large enough a model, if its time has come.

        Args:
            number: The round that begins.
            current: The model of all sites, from which a cluster's model starts.
        """
        if self.settings.strategy != CLUSTERED or number <= self.settings.cluster_after:
            return
        for cluster, sites in self.clusters.sites().items():
            if cluster not in self.models and len(sites) >= self.floor:
                self.models[cluster] = current
                _log.info(
                    "Round %d: cluster %d has a model of its own: %s", number, cluster, ", ".join(sites)
                )

    def number_of(self, site: str) -> int | None:
        """Give the cluster whose model a site trains; None for the model of all sites."""
        number = self.clusters.members.get(site)
        return number if number in self.models else None

    def outgoing_of(self, common: Outgoing) -> Callable[[str], Outgoing]:
        """Say what each site is sent in a round.

        Args:
            common: The model of all sites.

        Returns:
            A function of the site's name.
        """
        own: dict[int | None, Outgoing] = {None: common}
        for number, model in self.models.items():
            own[number] = Outgoing(model, pack_values(self.schema, model), None, model_digest(model))
        return lambda site: own[self.number_of(site)]

    @contextmanager
    def round(self, aggregator: Aggregator) -> Iterator[PartedRound]:
        """Open a round of all sites and of every cluster."""
        with ExitStack() as stack:
            whole = stack.enter_context(aggregator.round())
            parts = {number: stack.enter_context(aggregator.round()) for number in self.models}
            yield PartedRound(whole, parts, self.number_of)

    def step(self, number: int, aggregator: Aggregator, updates: PartedRound) -> None:
        """Compute the clusters' next models; one with fewer updates than the floor stays as it is.

        Args:
            number: The round, from 1.
            aggregator: How updates become a model.
            updates: The round's.
        """
        for cluster, count in updates.counts.items():
            if count >= self.floor:
                self.models[cluster] = aggregator.step(number, self.models[cluster], updates.part(cluster))
            else:
                _log.warning("Round %d: cluster %d had %d updates and stays as it is", number, cluster, count)

    def delivery_of(self, current: Trainables) -> Callable[[str], Delivery]:
        """Say which model each site is sent at the end: its cluster's alone, where that has one.

        Args:
            current: The model of all sites.
        """
        whole = Delivery(current)
        own = {number: Delivery(model, "cluster") for number, model in self.models.items()}

        def delivery(site: str) -> Delivery:
            number = self.number_of(site)
            return whole if number is None else own[number]

        return delivery

    @property
    def kept(self) -> tuple[Mapping[int, Trainables], Mapping[str, Any]]:
        """Models and clusters, as a checkpoint keeps them."""
        return dict(self.models), self.clusters.facts() if self.clusters.members else {}

    def entry(self) -> dict[str, Any]:
        """Write the clusters as a part of a line of history; nothing where there are none."""
        rows = [
            {"cluster": number, "sites": list(sites), "has_model": number in self.models}
            for number, sites in self.clusters.sites().items()
        ]
        return ({"clusters": rows} if rows else {}) | self.descriptors.entry()
