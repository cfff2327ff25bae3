"""Between what travels and what is trained: the models and leftovers that differences need, at a site.

A site keeps the model that it was last sent, from which the next difference starts, and what its own last
difference lost, which goes out with the next. Both are part of its private state, so that a round that is
asked again is answered from the same.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from client.service.fit import FitReply, FitRequest, PrivateState, RoundAnswer, RoundQuestion
from mediclip.errors import BaseModelError, SchemaError
from mediclip.exchange.codecs import agreed_codec
from mediclip.exchange.parcel import (
    Parcel,
    applied,
    difference,
    model_digest,
    pack_difference,
    pack_values,
    unpack,
)
from mediclip.model.trainables import Schema, Trainables, initial_trainables

_HELD: Final = "exchange/held/"
_LEFT: Final = "exchange/left/"


def undecoded(question: RoundQuestion) -> FitRequest:
    """Give a round's work without its tensors."""
    return FitRequest(
        number=question.number,
        tensors={},
        seed=question.seed,
        recipe=question.recipe,
        local_steps=question.local_steps,
        proximal_mu=question.proximal_mu,
        schema_digest=question.parcel.schema.digest(),
    )


def received(question: RoundQuestion, kept: PrivateState, own_digest: Callable[[], str]) -> Trainables:
    """Read the global model.

    A site's own schema is looked up only for differences: what they unfold to is not bounded by their bytes.

    Args:
        question: The round's work.
        kept: What the site kept after the round before.
        own_digest: Gives the digest of the tensors that the site would send.

    Returns:
        The model, the same on every site.

    Raises:
        BaseModelError: If it comes as a difference from a model that the site does not hold.
        SchemaError: If the parcel is damaged or of other tensors.
    """
    parcel = question.parcel
    if not parcel.base:
        # A copy, because what is read in place cannot be written and torch objects to that.
        return {name: value.copy() for name, value in unpack(parcel, parcel.schema).items()}
    if parcel.schema.digest() != own_digest():
        message = (
            "A difference must have the site's own tensors. It has others; use the same recipe, taps and "
            "backbone on both sides."
        )
        raise SchemaError(message)
    change = unpack(parcel, parcel.schema)
    return applied(_base(parcel, question.seed, kept), change)


def _base(parcel: Parcel, seed: int, kept: PrivateState) -> Trainables:
    held = _stored(kept, _HELD, parcel.schema)
    if held is not None and model_digest(held) == parcel.base:
        return held
    start = initial_trainables(parcel.schema, seed)
    if model_digest(start) == parcel.base:
        return start
    message = (
        "A difference must start from the model that the site was sent last, or from the run's first. It "
        "starts from another; send the whole model."
    )
    raise BaseModelError(message)


def encoded(
    question: RoundQuestion,
    request: FitRequest,
    reply: FitReply,
    kept: PrivateState,
    *,
    max_norm: float | None = None,
) -> tuple[RoundAnswer, PrivateState]:
    """Write a site's answer.

    Args:
        question: The round's work as it came.
        request: The same, decoded.
        reply: What the site made of it.
        kept: What the site kept after the round before.
        max_norm: Largest Euclidean norm of a difference that leaves; what lies beyond stays for the next.

    Returns:
        What leaves, and what the site keeps of it for itself: nothing where whole values travel both ways.
    """
    codec, schema = agreed_codec(question.answer_codec), question.parcel.schema
    held = {f"{_HELD}{name}": value for name, value in request.tensors.items()}
    if codec.is_exact:
        answer = RoundAnswer(pack_values(schema, reply.tensors), reply.examples, reply.metrics)
        return answer, held if question.differences_follow else {}
    wanted = difference(reply.tensors, request.tensors)
    left = _stored(kept, _LEFT, schema)
    if left is not None:
        wanted = applied(wanted, left)
    sent = pack_difference(codec, schema, model_digest(request.tensors), wanted, max_norm=max_norm)
    rest = {f"{_LEFT}{name}": value for name, value in sent.left.items()}
    return RoundAnswer(sent.parcel, reply.examples, reply.metrics), {**held, **rest}


def as_seen(answer: RoundAnswer, request: FitRequest) -> FitReply:
    """Read an answer as the coordinator will."""
    values = unpack(answer.parcel, answer.parcel.schema)
    tensors = applied(request.tensors, values) if answer.parcel.base else values
    return FitReply(tensors, answer.examples, answer.metrics)


def without_exchange(kept: PrivateState) -> PrivateState:
    """Give the part of a site's private state that is its trainer's."""
    return {name: value for name, value in kept.items() if not name.startswith((_HELD, _LEFT))}


def _stored(kept: PrivateState, prefix: str, schema: Schema) -> Trainables | None:
    names = [spec.name for spec in schema.tensors]
    if any(prefix + name not in kept for name in names):
        return None
    return {name: kept[prefix + name].astype(np.float32) for name in names}
