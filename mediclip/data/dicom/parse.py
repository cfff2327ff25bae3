"""Read a DICOM file up to its pixels, never more than a bounded number of bytes, and find where they lie."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from mediclip.data.dicom.attributes import WANTED
from mediclip.data.dicom.faults import Fault, invalid, too_large
from mediclip.data.dicom.limits import MAX_FILE_BYTES, MAX_HEADER_BYTES, MAX_INFLATED_BYTES
from mediclip.data.dicom.quiet import hush
from mediclip.data.source import opened
from mediclip.errors import (
    EncryptedError,
    ImageError,
    InvalidHeaderError,
    NoPixelsError,
    NotDicomError,
    TruncatedError,
)

UNDEFINED: Final = 0xFFFFFFFF
_SIGNATURE_AT: Final = 128
_PIXELS: Final = {0x0010: "PixelData", 0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData"}
_PIXEL_GROUP: Final = 0x7FE0
# The first element of a dataset without a preamble is of group 2 or 8, in either byte order.
_GROUPS: Final = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
_LONG_VRS: Final = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN", b"SQ", b"UT", b"UC", b"UR")
# Content type envelopedData of the Cryptographic Message Syntax (PS3.15 B.8, RFC 5652 6.1).
_ENVELOPED: Final = bytes.fromhex("06092a864886f70d010703")
_WHOLE_HEADER: Final = "have a whole header"


@dataclass(frozen=True)
class Parsed:
    """A header, and where the pixels lie.

    Attributes:
        header: The attributes before the pixels that this package asks for.
        syntax: Transfer syntax.
        keyword: ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
        vr: Value representation of the pixels, ``OB`` or ``OW`` where it matters.
        start: Where their value begins.
        length: Its length in bytes, or ``UNDEFINED``.
        size: Bytes of the file; of a deflated one when inflated, as far as needed.
        stream: The file.
        zipped_at: Where the deflated part begins, or None.
    """

    header: Dataset = field(repr=False)
    syntax: UID
    keyword: str
    vr: str
    start: int
    length: int
    size: int
    stream: BinaryIO = field(repr=False)
    zipped_at: int | None = None

    @property
    def little_endian(self) -> bool:
        """Whether numbers lie with their low byte first."""
        return self.syntax != ExplicitVRBigEndian

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes of the pixels' value.

        Args:
            offset: Where, from the start of the value.
            size: How many.

        Returns:
            Exactly so many bytes.

        Raises:
            Fault: ``TruncatedError`` if there are fewer, ``TooLargeError`` if a deflated file grows too far.
        """
        begin = self.start + offset
        if self.zipped_at is None:
            self.stream.seek(begin)
            data = self.stream.read(size)
        else:
            if begin + size > MAX_INFLATED_BYTES:
                must = f"{MAX_INFLATED_BYTES >> 20} MiB when inflated"
                raise too_large(must, "it would have more")
            self.stream.seek(self.zipped_at)
            data = _inflate(self.stream, begin + size)[begin:]
        if len(data) < size:
            raise Fault(TruncatedError, "hold all of its pixels", "its file ends before", "copy it again")
        return data


@contextmanager
def parsed(path: Path, *, name: str) -> Iterator[Parsed]:
    """Open a file and read its header.

    Args:
        path: The file.
        name: What messages call it.

    Yields:
        The header; the file stays open.

    Raises:
        ImageError: If the file cannot be opened.
        Fault: If it is no DICOM file with pixels whose header can be read.
    """
    hush()
    with opened(path, name=name, error=ImageError, max_bytes=MAX_FILE_BYTES) as stream:
        yield _parse(stream)


def _parse(stream: BinaryIO) -> Parsed:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(_SIGNATURE_AT + 4)
    stream.seek(0)
    part_10 = head[_SIGNATURE_AT:] == b"DICM"
    if not part_10:
        _check_bare(head)
    bounded = _Bounded(stream)
    zipped_at = None
    try:
        header: Dataset = dcmread(
            cast("BinaryIO", bounded), stop_before_pixels=True, force=not part_10, specific_tags=WANTED
        )
        source = stream
    except _DeflatedError:
        zipped_at = stream.tell()
        plain = _inflate(stream, MAX_HEADER_BYTES)
        source = io.BytesIO(plain)
        bounded = _Bounded(source)
        header = _read_inflated(bounded)
        size = len(plain)
        if size == MAX_HEADER_BYTES:
            size = MAX_INFLATED_BYTES  # whether there is so much shows when pixels are read
            if source.tell() >= MAX_HEADER_BYTES:
                must = f"{MAX_HEADER_BYTES >> 20} MiB of header"
                raise too_large(must, "it has more") from None
    except Fault:
        raise
    except InvalidDicomError:
        raise _not_dicom() from None
    except Exception as error:  # noqa: BLE001 - whatever a parser does with a damaged file
        if isinstance(error, EOFError | struct.error) or bounded.short:
            raise Fault(TruncatedError, _WHOLE_HEADER, "its file ends inside it", "copy it again") from None
        raise Fault(InvalidHeaderError, _WHOLE_HEADER, "it is damaged") from None
    _check_content(header, part_10=part_10)
    return _locate(header, source, bounded, size=size, zipped_at=zipped_at, stream=stream)


def _check_bare(head: bytes) -> None:
    """Refuse what cannot be a dataset without the preamble of PS3.10 7.1."""
    if _ENVELOPED in head:
        raise Fault(EncryptedError, "be readable", "it is encrypted", "decrypt it or take it out of the set")
    if not head.startswith(_GROUPS):
        raise _not_dicom()


