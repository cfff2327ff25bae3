"""What cannot be used is refused with its own class and one sentence that names nobody."""

import logging
import os
import re
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG4HP41,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from mediclip import errors
from mediclip.data.dicom import read_dicom, read_header
from mediclip.data.dicom.limits import MAX_HEADER_BYTES
from mediclip.data.formats import read_image, read_mask
from mediclip.errors import ImageError, InvalidHeaderError, MaskError
from tests.mediclip.data.dicom.conftest import CANARY, GREY, as_bytes, dataset

Write = Callable[..., Path]
NAME = "test image 12 of phantoms"
SENTENCE = re.compile(rf"Cannot use {NAME}: it must [^.;]+(\.[0-9][^.;]*)?, but [^;]+; [^;]+\.")


def encapsulated(syntax: str, *frames: bytes, **attributes: object) -> bytes:
    made = dataset(syntax=syntax, **attributes)
    made.PixelData = encapsulate(list(frames))
    made["PixelData"].is_undefined_length = True
    return as_bytes(made)


def sof(height: int, width: int, precision: int = 8) -> bytes:
    """Begin a JPEG, up to its frame header."""
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"\xff\xd8\xff\xc0\x00\x0b" + bytes([precision]) + size + b"\x01\x01\x11\x00" + b"\0\0"


def encrypted() -> bytes:
    made = dataset(PixelData=None)
    inner = Dataset()
    inner.EncryptedContentTransferSyntaxUID = "1.2.840.10008.1.2.1"
    inner.EncryptedContent = b"x" * 50
    made.EncryptedAttributesSequence = Sequence([inner])
    return as_bytes(made)


# Object identifier of enveloped data (RFC 5652, 6.1).
ENVELOPED = bytes.fromhex("06092a864886f70d010703")
WHOLE = as_bytes(dataset())
FAULTS: dict[str, tuple[bytes, str, str]] = {
    "one byte": (b"x", "NotDicomError", ""),
    "text": (f"PatientName={CANARY}".encode() * 50, "NotDicomError", ""),
    "png": (b"\x89PNG\r\n\x1a\n" + b"0" * 500, "NotDicomError", ""),
    "enveloped": (
        b"\x30\x82\x10\x00" + bytes.fromhex("06092a864886f70d010703") + bytes(99),
        "EncryptedError",
        "",
    ),
    "signature alone": (bytes(128) + b"DICM", "TruncatedError", ""),
    "cut in the meta information": (WHOLE[:200], "TruncatedError", ""),
    "cut in a value of the header": (WHOLE[: WHOLE.index(b"MONOCHROME2") + 3], "TruncatedError", ""),
    "cut in its pixels": (WHOLE[:-2], "TruncatedError", ""),
    "no pixels": (as_bytes(dataset(PixelData=None)), "NoPixelsError", ""),
    "empty pixels": (as_bytes(dataset(PixelData=b"")), "TruncatedError", ""),
    "encrypted attributes": (encrypted(), "EncryptedError", ""),
    "more frames than pixels": (as_bytes(dataset(NumberOfFrames=2)), "TruncatedError", ""),
    "a million frames": (as_bytes(dataset(NumberOfFrames=1_000_000)), "TooLargeError", ""),
    "65535 x 65535": (as_bytes(dataset(Rows=65535, Columns=65535)), "TooLargeError", ""),
    "rows 0": (as_bytes(dataset(Rows=0)), "InvalidHeaderError", "Rows"),
    "slope 0": (as_bytes(dataset(RescaleSlope=0)), "InvalidHeaderError", "RescaleSlope"),
    "bits stored above allocated": (as_bytes(dataset(BitsStored=20)), "InvalidHeaderError", "BitsStored"),
    "bits allocated 12": (as_bytes(dataset(BitsAllocated=12)), "InvalidHeaderError", "BitsAllocated"),
    "an unknown photometric": (
        as_bytes(dataset(PhotometricInterpretation=CANARY.upper())),
        "InvalidHeaderError",
        "PhotometricInterpretation",
    ),
    "three samples of grey": (
        as_bytes(dataset(SamplesPerPixel=3)),
        "InvalidHeaderError",
        "PhotometricInterpretation",
    ),
    "two samples": (as_bytes(dataset(SamplesPerPixel=2)), "InvalidHeaderError", "SamplesPerPixel"),
    "a number that is none": (
        as_bytes(dataset(NumberOfFrames=1)).replace(b"IS\x02\x001 ", b"IS\x02\x001A"),
        "InvalidHeaderError",
        "NumberOfFrames",
    ),
    "a palette without table": (
        as_bytes(dataset(PhotometricInterpretation="PALETTE COLOR")),
        "InvalidHeaderError",
        "RedPaletteColorLookupTableDescriptor",
    ),
    "raw pixels that are called compressed": (
        as_bytes(dataset()).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"),
        "InvalidHeaderError",
        "TransferSyntaxUID",
    ),
    "video": (encapsulated(MPEG4HP41, b"\0" * 64), "TransferSyntaxError", ""),
    "a private syntax": (
        encapsulated(MPEG4HP41, b"\0" * 64).replace(b"1.2.840.10008.1.2.4.102", b"1.3.840.10008.1.2.4.102"),
        "TransferSyntaxError",
        "",
    ),
    "no codestream": (encapsulated(JPEG2000Lossless, GREY.tobytes()), "DecodeError", ""),
    "a codestream of another size": (encapsulated(JPEGBaseline8Bit, sof(60000, 60000)), "DecodeError", ""),
    "a codestream without an image": (encapsulated(JPEGBaseline8Bit, sof(3, 4)), "DecodeError", ""),
    "twelve bits": (
        encapsulated(JPEGExtended12Bit, sof(3, 4, 12), BitsStored=12),
        "DecoderMissingError",
        "",
    ),
    "runs that end early": (
        encapsulated(RLELossless, b"\x02\0\0\0\x40\0\0\0\x42\0\0\0" + bytes(52) + b"\x00\x01\x00\x01"),
        "TruncatedError",
        "",
    ),
    "runs in the wrong number": (encapsulated(RLELossless, bytes(64) + b"\0\0"), "DecodeError", ""),
    "constant": (as_bytes(dataset(np.full((3, 4), 7, dtype=np.uint16))), "DegenerateImageError", ""),
    "constant colour": (as_bytes(dataset(np.full((3, 4, 3), 7, dtype=np.uint8))), "DegenerateImageError", ""),
    "all padding": (
        as_bytes(dataset(GREY, PixelPaddingValue=0, PixelPaddingRangeLimit=100)),
        "DegenerateImageError",
        "",
    ),
    "a header that is a bomb": (
        WHOLE.replace(b"\x08\x00\x60\x00CS\x02\x00OT", b"\x08\x00\x22\x11UN\0\0\xf0\xff\xff\xff"),
        "TruncatedError",
        "",
    ),
}
for _keyword in ("Rows", "Columns", "BitsAllocated", "PixelRepresentation", "PhotometricInterpretation"):
    FAULTS[f"no {_keyword}"] = (as_bytes(dataset(**{_keyword: None})), "InvalidHeaderError", _keyword)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_has_its_class_and_one_sentence_that_quotes_nothing(
    write: Write, fault: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    content, kind, keyword = FAULTS[fault]
    path = write(content)
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(ImageError) as caught:
            read_dicom(path, name=NAME)
    assert type(caught.value).__name__ == kind
    assert SENTENCE.fullmatch(str(caught.value)), str(caught.value)
    if isinstance(caught.value, InvalidHeaderError):
        assert caught.value.keyword == keyword
        assert keyword in str(caught.value)
    out = "".join(
        [*traceback.format_exception(caught.value), caplog.text, *map(str, warned), *capfd.readouterr()]
    )
    assert CANARY.lower() not in out.lower().replace(str(path).lower(), "")
    assert str(path) not in out


def test_each_class_of_the_list_is_met_and_has_a_code_of_its_own():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__base__ is ImageError]
    assert {kind for _, kind, _ in FAULTS.values()} == {kind.__name__ for kind in kinds}
    assert len({kind.code for kind in kinds} | {ImageError.code}) == len(kinds) + 1


