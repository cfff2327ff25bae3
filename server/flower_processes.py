"""Flower's programs as processes of our own: started from one folder and ended with all they started."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mediclip import bundle
from mediclip.errors import FederationError, SettingsError

START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 20.0
_PORT_FREE_WITHIN_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.2
ENVIRONMENT: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Without it every run installs the project's dependencies, torch included, from a registry.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class FlowerHome:
    """A folder from which Flower's programs run, with logs of their own.

    Attributes:
        folder: Flower's configuration and the logs.
        connection: Name under which Flower's commands know the SuperLink.
        environment: What the programs see.
        root: The application, their current folder: simulated clients import what lies there first.
    """

    folder: Path
    connection: str
    environment: Mapping[str, str]
    root: Path

    @classmethod
    def open(
        cls, folder: Path, connection: str, address: str, *, certificate: Path | None = None
    ) -> "FlowerHome":
        """Write Flower's configuration.

        Args:
            folder: Where; it is made.
            connection: Name of the connection.
            address: ``host:port`` of the SuperLink's API.
            certificate: Of the authority that signed the SuperLink's; no TLS when omitted.

        Returns:
            The folder.
        """
        folder.mkdir(mode=0o700, exist_ok=True)  # the SuperLink's state holds the runs' secrets
        trust = "insecure = true"
        if certificate is not None:
            trust = f"root-certificates = {json.dumps(str(certificate), ensure_ascii=False)}"
        (folder / "config.toml").write_text(
            f'[superlink]\ndefault = "{connection}"\n\n'
            f'[superlink.{connection}]\naddress = "{address}"\n{trust}\n',
            encoding="utf-8",
        )
        root = bundle.application_root()
        library = str(Path(bundle.__file__).resolve().parents[1])
        environment = os.environ | ENVIRONMENT
        environment["FLWR_HOME"] = str(folder)
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
        environment["PYTHONPATH"] = os.pathsep.join([str(root), library])
        return cls(folder, connection, environment, root)

    def flwr(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of Flower's, its output going to ``flwr.log``."""
        with (self.folder / "flwr.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own interpreter's scripts, no shell
                [script("flwr"), *arguments], cwd=self.root, env=self.environment, stdout=log, stderr=log
            )

    def ask(self, *arguments: str) -> dict[str, Any]:
        """Run a command of Flower's and read the JSON that it prints.

        Returns:
            What it printed; empty if it failed. What it complained about goes to ``flwr.log``.
        """
        with (self.folder / "flwr.log").open("ab") as log:
            done = subprocess.run(  # noqa: S603 - our own interpreter's scripts, no shell
                [script("flwr"), *arguments, "--format", "json"],
                cwd=self.root,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                check=False,
            )
            try:
                answer = json.loads(done.stdout)
            except ValueError:
                answer = None
            if not isinstance(answer, dict) or not answer.get("success"):
                log.write(done.stdout)
                return {}
        return answer

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a server in a process group of its own, its output going to ``NAME.out``."""
        with (self.folder / f"{name}.out").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and its scripts, no shell
                command,
                cwd=self.root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def list_runs(self) -> list[dict[str, Any]]:
        """Ask for the runs as Flower sees them, the latest first."""
        return list(self.ask("ls", self.connection).get("runs", []))

    def write_run_config(self, values: Mapping[str, str | int | float | bool]) -> Path:
        """Write the settings of a run where ``flwr run`` can read them."""
        path = self.folder / "run-config.toml"
        lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
        path.write_text("".join(lines), encoding="utf-8")
        return path


@dataclass
class Program:
    """One of Flower's servers, started again whenever it ends.

    Attributes:
        name: What its log is called.
        command: Program and arguments.
        process: The running one.
        restarts: How often it was started again.
    """

    name: str
    command: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    _not_before: float = 0.0

    def keep_up(self, home: FlowerHome) -> subprocess.Popen[bytes]:
        """Start it if it does not run, but not more often than once in a few seconds.

        Args:
            home: Where it runs.

        Returns:
            The process; it may have ended.
        """
        if self.process is not None:
            if self.process.poll() is None or time.monotonic() < self._not_before:
                return self.process
            stop_group(self.process, timeout_s=1.0)  # what it started
            self.restarts += 1
        self.process = home.start(self.name, *self.command)
        self._not_before = time.monotonic() + min(2.0 * (self.restarts + 1), 30.0)
        return self.process

    def end(self) -> None:
        """End it and all that it started."""
        if self.process is not None:
            stop_group(self.process)


def script(name: str) -> str:
    """Give the path of a program that came with this interpreter."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """Find a port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """Say whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_free(host: str, port: int) -> None:
    """Wait until the public address can be bound: a killed coordinator's SuperLink needs a moment to end.

    Raises:
        SettingsError: If it cannot be.
    """
    deadline = time.monotonic() + _PORT_FREE_WITHIN_S
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    message = (
                        f"The public address must be one that this machine can listen on. {host}:{port} is "
                        f"not ({error.strerror}); correct 'listen' in federation.toml, or end what holds it."
                    )
                    raise SettingsError(message) from error
            else:
                return
        time.sleep(_LOOK_EVERY_S)


def wait_until_listening(
    process: subprocess.Popen[bytes], port: int, *, timeout_s: float = START_TIMEOUT_S
) -> None:
    """Wait for a SuperLink.

    Raises:
        FederationError: If it ends, or does not listen in time.
    """
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        if is_listening(port):
            return
        time.sleep(_LOOK_EVERY_S)
    message = (
        "Flower's SuperLink must start. It did not; read flower/flower-superlink.out in the run's folder."
    )
    raise FederationError(message)


def stop_group(process: subprocess.Popen[Any], *, timeout_s: float = _STOP_TIMEOUT_S) -> None:
    """End a server and what it started, politely first."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            continue
