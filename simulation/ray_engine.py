"""Many sites on Ray: the application as ``flwr run`` runs it, in processes of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.settings import SiteSettings
from mediclip import bundle
from mediclip.errors import (
    CheckpointError,
    FederationError,
    MediClipError,
    PromptError,
    QuorumError,
    SchemaError,
    SettingsError,
)
from server.app import HISTORY, OUTCOME
from server.settings import RunSettings
from simulation.plan import FederatedResult, OnEvent, Plan, RoundWatch, read_result

CONNECTION: Final = "simulation"
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 20.0
_LOOK_EVERY_S: Final = 0.2
_ENVIRONMENT: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Without it every run installs the project's dependencies, torch included, from a registry.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}
_ERRORS: Final[dict[str, type[MediClipError]]] = {
    kind.code: kind for kind in (CheckpointError, PromptError, QuorumError, SchemaError, SettingsError)
}


def run_ray(
    plan: Plan,
    sites: Sequence[SiteSettings],
    *,
    cpus: int | None = None,
    on_event: OnEvent | None = None,
) -> FederatedResult:
    """Run a federation on Ray.

    The processes start in the application's folder, because simulated clients import what lies in the current
    one first; the digest of the source that server and sites exchange would tell otherwise.

    Args:
        plan: The run; logs and site files come into ``plan.out`` too.
        sites: Settings of the sites, with different names and one thread each.
        cpus: Sites that train at the same time; as many as there are cores when omitted.
        on_event: Told of every finished round.

    Returns:
        Final tensors and history, which also lie in ``plan.out``.

    Raises:
        CheckpointError: If ``plan.out`` holds another run.
        FederationError: If Flower cannot be started or its run fails.
        QuorumError: If a round has too few updates.
        SettingsError: If a number is out of its range or two sites share a name.
    """
    started = time.monotonic()
    _check_names(sites)
    folder = plan.out.resolve() / "sites"
    settings = plan.prepare(len(sites), folder)
    watch = RoundWatch(settings.out / HISTORY, on_event, after=plan.finished_round())
    folder.mkdir(exist_ok=True)
    for number, site in enumerate(sites):
        located = site.model_copy(update={"data": site.data.resolve()})
        (folder / f"site-{number}.toml").write_text(located.to_toml(), encoding="utf-8")
    (settings.out / OUTCOME).unlink(missing_ok=True)
    with _superlink(settings.out / "flower") as link:
        status = _run(link, settings, len(sites), cpus or os.cpu_count() or 1, watch)
    _raise_failure(settings.out, status)
    return read_result(plan, time.monotonic() - started)


@dataclass(frozen=True)
class _Link:
    """A SuperLink of this run's own, on loopback."""

    home: Path
    environment: dict[str, str]
    root: Path

    def flwr(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of Flower's, its output going to ``flwr.log``."""
        with (self.home / "flwr.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own interpreter's scripts, no shell
                [_script("flwr"), *arguments], cwd=self.root, env=self.environment, stdout=log, stderr=log
            )

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a server of Flower's in a process group of its own, its output going to ``NAME.out``."""
        with (self.home / f"{name}.out").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own interpreter's scripts, no shell
                [_script(name), *arguments],
                cwd=self.root,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def list_runs(self) -> list[dict[str, Any]]:
        """Ask for the runs as Flower sees them."""
        answer = subprocess.run(  # noqa: S603 - our own interpreter's scripts, no shell
            [_script("flwr"), "ls", CONNECTION, "--format", "json"],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            check=False,
        )
        try:
            return list(json.loads(answer.stdout)["runs"])
        except (ValueError, KeyError):
            return []


@contextmanager
def _superlink(home: Path) -> Iterator[_Link]:
    # `flwr run` would start one by itself, on a port that another's may hold, and leave it running.
    home.mkdir(exist_ok=True)
    root = bundle.application_root()
    library = str(Path(bundle.__file__).resolve().parents[1])
    environment = os.environ | _ENVIRONMENT
    environment["FLWR_HOME"] = str(home)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment["PYTHONPATH"] = os.pathsep.join([str(root), library])
    port = _free_port()
    address = f"127.0.0.1:{port}"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "{address}"\ninsecure = true\n',
        encoding="utf-8",
    )
    link = _Link(home, environment, root)
    superlink = link.start(
        "flower-superlink",
        *("--insecure", "--simulation", "--isolation", "process", "--host", "127.0.0.1", "--port", str(port)),
        *("--log-file", str(home / "superlink.log")),
    )
    started = [superlink]
    try:
        _wait_until_listening(superlink, port)
        # Started by the SuperLink it would be beyond our reach, with Ray and its workers below it.
        started += [
            link.start(
                "flower-superexec",
                *("--insecure", "--runtime-api-address", address, "--parent-pid", str(os.getpid())),
            )
        ]
        yield link
    finally:
        for process in reversed(started):
            _stop_group(process)


def _run(link: _Link, settings: RunSettings, sites: int, cpus: int, watch: RoundWatch) -> str:
    run_config = link.home / "run-config.toml"
    lines = (
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
        for key, value in settings.to_run_config().items()
    )
    run_config.write_text("".join(lines), encoding="utf-8")
    resources = f"num-supernodes={sites} client-resources-num-cpus=1 init-args-num-cpus={cpus}"
    process = link.flwr(
        "run",
        str(link.root),
        CONNECTION,
        "--stream",
        "--run-config",
        str(run_config),
        "--federation-config",
        resources,
    )
    try:
        while process.poll() is None:
            watch.look()
            time.sleep(_LOOK_EVERY_S)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    watch.look()
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while True:  # the log stream may end a moment before the run's status is set
        status = next((str(run.get("status", "")) for run in link.list_runs()), "not started")
        if status.startswith("finished") or status == "not started" or time.monotonic() > deadline:
            return status
        time.sleep(_LOOK_EVERY_S)


def _raise_failure(out: Path, status: str) -> None:
    """Raise what the server wrote down: ``flwr run`` returns 0 for a failed run too."""
    try:
        outcome = json.loads((out / OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        outcome = {}
    if outcome.get("status") == "finished" and status == "finished:completed":
        return
    if outcome.get("status") == "failed":
        raise _ERRORS.get(outcome["code"], FederationError)(outcome["message"])
    message = (
        f"A run of Flower must end as finished:completed. It ended as {status!r} without a word of the "
        f"server; read flower/flwr.log and flower/superlink.log in {out.name}."
    )
    raise FederationError(message)


def _check_names(sites: Sequence[SiteSettings]) -> None:
    names = [site.name for site in sites]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = f"A site's name must be its own. {twice[0]!r} stands twice; give each site another name."
        raise SettingsError(message)


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(_LOOK_EVERY_S)
    message = (
        "Flower's SuperLink must start. It did not; read flower/flower-superlink.out in the run's folder."
    )
    raise FederationError(message)


def _stop_group(process: subprocess.Popen[Any], *, timeout_s: float = _STOP_TIMEOUT_S) -> None:
    """End the SuperLink and what it started, politely first."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            continue
