"""Accepting connections for uvicorn: who may connect, how many, and how long they hold a place for nothing.

uvicorn has no bound on connections that only shake hands or send a request byte by byte. Here a connection is
looked at before TLS begins, and one that asks nothing within a few seconds is closed.
"""

import asyncio
import ipaddress
import os
import socket
import ssl
import struct
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

_SWEEP_S: Final = 0.5
_RESET: Final = struct.pack("ii", 1, 0)
_TABLES: Final = {4: Path("/proc/net/tcp"), 6: Path("/proc/net/tcp6")}

Address = tuple[str, int]
Admits = Callable[[Address, Address], bool]
"""Says whether a connection may be made, from the address of who connects and the one it connects to."""


@dataclass(frozen=True)
class Patience:
    """How many connections a port holds, and for how long.

    Attributes:
        connections: Connections in all.
        per_host: Connections of one address.
        handshake_s: Longest TLS handshake in seconds.
        quiet_s: Longest time in seconds from a handshake to the end of a request's head, and from an answer
            to the end of the next one.
    """

    connections: int = 1024
    per_host: int = 256
    handshake_s: float = 10.0
    quiet_s: float = 10.0


@dataclass
class _Place:
    quiet_since: float
    protocol: "_Protocol | None" = None


class Port:
    """One listening address of a uvicorn server that listens nowhere itself.

    Args:
        server: Started with ``sockets=[]``.
        address: Host and port to listen on.
        patience: Bounds.
        admits: Who may connect; whoever does when omitted.

    Raises:
        OSError: If the address cannot be bound.
    """

    def __init__(
        self,
        server: uvicorn.Server,
        address: Address,
        patience: Patience | None = None,
        admits: Admits | None = None,
    ) -> None:
        self._server = server
        self._patience = patience or Patience()
        self._admits = admits
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=256)
        self._listener.setblocking(False)
        self._places: dict[Address, _Place] = {}
        self._hosts: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        sweeper = asyncio.create_task(self._sweep())
        try:
            while True:
                try:
                    connection, name = await loop.sock_accept(self._listener)
                except OSError:  # no file descriptor left, or gone again
                    await asyncio.sleep(_SWEEP_S)
                    continue
                peer = (str(name[0]), int(name[1]))
                if not self._has_room(peer) or not self._is_admitted(connection, peer):
                    _reset(connection)
                    continue
                self._places[peer] = _Place(loop.time())
                self._hosts[peer[0]] += 1
                task = asyncio.create_task(self._greet(connection, peer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            sweeper.cancel()
            self._listener.close()

    def release(self, peer: Address) -> None:
        """Give a connection's place to another."""
        if self._places.pop(peer, None) is not None:
            self._hosts[peer[0]] -= 1
            if not self._hosts[peer[0]]:
                del self._hosts[peer[0]]

    def _has_room(self, peer: Address) -> bool:
        bounds = self._patience
        return len(self._places) < bounds.connections and self._hosts[peer[0]] < bounds.per_host

    def _is_admitted(self, connection: socket.socket, peer: Address) -> bool:
        own = connection.getsockname()
        return self._admits is None or self._admits(peer, (str(own[0]), int(own[1])))

    async def _greet(self, connection: socket.socket, peer: Address) -> None:
        config = self._server.config
        loop = asyncio.get_running_loop()
        protocol = _Protocol(config, self._server.server_state, self._server.lifespan.state, loop)
        protocol.on_lost = lambda: self.release(peer)
        try:
            await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=config.ssl,
                ssl_handshake_timeout=self._patience.handshake_s if config.ssl else None,
            )
        except (OSError, ssl.SSLError, TimeoutError):
            connection.close()
            self.release(peer)
            return
        if place := self._places.get(peer):
            place.protocol, place.quiet_since = protocol, loop.time()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = loop.time()
            for place in list(self._places.values()):
                if place.protocol is None:
                    continue  # its handshake has a limit of its own
                if place.protocol.is_in_use():
                    place.quiet_since = now
                elif now - place.quiet_since > self._patience.quiet_s:
                    place.protocol.transport.abort()


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, whose heads are bounded by 64 KiB, with a word when the connection is gone."""

    on_lost: Callable[[], None] | None = None
    _seen: object = None

    def is_in_use(self) -> bool:
        """Say whether a request is in work, or has been since this was last asked."""
        cycle: RequestResponseCycle | None = self.cycle
        before, self._seen = self._seen, cycle
        return cycle is not None and (cycle is not before or not cycle.response_complete)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()


def is_own_user(peer: Address, own: Address) -> bool:
    """Say whether a connection over loopback comes from a process of this user or of root.

    Args:
        peer: Address of who connects.
        own: The address that was connected to.

    Returns:
        Always true where the system does not tell whose a connection is: there the secrets must do.
    """
    if not sys.platform.startswith("linux"):
        return True
    return _owner_of(peer, own) in {0, os.geteuid()}


def _owner_of(peer: Address, own: Address) -> int | None:
    """Look up whose a connection of this machine is in the system's table; None if it is not there."""
    version = ipaddress.ip_address(peer[0]).version
    wanted = [_in_hexadecimal(peer), _in_hexadecimal(own)]
    with suppress(OSError):
        for line in _TABLES[version].read_text().splitlines()[1:]:
            columns = line.split()
            if columns[1:3] == wanted:
                return int(columns[7])
    return None


def _in_hexadecimal(address: Address) -> str:
    """Write an address as the system's table does: words of four bytes in the machine's order."""
    packed = ipaddress.ip_address(address[0]).packed
    words = (packed[i : i + 4] for i in range(0, len(packed), 4))
    order: Any = sys.byteorder
    return "".join(f"{int.from_bytes(w, order):08X}" for w in words) + f":{address[1]:04X}"


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()
