"""What a scan keeps of one header, and why a file is left out.

Values are taken as the bytes that they are: no library warns about one, and none comes into a message. What
is not asked for is passed over by seeking, so that few bytes are read whatever the size of the file.
"""

import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mediclip.data.dicom_tree.cache import Pseudonyms
from mediclip.data.source import opened
from mediclip.errors import DataError

MAX_HEADER_BYTES: Final = 2**22
NOT_DICOM: Final = "not DICOM"
NO_PIXELS: Final = "no pixels"
UNREADABLE: Final = "not readable"
DAMAGED: Final = "damaged header"
TOO_LONG: Final = "header too long"
NO_SIZE: Final = "no size in the header"
DIRECTORY: Final = "DICOMDIR"
# SOP classes that hold pixels of another kind, or none, by the start of their UID (PS3.4 B.5).
_KINDS: Final = {
    "1.2.840.10008.1.3.10": DIRECTORY,
    "1.2.840.10008.5.1.4.1.1.66": "segmentation or registration",
    "1.2.840.10008.5.1.4.1.1.88": "structured report",
    "1.2.840.10008.5.1.4.1.1.11": "presentation state",
    "1.2.840.10008.5.1.4.1.1.481": "radiotherapy object",
    "1.2.840.10008.5.1.4.1.1.104": "encapsulated document",
    "1.2.840.10008.5.1.4.1.1.9": "waveform",
}
_TAGS: Final = {
    "sop_class": 0x00080016,
    "modality": 0x00080060,
    "manufacturer": 0x00080070,
    "patient": 0x00100020,
    "body_part": 0x00180015,
    "view": 0x00185101,
    "study": 0x0020000D,
    "photometric": 0x00280004,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "bits": 0x00280101,
}
_WANTED: Final = list(_TAGS.values())
_PIXEL_GROUP: Final = 0x7FE0
# Holds most headers whole: read at once, it keeps threads from waiting for each other at each element.
_START_BYTES: Final = 2**16
# A coded string (PS3.5 6.2). What is longer or in other characters may be free text, and is not kept.
_CODE: Final = re.compile(r"[A-Z0-9_ ]{1,16}")
_PIXELS: Final = frozenset(
    {b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10", b"\xe0\x7f\x08\x00", b"\x7f\xe0\x00\x08"}
    | {b"\xe0\x7f\x09\x00", b"\x7f\xe0\x00\x09"}
)


@dataclass(frozen=True)
class ImageFacts:
    """What a scan keeps of a header: nothing that tells who a patient is, or which examination it was.

    Attributes:
        modality: Code of the modality, such as ``"MR"``.
        body_part: Body part examined, in capitals; empty if the file does not say in a code.
        view: View position; empty if the file does not say in a code.
        rows: Height in pixels, at least 1.
        columns: Width in pixels, at least 1.
        frames: Number of frames, at least 1.
        bits: Bits stored; 0 where they are not given, as for floating point.
        photometric: Photometric interpretation.
        transfer_syntax: UID of the transfer syntax.
        manufacturer: Manufacturer of the scanner, in at most 64 characters.
    """

    modality: str
    body_part: str
    view: str
    rows: int
    columns: int
    frames: int
    bits: int
    photometric: str
    transfer_syntax: str
    manufacturer: str


def look(path: Path, relative: str, pseudonyms: Pseudonyms) -> str | tuple[ImageFacts, str]:
    """Read one file's header.

    Args:
        path: The file.
        relative: Its path below the tree; stands for the patient where the file names none.
        pseudonyms: Names under the machine's key.

    Returns:
        Facts and the name of the patient, or why the file is left out: a fixed word or two.
    """
    try:
        with opened(path, name="a file") as stream:
            start = stream.read(_START_BYTES)
            try:
                return _read(io.BytesIO(start), relative, pseudonyms)
            except InvalidDicomError:
                raise
            except Exception:
                if len(start) < _START_BYTES:
                    raise
            stream.seek(0)
            return _read(stream, relative, pseudonyms)
    except _LeftOutError as fault:
        return fault.reason
    except InvalidDicomError:
        return NOT_DICOM
    except DataError:
        return UNREADABLE
    except Exception:  # noqa: BLE001 - whatever a parser does with a damaged file, it is left out
        return DAMAGED


class _LeftOutError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _read(stream: BinaryIO, relative: str, pseudonyms: Pseudonyms) -> tuple[ImageFacts, str]:
    header: Dataset
    try:
        header = dcmread(_bounded(stream), stop_before_pixels=True, specific_tags=_WANTED)
    except _DeflatedError:
        header, stream = _inflated(stream)
    if (kind := _kind(header)) is not None:
        raise _LeftOutError(kind)
    if stream.read(4) not in _PIXELS:
        raise _LeftOutError(NO_PIXELS)
    return _facts(header), _patient(header, relative, pseudonyms)


def _inflated(stream: BinaryIO) -> tuple[Dataset, BinaryIO]:
    """Read the header of a deflated file, which stands behind its meta information (PS3.5 A.5)."""
    zipped = stream.read(MAX_HEADER_BYTES)
    plain = io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(zipped, MAX_HEADER_BYTES))
    header = read_dataset(
        _bounded(plain),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag.group == _PIXEL_GROUP,
        specific_tags=_WANTED,
    )
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return header, plain


