"""What a request to the public port may cost before Flower sees it: bytes, seconds, refusals of one host."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
IsSite = Callable[[Scope], bool]
"""Says from a request's head alone whether a registered site has signed it."""

_REFUSALS: Final = frozenset({400, 401, 403, 404, 405, 408, 413, 422, 429})
_KEPT_HOSTS: Final = 10_000


@dataclass(frozen=True)
class Bounds:
    """What one request and one host may cost.

    Attributes:
        stranger_bytes: Largest body of whoever is not known yet.
        site_bytes: Largest body of a registered site; Flower cuts arrays into 5 MiB.
        bodies: Larger bodies than a stranger's that are received at the same time.
        grace_s: Seconds in which any body may come.
        slowest: Bytes in a second of what comes later than that.
        refusals: Refused requests of one host before it is not listened to any more.
        refusals_per_s: How many of them are forgotten in a second.
    """

    stranger_bytes: int = 2**16
    site_bytes: int = 2**23
    bodies: int = 32
    grace_s: float = 20.0
    slowest: float = 8192.0
    refusals: int = 300
    refusals_per_s: float = 5.0


class Refusals:
    """Counts what hosts were refused, and forgets it steadily.

    Args:
        bounds: How many, and how fast they are forgotten.
        clock: Gives seconds.
    """

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds
        self._clock = clock
        self._hosts: dict[str, tuple[float, float]] = {}

    def count(self, host: str) -> float:
        """Give how many refusals of a host still count."""
        number, since = self._hosts.get(host, (0.0, 0.0))
        return max(number - (self._clock() - since) * self._bounds.refusals_per_s, 0.0)

    def add(self, host: str) -> None:
        """Count one more."""
        self._hosts[host] = (self.count(host) + 1.0, self._clock())
        if len(self._hosts) > _KEPT_HOSTS:
            self._hosts = {name: entry for name, entry in self._hosts.items() if self.count(name) > 0}

    def is_out(self, host: str) -> bool:
        """Say whether a host has been refused too often to be listened to."""
        return self.count(host) >= self._bounds.refusals


class Bounded:
    """An ASGI application in front of another one.

    Args:
        application: Gets whole, small enough requests.
        is_site: Says whether a registered site has signed a request; asked only where that decides.
        bounds: What is allowed.
        refusals: What hosts were refused so far.
    """

    def __init__(self, application: Application, is_site: IsSite, bounds: Bounds, refusals: Refusals) -> None:
        self._application = application
        self._is_site = is_site
        self._bounds = bounds
        self._refusals = refusals
        self._large = asyncio.Semaphore(bounds.bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do so."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        host = scope["client"][0] if scope.get("client") else ""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in _REFUSALS:
                self._refusals.add(host)
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        if self._refusals.is_out(host):
            await _refuse(counted, 429)
            return
        declared = _declared_bytes(scope)
        if declared is not None and declared <= self._bounds.stranger_bytes:
            await self._pass_on(scope, receive, counted, self._bounds.stranger_bytes)
            return
        if declared is not None and declared > self._bounds.site_bytes:
            await _refuse(counted, 413)
            return
        if not await asyncio.to_thread(self._is_site, scope):
            await _refuse(counted, 413)
            return
        async with self._large:
            await self._pass_on(scope, receive, counted, self._bounds.site_bytes)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        """Receive a body as a whole, which Flower does too, and hand it on."""
        body = bytearray()
        started = time.monotonic()
        while True:
            allowed = self._bounds.grace_s + len(body) / self._bounds.slowest
            try:
                async with asyncio.timeout(started + allowed - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                await _refuse(send, 408)
                return
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > limit:
                await _refuse(send, 413)
                return
            if not message.get("more_body", False):
                break
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._application(scope, replay, send)


def _declared_bytes(scope: Scope) -> int | None:
    """Read how long a body says it is; None where it does not say, and 0 where there is none."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return None
    text = headers.get(b"content-length", b"0")
    return int(text) if text.isdigit() else None


async def _refuse(send: Send, status: int) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"7"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"refused"})
