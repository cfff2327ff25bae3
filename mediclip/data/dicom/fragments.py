"""Find one frame among the fragments of encapsulated pixels (PS3.5 A.4), by seeking."""

import io
import struct
from bisect import bisect_right
from typing import BinaryIO, Final

from pydicom.dataset import Dataset

from mediclip.data.dicom.faults import Fault, too_large
from mediclip.data.dicom.limits import MAX_FRAGMENTS, MAX_FRAME_BYTES
from mediclip.errors import DecodeError, TruncatedError

_ITEM: Final = 0xE000FFFE
_DELIMITER: Final = 0xE0DDFFFE
# End of image or of codestream: the last bytes of a frame of any JPEG, but for padding.
_END: Final = b"\xff\xd9"
_MUST: Final = "hold all of its frames"


def encapsulated_frame(stream: BinaryIO, start: int, header: Dataset, *, frame: int, frames: int) -> bytes:
    """Read the compressed bytes of one frame.

    Args:
        stream: The file.
        start: Where the value of the pixels begins.
        header: For the extended offset table (PS3.3 C.7.6.3.1.8), if any.
        frame: Which frame, from 0.
        frames: How many there are.

    Returns:
        Its fragments, joined.

    Raises:
        Fault: ``TruncatedError`` if the file ends before the frame does, ``DecodeError`` if the fragments
            cannot be told apart, ``TooLargeError`` if there are too many or they are too long.
    """
    stream.seek(start)
    table, fragments = _fragments(stream)
    if not fragments:
        raise Fault(TruncatedError, _MUST, "it has none", "copy it again")
    first = fragments[0][0] - 8
    chosen = _of_frame(stream, fragments, _offsets(header, table, first, frames), frame=frame, frames=frames)
    if sum(length for _, length in chosen) > MAX_FRAME_BYTES:
        must = f"{MAX_FRAME_BYTES >> 20} MiB in a frame"
        raise too_large(must, "it has more")
    parts = []
    for at, length in chosen:
        stream.seek(at)
        parts.append(stream.read(length))
    return b"".join(parts)


def _fragments(stream: BinaryIO) -> tuple[bytes, list[tuple[int, int]]]:
    """Read the basic offset table, and where each fragment begins and how long it is."""
    size = stream.seek(0, io.SEEK_CUR)
    end = stream.seek(0, io.SEEK_END)
    stream.seek(size)
    table: bytes | None = None
    found: list[tuple[int, int]] = []
    while len(head := stream.read(8)) == 8:
        tag, length = struct.unpack("<II", head)
        if tag == _DELIMITER:
            return table or b"", found
        if tag != _ITEM:
            raise Fault(DecodeError, "be undamaged", "something else lies between its fragments")
        at = stream.tell()
        if at + length > end:
            raise Fault(TruncatedError, _MUST, "its file ends before", "copy it again")
        if table is None:
            if length > 4 * MAX_FRAGMENTS:
                raise _too_many()
            table = stream.read(length)
            continue
        found.append((at, length))
        if len(found) > MAX_FRAGMENTS:
            raise _too_many()
        stream.seek(at + length)
    if head:
        raise Fault(TruncatedError, _MUST, "its file ends before", "copy it again")
    return table or b"", found  # some writers leave the delimiter out


def _too_many() -> Fault:
    return too_large(f"{MAX_FRAGMENTS} fragments", "it has more")


def _offsets(header: Dataset, table: bytes, first: int, frames: int) -> list[int]:
    """Take where each frame begins from a table, if there is a whole one."""
    extended = header.get("ExtendedOffsetTable")
    if isinstance(extended, bytes) and len(extended) == 8 * frames:
        return [first + offset for offset in struct.unpack(f"<{frames}Q", extended)]
    if len(table) == 4 * frames:
        return [first + offset for offset in struct.unpack(f"<{frames}I", table)]
    return []


def _of_frame(
    stream: BinaryIO, fragments: list[tuple[int, int]], offsets: list[int], *, frame: int, frames: int
) -> list[tuple[int, int]]:
    if frames == 1:
        return fragments
    if len(fragments) == frames:
        return [fragments[frame]]
    if len(fragments) < frames:
        raise Fault(TruncatedError, _MUST, "it has fewer", "copy it again")
    if offsets:
        starts = [at - 8 for at, _ in fragments]
        until = offsets[frame + 1] if frame + 1 < frames else fragments[-1][0]
        begin, end = bisect_right(starts, offsets[frame] - 1), bisect_right(starts, until - 1)
        if frame + 1 == frames:
            end = len(fragments)
        if begin < end and starts[begin] == offsets[frame]:
            return fragments[begin:end]
        raise Fault(DecodeError, "be undamaged", "its table of frames does not fit its fragments")
    return _by_end_markers(stream, fragments, frame=frame)


def _by_end_markers(
    stream: BinaryIO, fragments: list[tuple[int, int]], *, frame: int
) -> list[tuple[int, int]]:
    """Count frames by the marker that ends each of them."""
    number = 0
    mine: list[tuple[int, int]] = []
    for at, length in fragments:
        if number == frame:
            mine.append((at, length))
        stream.seek(at + max(0, length - 10))
        if _END in stream.read(min(10, length)):
            number += 1
            if number > frame:
                return mine
    if mine:
        return mine
    raise Fault(TruncatedError, _MUST, "it has fewer", "copy it again")
