"""The size that compressed pixels say they have: checked against the header before they are decoded.

A decoder allocates what the codestream asks for, whatever the DICOM header says.
"""

import struct
from typing import Final

from mediclip.data.dicom.faults import Fault
from mediclip.errors import DecodeError

_J2K: Final = b"\xff\x4f\xff\x51"
_JP2: Final = b"\x00\x00\x00\x0cjP  "
_NO_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})
# Start of frame of every JPEG process (ISO/IEC 10918-1, B.1.1.3) and of JPEG-LS (ISO/IEC 14495-1, C.1.1).
_STARTS: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}


def checked(data: bytes, rows: int, columns: int, samples: int) -> tuple[bytes, int]:
    """Hold a codestream against the header.

    Args:
        data: JPEG, JPEG-LS or JPEG 2000.
        rows: Height that the header gives.
        columns: Width that the header gives.
        samples: Values per pixel that the header gives.

    Returns:
        The codestream, without the JP2 boxes that some writers put around it; and the bits of its values,
        0 for JPEG 2000, whose components may differ.

    Raises:
        Fault: ``DecodeError`` if it says otherwise, or nothing.
    """
    if data.startswith(_JP2):
        data = data[max(0, data.find(_J2K)) :]
    size = _size_2000(data) if data.startswith(_J2K) else _size_jpeg(data)
    if size is None:
        raise Fault(DecodeError, "hold an image where its header says so", "what it holds is none")
    if size[:3] != (rows, columns, samples):
        raise Fault(DecodeError, "hold an image of the size in its header", "it has another one")
    return data, size[3]


def _size_2000(data: bytes) -> tuple[int, int, int, int] | None:
    """Read marker segment SIZ (ISO/IEC 15444-1, A.5.1)."""
    if len(data) < 42:
        return None
    right, bottom, left, top = struct.unpack(">4I", data[8:24])
    components = struct.unpack(">H", data[40:42])[0]
    return bottom - top, right - left, components, 0


def _size_jpeg(data: bytes) -> tuple[int, int, int, int] | None:
    """Read the first frame header (ISO/IEC 10918-1, B.2.2), past all segments before it."""
    at = 2
    if not data.startswith(b"\xff\xd8"):
        return None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
        elif marker in _NO_LENGTH:
            at += 2
        elif marker in _STARTS:
            if at + 10 > len(data):
                return None
            bits, rows, columns, components = struct.unpack(">BHHB", data[at + 4 : at + 10])
            return rows, columns, components, bits
        else:
            at += 2 + int(struct.unpack(">H", data[at + 2 : at + 4])[0])
    return None