def _bounded(stream: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", _Bounded(stream))


class _DeflatedError(Exception):
    pass


class _Bounded:
    """A file that gives no more than a number of bytes, however it is asked."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = MAX_HEADER_BYTES
        self.tell = stream.tell
        self.seek = stream.seek

    def read(self, size: int = -1) -> bytes:
        if size < 0:  # pydicom would inflate all there is
            raise _DeflatedError
        if size > self._left:
            raise _LeftOutError(TOO_LONG)
        self._left -= size
        return self._stream.read(size)


def _kind(header: Dataset) -> str | None:
    sop_class = _text(header, "sop_class") or str(header.file_meta.get("MediaStorageSOPClassUID", ""))
    return next((kind for uid, kind in _KINDS.items() if f"{sop_class}.".startswith(f"{uid}.")), None)


def _facts(header: Dataset) -> ImageFacts:
    rows, columns = _number(header, "rows"), _number(header, "columns")
    if not rows or not columns:
        raise _LeftOutError(NO_SIZE)
    return ImageFacts(
        modality=_code(header, "modality"),
        body_part=_code(header, "body_part"),
        view=_code(header, "view"),
        rows=rows,
        columns=columns,
        frames=max(1, int(_text(header, "frames") or 1)),
        bits=_number(header, "bits"),
        photometric=_code(header, "photometric"),
        transfer_syntax=str(header.file_meta.get("TransferSyntaxUID", "")),
        manufacturer=_text(header, "manufacturer")[:64],
    )


def _patient(header: Dataset, relative: str, pseudonyms: Pseudonyms) -> str:
    for kind in ("patient", "study"):
        if value := _text(header, kind):
            return pseudonyms.name(kind, value)
    return pseudonyms.name("file", relative)


def _raw(header: Dataset, key: str) -> bytes:
    element = header.get_item(_TAGS[key])
    value: object = getattr(element, "value", None)
    return value if isinstance(value, bytes) else b""


def _text(header: Dataset, key: str) -> str:
    value = _raw(header, key).rstrip(b"\0 ")
    try:
        return value.decode("utf-8").strip()
    except UnicodeDecodeError:
        return value.decode("latin-1").strip()


def _code(header: Dataset, key: str) -> str:
    value = _text(header, key).upper()
    return value if _CODE.fullmatch(value) else ""


def _number(header: Dataset, key: str) -> int:
    value = _raw(header, key)[:2]
    is_little = header.original_encoding[1] is not False
    return int.from_bytes(value, "little" if is_little else "big")
