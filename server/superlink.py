"""All that leans on Flower's internals at the coordinator; ``tests/server/test_superlink.py`` holds it.

Stock Flower serves every API on one port, so whoever has the authority's certificate could submit code to all
sites. :func:`main` runs the same SuperLink with two listeners: the whole API on loopback, for this user's own
processes and with the coordinator's secret, and on the public address nothing but what a site's SuperNode
needs, within bounds that hold before anybody is authenticated.

Run as:  python -m server.superlink --public HOST:PORT --parent-pid PID --secret FILE
         and flower-superlink's own options
"""

import asyncio
import contextlib
import hashlib
import importlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anyio import to_thread

from mediclip.errors import FederationError
from server.bounds import Bounded, Bounds, IsSite, Refusals, Scope
from server.federation import split_address
from server.guards import SECRET_HEADER, control_token, fleet_only, with_secret
from server.ports import Port, is_own_user

SUPERLINK_PROGRAM: Final = "flwr.superlink.cli.flower_superlink"
DATABASE: Final = "flwr.supercore.sql_mixin"
PRAGMAS: Final = (("busy_timeout", 60_000), ("cache_size", -4_000), ("mmap_size", 0))
"""How the state is used beside what Flower sets. With 50 sites its 5 s for a busy database ended in errors of
some. Its 64 MB of cache and 256 MB of map are for each of up to 30 connections."""

_AT_ONCE: Final = 8
_ONLINE: Final = "online"
_UNREGISTERED: Final = "unregistered"


def is_signed_by_site(application: Any) -> IsSite:  # noqa: ANN401 - Flower's
    """Make a function that checks a request's head as Flower will check the request.

    Args:
        application: The SuperLink's, whose state knows the registered keys.

    Returns:
        The function; true where a registered key has signed the time, and that is near.
    """
    from flwr.superlink.routers.fleet import node_auth  # noqa: PLC0415 - seconds

    def is_signed(scope: Scope) -> bool:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        return _is_signed(headers, node_auth, application.state.linkstate_factory.state())

    return is_signed


def _is_signed(headers: Mapping[str, str], names: Any, linkstate: Any) -> bool:  # noqa: ANN401 - Flower's
    try:
        public = names.b64decode(headers[names.FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        signature = names.b64decode(headers[names.FLEET_HTTP_SIGNATURE_HEADER], validate=True)
        signed = headers[names.TIMESTAMP_HEADER]
        age_s = (names.now() - names.datetime.datetime.fromisoformat(signed)).total_seconds()
        is_near = abs(age_s) < names.TIMESTAMP_TOLERANCE + names.SYSTEM_TIME_TOLERANCE
        key = names.bytes_to_public_key(public)
        return (
            is_near
            and bool(names.verify_signature(key, signed.encode("ascii"), signature))
            and linkstate.get_node_id_by_public_key(public) is not None
        )
    except (KeyError, ValueError, TypeError, UnicodeError):
        return False


def main() -> None:
    """Run a SuperLink with the two listeners until a signal, or until the coordinator is gone."""
    public, parent = _take("--public"), int(_take("--parent-pid"))
    secret_file = Path(_take("--secret"))
    sys.argv += ["--superexec-auth-secret-file", str(secret_file)]
    _raise_open_files()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    program: Any = importlib.import_module(SUPERLINK_PROGRAM)
    factory: Any = importlib.import_module("flwr.superlink.main")
    _bound_the_database()
    config = program._parse_superlink_lifespan_config()  # noqa: SLF001 - Flower has no other way
    application = factory.create_app(config, program.SuperLinkLifespan)
    asyncio.run(_serve(application, config, public, secret_file.read_bytes()))


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
        secret: The coordinator's secret.

    Every method raises FederationError if the SuperLink does not answer, or refuses.
    """

    def __init__(self, address: str, certificate: Path, secret: bytes) -> None:
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
                _Secret(control_token(secret)),
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

    def start_run(self, application: Path, run_config: Mapping[str, str | int | float | bool]) -> int:
        """Submit a run, as ``flwr run`` would, which cannot give the secret.

        Args:
            application: Folder of the application.
            run_config: Settings of the run.

        Returns:
            Flower's number of the run.
        """
        from flwr.cli.build import build_fab_from_disk  # noqa: PLC0415 - seconds
        from flwr.common.serde import fab_to_proto, user_config_to_proto  # noqa: PLC0415
        from flwr.supercore.fab import Fab  # noqa: PLC0415

        content = build_fab_from_disk(application)
        request = self._messages.StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {})),
            override_config=user_config_to_proto(dict(run_config)),
        )
        return int(self._ask("StartRun", request).run_id)

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


class _Secret:
    """Attaches the control API's secret to a request of Flower's HTTP client."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: Any, call_next: Any) -> Any:  # noqa: ANN401 - Flower's
        context.request.headers[SECRET_HEADER] = self._token
        return call_next(context)


async def _serve(application: Any, config: Any, public: str, secret: bytes) -> None:  # noqa: ANN401 - Flower's
    import uvicorn  # noqa: PLC0415

    # More at once would only wait for each other at the state, each with what it holds in memory.
    to_thread.current_default_thread_limiter().total_tokens = _AT_ONCE
    common: dict[str, Any] = {
        "ssl_keyfile": config.ssl_keyfile,
        "ssl_certfile": config.ssl_certfile,
        "log_level": "warning",
        "access_log": False,
        "ws": "none",
    }
    guarded: Any = with_secret(application, secret)
    private = uvicorn.Server(uvicorn.Config(guarded, **common))
    bounds = Bounds()
    bounded: Any = Bounded(fleet_only(application), is_signed_by_site(application), bounds, Refusals(bounds))
    outside = uvicorn.Server(uvicorn.Config(bounded, lifespan="off", **common))
    servers = [asyncio.create_task(private.serve(sockets=[]))]
    while not private.started and not servers[0].done():
        await asyncio.sleep(0.05)
    servers.append(asyncio.create_task(outside.serve(sockets=[])))
    while not outside.started and not servers[1].done():
        await asyncio.sleep(0.05)
    inside = Port(private, (config.host, config.port), admits=is_own_user)
    ports = [asyncio.create_task(port.serve()) for port in (inside, Port(outside, split_address(public)))]
    await asyncio.wait([*servers, *ports], return_when=asyncio.FIRST_COMPLETED)
    for port in ports:
        port.cancel()
    private.should_exit = outside.should_exit = True
    await asyncio.gather(*servers)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*ports)


def _bound_the_database() -> None:
    database: Any = importlib.import_module(DATABASE)
    database.SQLITE_PRAGMAS = (*database.SQLITE_PRAGMAS, *PRAGMAS)


def _raise_open_files() -> None:
    """Let this process hold as many connections as its ports allow."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
