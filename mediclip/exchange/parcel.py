"""What travels: encoded tensors with the codec, the schema and the model that they are a difference from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediclip.errors import SchemaError
from mediclip.exchange.codec import Codec
from mediclip.exchange.codecs import FLOAT32, agreed_codec
from mediclip.model.trainables import Schema, Trainables, check_trainables


@dataclass(frozen=True)
class Parcel:
    """Encoded tensors.

    Attributes:
        codec: Name and version of the codec.
        schema: Names and shapes of the tensors, as their sender says.
        base: Digest of the model that the tensors are a difference from; empty where they are values.
        tensors: Bytes of each tensor, in the schema's order.
    """

    codec: str
    schema: Schema
    base: str
    tensors: dict[str, bytes]

    @classmethod
    def of(cls, codec: str, digest: str, base: str, schema: Schema, tensors: Mapping[str, bytes]) -> "Parcel":
        """Put together what came over a network.

        Args:
            codec: Name and version of the codec.
            digest: Digest of the schema.
            base: Digest of the model that the tensors are a difference from; empty where they are values.
            schema: Names and shapes of the tensors.
            tensors: Bytes of each tensor.

        Raises:
            SchemaError: If the tensors are not those of the schema that the digest names.
        """
        names = [spec.name for spec in schema.tensors]
        if schema.digest() != digest or names != list(tensors):
            message = (
                "A parcel must hold the tensors of the schema that it names. It holds others; run the same "
                "version on both sides."
            )
            raise SchemaError(message)
        return cls(codec, schema, base, dict(tensors))

    @property
    def size(self) -> int:
        """Count the bytes of all tensors."""
        return sum(len(data) for data in self.tensors.values())


@dataclass(frozen=True)
class Sent:
    """A difference on its way.

    Attributes:
        parcel: What travels.
        arrived: What the other side reads.
        left: What was lost, to be sent with the next difference.
    """

    parcel: Parcel
    arrived: Trainables
    left: Trainables


def model_digest(values: Trainables) -> str:
    """Return the SHA-256 of names, shapes and values, as hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(values):
        value = values[name]
        digest.update(f"{name}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value, "<f4").data)
    return digest.hexdigest()


def pack_values(schema: Schema, values: Trainables) -> Parcel:
    """Write a whole model, bit for bit.

    Args:
        schema: Its tensors.
        values: Their values.
    """
    tensors = {spec.name: FLOAT32.encode(spec, values[spec.name]) for spec in schema.tensors}
    return Parcel(FLOAT32.name, schema, "", tensors)


def pack_difference(
    codec: Codec, schema: Schema, base: str, wanted: Trainables, *, max_norm: float | None = None
) -> Sent:
    """Write a difference.

    Args:
        codec: What writes it.
        schema: Its tensors.
        base: Digest of the model that it is a difference from.
        wanted: The difference, with what earlier ones left; finite.
        max_norm: Largest Euclidean norm of what arrives; any when omitted. What lies beyond is left.

    Returns:
        The parcel, what arrives and what is left: ``arrived + left`` is ``wanted`` up to float32's rounding.
    """
    scaled = wanted
    while True:
        tensors = {spec.name: codec.encode(spec, scaled[spec.name]) for spec in schema.tensors}
        arrived = {spec.name: codec.decode(spec, tensors[spec.name]) for spec in schema.tensors}
        norm = _norm(arrived)
        if max_norm is None or norm <= max_norm:
            break
        factor = np.float32(0.999 * max_norm / norm)
        scaled = {name: value * factor for name, value in scaled.items()}
    left = {name: value - arrived[name] for name, value in wanted.items()}
    return Sent(Parcel(codec.name, schema, base, tensors), arrived, left)


def unpack(parcel: Parcel, schema: Schema) -> Trainables:
    """Read a parcel that came over the network.

    Args:
        parcel: Anything.
        schema: The tensors that it must hold.

    Returns:
        Values, or differences where ``parcel.base`` is set; finite, in the schema's order, possibly
        read-only.

    Raises:
        SchemaError: If the codec is unknown, the schema another, a tensor is missing, unknown or unreadable,
            or a value is not finite.
    """
    codec = agreed_codec(parcel.codec)
    names = {spec.name for spec in schema.tensors}
    if parcel.schema != schema or set(parcel.tensors) != names or codec.is_exact == bool(parcel.base):
        message = (
            "A parcel must hold the tensors of the model's schema, as values in float32 or as differences in "
            "another codec. It does not; use the same recipe, taps and backbone on both sides."
        )
        raise SchemaError(message)
    values = {spec.name: codec.decode(spec, parcel.tensors[spec.name]) for spec in schema.tensors}
    check_trainables(schema, values)
    return values


def difference(after: Trainables, before: Trainables) -> Trainables:
    """Return ``after - before`` in float32."""
    return {name: value - before[name] for name, value in after.items()}


def applied(base: Trainables, change: Mapping[str, NDArray[np.float32]]) -> Trainables:
    """Return ``base + change`` in float32, whose bits are the same on every machine."""
    return {name: value + change[name] for name, value in base.items()}


def _norm(values: Trainables) -> float:
    return float(np.sqrt(sum(np.sum(np.square(value, dtype=np.float64)) for value in values.values())))
