"""A parsed header, and where in its file the pixels lie."""

import struct
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mediclip.data.dicom.bounded import inflate
from mediclip.data.dicom.faults import Fault, invalid, too_large
from mediclip.data.dicom.fields import text
from mediclip.data.dicom.limits import MAX_INFLATED_BYTES
from mediclip.errors import TruncatedError

UNDEFINED: Final = 0xFFFFFFFF
PIXEL_GROUP: Final = 0x7FE0
PIXELS: Final = {0x0010: "PixelData", 0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData"}
ELEMENT_HEAD_BYTES: Final = 12
_LONG_VRS: Final = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN", b"SQ", b"UT", b"UC", b"UR")


@dataclass(frozen=True)
class Parsed:
    """A header, and where the pixels lie.

    Attributes:
        header: The attributes before the pixels that this package asks for.
        syntax: UID of the transfer syntax.
        keyword: ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
        vr: Value representation of the pixels, ``OB`` or ``OW`` where it matters.
        start: Where their value begins.
        length: Its length in bytes, or ``UNDEFINED``.
        size: Bytes of the file; of a deflated one when inflated, as far as needed.
        stream: The file.
        zipped_at: Where the deflated part begins, or None.
    """

    header: Dataset = field(repr=False)
    syntax: str
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
            data = inflate(self.stream, begin + size)[begin:]
        if len(data) < size:
            raise Fault(TruncatedError, "hold all of its pixels", "its file ends before", "copy it again")
        return data


def are_pixels(header: Dataset, head: bytes) -> bool:
    """Tell by the first 4 bytes of an element whether it holds pixels."""
    order = "<" if header.original_encoding[1] else ">"
    if len(head) < 4:
        return False
    group, element = struct.unpack(f"{order}HH", head[:4])
    return group == PIXEL_GROUP and element in PIXELS


def located(
    header: Dataset, begin: int, head: bytes, *, size: int, stream: BinaryIO, zipped_at: int | None = None
) -> Parsed | None:
    """Read the head of the element that holds the pixels (PS3.5 7.1).

    Args:
        header: The attributes before it.
        begin: Where the element begins, in a deflated file when inflated.
        head: Its first 12 bytes.
        size: Bytes of the file.
        stream: The file.
        zipped_at: Where the deflated part begins, or None.

    Returns:
        Where the pixels lie; None if the element is another, or its head is not whole.

    Raises:
        Fault: ``InvalidHeaderError`` if nothing says how they are compressed.
    """
    if not are_pixels(header, head):
        return None
    implicit, little = header.original_encoding
    order = "<" if little else ">"
    vr = b"" if implicit else head[4:6]
    start, raw = (begin + 12, head[8:12]) if vr in _LONG_VRS else (begin + 8, head[4:8])
    if len(raw) < 4:
        return None
    length = struct.unpack(f"{order}I", raw)[0]
    return Parsed(
        header=header,
        syntax=_syntax(header, encapsulated=length == UNDEFINED),
        keyword=PIXELS[struct.unpack(f"{order}H", head[2:4])[0]],
        vr=vr.decode() if vr in _LONG_VRS else "OW",
        start=start,
        length=length,
        size=size,
        stream=stream,
        zipped_at=zipped_at,
    )


def _syntax(header: Dataset, *, encapsulated: bool) -> str:
    """Take the transfer syntax from the meta information, or from how the dataset is written."""
    meta = getattr(header, "file_meta", None)
    if meta is not None and (uid := text(meta, "TransferSyntaxUID")):
        return uid
    if encapsulated:
        must = "that says how the pixels are compressed"
        raise invalid(keyword="TransferSyntaxUID", must=must, found="it is missing")
    implicit, little = header.original_encoding
    if not little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
