"""A second way to the daemon for the ClientApp's own user, who may not read what the daemon reads.

gRPC does not say who is at the other end of a Unix socket. So this listens on one that the ClientApp's user
may open, asks the system who has connected, and passes the bytes of those that may on to the daemon's socket.
"""

import logging
import os
import pwd
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mediclip.errors import FederationError, SettingsError

FOLDER_MODE: Final = 0o750
SOCKET_MODE: Final = 0o660
_AT_ONCE: Final = 16
_CHUNK: Final = 2**16
_CREDENTIALS: Final = struct.Struct("3i")
_log = logging.getLogger("mediclip.client")


@dataclass(frozen=True)
class User:
    """A user of this machine.

    Attributes:
        name: The name.
        uid: The number.
        gid: Number of the main group.
    """

    name: str
    uid: int
    gid: int


def find_user(name: str) -> User:
    """Look up a user of this machine.

    Raises:
        SettingsError: If there is none.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        message = (
            f"The 'clientapp_user' of site.toml must be a user of this machine. {name!r} is none; make it "
            f"with 'useradd --system {name}', or correct the name."
        )
        raise SettingsError(message) from None
    return User(name, entry.pw_uid, entry.pw_gid)


@contextmanager
def door(path: Path, inner: Path, user: User, *, own_uid: int | None = None) -> Iterator[None]:
    """Let a user through to the daemon's socket until the block ends.

    Args:
        path: The socket that the user may open; a dead daemon's is replaced.
        inner: The daemon's own socket.
        user: The ClientApp's user.
        own_uid: Number of the daemon's user; this process's when omitted.

    Raises:
        FederationError: If the socket cannot be made or given to the user's group.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        _bind(listener, path, user)
        listener.listen(_AT_ONCE)
        places = threading.BoundedSemaphore(_AT_ONCE)
        allowed = {user.uid, os.geteuid() if own_uid is None else own_uid}
        threading.Thread(target=_accept, args=(listener, inner, allowed, places), daemon=True).start()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _bind(listener: socket.socket, path: Path, user: User) -> None:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        os.chown(path.parent, -1, user.gid)
        path.parent.chmod(FOLDER_MODE)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        os.chown(path, -1, user.gid)
        path.chmod(SOCKET_MODE)
    except OSError as error:
        message = (
            f"The daemon must be able to give its socket to the group of {user.name}. It cannot "
            f"({error.strerror}); make the daemon's user a member of that group and the owner of the kit's "
            f"folder {path.parent.name}."
        )
        raise FederationError(message) from error


def _accept(
    listener: socket.socket, inner: Path, allowed: set[int], places: threading.BoundedSemaphore
) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the block has ended
        uid = peer_uid(connection)
        if uid not in allowed:
            _log.warning("A process of user %s tried the daemon's socket and was turned away", uid)
            connection.close()
            continue
        places.acquire()
        threading.Thread(target=_serve, args=(connection, inner, places), daemon=True).start()


def peer_uid(connection: socket.socket) -> int:
    """Ask the system whose process is at the other end of a Unix socket; -1 where it does not tell."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except (AttributeError, OSError):
        return -1
    return int(_CREDENTIALS.unpack(raw)[1])


def _serve(connection: socket.socket, inner: Path, places: threading.BoundedSemaphore) -> None:
    try:
        with connection, socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(str(inner))
            back = threading.Thread(target=_pump, args=(daemon, connection), daemon=True)
            back.start()
            _pump(connection, daemon)
            back.join()
    except OSError:
        pass  # one of the two is gone, and the other is told by the closing
    finally:
        places.release()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
