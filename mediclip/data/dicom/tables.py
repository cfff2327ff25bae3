"""Look-up tables of a header: modality, VOI and palette (PS3.3 C.11.1, C.11.2, C.7.6.3.1.5)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mediclip.data.dicom.faults import Fault, invalid
from mediclip.data.dicom.fields import numbers

_MAX_ENTRIES: Final = 2**16
_AS_TABLE: Final = "as a look-up table"
_PALETTES: Final = ("Red", "Green", "Blue")


def look_up(item: Dataset, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Send values through a modality or VOI table.

    Args:
        item: Item of ModalityLUTSequence or VOILUTSequence.
        values: ``(n,)``.

    Returns:
        ``(n,)`` entries, the first and the last one for values outside, and the bits of an entry.

    Raises:
        Fault: ``InvalidHeaderError`` if the table makes no sense.
    """
    count, first, bits = _descriptor(item, "LUTDescriptor")
    # The first value is signed where the values are, whatever representation the file gives it.
    if first >= 2**15 and values.size and values.min() < 0:
        first -= 2**16
    table = _entries(item, "LUTData", count, bits)
    at = np.clip(np.rint(np.nan_to_num(values)) - first, 0, count - 1).astype(np.intp)
    return table[at].astype(np.float64), bits


def palette(header: Dataset, values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Colour the indices of a palette.

    Args:
        header: The header.
        values: ``(H, W)`` indices.

    Returns:
        ``(H, W, 3)`` RGB; of entries of 16 bits the upper 8.

    Raises:
        Fault: ``InvalidHeaderError`` if the palette is missing or makes no sense.
    """
    planes = []
    for colour in _PALETTES:
        count, first, bits = _descriptor(header, f"{colour}PaletteColorLookupTableDescriptor")
        plain = f"{colour}PaletteColorLookupTableData"
        if f"Segmented{plain}" in header:
            table = _segmented(header, f"Segmented{plain}", count, bits)
        else:
            table = _entries(header, plain, count, bits)
        eight = (table >> (bits - 8) if bits > 8 else table).astype(np.uint8)
        planes.append(eight[np.clip(values.astype(np.int64) - first, 0, count - 1)])
    return np.stack(planes, axis=-1)


def _descriptor(item: Dataset, keyword: str) -> tuple[int, int, int]:
    """Read the number of entries, the first value and the bits of an entry."""
    found = numbers(item, keyword)
    if len(found) != 3 or any(value != int(value) for value in found) or not 8 <= found[2] <= 16:
        raise invalid(keyword, _AS_TABLE, "it is missing or holds something else")
    # 0 stands for 2^16, which does not fit into 16 bits.
    count = int(found[0]) % _MAX_ENTRIES or _MAX_ENTRIES
    return count, int(found[1]), int(found[2])


def _entries(item: Dataset, keyword: str, count: int, bits: int) -> NDArray[np.uint16]:
    """Read entries of 16 bits, or of 8 bits two by two."""
    words = _words(item, keyword)
    if len(words) < count and bits == 8 and 2 * len(words) >= count:
        words = words.astype("<u2").view(np.uint8).astype(np.uint16)
    if len(words) < count:
        raise invalid(keyword, _AS_TABLE, "it has fewer entries than it says")
    return _within(words[:count], bits)


def _words(item: Dataset, keyword: str) -> NDArray[np.uint16]:
    element = item.get(keyword)
    if isinstance(element, bytes):
        order = "<" if item.original_encoding[1] is not False else ">"
        return np.frombuffer(element[: len(element) // 2 * 2], dtype=f"{order}u2").astype(np.uint16)
    found = numbers(item, keyword)
    if any(not -(2**15) <= value < 2**16 for value in found):
        raise invalid(keyword, _AS_TABLE, "it has entries out of their range")
    return np.array(found, dtype=np.int64).astype(np.uint16)


def _within(words: NDArray[np.uint16], bits: int) -> NDArray[np.uint16]:
    return np.minimum(words, np.uint16(2**bits - 1))


def _segmented(header: Dataset, keyword: str, count: int, bits: int) -> NDArray[np.uint16]:
    """Expand segments (PS3.3 C.7.9.2) until there are ``count`` entries, however many more there would be."""
    words = _words(header, keyword).tolist()
    out: list[int] = []
    _expand(words, 0, len(words), out, count, keyword)
    if len(out) < count:
        raise invalid(keyword, _AS_TABLE, "it has fewer entries than it says")
    return _within(np.array(out[:count], dtype=np.uint16), bits)


def _expand(
    words: list[int], at: int, end: int, out: list[int], count: int, keyword: str, *, segments: int = 2**16
) -> None:
    """Append the entries of the segments between two places."""
    damaged: Fault = invalid(keyword, _AS_TABLE, "its segments make no sense")
    while at + 1 < end and len(out) < count and segments > 0:
        kind, length = words[at], words[at + 1]
        segments -= 1
        if kind == 0 and at + 2 + length <= end:
            out += words[at + 2 : at + 2 + length]
            at += 2 + length
        elif kind == 1 and at + 3 <= end and out and length:
            start, stop = out[-1], words[at + 2]
            out += [round(start + (stop - start) * i / length) for i in range(1, length + 1)]
            at += 3
        elif kind == 2 and at + 4 <= end and segments < 2**16:
            back = words[at + 2] | words[at + 3] << 16
            _expand_copies(words, back, length, out, count, keyword)
            at += 4
        else:
            raise damaged


def _expand_copies(words: list[int], at: int, copies: int, out: list[int], count: int, keyword: str) -> None:
    """Append segments that lie earlier, none of which points back itself."""
    for _ in range(copies):
        if at + 1 >= len(words) or words[at] not in {0, 1}:
            raise invalid(keyword, _AS_TABLE, "its segments make no sense")
        size = 2 + words[at + 1] if words[at] == 0 else 3
        _expand(words, at, at + size, out, count, keyword, segments=1)
        at += size
        if len(out) >= count:
            return
