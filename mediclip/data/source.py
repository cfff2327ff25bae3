"""Open one file of a data set, and refuse what cannot be an image before a byte of it is decoded."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from mediclip.errors import DataError, ImageError, TooLargeError, TruncatedError

MAX_BYTES: Final = 2**28


def unusable(
    name: str,
    must: str,
    found: str,
    do: str,
    *,
    error: type[DataError] = ImageError,
    kind: type[ImageError] = ImageError,
) -> DataError:
    """Make the one sentence that says why a file cannot be used.

    Args:
        name: What to call it, such as ``"test image 12"``; never its path.
        must: What has to hold, after "it must".
        found: What was found instead.
        do: What the reader can do about it.
        error: ``ImageError`` for images, ``MaskError`` for masks.
        kind: Which error of an image it is; masks have one alone.

    Returns:
        The error, to be raised ``from None`` where the cause would print a path.
    """
    chosen = kind if error is ImageError else error
    return chosen(f"Cannot use {name}: it must {must}, but {found}; {do}.")


@contextmanager
def opened(
    path: Path, *, name: str, error: type[DataError] = ImageError, max_bytes: int = MAX_BYTES
) -> Iterator[BinaryIO]:
    """Open a file that is regular, not empty and no larger than the cap.

    Args:
        path: The file.
        name: What messages call it.
        error: What to raise.
        max_bytes: The cap.

    Yields:
        The file at its start.

    Raises:
        DataError: Of the type ``error``, if the file is missing, unreadable, empty or above the cap.
    """
    remove = "or take it out of the set"
    try:
        # Without O_NONBLOCK a named pipe would hold the run for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise unusable(name, "exist", "its file is missing", f"restore it {remove}", error=error) from None
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else None
        found = f"its file cannot be opened ({reason or 'unusable name'})"
        raise unusable(name, "be readable", found, f"correct that {remove}", error=error) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise unusable(name, "be a regular file", "it is not", f"replace it {remove}", error=error)
    with os.fdopen(descriptor, "rb") as stream:
        if status.st_size == 0:
            found = "its file is empty"
            do = f"copy it again {remove}"
            raise unusable(name, "hold an image", found, do, error=error, kind=TruncatedError)
        if status.st_size > max_bytes:
            found = f"it has {status.st_size / 2**20:.0f} MiB"
            must = f"have at most {max_bytes >> 20} MiB"
            do = f"export it smaller {remove}"
            raise unusable(name, must, found, do, error=error, kind=TooLargeError)
        yield stream
