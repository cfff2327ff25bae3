"""Attributes of a header as plain values, whatever the file holds in their place."""

import math
import re
import struct
from collections.abc import Sequence
from functools import cache
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from mediclip.data.dicom.faults import invalid

# A coded string (PS3.5 6.2). What is longer or in other characters may be free text, and is not kept.
_CODE: Final = re.compile(r"[A-Z0-9_ ]{1,16}")
# What is plain enough to be read without pydicom, which takes twenty times as long (PS3.5 6.2).
_STRINGS: Final = frozenset({"CS", "LO", "SH", "UI"})
_INTEGERS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i"}
_PLAIN: Final = re.compile(rb"[ -~]*\0?")
_ABSENT: Final = "absent"


def text(header: Dataset, keyword: str) -> str:
    """Read a string; of several values the first.

    Args:
        header: The header.
        keyword: Which attribute.

    Returns:
        The string without blanks and zeros around it; empty if there is none that can be read.
    """
    vr, plain = _plain(header, keyword)
    if vr == _ABSENT:
        return ""
    if vr in _STRINGS and _PLAIN.fullmatch(plain):
        return plain.decode("ascii").split("\\", 1)[0].strip(" \0")
    try:
        value = header.get(keyword)
    except Exception:  # noqa: BLE001 - conversion happens on access, and may fail in any way
        return ""
    if value is None:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        value = value[0] if len(value) else ""
    return str(value).strip(" \0")


def code(header: Dataset, keyword: str) -> str:
    """Read a coded string in capitals; empty if it is none."""
    value = text(header, keyword).upper()
    return value if _CODE.fullmatch(value) else ""


def label(header: Dataset, keyword: str) -> str:
    """Read a short description of a machine: printable ASCII, at most 64 characters."""
    return "".join(c for c in text(header, keyword)[:64] if " " <= c <= "~")


def numbers(header: Dataset, keyword: str) -> list[float]:
    """Read numbers.

    Args:
        header: The header.
        keyword: Which attribute.

    Returns:
        Its values; empty if it is missing or empty.

    Raises:
        Fault: ``InvalidHeaderError`` if one of them is no finite number.
    """
    vr, plain = _plain(header, keyword)
    if vr == _ABSENT:
        return []
    if vr in _INTEGERS and plain and len(plain) % struct.calcsize(_INTEGERS[vr]) == 0:
        order = "<" if header.original_encoding[1] is not False else ">"
        return [float(one) for (one,) in struct.iter_unpack(order + _INTEGERS[vr], plain)]
    try:
        value = header.get(keyword)
        if value is None or value == "":
            return []
        many = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        found = [float(one) for one in many]
    except Exception:  # noqa: BLE001 - conversion happens on access, and may fail in any way
        raise invalid(keyword, "as numbers", "it cannot be read as such") from None
    if not all(map(math.isfinite, found)):
        raise invalid(keyword, "as finite numbers", "it holds others")
    return found


def whole(header: Dataset, keyword: str, low: int, high: int, default: int | None = None) -> int:
    """Read a whole number.

    Args:
        header: The header.
        keyword: Which attribute.
        low: Least value that makes sense.
        high: Largest value that makes sense.
        default: What a missing or empty attribute stands for; None if it must be there.

    Returns:
        The number, in [low, high].

    Raises:
        Fault: ``InvalidHeaderError`` if it is missing without a default, no whole number or out of range.
    """
    must = f"as a whole number in [{low}, {high}]"
    found = numbers(header, keyword)
    if not found:
        if default is None:
            raise invalid(keyword, must, "it is missing")
        return default
    if len(found) != 1 or found[0] != int(found[0]) or not low <= found[0] <= high:
        raise invalid(keyword, must, "it holds something else")
    return int(found[0])


def items(header: Dataset, keyword: str) -> list[Dataset]:
    """Read the items of a sequence.

    Args:
        header: The header.
        keyword: Which attribute.

    Returns:
        Its items; empty if it is missing.

    Raises:
        Fault: ``InvalidHeaderError`` if it is no sequence.
    """
    if _plain(header, keyword)[0] == _ABSENT:
        return []
    try:
        value = header.get(keyword)
        found = [] if value is None else list(value)
    except Exception:  # noqa: BLE001 - conversion happens on access, and may fail in any way
        raise invalid(keyword, "as a sequence", "it cannot be read as such") from None
    if not all(isinstance(item, Dataset) for item in found):
        raise invalid(keyword, "as a sequence", "it is none")
    return found


@cache
def _dictionary_entry(keyword: str) -> tuple[BaseTag, str]:
    tag = BaseTag(tag_for_keyword(keyword) or 0)
    return tag, dictionary_VR(tag)


def _plain(header: Dataset, keyword: str) -> tuple[str, bytes]:
    """Give value representation and bytes of an element that nobody has converted yet, or ``_ABSENT``."""
    tag, known = _dictionary_entry(keyword)
    element: object = header.get_item(tag)  # pydicom's types know converted elements alone
    if isinstance(element, RawDataElement) and element.value is not None:
        return element.VR or known, element.value
    return _ABSENT if element is None else "", b""