def _not_dicom() -> Fault:
    do = "convert it or take it out of the set"
    return Fault(NotDicomError, "be a DICOM file", "its content is none", do)


def _check_content(header: Dataset, *, part_10: bool) -> None:
    """Refuse chance hits: a dataset says what it is, or how large."""
    if not part_10 and not any(k in header for k in ("SOPClassUID", "Modality", "Rows")):
        raise _not_dicom()


def _read_inflated(bounded: "_Bounded") -> Dataset:
    header = read_dataset(
        cast("BinaryIO", bounded),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag.group == _PIXEL_GROUP and tag.element in _PIXELS,
        specific_tags=WANTED,
    )
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.set_original_encoding(is_implicit_vr=False, is_little_endian=True)
    return header


def _inflate(stream: BinaryIO, limit: int) -> bytes:
    """Inflate (PS3.5 A.5) at most ``limit`` bytes; fewer where the data end."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    left = limit
    try:
        while left > 0 and not inflater.eof and (zipped := inflater.unconsumed_tail or stream.read(2**20)):
            part = inflater.decompress(zipped, left)
            parts.append(part)
            left -= len(part)
    except zlib.error:
        raise Fault(InvalidHeaderError, "be undamaged", "it cannot be inflated", "copy it again") from None
    return b"".join(parts)


def _locate(
    header: Dataset,
    source: BinaryIO,
    bounded: "_Bounded",
    *,
    size: int,
    zipped_at: int | None,
    stream: BinaryIO,
) -> Parsed:
    """Read the head of the element that holds the pixels."""
    implicit, little = header.original_encoding
    order = "<" if little else ">"
    begin = source.tell()
    head = source.read(12)
    if len(head) < 8:
        _refuse_without_pixels(header, truncated=bounded.short or begin > size or size <= _meta_end(header))
    group, element = struct.unpack(f"{order}HH", head[:4])
    if group != _PIXEL_GROUP or element not in _PIXELS:
        _refuse_without_pixels(header, truncated=bounded.short)
    vr = b"" if implicit else head[4:6]
    if implicit or vr not in _LONG_VRS:
        start, raw = begin + 8, head[4:8]
    else:
        start, raw = begin + 12, head[8:12]
    if len(raw) < 4:
        raise Fault(TruncatedError, _WHOLE_HEADER, "its file ends inside it", "copy it again")
    length = struct.unpack(f"{order}I", raw)[0]
    syntax = _syntax(header, implicit=bool(implicit), little=bool(little), encapsulated=length == UNDEFINED)
    return Parsed(
        header=header,
        syntax=syntax,
        keyword=_PIXELS[element],
        vr=vr.decode("ascii", "replace") if vr in _LONG_VRS else "OW",
        start=start,
        length=length,
        size=size,
        stream=stream,
        zipped_at=zipped_at,
    )


def _refuse_without_pixels(header: Dataset, *, truncated: bool) -> None:
    if truncated:
        raise Fault(TruncatedError, _WHOLE_HEADER, "its file ends inside it", "copy it again")
    if "EncryptedAttributesSequence" in header:
        do = "decrypt it or take it out of the set"
        raise Fault(EncryptedError, "hold pixels in clear", "what it holds is encrypted", do)
    found = "it has none, or was cut off before them" if "Rows" in header else "it is of another kind"
    raise Fault(NoPixelsError, "hold pixels", found, "take it out of the set")


def _meta_end(header: Dataset) -> int:
    """Tell where the meta information ends, which says its own length (PS3.10 7.1)."""
    meta = getattr(header, "file_meta", None)
    length = meta.get("FileMetaInformationGroupLength") if meta is not None else None
    # Preamble, signature and the element of 12 bytes that holds the length.
    return _SIGNATURE_AT + 4 + 12 + length if isinstance(length, int) else _SIGNATURE_AT + 4


def _syntax(header: Dataset, *, implicit: bool, little: bool, encapsulated: bool) -> UID:
    """Take the transfer syntax from the meta information, or from how the dataset is written."""
    meta = getattr(header, "file_meta", None)
    uid = str(meta.get("TransferSyntaxUID") or "") if meta is not None else ""
    if uid:
        return UID(uid)
    if encapsulated:
        must = "that says how the pixels are compressed"
        raise invalid(keyword="TransferSyntaxUID", must=must, found="it is missing")
    if not little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


class _DeflatedError(Exception):
    pass


class _Bounded:
    """A file that gives no more than a number of bytes, however it is asked."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = MAX_HEADER_BYTES
        self.short = False  # whether the file ended in the middle of something
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        if size < 0:  # pydicom would inflate all there is
            raise _DeflatedError
        if size > self._left:
            rest = self._stream.seek(0, io.SEEK_END)
            if size > rest:
                raise Fault(TruncatedError, _WHOLE_HEADER, "its file ends inside it", "copy it again")
            must = f"{MAX_HEADER_BYTES >> 20} MiB of header"
            raise too_large(must, "it has more")
        data = self._stream.read(size)
        self._left -= len(data)
        # A new element may be looked for at the end (8 bytes), or any element (1 byte).
        self.short |= len(data) < size and (len(data) > 0 or size not in {1, 8})
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.short = False  # a search for a delimiter reads ahead, and comes back
        return self._stream.seek(offset, whence)
