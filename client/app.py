"""The ClientApp: it translates Flower's messages for the site's service and back, and holds no model.

Exceptions leave as a number and a fixed sentence. What they say goes to the site's own log, and of those that
are not this project's own not even there: their texts may quote a path or a patient.
"""

import logging
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client.scrub import noted
from client.service.fit import FitReply, FitRequest
from client.service.registry import find
from mediclip.errors import FederationError
from mediclip.model.trainables import TensorSpec
from mediclip.protocol import (
    ARRAYS,
    CONFIG,
    METRIC_NAMES,
    METRICS,
    NUM_EXAMPLES,
    ROLL_CALL,
    ROLL_CALL_KEYS,
    TRAIN_KEYS,
    decode_tensor,
    error_reply,
)
from mediclip.provenance import source_digest

app = ClientApp()
_log = logging.getLogger("mediclip.client")


@app.query(ROLL_CALL)
def present(message: Message, context: Context) -> Message:
    """Say which site this is, which tensors it would send and which code it runs."""

    def answer() -> RecordDict:
        config = _config(message, ROLL_CALL_KEYS)
        site = find(context.node_config, context.run_config)
        card = {"site": site.name, "schema-digest": "", "source-digest": source_digest(), "error": ""}
        try:
            card["schema-digest"] = site.schema_digest(_text(config, "recipe"))
        except Exception as error:  # noqa: BLE001 - whatever a site raises, its text must not leave
            card["error"] = noted(error, _log)
        return RecordDict({CONFIG: ConfigRecord(dict(card))})

    return _reply(message, answer)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Hand the global model to the site and its update back."""

    def answer() -> RecordDict:
        site = find(context.node_config, context.run_config)
        return _pack(site.fit(_request(message)))

    return _reply(message, answer)


def _reply(message: Message, answer: Callable[[], RecordDict]) -> Message:
    try:
        return Message(answer(), reply_to=message)
    except Exception as error:  # noqa: BLE001 - whatever a site raises, its text must not leave
        code, sentence = error_reply(noted(error, _log))
        return Message(Error(code, sentence), reply_to=message)


def _request(message: Message) -> FitRequest:
    config = _config(message, TRAIN_KEYS)
    arrays = message.content.get(ARRAYS)
    if set(message.content) != {ARRAYS, CONFIG} or not isinstance(arrays, ArrayRecord):
        raise FederationError(_STRANGE)
    return FitRequest(
        number=_whole(config, "server-round", 1),
        tensors={name: _tensor(name, array) for name, array in arrays.items()},
        seed=_whole(config, "seed", 0),
        recipe=_text(config, "recipe"),
        local_steps=_whole(config, "local-steps", 1),
        proximal_mu=_weight(config, "proximal-mu"),
        schema_digest=_text(config, "schema-digest"),
    )


def _tensor(name: str, array: Array) -> NDArray[np.float32]:
    # A copy, because what is read in place cannot be written and torch objects to that.
    return decode_tensor(TensorSpec(name, tuple(array.shape)), array.data).copy()


def _pack(reply: FitReply) -> RecordDict:
    arrays = {name: Array(np.ascontiguousarray(value)) for name, value in reply.tensors.items()}
    numbers = MetricRecord({NUM_EXAMPLES: reply.examples})
    for name in METRIC_NAMES:
        if name in reply.metrics:
            numbers[name] = float(reply.metrics[name])
    return RecordDict({ARRAYS: ArrayRecord(arrays), METRICS: numbers})


_STRANGE = (
    "A request must hold the records and keys that mediclip.protocol lists. It holds others; "
    "run the same version on both sides."
)


def _config(message: Message, keys: frozenset[str]) -> ConfigRecord:
    config = message.content.get(CONFIG)
    if not isinstance(config, ConfigRecord) or not set(config) <= keys:
        raise FederationError(_STRANGE)
    return config


def _text(config: ConfigRecord, key: str) -> str:
    value = config.get(key)
    if not isinstance(value, str):
        raise FederationError(_STRANGE)
    return value


def _whole(config: ConfigRecord, key: str, least: int) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise FederationError(_STRANGE)
    return value


def _weight(config: ConfigRecord, key: str) -> float:
    value = config.get(key, 0.0)
    if not isinstance(value, float) or not 0 <= value < float("inf"):
        raise FederationError(_STRANGE)
    return value
