"""The ServerApp: the round loop, readable from top to bottom."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from mediclip.config import Recipe
from mediclip.errors import CheckpointError, MediClipError, QuorumError, SettingsError, UpdateRefusedError
from mediclip.model.trainables import Schema, Trainables, initial_trainables
from mediclip.provenance import source_digest
from mediclip.training.checkpoint import write_atomically
from server.admission import Limits, Update, admit, reachable_norm
from server.aggregation import (
    aggregate,
    make_strategy,
    mean_metrics,
    optimiser_state,
    restore_optimiser,
    to_record,
)
from server.checkpointing import RoundState, RunIdentity, load_round, save_round
from server.history import History
from server.roster import NO_ANSWER, Roster
from server.run_process import alone, end_with
from server.settings import RunSettings

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.jsonl"
FINAL = "final.safetensors"
OUTCOME = "outcome.json"
STOP = "stop"
"""Name of the file whose presence in the run's folder ends the run after the round in work."""

app = ServerApp()
_log = logging.getLogger("mediclip.server")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run-config describes; Flower calls this in every engine."""
    settings = RunSettings.from_run_config(context.run_config)
    refuse_earlier_run(settings.out, resume=settings.resume)
    settings.out.mkdir(parents=True, exist_ok=True)
    end_with(settings.coordinator_pid)
    with alone(settings.out), _recorded_outcome(settings.out):
        federate(grid, settings)


def refuse_earlier_run(out: Path, *, resume: bool) -> None:
    """Keep an earlier run's results: a folder that holds one is only used to resume it.

    Raises:
        CheckpointError: If ``out`` holds a round and ``resume`` is not set.
    """
    if not resume and (out / CHECKPOINT).exists():
        message = (
            f"The folder of a new run must hold no earlier run. {out.name} holds {CHECKPOINT}; "
            "resume that run or choose another folder."
        )
        raise CheckpointError(message)


def federate(grid: Grid, settings: RunSettings) -> Trainables:
    """Train for the rounds that are still to do.

    Args:
        grid: Flower's connection to the sites.
        settings: What to do.

    Returns:
        The final tensors, which also lie in ``out``; the last round's if the run was told to stop.

    Raises:
        CheckpointError: If ``out`` holds a round of another run.
        QuorumError: If a round has too few updates after all retries.
        SettingsError: If the schema or recipe file cannot be read.
    """
    schema, recipe = _read_plan(settings)
    identity = RunIdentity(
        schema.digest(), recipe.digest(), settings.seed, settings.strategy, settings.local_steps
    )
    checkpoint, history = settings.out / CHECKPOINT, History(settings.out / HISTORY)
    state = _first_or_last_round(checkpoint, schema, identity)
    history.truncate(state.number)
    strategy = make_strategy(
        settings.strategy,
        proximal_mu=settings.proximal_mu,
        server_learning_rate=settings.server_learning_rate,
        trim_fraction=settings.trim_fraction,
    )
    restore_optimiser(strategy, state.optimiser)
    question = ConfigRecord({"recipe": recipe.model_dump_json(), "schema-digest": schema.digest()})
    round_loop = _Round(grid, settings, schema, recipe, strategy, Roster(question, source_digest()))
    round_loop.roster.gather(grid, settings.sites, settings.join_timeout_s)

    for number in range(state.number + 1, settings.rounds + 1):
        if (settings.out / STOP).exists():
            _log.info("Stopped after round %d of %d", state.number, settings.rounds)
            return state.tensors
        started = time.monotonic()
        collected = round_loop.collect(number, state.tensors)
        entry = collected.entry(number)
        if len(collected.updates) < settings.needed:
            history.append({**entry, "failed": QuorumError.code})
            raise QuorumError(_no_quorum(settings, number, collected))
        tensors = aggregate(strategy, number, list(collected.updates.values()), schema)
        state = RoundState(number, tensors, optimiser_state(strategy))
        history.append({**entry, "seconds": round(time.monotonic() - started, 3)})
        save_round(checkpoint, state, identity)
        _log.info("Round %d of %d: %s", number, settings.rounds, entry["metrics"])

    save_round(settings.out / FINAL, RoundState(state.number, state.tensors), identity)
    return state.tensors


@dataclass
class _Collected:
    """What came of one round's questions."""

    updates: dict[str, Update] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    bytes_down: int = 0
    bytes_up: int = 0

    def entry(self, number: int) -> dict[str, Any]:
        """Write the round as a line of history; names, numbers and fixed words alone."""
        updates = sorted(self.updates.values(), key=lambda update: update.site)
        return {
            "round": number,
            "attempts": self.attempts,
            "metrics": mean_metrics(updates),
            "sites": [
                {"site": u.site, "examples": u.examples, "norm": round(u.norm, 6), "metrics": u.metrics}
                | ({"claimed_examples": u.claimed} if u.claimed != u.examples else {})
                for u in updates
            ],
            "refused": [{"site": site, "reason": self.refused[site]} for site in sorted(self.refused)],
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
        }


