"""Locks on a run's folder that go with the process that holds them, however it ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mediclip.errors import FederationError

_LOOK_EVERY_S: Final = 0.05


@contextmanager
def held(path: Path, refusal: str, *, owner: str = "", wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock.

    Args:
        path: The lock's file; it is made, and stays.
        refusal: What to say if another process holds it.
        owner: What the file says as long as it is held.
        wait_s: How long to wait for the other process, in seconds.

    Raises:
        FederationError: If another process holds it all that time.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise FederationError(refusal) from error
            time.sleep(_LOOK_EVERY_S)
        os.ftruncate(handle, 0)
        os.write(handle, owner.encode())
        yield
    finally:
        os.close(handle)


def holder(path: Path) -> str | None:
    """Say who holds a lock.

    Returns:
        What its holder wrote as ``owner``; None if nobody holds it.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.read(handle, 256).decode(errors="replace")
    finally:
        os.close(handle)
    return None
