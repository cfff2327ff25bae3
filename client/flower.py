"""All that leans on Flower's internals at a site; ``tests/client/test_flower.py`` fails when they change.

Flower starts ``flwr-clientapp`` by name from PATH for every message, and that program unpacks and imports the
code that the coordinator sent. A script of the same name, first on the site's PATH, runs
:func:`run_installed_clientapp` instead: the same program with the application that the site installed itself.
What came is read as text, compared, and never unpacked or imported.
"""

import functools
import gc
import hashlib
import importlib
import io
import os
import re
import shlex
import signal
import sys
import sysconfig
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from client.stand_ins import EagerClock, WatchedPrograms
from mediclip.bundle import application_root
from mediclip.errors import PolicyError
from mediclip.protocol import error_reply

KeyState = Literal["accepted", "unknown", "refused", "unreachable"]

QUIET: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""No calls home, and no installation of packages that a coordinator names."""

SUPEREXEC_ENDED: Final = "The SuperExec of this site has ended, and its SuperNode ends with it."
"""What a SuperNode writes before it ends for that reason."""

SUPERNODE_LOOP: Final = "flwr.supernode.start_client_internal"
_TASK_LOOK_S: Final = 0.1
_OBJECT_LOOK_S: Final = 0.05
_QUESTION_WITHIN_S: Final = 1800.0
_WATCH_S: Final = 0.5
_GRACE_S: Final = 5.0
_BOTH_END_S: Final = 2.0

CLIENTAPP_PROGRAM: Final = "flwr.supernode.cli.flwr_clientapp"
CLIENTAPP_RUNTIME: Final = "flwr.supernode.runtime.run_clientapp"
_CLIENTAPP: Final = "flwr-clientapp"
_CHECKED: Final = "client/"
_LARGEST_FILE: Final = 2**20
_EXIT: Final = re.compile(r"Exit Code: (\d+)")
_API_CODE: Final = re.compile(r"\[code: (\d+)\]")
_NODE: Final = re.compile(r"SuperNode ID: (\d+)")
_KEY_KNOWN, _KEY_UNKNOWN = 2003, 2004  # what Flower answers to an activation with an interval of zero


def preload_clientapp() -> None:
    """Import whatever a ClientApp needs, and keep it out of the garbage collector's way."""
    for name in (CLIENTAPP_PROGRAM, CLIENTAPP_RUNTIME, "client.app", "client.service.remote"):
        importlib.import_module(name)
    gc.freeze()  # collecting would copy the memory that forked processes share


def run_installed_clientapp() -> None:
    """Run Flower's ``flwr-clientapp`` for one message with the site's own ClientApp."""
    # By name, because the package's function hides the module, and importing either takes seconds.
    program: Any = importlib.import_module(CLIENTAPP_PROGRAM)
    runtime: Any = importlib.import_module(CLIENTAPP_RUNTIME)
    arrived: list[bytes] = []
    threading.Thread(target=_end_in_time, args=(arrived, _parent(sys.argv)), daemon=True).start()

    def keep(content: bytes, **_: object) -> None:
        arrived.append(content)

    def loader(**_: object) -> Callable[[str, str, str], Callable[..., Any]]:
        return lambda *_: _application(arrived)

    # The names are looked up in Flower's module when it runs, which a test holds.
    runtime.pull_and_inflate_object_from_tree = _sooner(runtime.pull_and_inflate_object_from_tree)
    runtime.install_from_fab = keep
    runtime.get_load_client_app_fn = loader
    program.flwr_clientapp()


def _end_in_time(arrived: list[bytes], parent: int | None) -> None:
    """End this process when SuperExec has ended, or no question comes.

    Flower's own end waits for locks that what it interrupts may hold. And a ClientApp whose run was stopped
    while its question was on the way would wait for the rest of it for two hours.
    """
    deadline = time.monotonic() + _QUESTION_WITHIN_S
    while (parent is None or _is_alive(parent)) and (arrived or time.monotonic() < deadline):
        time.sleep(_WATCH_S)
    time.sleep(_GRACE_S)
    os._exit(1)


