"""Read a header that is as plain as most are, in a quarter of the time that a parser of every kind takes.

Plain is what begins with preamble and meta information, is little endian, and has no element of undefined
length before its pixels. Anything else, damage included, is left to pydicom. The elements are pydicom's, not
yet converted.
"""

import struct
from collections.abc import MutableSequence
from typing import Final, cast

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element, empty_value_for_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from mediclip.data.dicom.attributes import WANTED

_META_AT: Final = 132
_META_GROUP: Final = 2
_TRANSFER_SYNTAX: Final = BaseTag(0x00020010)
_CHARACTER_SET: Final = BaseTag(0x00080005)
_UID: Final = frozenset(b"0123456789.")
_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
# What a command, or the end of an item, would be.
_STRANGE_GROUPS: Final = frozenset({0x0000, _META_GROUP, 0xFFFE})
_TAGS: Final = {int(tag): BaseTag(tag) for tag in (*WANTED, _CHARACTER_SET)}
# Name of a value representation, and whether its length takes 4 bytes after 2 that are empty (PS3.5 7.1.2).
_VRS: Final = {str(vr).encode(): (str(vr), vr in EXPLICIT_VR_LENGTH_32) for vr in VR}
_Elements = dict[BaseTag, DataElement | RawDataElement]
_EXPLICIT: Final = struct.Struct("<HH2sH")
_IMPLICIT: Final = struct.Struct("<HHI")
_LENGTH: Final = struct.Struct("<I")


def transfer_syntax_of(head: bytes) -> tuple[str, int] | None:
    """Read the meta information (PS3.10 7.1).

    Args:
        head: The first bytes of a file.

    Returns:
        UID of the transfer syntax, and where the dataset begins; None if it is not plain.
    """
    at, uid = _META_AT, ""
    while at + 12 <= len(head):
        group, element, vr, length = _EXPLICIT.unpack_from(head, at)
        if group != _META_GROUP:
            return (uid, at) if uid else None
        if vr not in _VRS:
            return None
        start = at + 8
        if _VRS[vr][1]:
            length, start = _LENGTH.unpack_from(head, at + 8)[0], at + 12
        at = start + length
        if group << 16 | element == _TRANSFER_SYNTAX:
            value = head[start:at].rstrip(b" \0")
            if not set(value) <= _UID:
                return None
            uid = value.decode("ascii")
    return None


def attributes_of(data: bytes, at: int, *, uid: str, implicit: bool) -> tuple[Dataset, int] | None:
    """Read the attributes before the pixels that this package asks for.

    Args:
        data: The first bytes of a file, or of what was deflated in it.
        at: Where the dataset begins.
        uid: UID of the transfer syntax, which is kept as the dataset's meta information.
        implicit: Whether elements do not say their value representation.

    Returns:
        The attributes, and where the element of the pixels begins; None if they are not plain.
    """
    found: _Elements = {}
    if implicit and data[at + 4 : at + 6].isupper():  # it says one
        return None
    end = _collect(data, at, found, implicit=implicit)
    if end is None:
        return None
    dataset = Dataset(found)
    raw = RawDataElement(_TRANSFER_SYNTAX, "UI", len(uid), uid.encode(), 0, False, True)
    dataset.file_meta = FileMetaDataset({_TRANSFER_SYNTAX: raw})
    names = found.get(_CHARACTER_SET)
    characters: str | MutableSequence[str] = default_encoding
    if isinstance(names, RawDataElement):
        characters = convert_encodings(convert_raw_data_element(names).value)
    dataset.set_original_encoding(implicit, True, characters)
    return dataset, end


def _collect(data: bytes, at: int, found: _Elements, *, implicit: bool) -> int | None:
    """Go from element to element up to the pixels; None where that is not plain."""
    name: str | None = None
    while at + 12 <= len(data):
        begin, start = at, at + 8
        if implicit:
            group, element, length = _IMPLICIT.unpack_from(data, at)
        else:
            group, element, vr, length = _EXPLICIT.unpack_from(data, at)
            if vr not in _VRS:
                return None
            name, is_long = _VRS[vr]
            if is_long:
                length, start = _LENGTH.unpack_from(data, start)[0], start + 4
        tag = group << 16 | element
        if tag in _PIXELS:
            return begin
        at = start + length
        if at > len(data) or group in _STRANGE_GROUPS:
            return None
        if tag in _TAGS:
            value = data[start:at] if length else cast("bytes | None", empty_value_for_VR(name, raw=True))
            found[_TAGS[tag]] = RawDataElement(_TAGS[tag], name, length, value, start, implicit, True)
    return None
