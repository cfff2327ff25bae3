"""The ClientApp: it translates Flower's messages for the site's service and back, and holds no model.

Exceptions leave as a number and a fixed sentence. What they say goes to the site's own log, and of those that
are not this project's own not even there: their texts may quote a path or a patient.
"""

import logging
from collections.abc import Callable

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.scrub import noted
from client.service.fit import FinalQuestion, RoundAnswer, RoundQuestion
from client.service.registry import find
from mediclip.errors import FederationError
from mediclip.exchange.packet import PACKET, PACKET_DTYPE, PACKET_KIND, from_packet, to_packet
from mediclip.exchange.parcel import Parcel
from mediclip.protocol import (
    ARRAYS,
    CONFIG,
    DESCRIPTOR,
    DESCRIPTOR_KEYS,
    FINAL_KEYS,
    FINAL_METRIC_NAMES,
    METRIC_NAMES,
    METRICS,
    NUM_EXAMPLES,
    PRESENT_KEYS,
    ROLL_CALL,
    ROLL_CALL_KEYS,
    TRAIN_KEYS,
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
        card = dict.fromkeys(PRESENT_KEYS, "") | {"site": site.name, "source-digest": source_digest()}
        try:
            card["codec"] = site.choose_codec(_text(config, "codec"))
            card["schema-digest"] = site.schema_digest(_text(config, "recipe"))
        except Exception as error:  # noqa: BLE001 - whatever a site raises, its text must not leave
            card |= {"codec": "", "error": noted(error, _log)}
        return RecordDict({CONFIG: ConfigRecord(dict(card))})

    return _reply(message, answer)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Hand the global model to the site and its update back."""

    def answer() -> RecordDict:
        site = find(context.node_config, context.run_config)
        return _pack(site.answer(_question(message)))

    return _reply(message, answer)


@app.query(DESCRIPTOR)
def describe(message: Message, context: Context) -> Message:
    """Describe the site's scans in a few numbers, where its policy lets them leave."""

    def answer() -> RecordDict:
        site = find(context.node_config, context.run_config)
        values = site.descriptor(_text(_config(message, DESCRIPTOR_KEYS), "recipe"))
        return RecordDict({METRICS: MetricRecord({DESCRIPTOR: [float(value) for value in values]})})

    return _reply(message, answer)


@app.evaluate()
def conclude(message: Message, context: Context) -> Message:
    """Hand the model that a run ends with to the site, and back what it may say of it."""

    def answer() -> RecordDict:
        site = find(context.node_config, context.run_config)
        found = site.conclude(_final_question(message))
        numbers = MetricRecord()
        for name in FINAL_METRIC_NAMES:
            if name in found:
                numbers[name] = float(found[name])
        return RecordDict({METRICS: numbers})

    return _reply(message, answer)


def _reply(message: Message, answer: Callable[[], RecordDict]) -> Message:
    try:
        return Message(answer(), reply_to=message)
    except Exception as error:  # noqa: BLE001 - whatever a site raises, its text must not leave
        code, sentence = error_reply(noted(error, _log))
        return Message(Error(code, sentence), reply_to=message)


def _final_question(message: Message) -> FinalQuestion:
    config, arrays = _config(message, FINAL_KEYS), _arrays(message)
    last = RoundQuestion(
        number=_whole(config, "server-round", 1),
        parcel=_parcel(arrays, config),
        seed=_whole(config, "seed", 0),
        recipe=_text(config, "recipe"),
        local_steps=_whole(config, "local-steps", 1),
        proximal_mu=0.0,
        answer_codec=_text(config, "codec"),
    )
    return FinalQuestion(last, _text(config, "origin"), _flag(config, "safeguard"))


def _arrays(message: Message) -> ArrayRecord:
    arrays = message.content.get(ARRAYS)
    if set(message.content) != {ARRAYS, CONFIG} or not isinstance(arrays, ArrayRecord):
        raise FederationError(_STRANGE)
    return arrays


def _question(message: Message) -> RoundQuestion:
    config, arrays = _config(message, TRAIN_KEYS), _arrays(message)
    return RoundQuestion(
        number=_whole(config, "server-round", 1),
        parcel=_parcel(arrays, config),
        seed=_whole(config, "seed", 0),
        recipe=_text(config, "recipe"),
        local_steps=_whole(config, "local-steps", 1),
        proximal_mu=_weight(config, "proximal-mu"),
        answer_codec=_text(config, "answer-codec"),
        differences_follow=_flag(config, "differences-follow"),
    )


def _parcel(arrays: ArrayRecord, config: ConfigRecord) -> Parcel:
    packet = arrays.get(PACKET)
    if set(arrays) != {PACKET} or not isinstance(packet, Array):
        raise FederationError(_STRANGE)
    codec, digest, base = (_text(config, key) for key in ("codec", "schema-digest", "base"))
    schema, tensors = from_packet(packet.data)
    return Parcel.of(codec, digest, base, schema, tensors)


def _pack(answer: RoundAnswer) -> RecordDict:
    numbers = MetricRecord({NUM_EXAMPLES: answer.examples})
    for name in METRIC_NAMES:
        if name in answer.metrics:
            numbers[name] = float(answer.metrics[name])
    parcel = answer.parcel
    packet = to_packet(parcel.schema, parcel.tensors)
    arrays = ArrayRecord({PACKET: Array(PACKET_DTYPE, (len(packet),), PACKET_KIND, packet)})
    facts = {"codec": parcel.codec, "schema-digest": parcel.schema.digest(), "base": parcel.base}
    return RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord(dict(facts)), METRICS: numbers})


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


def _flag(config: ConfigRecord, key: str) -> bool:
    value = config.get(key)
    if not isinstance(value, bool):
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