def _parent(arguments: Sequence[str]) -> int | None:
    place = arguments.index("--parent-pid") + 1 if "--parent-pid" in arguments else len(arguments)
    return int(arguments[place]) if place < len(arguments) and arguments[place].isdigit() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _application(arrived: list[bytes]) -> Callable[..., Any]:
    from flwr.app import Context, Error, Message  # noqa: PLC0415

    from client.app import app  # noqa: PLC0415

    if len(arrived) == 1 and bundle_digest(arrived[0]) == installed_digest():
        return app

    def refuse(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower passes both by name
        return Message(Error(*error_reply(f"{PolicyError.code}-source")), reply_to=message)

    return refuse


def bundle_digest(content: bytes) -> str:
    """Digest the client's code in a bundle, as hexadecimal, without unpacking it.

    Args:
        content: The bundle as it came over the network.

    Returns:
        The digest; empty for what cannot be read or holds an overlarge file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            members = [m for m in bundle.infolist() if _is_checked(m.filename)]
            if any(m.file_size > _LARGEST_FILE for m in members) or len({m.filename for m in members}) < len(
                members
            ):
                return ""
            return _digest({m.filename: bundle.read(m) for m in members})
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError):
        return ""


def installed_digest() -> str:
    """Digest the client's code as it is installed at the site, as hexadecimal."""
    root = application_root()
    files = (p for p in (root / _CHECKED).rglob("*.py") if _is_checked(p.relative_to(root).as_posix()))
    return _digest({p.relative_to(root).as_posix(): p.read_bytes() for p in files})


def _is_checked(name: str) -> bool:
    return name.startswith(_CHECKED) and name.endswith(".py") and "__pycache__" not in name


def _digest(files: Mapping[str, bytes]) -> str:
    lines = [f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in sorted(files.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def run_supernode() -> None:
    """Run Flower's SuperNode until it ends, or its starter does, whose pipe is the standard input."""
    from flwr.supernode.cli.flower_supernode import flower_supernode  # noqa: PLC0415 - seconds

    loop: Any = importlib.import_module(SUPERNODE_LOOP)
    loop.pull_objects = _sooner(loop.pull_objects)
    loop.time = EagerClock()  # its only use there is sleep, which a test holds
    loop.subprocess = WatchedPrograms(_end_with_superexec)  # its only use there is to start SuperExec

    def follow() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    flower_supernode()


def _sooner(pull: Callable[..., Any]) -> Callable[..., Any]:
    """Look for what is not there yet sooner than after a second: a message comes before its objects do."""
    return functools.partial(pull, initial_backoff=_OBJECT_LOOK_S)


def _end_with_superexec() -> None:
    """End this SuperNode, which would wait for ever for a SuperExec that has ended, and say nothing."""
    time.sleep(_BOTH_END_S)  # what ends both lets this process sign off
    sys.stderr.write(f"{SUPEREXEC_ENDED}\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


def supernode_command(
    *, superlink: str, certificate: Path, key: Path, runtime_port: int, node_config: Mapping[str, str]
) -> list[str]:
    """Give the command that starts a site's SuperNode.

    Args:
        superlink: ``host:port`` of the coordinator.
        certificate: Certificate of the coordinator's authority.
        key: The node's private key.
        runtime_port: Free port on loopback, between the SuperNode and what it starts.
        node_config: What the ClientApp learns of its node.
    """
    config = " ".join(f'{name}="{value}"' for name, value in node_config.items())
    return [
        *(sys.executable, "-P", "-c", "from client.flower import run_supernode; run_supernode()"),
        *("--superlink", superlink, "--root-certificates", str(certificate)),
        *("--auth-supernode-private-key", str(key)),
        *("--host", "127.0.0.1", "--port", str(runtime_port), "--node-config", config),
    ]


def python_path() -> str:
    """Give the ``PYTHONPATH`` that finds the installed application and this library in a new process."""
    library = Path(__file__).resolve().parents[1]
    places = dict.fromkeys([str(application_root()), str(library)])
    return os.pathsep.join(places)


def site_environment(folder: Path, nursery: Path) -> dict[str, str]:
    """Make the environment in which a site's processes run the site's own code.

    Args:
        folder: The site's own folder; the script ``flwr-clientapp`` is written to its ``bin``.
        nursery: Socket of :mod:`client.nursery`, which that script asks.

    Returns:
        Environment variables.
    """
    programs = folder / "bin"
    programs.mkdir(mode=0o700, exist_ok=True)
    script = programs / _CLIENTAPP
    # Without site-packages, which the launcher has no use for and which take most of its time.
    code = f"from client.nursery import launch; launch({str(nursery)!r})"
    line = f'exec {shlex.quote(sys.executable)} -P -S -c {shlex.quote(code)} "$@"'
    script.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(python_path())}\n{line}\n", encoding="utf-8"
    )
    script.chmod(0o700)
    home = folder / "flower"
    home.mkdir(mode=0o700, exist_ok=True)
    path = [str(programs), sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    return {
        **os.environ,
        **QUIET,
        "FLWR_HOME": str(home),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(_TASK_LOOK_S),
        "PATH": os.pathsep.join([*path, os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": python_path(),
    }


def exit_codes(log: str) -> tuple[int | None, int | None]:
    """Find why a SuperNode ended: its process always exits with 0 or 1.

    Args:
        log: What it wrote since its start.

    Returns:
        Flower's exit code, and the code of the answer that caused it; None where there is none.
    """
    found = (_EXIT.findall(log), _API_CODE.findall(log))
    return tuple(int(codes[-1]) if codes else None for codes in found)  # type: ignore[return-value]


def probe_key(superlink: str, certificate: Path, key: Path) -> KeyState:
    """Ask the coordinator whether it knows a node's key, changing nothing there.

    It asks for an activation with an interval of zero, which Flower refuses in a different way for a key that
    is registered (invalid interval) and one that is not.

    Args:
        superlink: ``host:port`` of the coordinator.
        certificate: Certificate of the coordinator's authority.
        key: The node's private key.

    Returns:
        ``refused`` where the signature or its time is not accepted.
    """
    import httpx  # noqa: PLC0415
    from flwr.proto.fleet_pb2 import ActivateNodeRequest  # noqa: PLC0415
    from flwr.supercore.error import FlowerError  # noqa: PLC0415

    connection = _fleet(superlink, certificate, key)
    if connection is None:
        return "refused"
    fleet, public = connection
    try:
        with fleet:
            fleet.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=0))
    except httpx.HTTPStatusError as error:
        answer = FlowerError.from_json(error.response.text)
        code = None if answer is None else int(answer.code)
        return "accepted" if code == _KEY_KNOWN else "unknown" if code == _KEY_UNKNOWN else "refused"
    except (httpx.HTTPError, OSError):
        return "unreachable"
    return "refused"  # an interval of zero was taken: this is no Flower that we know


def sign_off(superlink: str, certificate: Path, key: Path, log: str) -> bool:
    """Tell the coordinator that a SuperNode that ended without a word is gone.

    Until its heartbeat expires, about a minute, the coordinator counts on it and turns the next one away.

    Args:
        superlink: ``host:port`` of the coordinator.
        certificate: Certificate of the coordinator's authority.
        key: The node's private key.
        log: What the SuperNode wrote since its start.

    Returns:
        Whether the coordinator took note; not if it knew already, or cannot be reached.
    """
    import httpx  # noqa: PLC0415
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest  # noqa: PLC0415

    nodes = _NODE.findall(log)
    connection = _fleet(superlink, certificate, key) if nodes else None
    if connection is None:
        return False
    try:
        with connection[0] as fleet:
            fleet.DeactivateNode(DeactivateNodeRequest(node_id=int(nodes[-1])))
    except (httpx.HTTPError, OSError):
        return False
    return True


def _fleet(superlink: str, certificate: Path, key: Path) -> tuple[Any, bytes] | None:
    """Make a client of the coordinator's fleet API with the public key that it signs for."""
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key  # noqa: PLC0415
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # noqa: PLC0415
    from flwr.supernode.fleet_http_client import FleetHttpClient  # noqa: PLC0415
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor  # noqa: PLC0415

    private = load_ssh_private_key(key.read_bytes(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        return None
    public = private.public_key()
    client = FleetHttpClient.from_server_address(
        superlink,
        insecure=False,
        root_certificates=certificate.read_bytes(),
        interceptors=[NodeAuthHttpInterceptor(private, public)],
    )
    return client, public_key_to_bytes(public)


ACTIVATION_FAILED: Final = _KEY_UNKNOWN
CONNECTION_ERROR: Final = 305
