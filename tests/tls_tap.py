"""Stands between sites and a coordinator with the coordinator's own certificate, and keeps every byte."""

import asyncio
import ssl
import threading
from contextlib import suppress

_PIECE = 1 << 16


class TlsTap:
    """Listens in a coordinator's place, passes everything on, and keeps it.

    One event loop in one thread: OpenSSL does not let two threads read and write one connection.

    Args:
        port: Where the sites expect the coordinator.
        target: Port of loopback where it listens.
        kits: The coordinator's certificate and key, and its authority.
    """

    def __init__(self, port, target, kits):
        self._port, self._target = port, target
        self._near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._near.load_cert_chain(kits.certificate, kits.key)
        self._far = ssl.create_default_context(cafile=kits.authority)
        self._kept = []
        self._loop = asyncio.new_event_loop()

    def __enter__(self):
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.start_server(self._join, "127.0.0.1", self._port, ssl=self._near)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def conversations(self):
        """Give what was said, one direction of one connection at a time."""
        return [bytes(said) for said in self._kept]

    async def _end(self):
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _join(self, from_site, to_site):
        try:
            far = await asyncio.open_connection(
                "127.0.0.1", self._target, ssl=self._far, server_hostname="127.0.0.1"
            )
        except OSError:  # the coordinator is away
            to_site.close()
            return
        from_server, to_server = far
        await asyncio.gather(self._pump(from_site, to_server), self._pump(from_server, to_site))

    async def _pump(self, source, sink):
        """Pass on one direction; whichever ends first ends both."""
        said = bytearray()
        self._kept.append(said)
        with suppress(OSError):
            while data := await source.read(_PIECE):
                said += data
                sink.write(data)
                await sink.drain()
        sink.close()
