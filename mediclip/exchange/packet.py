"""All tensors of a parcel as one run of bytes: Flower moves each array of a message by requests of its own.

A packet is the schema as one line of JSON, then for each tensor, in the schema's order, the length in eight
bytes, the lowest first, and the tensor's bytes.
"""

from collections.abc import Mapping
from typing import Final

from mediclip.errors import SchemaError
from mediclip.model.trainables import Schema

PACKET: Final = "packet"
"""Name of the array that holds a packet, its values being bytes."""

PACKET_KIND: Final = "mediclip-packet/1"
PACKET_DTYPE: Final = "uint8"
_LONGEST_SCHEMA: Final = 2**16
_LENGTH: Final = 8


def to_packet(schema: Schema, tensors: Mapping[str, bytes]) -> bytes:
    """Write tensors in a row.

    Args:
        schema: Names and shapes.
        tensors: Bytes of each, as a codec wrote them.
    """
    parts = [schema.to_json().encode(), b"\n"]
    for spec in schema.tensors:
        data = tensors[spec.name]
        parts += [len(data).to_bytes(_LENGTH, "little"), data]
    return b"".join(parts)


def from_packet(packet: bytes) -> tuple[Schema, dict[str, bytes]]:
    """Read what :func:`to_packet` wrote, or anything else that came over the network.

    Args:
        packet: The bytes.

    Returns:
        The schema that the packet says it has, and the bytes of each tensor; no more memory is reserved than
        a small multiple of what came.

    Raises:
        SchemaError: If it is no packet, or holds more or less than its tensors.
    """
    end = packet.find(b"\n", 0, _LONGEST_SCHEMA)
    schema = Schema.from_json(packet[: max(end, 0)].decode(errors="replace"))
    tensors, place = {}, end + 1
    for spec in schema.tensors:
        start = place + _LENGTH
        place = start + int.from_bytes(packet[place:start], "little")
        tensors[spec.name] = packet[start:place]
    if place != len(packet):
        message = (
            f"A packet must hold its tensors and nothing else, {place} bytes. It holds {len(packet)}; run "
            "the same version on both sides."
        )
        raise SchemaError(message)
    return schema, tensors
