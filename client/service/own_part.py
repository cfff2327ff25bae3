"""The part of a model that a site keeps for itself: put in before a round, taken out after it.

It is the tensors of the groups that the recipe calls private. They are never packed: what travels is what
:func:`shared_part` gives.
"""

from typing import Final

import numpy as np

from client.service.fit import FitRequest, PrivateState
from mediclip.errors import CheckpointError, SchemaError
from mediclip.model.network import MediClip
from mediclip.model.trainables import Schema, Trainables, check_trainables, initial_trainables

_OWN: Final = "trained/"


def shared_part(network: MediClip) -> Trainables:
    """Copy out the tensors that travel, in the schema's order."""
    values = network.trainables()
    return {spec.name: values[spec.name] for spec in network.shared.tensors}


def own_part(network: MediClip) -> PrivateState:
    """Copy out the tensors that stay, as private state."""
    values = network.trainables()
    return {f"{_OWN}{spec.name}": values[spec.name] for spec in _own_schema(network).tensors}


def with_own_part(network: MediClip, request: FitRequest, private: PrivateState) -> Trainables:
    """Put a site's own part beside the tensors that it was sent.

    Args:
        network: Says which tensors there are.
        request: The round's work.
        private: What was kept after an earlier round of the run; without an own part in it, that of the
            run's seed is taken.

    Returns:
        All trained tensors.

    Raises:
        CheckpointError: If what was kept does not fit the network.
    """
    schema = _own_schema(network)
    own: Trainables = {
        name.removeprefix(_OWN): np.asarray(value) for name, value in private.items() if name.startswith(_OWN)
    }
    if not own:
        start = initial_trainables(network.schema, request.seed)
        own = {spec.name: start[spec.name] for spec in schema.tensors}
    try:
        check_trainables(schema, own)
    except SchemaError as error:
        message = (
            "What a site kept for itself must fit its model. It does not; remove the run's folder of rounds "
            "to begin anew."
        )
        raise CheckpointError(message) from error
    return {**request.tensors, **own}


def _own_schema(network: MediClip) -> Schema:
    shared = set(network.shared.tensors)
    return Schema(tuple(spec for spec in network.schema.tensors if spec not in shared))
