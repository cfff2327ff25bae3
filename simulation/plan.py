"""One federated run, whatever the engine: its plan, what it tells while it goes on, and what it leaves."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mediclip.config import Recipe
from mediclip.errors import CheckpointError
from mediclip.exchange.codecs import CodecName
from mediclip.model.trainables import Schema, Trainables
from mediclip.training.checkpoint import write_atomically
from server.app import CHECKPOINT, HISTORY, refuse_earlier_run
from server.checkpointing import RunIdentity, load_round
from server.history import Entry, History
from server.settings import RunSettings, StrategyName

SCHEMA_FILE = "schema.json"
RECIPE_FILE = "recipe.json"
SITES_FOLDER = "sites"
"""Name of the folder in a run's for what simulated sites keep, and for their settings."""


@dataclass(frozen=True)
class Event:
    """Something that a person who waits wants to see.

    Attributes:
        kind: ``"joined"``, ``"update"`` or ``"error"``, each from one site, or ``"round"`` when one is over.
        number: The round, 0 before the first.
        site: Name of the site; empty for ``"round"``.
        metrics: Numbers of the update, or the round's means.
    """

    kind: str
    number: int
    site: str
    metrics: dict[str, float]


OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Plan:
    """One federated run, whatever the engine.

    Attributes:
        out: Folder of the run.
        schema: The tensors that travel.
        recipe: What the sites train with.
        rounds: Last round.
        seed: The run's seed.
        local_steps: Optimiser steps of each site in each round.
        strategy: How updates become the next global model.
        quorum: Admitted updates that a round needs; all sites when omitted.
        proximal_mu: Weight of FedProx's pull.
        server_learning_rate: Step of FedAdam; derived when 0.
        trim_fraction: Share of the sites that the robust strategies give up.
        retries: How often a round without quorum is asked again.
        round_timeout_s: Longest wait for the sites' answers in seconds.
        join_timeout_s: Longest wait for sites to appear in seconds.
        max_examples: Most images that one site can count with.
        max_update_norm: Largest norm of an update; derived from the optimiser when 0.
        codec: How differences travel, both ways.
        safeguard: Whether sites compare their models at the end.
        min_sites: Updates that a round needs whatever the quorum is, and sites that a cluster needs.
        cluster_distance: Largest distance of sites in one cluster.
        cluster_after: Rounds before clusters part.
        resume: Go on from the last finished round in ``out``.
    """

    out: Path
    schema: Schema
    recipe: Recipe
    rounds: int
    seed: int
    local_steps: int
    strategy: StrategyName = "fedavg"
    quorum: int | None = None
    proximal_mu: float = 0.0
    server_learning_rate: float = 0.0
    trim_fraction: float = 0.2
    retries: int = 2
    round_timeout_s: float = 3600.0
    join_timeout_s: float = 600.0
    max_examples: int = 64
    max_update_norm: float = 0.0
    codec: CodecName = "float32"
    safeguard: bool = False
    min_sites: int = 1
    cluster_distance: float = 0.08
    cluster_after: int = 0
    resume: bool = False

    def prepare(self, sites: int, sites_dir: Path | None = None) -> RunSettings:
        """Check the plan and write what the server reads into ``out``.

        Args:
            sites: Number of sites.
            sites_dir: Folder of ``site-K.toml`` for simulated nodes.

        Returns:
            The settings for Flower's run-config.

        Raises:
            CheckpointError: If ``out`` holds a run and ``resume`` is not set.
            SettingsError: If a number is out of its range.
        """
        out = self.out.resolve()
        values = {name: getattr(self, name) for name in RunSettings.model_fields if hasattr(self, name)}
        values |= {
            "out": out,
            "schema_file": out / SCHEMA_FILE,
            "recipe_file": out / RECIPE_FILE,
            "sites": sites,
            "quorum": self.quorum or 0,
            "sites_dir": "" if sites_dir is None else str(sites_dir.resolve()),
        }
        settings = RunSettings.parse(values, source="the run's plan")
        refuse_earlier_run(out, resume=self.resume)
        self.finished_round()  # another run's folder stays as it is
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(settings.schema_file, self.schema.to_json().encode())
        write_atomically(settings.recipe_file, self.recipe.model_dump_json().encode())
        return settings

    def finished_round(self) -> int:
        """Look up the last finished round in ``out``, 0 if there is none.

        Raises:
            CheckpointError: If the round there is damaged or of another run.
        """
        checkpoint = self.out / CHECKPOINT
        return load_round(checkpoint, self.schema, self.identity).number if checkpoint.exists() else 0

    @property
    def identity(self) -> RunIdentity:
        """What the plan's rounds belong to."""
        return RunIdentity(
            self.schema.digest(), self.recipe.digest(), self.seed, self.strategy, self.local_steps, self.codec
        )


@dataclass(frozen=True)
class FederatedResult:
    """What a run left.

    Attributes:
        tensors: The final global model.
        history: One entry for each round, as in ``history.jsonl``.
        seconds: Wall time of this call.
    """

    tensors: Trainables
    history: list[Entry]
    seconds: float

    @property
    def bytes_up_per_round(self) -> float:
        """Mean payload from all sites together in one round, in bytes."""
        return _mean(entry["bytes_up"] for entry in self.history)

    @property
    def bytes_down_per_round(self) -> float:
        """Mean payload to all sites together in one round, in bytes."""
        return _mean(entry["bytes_down"] for entry in self.history)


def read_result(plan: Plan, seconds: float) -> FederatedResult:
    """Read what a finished run left in its folder.

    Args:
        plan: The run.
        seconds: How long it took.

    Returns:
        Final tensors and history.

    Raises:
        CheckpointError: If the folder does not hold the plan's last round.
    """
    state = load_round(plan.out / CHECKPOINT, plan.schema, plan.identity)
    if state.number < plan.rounds:
        message = f"The run must have finished round {plan.rounds}. It has {state.number}; resume it."
        raise CheckpointError(message)
    return FederatedResult(state.tensors, History(plan.out / HISTORY).read(), seconds)


class RoundWatch:
    """Tells of every round that history has gained since the last look.

    Args:
        path: The run's ``history.jsonl``.
        on_event: Told of each round, once.
        after: Round after which to begin.
    """

    def __init__(self, path: Path, on_event: OnEvent | None, *, after: int = 0) -> None:
        self._history = History(path)
        self._on_event = on_event
        self._last = after

    def look(self) -> None:
        """Read the history and tell what is new."""
        if self._on_event is None:
            return
        for entry in self._history.read():
            if entry["round"] > self._last and "failed" not in entry:
                self._last = entry["round"]
                self._on_event(Event("round", self._last, "", entry["metrics"]))


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0
