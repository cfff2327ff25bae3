"""Plain headers, read without pydicom's parser: what is read is what that would have read."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import example, given, settings, strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from mediclip.data.dicom.attributes import WANTED
from mediclip.data.dicom.plain import attributes_of, transfer_syntax_of
from tests.fuzz_images import damaged, dicom_seeds
from tests.mediclip.data.dicom.conftest import as_bytes, dataset

HEAD_BYTES = 2**16
REAL = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
SEEDS = [data[:HEAD_BYTES] for data in dicom_seeds()]


def plain(head: bytes) -> tuple[Dataset, int] | None:
    """Read a head as the reader does."""
    syntax = transfer_syntax_of(head)
    if syntax is None or syntax[0] == ExplicitVRBigEndian:
        return None
    uid, at = syntax
    return attributes_of(head, at, uid=uid, implicit=uid == ImplicitVRLittleEndian)


def by_pydicom(head: bytes) -> tuple[Dataset, int]:
    """Read a head as pydicom does."""
    stream = io.BytesIO(head)
    return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=WANTED), stream.tell()


def raw(header: Dataset) -> dict[int, object]:
    """Take the elements as they are, but the character set, which pydicom converts to know it."""
    return {int(tag): header.get_item(tag) for tag in list(header.keys()) if tag != 0x00080005}


def check_same(found: tuple[Dataset, int], expected: tuple[Dataset, int]) -> None:
    ours, theirs = found[0], expected[0]
    assert found[1] == expected[1]
    assert raw(ours) == raw(theirs)
    assert ours.original_encoding == theirs.original_encoding
    assert ours.original_character_set == theirs.original_character_set
    assert ours.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID


@pytest.mark.filterwarnings("ignore")
def test_real_headers_are_read_alike_and_most_are_plain():
    heads = [path.read_bytes()[:HEAD_BYTES] for path in REAL]
    found = {number: read for number, head in enumerate(heads) if (read := plain(head)) is not None}
    assert len(found) > len(heads) / 2
    for number, read in found.items():
        check_same(read, by_pydicom(heads[number]))


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=400)
@example(number=16, seed=1)  # a byte beyond ASCII in the transfer syntax
@given(number=st.integers(0, len(SEEDS) - 1), seed=st.integers(0, 2**32))
def test_damaged_headers_are_read_alike_or_left_to_pydicom(number: int, seed: int):
    head = damaged(SEEDS[number], np.random.default_rng(seed))
    if head[128:132] != b"DICM":
        return
    try:
        expected = by_pydicom(head)
        found = plain(head)
    except Exception:  # noqa: BLE001 - refused in any way
        return
    if found is not None:
        check_same(found, expected)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_what_is_not_plain_is_left_to_pydicom(syntax: str):
    item = Dataset()
    item.WindowCenter = 1
    made = dataset(syntax=syntax, FrameVOILUTSequence=[item])
    whole = as_bytes(made)
    made["FrameVOILUTSequence"].is_undefined_length = True
    assert (plain(whole) is None) == (syntax == ExplicitVRBigEndian)
    assert plain(as_bytes(made)) is None
    assert plain(whole[:300]) is None
    assert plain(b"") is None
