"""Read no more of a file than a header may take, and inflate no more than a limit, however one is asked."""

import io
import zlib
from typing import BinaryIO, Final

from mediclip.data.dicom.faults import Fault, too_large
from mediclip.data.dicom.limits import MAX_HEADER_BYTES
from mediclip.errors import InvalidHeaderError, TruncatedError

WHOLE_HEADER: Final = "have a whole header"


def header_too_large() -> Fault:
    """Make the fault of a header above its cap."""
    return too_large(f"{MAX_HEADER_BYTES >> 20} MiB of header", "it has more")


def ends_in_header() -> Fault:
    """Make the fault of a file that ends before its header does."""
    return Fault(TruncatedError, WHOLE_HEADER, "its file ends inside it", "copy it again")


def inflate(stream: BinaryIO, limit: int) -> bytes:
    """Inflate the rest of a file (PS3.5 A.5).

    Args:
        stream: The file, where its deflated part begins.
        limit: Bytes at most, above 0.

    Returns:
        So many bytes; fewer where the data end.

    Raises:
        Fault: ``InvalidHeaderError`` if the data are damaged.
    """
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


class DeflatedError(Exception):
    """The rest of a file was asked for, which a parser does to inflate it."""


class Bounded:
    """A file that gives no more than ``MAX_HEADER_BYTES`` bytes.

    Args:
        stream: The file.

    Attributes:
        short: Whether the file ended in the middle of something.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = MAX_HEADER_BYTES
        self.short = False
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, or up to the end of the file.

        Raises:
            DeflatedError: If all the rest is asked for.
            Fault: ``TooLargeError`` above the cap, ``TruncatedError`` for more than the file has.
        """
        if size < 0:  # pydicom would inflate all there is
            raise DeflatedError
        if size > self._left:
            rest = self._stream.seek(0, io.SEEK_END)
            raise ends_in_header() if size > rest else header_too_large()
        data = self._stream.read(size)
        self._left -= len(data)
        # A new element may be looked for at the end (8 bytes), or any element (1 byte).
        self.short |= len(data) < size and (len(data) > 0 or size not in {1, 8})
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, as any stream does."""
        self.short = False  # a search for a delimiter reads ahead, and comes back
        return self._stream.seek(offset, whence)
