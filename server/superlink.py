"""All that leans on Flower's internals at the coordinator; ``tests/server/test_superlink.py`` holds it.

Stock Flower serves every API on one port, so whoever has the authority's certificate could submit code to all
sites. :func:`main` runs the same SuperLink with two listeners: the whole API on loopback, and on the public
address nothing but what a site's SuperNode needs.

Run as:  python -m server.superlink --public HOST:PORT --parent-pid PID  and flower-superlink's own options
"""

import asyncio
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mediclip.errors import FederationError
from server.federation import split_address

SUPERLINK_PROGRAM: Final = "flwr.superlink.cli.flower_superlink"
_FLEET: Final = "/v1/fleet/"
_HEALTH: Final = "/health"
_ONLINE: Final = "online"
_UNREGISTERED: Final = "unregistered"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def fleet_only(application: Application) -> Application:
    """Let nothing through but the sites' paths and health, over HTTP.

    Args:
        application: The SuperLink's ASGI application.

    Returns:
        An ASGI application that answers 404 to all else.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and (path.startswith(_FLEET) or path == _HEALTH):
            await application(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b"not found"})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})

    return guarded


def main() -> None:
    """Run a SuperLink with the two listeners until a signal, or until the coordinator is gone."""
    public, parent = _take("--public"), int(_take("--parent-pid"))
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    program: Any = importlib.import_module(SUPERLINK_PROGRAM)
    factory: Any = importlib.import_module("flwr.superlink.main")
    config = program._parse_superlink_lifespan_config()  # noqa: SLF001 - Flower has no other way
    application = factory.create_app(config, program.SuperLinkLifespan)
    asyncio.run(_serve(application, config, public))


@dataclass(frozen=True)
class Node:
    """A registered site as the SuperLink sees it.

    Attributes:
        number: Flower's id of the node.
        key: The public key as bytes.
        online: Whether its connection is up.
    """

    number: int
    key: bytes
    online: bool


class ControlApi:
    """The SuperLink's control API, over loopback.

    Args:
        address: ``host:port``.
        certificate: Of the authority that signed the SuperLink's.

    Every method raises FederationError if the SuperLink does not answer, or refuses.
    """

    def __init__(self, address: str, certificate: Path) -> None:
        # Importing Flower takes a second, which `mediclip --help` must not.
        from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor  # noqa: PLC0415
        from flwr.proto import control_pb2  # noqa: PLC0415
        from flwr.supercore.control import ControlHttpClient  # noqa: PLC0415
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor  # noqa: PLC0415

        self._messages: Any = control_pb2
        self._client: Any = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=certificate.read_bytes(),
            interceptors=[
                CliClientHttpInterceptor(),
                RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
            ],
        )

    def nodes(self) -> list[Node]:
        """List the registered nodes."""
        answer = self._ask("ListNodes", self._messages.ListNodesRequest())
        return [
            Node(info.node_id, info.public_key, info.status == _ONLINE)
            for info in answer.nodes_info
            if info.status != _UNREGISTERED
        ]

    def register(self, public_key: bytes, name: str) -> None:
        """Let the holder of a key take part."""
        self._ask("RegisterNode", self._messages.RegisterNodeRequest(public_key=public_key, name=name))

    def unregister(self, node: int) -> None:
        """Let a node take no part any more."""
        self._ask("UnregisterNode", self._messages.UnregisterNodeRequest(node_id=node))

    def run_status(self, run: int) -> str:
        """Ask how a run is: ``pending``, ``starting``, ``running`` or ``finished:<how>``."""
        answer = self._ask("ListRuns", self._messages.ListRunsRequest(run_id=run))
        status = answer.run_dict[run].status
        return ":".join(part for part in (status.status, status.sub_status) if part)

    def unfinished_runs(self) -> list[int]:
        """List the latest runs that have not finished."""
        answer = self._ask("ListRuns", self._messages.ListRunsRequest())
        return sorted(n for n, run in answer.run_dict.items() if run.status.status != "finished")

    def stop_run(self, run: int) -> None:
        """End a run."""
        self._ask("StopRun", self._messages.StopRunRequest(run_id=run))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, method: str, request: object) -> Any:  # noqa: ANN401 - a message of Flower's
        try:
            return getattr(self._client, method)(request)
        except Exception as error:
            message = (
                f"Flower's SuperLink must answer {method}. It did not ({type(error).__name__}); "
                "flower/superlink.log in the run's folder says why."
            )
            raise FederationError(message) from error


def key_bytes(public_key: str) -> bytes:
    """Turn a public key's line in OpenSSH's format into what Flower stores."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # noqa: PLC0415

    key: Any = serialization.load_ssh_public_key(public_key.encode())
    return bytes(public_key_to_bytes(key))


async def _serve(application: Application, config: Any, public: str) -> None:  # noqa: ANN401 - Flower's
    import uvicorn  # noqa: PLC0415

    tls = {"ssl_keyfile": config.ssl_keyfile, "ssl_certfile": config.ssl_certfile}
    host, port = split_address(public)
    common: dict[str, Any] = {**tls, "workers": 1, "log_level": "warning", "access_log": False}
    private = uvicorn.Server(uvicorn.Config(application, host=config.host, port=config.port, **common))
    guarded: Any = fleet_only(application)
    outside = uvicorn.Server(uvicorn.Config(guarded, host=host, port=port, lifespan="off", **common))
    tasks = [asyncio.create_task(private.serve())]
    while not private.started and not tasks[0].done():
        await asyncio.sleep(0.05)
    tasks.append(asyncio.create_task(outside.serve()))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    private.should_exit = outside.should_exit = True
    await asyncio.gather(*tasks)


def _take(option: str) -> str:
    place = sys.argv.index(option)
    value = sys.argv[place + 1]
    del sys.argv[place : place + 2]
    return value


def _end_with(parent: int) -> None:
    """End this process when the coordinator is gone, so that a new one finds its ports free."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5.0)
    os._exit(1)


if __name__ == "__main__":
    main()