@dataclass(frozen=True)
class _Round:
    """Asks the sites and admits what they answer."""

    grid: Grid
    settings: RunSettings
    schema: Schema
    recipe: Recipe
    strategy: Strategy
    roster: Roster

    def collect(self, number: int, current: Trainables) -> _Collected:
        """Ask every site, and those without an admitted update again while the quorum is missing."""
        collected = _Collected()
        for attempt in range(1, self.settings.retries + 2):
            collected.attempts = attempt
            if attempt > 1:
                self.roster.forget_refusals()
                self.roster.gather(self.grid, self.settings.needed, self.settings.join_timeout_s)
            else:
                self.roster.call(self.grid, self.settings.join_timeout_s)
            self._ask(number, current, collected)
            if len(collected.updates) >= self.settings.needed:
                break
        return collected

    def _ask(self, number: int, current: Trainables, collected: _Collected) -> None:
        sites = self.roster.sites
        collected.refused = {s: r for s, r in self.roster.refused.items() if s not in collected.updates}
        requests = [
            request
            for request in self._requests(number, current)
            if sites[request.metadata.dst_node_id] not in collected.updates
        ]
        if not requests:
            return
        collected.bytes_down += sum(_payload(request) for request in requests)
        waiting = {sites[request.metadata.dst_node_id] for request in requests}
        replies = self.grid.send_and_receive(requests, timeout=self.settings.round_timeout_s)
        for reply in sorted(replies, key=lambda reply: sites.get(reply.metadata.src_node_id, "")):
            site = sites.get(reply.metadata.src_node_id)
            if site not in waiting:
                continue  # an unknown node, or a second answer of the same site
            waiting.remove(site)
            collected.bytes_up += _payload(reply)
            try:
                collected.updates[site] = admit(reply, site, current, self.schema, self.limits)
            except UpdateRefusedError as refusal:
                collected.refused[site] = refusal.reason
                _log.warning("Round %d: %s", number, refusal)
        collected.refused |= dict.fromkeys(waiting, NO_ANSWER)

    def _requests(self, number: int, current: Trainables) -> Sequence[Message]:
        if not self.roster.sites:
            return []  # Flower would wait for nodes without end
        config = ConfigRecord(
            {
                "seed": self.settings.seed,
                "recipe": self.recipe.model_dump_json(),
                "local-steps": self.settings.local_steps,
                "schema-digest": self.schema.digest(),
            }
        )
        requests = self.strategy.configure_train(number, to_record(current), config, self.grid)
        known = [request for request in requests if request.metadata.dst_node_id in self.roster.sites]
        for request in known:
            request.metadata.ttl = self.settings.round_timeout_s
        return sorted(known, key=lambda request: self.roster.sites[request.metadata.dst_node_id])

    @property
    def limits(self) -> Limits:
        """Bounds on one update."""
        settings = self.settings
        derived = reachable_norm(self.recipe.learning_rate, settings.local_steps, self.schema.size())
        return Limits(settings.max_update_norm or derived, settings.max_examples)


def _read_plan(settings: RunSettings) -> tuple[Schema, Recipe]:
    try:
        schema_text = settings.schema_file.read_text(encoding="utf-8")
        recipe_values = json.loads(settings.recipe_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = (
            f"The run must have the files {settings.schema_file.name} and {settings.recipe_file.name}. "
            "One cannot be read; write them again."
        )
        raise SettingsError(message) from error
    return Schema.from_json(schema_text), Recipe.parse(recipe_values, source=settings.recipe_file.name)


def _first_or_last_round(path: Path, schema: Schema, identity: RunIdentity) -> RoundState:
    if path.exists():
        return load_round(path, schema, identity)
    state = RoundState(0, initial_trainables(schema, identity.seed))
    save_round(path, state, identity)
    return state


def _no_quorum(settings: RunSettings, number: int, collected: _Collected) -> str:
    reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(collected.refused.items()))
    return (
        f"A round must have updates of at least {settings.needed} sites. Round {number} had "
        f"{len(collected.updates)} after {collected.attempts} attempts ({reasons or 'no other site came'}); "
        "correct that at the sites and resume the run."
    )


def _payload(message: Message) -> int:
    if message.has_error():
        return 0
    content = message.content
    arrays = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    metrics = sum(record.count_bytes() for record in content.metric_records.values())
    return arrays + metrics + sum(record.count_bytes() for record in content.config_records.values())


@contextmanager
def _recorded_outcome(out: Path) -> Iterator[None]:
    """Leave how the run ended in a file: ``flwr run`` returns 0 whatever happens."""
    outcome = out / OUTCOME
    outcome.unlink(missing_ok=True)
    result: dict[str, str] = {"status": "finished"}
    try:
        yield
    except MediClipError as error:
        result = {"status": "failed", "code": error.code, "message": str(error)}
        raise
    except BaseException as error:
        result = {
            "status": "failed",
            "code": "failed",
            "message": f"The server stopped: {type(error).__name__}.",
        }
        raise
    finally:
        write_atomically(outcome, json.dumps(result).encode())
