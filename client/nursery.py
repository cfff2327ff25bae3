"""Gives each message its ClientApp in no time: a process that has imported what one needs, and forks.

Flower starts the program ``flwr-clientapp`` anew for every message, which takes more than a second of a core
for its imports alone. The site's script of that name asks this process over a Unix socket for a copy of
itself instead, and starts the program as Flower would where nobody answers.

    python -m client.nursery SOCKET
"""

import json
import logging
import os
import selectors
import signal
import socket
import stat
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

SOCKET: Final = "clientapp.sock"
_LARGEST_REQUEST: Final = 2**16
_COLD: Final = "from client.flower import run_installed_clientapp; run_installed_clientapp()"


def launch(path: str) -> NoReturn:
    """Run ``flwr-clientapp`` with this process's arguments, warm if the nursery answers and cold if not.

    Args:
        path: The nursery's socket.
    """
    with suppress(OSError), socket.socket(socket.AF_UNIX) as nursery:
        nursery.connect(path)
        request = json.dumps([sys.argv[0], *sys.argv[1:]]).encode()
        socket.send_fds(nursery, [request], [1, 2])
        # An end without a word is that of a ClientApp which was killed; whoever asked will ask again.
        sys.exit(int(nursery.recv(16) or b"1"))
    os.execv(sys.executable, [sys.executable, "-P", "-c", _COLD, *sys.argv[1:]])  # noqa: S606 - our own interpreter


def main() -> None:
    """Import, then fork for every request until the starter ends, whose pipe is the standard input."""
    from client import flower  # noqa: PLC0415 - the launcher must not wait for it

    flower.preload_clientapp()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as ready:
        _bind(listener, Path(sys.argv[1]))
        ready.register(listener, selectors.EVENT_READ)
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            ready.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fd == 0 and not os.read(0, 1024):
                    return
                if key.fd != 0:
                    _answer(listener)


def _bind(listener: socket.socket, path: Path) -> None:
    path.unlink(missing_ok=True)
    before = os.umask(0o177)  # for this user alone from the first moment on
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(16)


def _answer(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        request, outputs, _, _ = socket.recv_fds(connection, _LARGEST_REQUEST, 2)
        try:
            if len(outputs) == 2 and os.fork() == 0:
                listener.close()
                _run_clientapp(connection, request, outputs)
        finally:
            for output in outputs:
                os.close(output)


def _run_clientapp(connection: socket.socket, request: bytes, outputs: list[int]) -> NoReturn:
    """Be the program that was asked for, in a process of its own, and tell who asked how it ended."""
    from client import flower  # noqa: PLC0415

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, output in enumerate(outputs, start=1):
        os.dup2(output, number)
    status = 1
    try:
        sys.argv[:] = json.loads(request)
        flower.run_installed_clientapp()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the end of a process; what Python would print goes to the site's log
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(OSError):
            connection.send(str(status).encode())
        os._exit(status)


if __name__ == "__main__":
    main()
