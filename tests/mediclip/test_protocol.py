import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from mediclip import errors
from mediclip.errors import MediClipError, SchemaError
from mediclip.model.trainables import TensorSpec
from mediclip.protocol import (
    ERROR_CODES,
    SENTENCES,
    decode_tensor,
    encode_tensor,
    error_reply,
    error_word,
)


def error_classes():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in kinds if issubclass(kind, MediClipError)]


@settings(deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)), st.booleans())
def test_a_tensor_comes_back_bit_for_bit_in_both_memory_orders(value, fortran):
    sent = np.asfortranarray(value) if fortran else value
    received = decode_tensor(TensorSpec("t", value.shape), encode_tensor(sent))
    assert received.dtype == np.float32
    assert received.tobytes() == value.tobytes()


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_never_evaluated(junk):
    for data in (junk, encode_tensor(np.zeros(3, np.float32))[:90] + junk):
        with pytest.raises(SchemaError, match="'t'"):
            decode_tensor(TensorSpec("t", (3, 99)), data)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros((3, 2), np.float32), r"must have shape \(2, 3\)"),
        (np.zeros(6, np.float32), r"must have shape \(2, 3\)"),
        (np.zeros((2, 3), np.float64), "cannot be read"),
        (np.zeros((2, 3), np.int32), "cannot be read"),
        (np.zeros((2, 3), ">f4"), "cannot be read"),
    ],
)
def test_another_shape_or_type_is_refused(value, reason):
    with pytest.raises(SchemaError, match=reason):
        decode_tensor(TensorSpec("t", (2, 3)), encode_tensor(value))


def test_a_tensor_shorter_or_longer_than_it_says_is_refused_without_reserving_what_it_claims():
    data = encode_tensor(np.zeros((2, 3), np.float32))
    huge = data.replace(b"(2, 3), }" + b" " * 9, b"(999999999999, 3), }"[:18])
    for forged in (data[:-1], data + b"\0", huge):
        with pytest.raises(SchemaError):
            decode_tensor(TensorSpec("t", (2, 3)), forged)


def test_every_error_of_the_project_that_a_site_can_raise_has_a_word_and_it_comes_back():
    for kind in error_classes():
        code, sentence = error_reply(kind.code)
        assert sentence == SENTENCES.get(kind.code, SENTENCES["failed"])
        assert error_word(code) == (kind.code if kind.code in SENTENCES else "failed")


def test_numbers_of_codes_are_stable_because_two_versions_may_talk():
    assert list(ERROR_CODES.items())[:3] == [("failed", 100), ("settings", 101), ("data", 102)]
    assert len(ERROR_CODES) == len(SENTENCES) == 35


@pytest.mark.parametrize("code", [0, 2, 99, 10**6, -1])
def test_a_number_that_is_not_ours_is_a_plain_failure(code):
    assert error_word(code) == "failed"
