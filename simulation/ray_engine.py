"""Many sites on Ray: the application as ``flwr run`` runs it, in processes of its own."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from client.settings import SiteSettings
from mediclip.errors import SettingsError
from server.app import HISTORY, OUTCOME
from server.flower_processes import FlowerHome, free_port, script, stop_group, wait_until_listening
from server.outcome import raise_failure
from server.settings import RunSettings
from simulation.plan import SITES_FOLDER, FederatedResult, OnEvent, Plan, RoundWatch, read_result

CONNECTION: Final = "simulation"
_STATUS_TIMEOUT_S: Final = 20.0
_LOOK_EVERY_S: Final = 0.2


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
    folder = plan.out.resolve() / SITES_FOLDER
    settings = plan.prepare(len(sites), folder)
    watch = RoundWatch(settings.out / HISTORY, on_event, after=plan.finished_round())
    folder.mkdir(exist_ok=True)
    for number, site in enumerate(sites):
        located = site.model_copy(update={"data": site.data.resolve()})
        (folder / f"site-{number}.toml").write_text(located.to_toml(), encoding="utf-8")
    (settings.out / OUTCOME).unlink(missing_ok=True)
    with _superlink(settings.out / "flower") as link:
        status = _run(link, settings, len(sites), cpus or os.cpu_count() or 1, watch)
    raise_failure(settings.out, status)
    return read_result(plan, time.monotonic() - started)


@contextmanager
def _superlink(home: Path) -> Iterator[FlowerHome]:
    # `flwr run` would start one by itself, on a port that another's may hold, and leave it running.
    port = free_port()
    address = f"127.0.0.1:{port}"
    link = FlowerHome.open(home, CONNECTION, address)
    superlink = link.start(
        "flower-superlink",
        script("flower-superlink"),
        *("--insecure", "--simulation", "--isolation", "process", "--host", "127.0.0.1", "--port", str(port)),
        *("--log-file", str(home / "superlink.log")),
    )
    started = [superlink]
    try:
        wait_until_listening(superlink, port)
        # Started by the SuperLink it would be beyond our reach, with Ray and its workers below it.
        started += [
            link.start(
                "flower-superexec",
                script("flower-superexec"),
                *("--insecure", "--runtime-api-address", address, "--parent-pid", str(os.getpid())),
            )
        ]
        yield link
    finally:
        for process in reversed(started):
            stop_group(process)


def _run(link: FlowerHome, settings: RunSettings, sites: int, cpus: int, watch: RoundWatch) -> str:
    run_config = link.write_run_config(settings.to_run_config())
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
    deadline = time.monotonic() + _STATUS_TIMEOUT_S
    while True:  # the log stream may end a moment before the run's status is set
        status = next((str(run.get("status", "")) for run in link.list_runs()), "not started")
        if status.startswith("finished") or status == "not started" or time.monotonic() > deadline:
            return status
        time.sleep(_LOOK_EVERY_S)


def _check_names(sites: Sequence[SiteSettings]) -> None:
    names = [site.name for site in sites]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = f"A site's name must be its own. {twice[0]!r} stands twice; give each site another name."
        raise SettingsError(message)
