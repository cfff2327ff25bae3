"""The ServerApp: the round loop, readable from top to bottom."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from mediclip.config import Recipe
from mediclip.errors import CheckpointError, MediClipError, QuorumError, SettingsError
from mediclip.exchange.codecs import named_codec
from mediclip.model.trainables import Schema, Trainables, initial_trainables
from mediclip.provenance import source_digest
from mediclip.training.checkpoint import write_atomically
from server.admission import limits_for
from server.aggregation import Aggregator, derived_server_rate
from server.checkpointing import RoundState, RunIdentity, load_round, save_round
from server.collection import Collected, Collector
from server.conclusion import conclude, is_wanted
from server.downlink import Downlink
from server.history import History
from server.parts import Parts
from server.roster import Roster
from server.run_process import alone, end_with
from server.settings import RunSettings
from server.waits import look_sooner

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
    look_sooner()
    with alone(settings.out, context.run_id), _recorded_outcome(settings.out):
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
        schema.digest(),
        recipe.digest(),
        settings.seed,
        settings.strategy,
        settings.local_steps,
        settings.codec,
    )
    checkpoint, history = settings.out / CHECKPOINT, History(settings.out / HISTORY)
    state = _first_or_last_round(checkpoint, schema, identity)
    history.truncate(state.number)
    limits = limits_for(settings, recipe, schema)
    rate = settings.server_learning_rate or derived_server_rate(recipe.learning_rate, settings.local_steps)
    aggregator = Aggregator(
        settings, schema, limits, settings.sites, settings.out, rate, moments=dict(state.optimiser)
    )
    downlink = Downlink(named_codec(settings.codec), schema, state.view or state.tensors)
    downlink.holders = frozenset(state.holders) if state.number else None
    question = ConfigRecord(
        {
            "recipe": recipe.model_dump_json(),
            "schema-digest": schema.digest(),
            "codec": downlink.codec.name,
        }
    )
    roster = Roster(question, source_digest())
    roster.gather(grid, settings.sites, settings.join_timeout_s)
    collector = Collector(grid, settings, schema, recipe, limits, roster, downlink)
    parts = Parts.of(settings, schema, recipe, state)

    for number in range(state.number + 1, settings.rounds + 1):
        if (settings.out / STOP).exists():
            _log.info("Stopped after round %d of %d", state.number, settings.rounds)
            return state.tensors
        started = time.monotonic()
        parts.find_alike(grid, roster)
        parts.part(number, state.tensors)
        outgoing = parts.outgoing_of(downlink.prepare(state.tensors))
        with parts.round(aggregator) as updates:
            collected = collector.collect(number, outgoing, updates)
            entry = collected.entry(number) | parts.entry()
            if len(collected.receipts) < settings.needed:
                history.append({**entry, "failed": QuorumError.code})
                raise QuorumError(_no_quorum(settings, number, collected))
            tensors = aggregator.step(number, state.tensors, updates)
            parts.step(number, aggregator, updates)
        downlink.settle(collected.receipts)
        kept = (dict(aggregator.moments), downlink.kept, downlink.answered, *parts.kept)
        state = RoundState(number, tensors, *kept)
        history.append({**entry, "seconds": round(time.monotonic() - started, 3)})
        save_round(checkpoint, state, identity)
        _log.info("Round %d of %d: %s", number, settings.rounds, entry["metrics"])

    save_round(settings.out / FINAL, RoundState(state.number, state.tensors), identity)
    if is_wanted(settings, recipe):
        parts.find_alike(grid, roster)
        conclude(grid, settings, schema, recipe, roster, parts.delivery_of(state.tensors))
    return state.tensors


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


def _no_quorum(settings: RunSettings, number: int, collected: Collected) -> str:
    reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(collected.refused.items()))
    return (
        f"A round must have updates of at least {settings.needed} sites. Round {number} had "
        f"{len(collected.receipts)} after {collected.attempts} attempts ({reasons or 'no other site came'}); "
        "correct that at the sites and resume the run."
    )


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
