"""RLE Lossless (PS3.5 annex G), with the size of the result known before it grows."""

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mediclip.data.dicom.faults import Fault
from mediclip.errors import DecodeError, TruncatedError

# A run has at most 128 bytes, so that this many pass the size of an image by 32 KiB at most.
_RUNS_AT_ONCE: Final = 256


def decode_rle(data: bytes, rows: int, columns: int, samples: int, depth: int) -> NDArray[np.unsignedinteger]:
    """Decode one frame.

    Args:
        data: Its compressed bytes.
        rows: Height H.
        columns: Width W.
        samples: Values per pixel.
        depth: Bytes per value: 1, 2, 4 or 8.

    Returns:
        ``(H, W)`` or ``(H, W, samples)`` of unsigned integers in the machine's byte order.

    Raises:
        Fault: ``DecodeError`` if the segments do not fit the header, ``TruncatedError`` if one ends early.
    """
    if len(data) < 64:
        raise Fault(TruncatedError, "hold all of its pixels", "it ends before", "copy it again")
    count, *offsets = struct.unpack("<16I", data[:64])
    if count != samples * depth or any(not 64 <= offset <= len(data) for offset in offsets[:count]):
        raise Fault(DecodeError, "be undamaged", "its segments do not fit its header")
    ends = [*offsets[1:count], len(data)]
    planes = np.empty((samples, rows * columns, depth), dtype=np.uint8)
    for i, (start, end) in enumerate(zip(offsets, ends, strict=False)):
        # The most significant byte of a value comes first (G.2).
        plane = _unpack(data[start:end], rows * columns)
        planes[i // depth, :, depth - 1 - i % depth] = np.frombuffer(plane, np.uint8, rows * columns)
    values = planes.view(f"<u{depth}")[..., 0].astype(f"=u{depth}", copy=False)
    if samples == 1:
        return values.reshape(rows, columns)
    return np.ascontiguousarray(values.T).reshape(rows, columns, samples)


def _unpack(segment: bytes, size: int) -> bytearray:
    """Unpack the runs of one segment (G.3.2) until there are ``size`` bytes, or a few more."""
    out = bytearray()
    at = 0
    try:
        while len(out) < size:
            for _ in range(_RUNS_AT_ONCE):
                run = segment[at] + 1
                if run < 129:
                    at += run + 1
                    out += segment[at - run : at]
                elif run > 129:
                    at += 2
                    out += segment[at - 1 : at] * (258 - run)
                else:
                    at += 1
    except IndexError:  # the segment has ended
        pass
    if len(out) < size:
        raise Fault(TruncatedError, "hold all of its pixels", "it ends before", "copy it again")
    return out
