import numpy as np
import pytest
from hypothesis import given, strategies as st

from mediclip.errors import SchemaError
from mediclip.exchange.packet import from_packet, to_packet
from mediclip.model.trainables import Schema, TensorSpec

SCHEMA = Schema((TensorSpec("adapter.1.weight", (2, 3)), TensorSpec("prompt.normal.end", ())))
TENSORS = {"adapter.1.weight": b"abc", "prompt.normal.end": b""}
NAMES = st.lists(st.text(max_size=8), min_size=1, max_size=5, unique=True)


@given(names=NAMES, data=st.data())
def test_whatever_is_packed_is_read_back_bit_for_bit(names, data):
    shapes = [tuple(data.draw(st.lists(st.integers(1, 2**40), max_size=4))) for _ in names]
    schema = Schema(tuple(map(TensorSpec, names, shapes)))
    tensors = {name: data.draw(st.binary(max_size=64)) for name in names}
    assert from_packet(to_packet(schema, tensors)) == (schema, tensors)


def test_a_packet_is_the_schema_in_json_and_each_tensor_behind_its_length():
    head = SCHEMA.to_json().encode()
    assert to_packet(SCHEMA, TENSORS) == head + b"\n" + b"\3" + bytes(7) + b"abc" + bytes(8)


@given(cut=st.integers(1, len(to_packet(SCHEMA, TENSORS))))
def test_a_packet_that_was_cut_short_is_refused(cut):
    with pytest.raises(SchemaError):
        from_packet(to_packet(SCHEMA, TENSORS)[:-cut])


@given(st.binary(max_size=200))
def test_anything_else_is_refused_and_never_an_error_of_another_kind(junk):
    for packet in (junk, SCHEMA.to_json().encode() + b"\n" + junk):
        try:
            schema, tensors = from_packet(packet)
        except SchemaError:
            continue
        assert to_packet(schema, tensors) == packet


@pytest.mark.parametrize(
    "packet",
    [
        to_packet(SCHEMA, TENSORS) + b"\0",
        to_packet(SCHEMA, TENSORS).replace(b"\3" + bytes(7), b"\xff" * 8),  # a length of 2⁶⁴ − 1
        to_packet(SCHEMA, TENSORS).replace(b"float32", b"float64"),
        to_packet(SCHEMA, TENSORS).replace(b"prompt.normal.end", b"adapter.1.weight"),
        b"[" * 10**6 + b"\n",
        b"[" * 2**15 + b"\n",
        b" " * 2**17 + to_packet(SCHEMA, TENSORS),  # a schema that goes on and on
    ],
)
def test_a_packet_with_more_than_its_tensors_or_an_odd_schema_is_refused(packet):
    with pytest.raises(SchemaError):
        from_packet(packet)


def test_the_bytes_of_a_tensor_are_its_own_and_do_not_keep_the_packet_in_memory():
    data = np.arange(6, dtype="<f4").tobytes()
    schema = Schema((TensorSpec("a", (2, 3)), TensorSpec("b", (6,))))
    _, tensors = from_packet(to_packet(schema, {"a": data, "b": bytes(10**6)}))
    assert type(tensors["a"]) is bytes
    assert np.array_equal(np.frombuffer(tensors["a"], "<f4"), np.arange(6))
