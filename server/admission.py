"""Every update is checked before it counts: whatever a site sends, the run goes on and the site is named."""

import math
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from numpy.typing import NDArray

from mediclip.config import Recipe
from mediclip.errors import SchemaError, UpdateRefusedError
from mediclip.exchange.codec import Codec
from mediclip.exchange.codecs import FLOAT32
from mediclip.exchange.packet import PACKET, from_packet
from mediclip.model.trainables import Schema, TensorSpec, Trainables
from mediclip.protocol import ARRAYS, CONFIG, METRIC_NAMES, METRICS, NUM_EXAMPLES, PARCEL_KEYS, error_word
from server.difference import Difference
from server.settings import RunSettings

NORM_HEADROOM: Final = 2.0
_LARGEST_METRIC: Final = 1e9


@dataclass(frozen=True)
class Limits:
    """What an update may be.

    Attributes:
        max_norm: Largest Euclidean norm of the difference from the global model.
        max_examples: Most images that a site counts with.
    """

    max_norm: float
    max_examples: int


@dataclass(frozen=True)
class Receipt:
    """What is kept of an update that counts.

    Attributes:
        site: Name of the site.
        examples: Images that the site counts with.
        claimed: Images that the site said it has.
        metrics: Numbers that the site allowed to leave.
        norm: Euclidean norm of the difference from the global model.
    """

    site: str
    examples: int
    claimed: int
    metrics: dict[str, float]
    norm: float


@dataclass(frozen=True)
class Update:
    """One site's update that counts, held until it is aggregated.

    Attributes:
        receipt: What is kept of it.
        difference: What the site changed; finite, its norm within the limits.
    """

    receipt: Receipt
    difference: Difference


def reachable_norm(learning_rate: float, steps: int, size: int) -> float:
    """Bound the norm of an honest update.

    Adam moves each value by about the learning rate at most in a step, so ``steps`` steps move ``size``
    values by no more than ``learning_rate · steps · √size``; the bound is twice that.

    Args:
        learning_rate: Of the sites' Adam, above 0.
        steps: Local steps, at least 1.
        size: Number of values.

    Returns:
        The bound, above 0.

    Source: Kingma and Ba, Adam, section 2.1 (arXiv 1412.6980).
    """
    return NORM_HEADROOM * learning_rate * steps * math.sqrt(size)


def limits_for(settings: RunSettings, recipe: Recipe, schema: Schema) -> Limits:
    """Put together the bounds on one update, the norm's from the optimiser where the settings name none."""
    derived = reachable_norm(recipe.learning_rate, settings.local_steps, schema.size())
    return Limits(settings.max_update_norm or derived, settings.max_examples)


def admit(
    reply: Message,
    site: str,
    current: Trainables,
    schema: Schema,
    limits: Limits,
    *,
    codec: Codec = FLOAT32,
    base: str = "",
) -> Update:
    """Check one reply to a training request.

    Args:
        reply: What came over the network; nothing about it is trusted.
        site: Name of the site that was asked.
        current: The global model that the site was sent.
        schema: The tensors that must be there.
        limits: Bounds on norm and examples.
        codec: The codec that the site agreed to.
        base: Digest of ``current`` where the codec writes differences from it.

    Returns:
        The update. More examples than allowed are capped, not refused.

    Raises:
        UpdateRefusedError: With one of the reasons ``site-<code>`` (the site answered with an error),
            ``records``, ``codec``, ``schema``, ``base``, ``names``, ``shape``, ``encoding``, ``not-finite``,
            ``norm``, ``examples``, ``metric-name`` or ``metric-value``.
    """
    if reply.has_error():
        word = error_word(reply.error.code)
        raise _refusal(site, f"site-{word}", "must hold tensors", "It holds an error")
    arrays, facts, numbers = _records(reply, site)
    expected = {"codec": codec.name, "schema-digest": schema.digest(), "base": base}
    for key, value in expected.items():
        if facts.get(key) != value:
            reason = key.removesuffix("-digest")
            raise _refusal(site, reason, f"must be of the {reason} that was asked for", "It is of another")
    values = _tensors(arrays, site, schema, codec)
    difference = Difference(schema, values, current if codec.is_exact else None)
    norm = difference.norm()
    if not math.isfinite(norm):
        raise _refusal(site, "not-finite", "must be finite", "It is not")
    if norm > limits.max_norm:
        raise _refusal(
            site, "norm", f"must have a norm of at most {limits.max_norm:.4g}", f"It has {norm:.4g}"
        )
    claimed = _examples(numbers, site)
    examples = min(claimed, limits.max_examples)
    return Update(Receipt(site, examples, claimed, _metrics(numbers, site), norm), difference)


def _refusal(site: str, reason: str, rule: str, found: str) -> UpdateRefusedError:
    message = f"An update {rule}. {found}; the update of {site} does not count ({reason})."
    return UpdateRefusedError(reason, message)


def _records(reply: Message, site: str) -> tuple[ArrayRecord, ConfigRecord, MetricRecord]:
    arrays, facts, metrics = (reply.content.get(name) for name in (ARRAYS, CONFIG, METRICS))
    is_known = (
        set(reply.content) == {ARRAYS, CONFIG, METRICS}
        and isinstance(arrays, ArrayRecord)
        and isinstance(facts, ConfigRecord)
        and set(facts) == PARCEL_KEYS
        and isinstance(metrics, MetricRecord)
    )
    if not is_known:
        raise _refusal(
            site, "records", f"must hold the records {ARRAYS}, {CONFIG} and {METRICS}", "It holds others"
        )
    return cast("ArrayRecord", arrays), cast("ConfigRecord", facts), cast("MetricRecord", metrics)


def _tensors(arrays: ArrayRecord, site: str, schema: Schema, codec: Codec) -> Trainables:
    packet = arrays.get(PACKET)
    if set(arrays) != {PACKET} or not isinstance(packet, Array):
        raise _refusal(site, "records", f"must hold the array '{PACKET}'", "It holds others")
    try:
        sent, tensors = from_packet(packet.data)
    except SchemaError as error:
        raise _refusal(site, "encoding", "must be a packet of tensors", "It cannot be read") from error
    if list(tensors) != [spec.name for spec in schema.tensors]:
        raise _refusal(site, "names", "must hold the tensors of the schema", "It holds others")
    if sent != schema:
        raise _refusal(site, "shape", "must have the shapes of the schema", "It has others")
    return {spec.name: _tensor(tensors[spec.name], site, spec, codec) for spec in schema.tensors}


def _tensor(data: bytes, site: str, spec: TensorSpec, codec: Codec) -> NDArray[np.float32]:
    try:
        return codec.decode(spec, data)
    except SchemaError as error:
        raise _refusal(site, "encoding", f"must be readable in '{spec.name}'", "It is not") from error


def _examples(numbers: MetricRecord, site: str) -> int:
    claimed = numbers.get(NUM_EXAMPLES)
    if not isinstance(claimed, int) or claimed < 1:
        raise _refusal(site, "examples", "must come from at least one image", "It does not say so")
    return claimed


def _metrics(numbers: MetricRecord, site: str) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name in sorted(set(numbers) - {NUM_EXAMPLES}):
        value = numbers[name]
        if name not in METRIC_NAMES:
            allowed = ", ".join(METRIC_NAMES)
            raise _refusal(site, "metric-name", f"may carry the metrics {allowed}", "It carries another")
        if isinstance(value, list) or not abs(value) <= _LARGEST_METRIC:  # also false for NaN
            raise _refusal(site, "metric-value", f"must have a finite number in '{name}'", "It has not")
        metrics[name] = float(value)
    return metrics
