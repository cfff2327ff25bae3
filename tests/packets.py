"""The tensors of a message, taken out of their packet and put back; without torch, as a ClientApp."""

from flwr.app import Array, ArrayRecord

from mediclip.exchange.packet import PACKET, PACKET_DTYPE, PACKET_KIND, from_packet, to_packet
from mediclip.model.trainables import Schema, TensorSpec
from mediclip.protocol import ARRAYS, decode_tensor, encode_tensor


def as_record(packet):
    """Put a packet, or what is none, where a message has it."""
    return ArrayRecord({PACKET: Array(PACKET_DTYPE, (len(packet),), PACKET_KIND, packet)})


def packed(values):
    """Pack arrays of any type as a message holds tensors in float32."""
    schema = Schema(tuple(TensorSpec(name, value.shape) for name, value in values.items()))
    return as_record(to_packet(schema, {name: encode_tensor(value) for name, value in values.items()}))


def unpacked(content):
    """Read the tensors of a message that holds them in float32; none if it holds no tensors."""
    if ARRAYS not in content:
        return {}
    schema, tensors = from_packet(content[ARRAYS][PACKET].data)
    return {spec.name: decode_tensor(spec, tensors[spec.name]) for spec in schema.tensors}


def change_tensors(content, change):
    """Let a function change the dict of a message's tensors in float32."""
    values = unpacked(content)
    change(values)
    content[ARRAYS] = packed(values)


def change_bytes(content, name, change):
    """Let a function make other bytes of one tensor's, whatever the codec."""
    schema, tensors = from_packet(content[ARRAYS][PACKET].data)
    content[ARRAYS] = as_record(to_packet(schema, {**tensors, name: change(tensors[name])}))
