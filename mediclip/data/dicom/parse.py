"""Read a DICOM file up to its pixels, and find where they lie.

Most headers lie whole in the first 64 KiB, which are read at once and parsed in memory: the plain ones by
:mod:`mediclip.data.dicom.plain`, others by pydicom. What does not, or is not as it should be, is parsed again
through :class:`mediclip.data.dicom.bounded.Bounded`, which says what is wrong.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from mediclip.data.dicom.attributes import WANTED
from mediclip.data.dicom.bounded import (
    WHOLE_HEADER,
    Bounded,
    DeflatedError,
    ends_in_header,
    header_too_large,
    inflate,
)
from mediclip.data.dicom.faults import Fault
from mediclip.data.dicom.limits import MAX_FILE_BYTES, MAX_HEADER_BYTES, MAX_INFLATED_BYTES
from mediclip.data.dicom.located import (
    ELEMENT_HEAD_BYTES,
    PIXEL_GROUP,
    PIXELS,
    Parsed,
    are_pixels,
    located,
)
from mediclip.data.dicom.plain import attributes_of, transfer_syntax_of
from mediclip.data.dicom.quiet import hush
from mediclip.data.source import opened
from mediclip.errors import (
    EncryptedError,
    ImageError,
    InvalidHeaderError,
    NoPixelsError,
    NotDicomError,
)

_AT_ONCE: Final = 2**16
_OTHERWISE_WRITTEN: Final = frozenset({ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian})
_SIGNATURE_AT: Final = 128
# The first element of a dataset without a preamble is of group 2 or 8, in either byte order.
_GROUPS: Final = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
# Content type envelopedData of the Cryptographic Message Syntax (PS3.15 B.8, RFC 5652 6.1).
_ENVELOPED: Final = bytes.fromhex("06092a864886f70d010703")


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
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        head = stream.read(_AT_ONCE)
        yield _parse_in_memory(head, size, stream) or _parse(head, size, stream)


def _parse_in_memory(head: bytes, size: int, stream: BinaryIO) -> Parsed | None:
    """Parse a header that lies whole at the start of a file; None where anything is not as it should be."""
    if head[_SIGNATURE_AT : _SIGNATURE_AT + 4] != b"DICM":
        return None
    try:
        found = _plain(head)
        # pydicom inflates all there is. What is deflated says so in its meta information.
        if found is None and DeflatedExplicitVRLittleEndian.encode() in head:
            return None
        header, begin = found or _by_pydicom(head)
    except Exception:  # noqa: BLE001 - whatever a parser does with a damaged file, or with a part of one
        return None
    return located(header, begin, head[begin : begin + ELEMENT_HEAD_BYTES], size=size, stream=stream)


def _plain(head: bytes) -> tuple[Dataset, int] | None:
    syntax = transfer_syntax_of(head)
    if syntax is None or syntax[0] in _OTHERWISE_WRITTEN:
        return None
    uid, at = syntax
    return attributes_of(head, at, uid=uid, implicit=uid == ImplicitVRLittleEndian)


def _by_pydicom(head: bytes) -> tuple[Dataset, int]:
    memory = io.BytesIO(head)
    return dcmread(memory, stop_before_pixels=True, specific_tags=WANTED), memory.tell()


def _parse(head: bytes, size: int, stream: BinaryIO) -> Parsed:
    """Parse any header, and say what is wrong with it."""
    stream.seek(0)
    part_10 = head[_SIGNATURE_AT : _SIGNATURE_AT + 4] == b"DICM"
    if not part_10:
        _check_bare(head[: _SIGNATURE_AT + 4])
    source, bounded, zipped_at = stream, Bounded(stream), None
    try:
        header = _read(bounded, force=not part_10)
    except DeflatedError:
        zipped_at = stream.tell()
        plain = inflate(stream, MAX_HEADER_BYTES)
        source = memory = io.BytesIO(plain)
        bounded = Bounded(source)
        header = _read_inflated_in_memory(memory) or _read(bounded, inflated=True)
        if source.tell() >= MAX_HEADER_BYTES:
            raise header_too_large() from None
        if len(plain) < MAX_HEADER_BYTES:  # that is all, pixels included
            stream, size, zipped_at = source, len(plain), None
        else:  # whether there is so much shows when pixels are read
            size = MAX_INFLATED_BYTES
    if not part_10 and not any(k in header for k in ("SOPClassUID", "Modality", "Rows")):
        raise _not_dicom()  # a chance hit: a dataset says what it is, or how large
    begin = source.tell()
    element = source.read(ELEMENT_HEAD_BYTES)
    found = located(header, begin, element, size=size, stream=stream, zipped_at=zipped_at)
    if found is None:
        ended = len(element) < 8 and (begin > size or size <= _meta_end(header))
        raise _without_pixels(header, truncated=bounded.short or ended or are_pixels(header, element))
    return found


def _check_bare(head: bytes) -> None:
    """Refuse what cannot be a dataset without the preamble of PS3.10 7.1."""
    if _ENVELOPED in head:
        raise Fault(EncryptedError, "be readable", "it is encrypted", "decrypt it or take it out of the set")
    if not head.startswith(_GROUPS):
        raise _not_dicom()


def _not_dicom() -> Fault:
    do = "convert it or take it out of the set"
    return Fault(NotDicomError, "be a DICOM file", "its content is none", do)


def _read(bounded: Bounded, *, force: bool = False, inflated: bool = False) -> Dataset:
    """Read the attributes before the pixels."""
    try:
        if inflated:
            return _read_inflated(cast("BinaryIO", bounded))
        source = cast("BinaryIO", bounded)
        return dcmread(source, stop_before_pixels=True, force=force, specific_tags=WANTED)
    except (DeflatedError, Fault):
        raise
    except InvalidDicomError:
        raise _not_dicom() from None
    except Exception as error:  # noqa: BLE001 - whatever a parser does with a damaged file
        if isinstance(error, EOFError | struct.error) or bounded.short:
            raise ends_in_header() from None
        raise Fault(InvalidHeaderError, WHOLE_HEADER, "it is damaged") from None


def _read_inflated_in_memory(source: io.BytesIO) -> Dataset | None:
    """Read an inflated header from memory; None where anything is not as it should be."""
    try:
        if plain := attributes_of(source.getvalue(), 0, uid=DeflatedExplicitVRLittleEndian, implicit=False):
            source.seek(plain[1])
            return plain[0]
        header = _read_inflated(source)
    except Exception:  # noqa: BLE001 - whatever a parser does with a damaged file
        source.seek(0)
        return None
    head = source.read(4)
    source.seek(-len(head), io.SEEK_CUR)
    if are_pixels(header, head):
        return header
    source.seek(0)
    return None


def _read_inflated(source: BinaryIO) -> Dataset:
    header = read_dataset(
        source,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag.group == PIXEL_GROUP and tag.element in PIXELS,
        specific_tags=WANTED,
    )
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.set_original_encoding(is_implicit_vr=False, is_little_endian=True)
    return header


def _without_pixels(header: Dataset, *, truncated: bool) -> Fault:
    if truncated:
        return ends_in_header()
    if "EncryptedAttributesSequence" in header:
        do = "decrypt it or take it out of the set"
        return Fault(EncryptedError, "hold pixels in clear", "what it holds is encrypted", do)
    found = "it has none, or was cut off before them" if "Rows" in header else "it is of another kind"
    return Fault(NoPixelsError, "hold pixels", found, "take it out of the set")


def _meta_end(header: Dataset) -> int:
    """Tell where the meta information ends, which says its own length (PS3.10 7.1)."""
    meta = getattr(header, "file_meta", None)
    length = meta.get("FileMetaInformationGroupLength") if meta is not None else None
    # Preamble, signature and the element of 12 bytes that holds the length.
    return _SIGNATURE_AT + 4 + 12 + length if isinstance(length, int) else _SIGNATURE_AT + 4
