"""Attributes as plain values: whatever bytes stand in a file, they are what pydicom makes of them."""

import io

import pytest
from hypothesis import given, settings, strategies as st
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from mediclip.data.dicom.fields import numbers, text

KEYWORDS = ("Modality", "Manufacturer", "StationName", "StudyInstanceUID", "Rows", "SimpleFrameList")


def dataset(keyword: str, value: bytes, *, implicit: bool, little: bool) -> Dataset:
    """Read one element as a file holds it (PS3.5 7.1)."""
    order = "little" if little else "big"
    tag = tag_for_keyword(keyword)
    assert tag is not None
    head = (tag >> 16).to_bytes(2, order) + (tag & 0xFFFF).to_bytes(2, order)
    length = (
        len(value).to_bytes(4, order)
        if implicit
        else dictionary_VR(tag).encode() + len(value).to_bytes(2, order)
    )
    return read_dataset(io.BytesIO(head + length + value), is_implicit_VR=implicit, is_little_endian=little)


VALUES = st.one_of(
    st.binary(max_size=12),
    st.lists(
        st.sampled_from([b"MR", b"\\", b" ", b"\0", b"\x1b$B", b"1.2.", b"\xe9", b"a b"]), max_size=6
    ).map(b"".join),
)


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=300)
@given(keyword=st.sampled_from(KEYWORDS), value=VALUES, implicit=st.booleans(), little=st.booleans())
def test_what_is_read_directly_is_what_pydicom_reads(
    *, keyword: str, value: bytes, implicit: bool, little: bool
):
    little = little or implicit
    direct = dataset(keyword, value, implicit=implicit, little=little)
    converted = dataset(keyword, value, implicit=implicit, little=little)
    try:
        converted[keyword]  # from now on an element with a value, which is not read directly
    except Exception:  # noqa: BLE001 - pydicom refuses in many ways what is no value
        converted = Dataset()
    assert text(direct, keyword) == text(converted, keyword)
    if dictionary_VR(keyword) in {"US", "UL"} and converted:
        assert numbers(direct, keyword) == numbers(converted, keyword)


def test_reading_does_not_depend_on_how_strictly_pydicom_checks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.RAISE)
    assert text(dataset("Modality", b"mr lower", implicit=False, little=True), "Modality") == "mr lower"