def test_an_encrypted_item_beside_readable_pixels_does_no_harm(write: Write):
    made = dataset()
    made.EncryptedAttributesSequence = Sequence([Dataset()])
    assert read_dicom(write(made), name=NAME).shape == (3, 4)


def test_a_missing_file_and_a_pipe_are_refused_as_everywhere(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "gone", tmp_path / "pipe", tmp_path):
        with pytest.raises(ImageError, match=rf"^Cannot use {NAME}: it must (exist|be a regular file)"):
            read_header(path, name=NAME)


def test_a_header_tells_nobodys_name(write: Write):
    header = read_header(write(), name=NAME)
    assert header.patient_key == CANARY
    assert CANARY not in repr(header)
    assert header.instance
    assert header.instance not in repr(header)


def test_of_a_file_only_the_header_is_read(write: Write):
    """A large file costs no more than a small one: its pixels are a hole in the disk."""
    path = write(WHOLE)
    with path.open("r+b") as stream:
        stream.truncate(2**31)
    assert read_header(path, name=NAME).rows == 3
    assert path.stat().st_size > 100 * MAX_HEADER_BYTES


def test_the_formats_pass_faults_on_for_images_and_masks(write: Write):
    path = write(b"no image")
    with pytest.raises(ImageError, match=r"^Cannot use image 3: it must be a DICOM file"):
        read_image(path, name="image 3")
    with pytest.raises(MaskError, match=r"^Cannot use the mask of image 3: it must be a DICOM file"):
        read_mask(path, name="the mask of image 3")


@settings(max_examples=300, deadline=None)
@given(cut=st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int):
    path = tmp_path_factory.getbasetemp() / "cut.dcm"
    path.write_bytes(WHOLE[:cut])
    with pytest.raises(ImageError):
        read_dicom(path, name=NAME)
