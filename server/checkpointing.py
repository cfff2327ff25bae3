"""A finished round as one safetensors file: trainables, optimiser state and what they belong to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mediclip.errors import CheckpointError, SchemaError
from mediclip.model.trainables import Schema, Trainables, check_trainables
from mediclip.provenance import source_digest
from mediclip.training.checkpoint import load_tensors, save_tensors, versions

FORMAT = "round/1"
_TRAINABLE = "trainable/"
_OPTIMISER = "optimiser/"
_VIEW = "view/"
_CLUSTER = "cluster/"


@dataclass(frozen=True)
class RunIdentity:
    """What a round belongs to. A run goes on only from a round whose identity is its own.

    Attributes:
        schema: Digest of the tensors that travel.
        recipe: Digest of the recipe.
        seed: The run's seed.
        strategy: Name of the strategy.
        local_steps: Optimiser steps of a site in a round.
        codec: How tensors travel; ``float32`` in files of versions that knew no other.
    """

    schema: str
    recipe: str
    seed: int
    strategy: str
    local_steps: int
    codec: str = "float32"


@dataclass(frozen=True)
class RoundState:
    """What the next round starts from.

    Attributes:
        number: The finished round; 0 before the first.
        tensors: The global model.
        optimiser: State of the server's optimiser, empty for strategies that have none.
        view: The model that the sites trained from in the round, where it is not the global one of the time.
        holders: Sites that hold it.
        models: Models of clusters, by their number.
        clusters: Who is in which, as :meth:`server.clusters.Clusters.facts` writes it.
    """

    number: int
    tensors: Trainables
    optimiser: dict[str, NDArray[Any]] = field(default_factory=dict)
    view: Trainables | None = None
    holders: tuple[str, ...] = ()
    models: Mapping[int, Trainables] = field(default_factory=dict)
    clusters: Mapping[str, Any] = field(default_factory=dict)


def save_round(path: Path, state: RoundState, identity: RunIdentity) -> None:
    """Write a finished round so that a crash at any moment leaves the old file or the new one.

    Args:
        path: File to replace.
        state: What to keep.
        identity: What it belongs to.
    """
    tensors: dict[str, NDArray[Any]] = {_TRAINABLE + name: value for name, value in state.tensors.items()}
    tensors |= {_OPTIMISER + name: value for name, value in state.optimiser.items()}
    tensors |= {_VIEW + name: value for name, value in (state.view or {}).items()}
    for number, model in state.models.items():
        tensors |= {f"{_CLUSTER}{number}/{name}": value for name, value in model.items()}
    facts = {
        "format": FORMAT,
        "holders": list(state.holders),
        "clusters": dict(state.clusters),
        "round": state.number,
        "identity": asdict(identity),
        "source": source_digest(),
        "versions": versions(),
    }
    save_tensors(path, tensors, facts)


def load_round(path: Path, schema: Schema, identity: RunIdentity) -> RoundState:
    """Read a round that this very run may go on from.

    Args:
        path: What :func:`save_round` wrote.
        schema: The tensors that must be there.
        identity: What the round must belong to.

    Returns:
        The finished round.

    Raises:
        CheckpointError: If the file is damaged or of another schema, recipe, seed, strategy, step count
            or codec.
    """
    tensors, facts = load_tensors(path)
    found = {"codec": "float32", **facts.get("identity", {})}
    for name, expected in asdict(identity).items():
        if found.get(name) != expected:
            message = (
                f"A run can only go on from a round of the same {name.replace('_', ' ')}, "
                f"{str(expected)[:16]}. The round in {path.name!r} has {str(found.get(name))[:16]}; "
                "use its settings or another folder."
            )
            raise CheckpointError(message)
    parts = {prefix: _part(tensors, prefix) for prefix in (_TRAINABLE, _OPTIMISER, _VIEW)}
    values, view = parts[_TRAINABLE], parts[_VIEW] or None
    models = _numbered(_part(tensors, _CLUSTER))
    try:
        for model in (values, view, *models.values()):
            if model is not None:
                check_trainables(schema, model)
    except SchemaError as error:
        message = f"A round file must hold the schema's tensors. {path.name!r} does not; use another folder."
        raise CheckpointError(message) from error
    names = [spec.name for spec in schema.tensors]
    return RoundState(
        int(facts["round"]),
        {name: values[name] for name in names},
        parts[_OPTIMISER],
        None if view is None else {name: view[name] for name in names},
        tuple(facts.get("holders", ())),
        {number: {name: model[name] for name in names} for number, model in models.items()},
        facts.get("clusters", {}),
    )


def _numbered(tensors: Mapping[str, NDArray[Any]]) -> dict[int, dict[str, NDArray[Any]]]:
    """Take tensors by ``NUMBER/NAME`` apart."""
    found: dict[int, dict[str, NDArray[Any]]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition("/")
        found.setdefault(int(number), {})[name] = value
    return found


def _part(tensors: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}
