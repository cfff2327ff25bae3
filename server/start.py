"""The coordinator: it keeps Flower's programs up, admits the sites' keys, submits the run and follows it.

out/
    coordinator.json coordinator.lock schema.json recipe.json
    checkpoint.safetensors history.jsonl outcome.json final.safetensors run.lock    written by the ServerApp
    conclusion.json                                                    who was sent a model of its own
    model.safetensors                                                  to score with, once the run has ended
    flower/     state.db superlink.log and the output of each program
"""

import os
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mediclip.config import Recipe
from mediclip.errors import FederationError, MediClipError, SettingsError
from mediclip.training.checkpoint import write_atomically
from server.app import CHECKPOINT, HISTORY, OUTCOME, STOP, refuse_earlier_run
from server.authority import now_utc, write_private
from server.checkpointing import load_round
from server.federation import FederationSettings
from server.flower_processes import (
    FlowerHome,
    Program,
    free_port,
    wait_until_free,
    wait_until_listening,
)
from server.history import History
from server.model_file import identity_of, write_model
from server.outcome import judge, raise_failure
from server.programs import superexec_command, superlink_command
from server.provision import Kits, SiteEntry
from server.run_process import run_in_work
from server.settings import RunSettings
from server.status import Phase, SiteStatus, Status, locked, write_status
from server.superlink import ControlApi, Node, key_bytes

CONNECTION: Final = "coordinator"
_TICK_S: Final = 0.5
_ASK_EVERY_S: Final = 2.0
_ACCEPTED_WITHIN_S: Final = 60.0
_CRASHES_WITHOUT_A_ROUND: Final = 3
_WRITE_AT_LEAST_EVERY_S: Final = 10.0

OnStatus = Callable[[Status], None]


@dataclass(frozen=True)
class Launch:
    """What a coordinator is started with.

    Attributes:
        settings: The federation.
        recipe: What the sites train with.
        kits: Certificates and register.
        out: Folder of the run.
        resume: Go on from the last finished round in ``out`` if there is one.
        sites_dir: Folder of ``site-K.toml``, for SuperNodes that know their site by number; tests use it.
    """

    settings: FederationSettings
    recipe: Recipe
    kits: Kits
    out: Path
    resume: bool = False
    sites_dir: str = ""


def coordinate(launch: Launch, on_status: OnStatus | None = None) -> Status:
    """Run a federation until its last round, a stop or an error.

    Whatever of Flower's programs ends is started again. A run that ends without a known error, such as one
    whose process was killed, is submitted again and goes on after its last finished round.

    Args:
        launch: What to run.
        on_status: Told where things stand, a few times a second.

    Returns:
        The last status, its phase ``finished`` or ``stopped``.

    Raises:
        CheckpointError: If ``out`` holds another run, or one and ``resume`` is not set.
        FederationError: If another coordinator works in ``out``, or Flower cannot be kept up.
        QuorumError: If a round has too few updates after all retries.
        SettingsError: If there are fewer sites than the quorum, a certificate has expired, or the public
            address cannot be bound.
    """
    out = launch.out.resolve()
    run = _plan(launch, out)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out), ExitStack() as stack:
        schema = launch.settings.schema_for(launch.recipe)
        write_atomically(run.schema_file, schema.to_json().encode())
        write_atomically(run.recipe_file, launch.recipe.model_dump_json().encode())
        (out / STOP).unlink(missing_ok=True)
        coordinator = _Coordinator(launch, run, on_status)
        stack.callback(coordinator.close)
        try:
            coordinator.run_to_the_end()
        except MediClipError as error:
            coordinator.tell("failed", str(error))
            raise
        except BaseException:
            coordinator.tell("interrupted")
            raise
        write_model(launch.settings, launch.recipe, out)
        return coordinator.tell("stopped" if coordinator.stop_wanted else "finished")


def _plan(launch: Launch, out: Path) -> RunSettings:
    """Check everything that can be checked before a process starts."""
    now = now_utc()
    settings = launch.settings
    active = launch.kits.active(now)
    needed = max(settings.quorum or len(active), settings.min_sites)
    if not active or needed > len(active):
        message = (
            f"A federation must have at least {max(needed, 1)} sites whose keys count. It has {len(active)}; "
            "add sites with 'mediclip server provision --add-site', or lower quorum and min_sites."
        )
        raise SettingsError(message)
    expiry = launch.kits.server_expiry()
    if expiry <= now:
        message = (
            f"The server's certificate must be valid. It expired on {expiry:%Y-%m-%d}; run 'mediclip server "
            "provision' again, which renews it."
        )
        raise SettingsError(message)
    shared = {name: getattr(settings, name) for name in RunSettings.model_fields if hasattr(settings, name)}
    run = RunSettings.parse(
        shared
        | {
            "out": out,
            "schema_file": out / "schema.json",
            "recipe_file": out / "recipe.json",
            "sites": len(active),
            "federation": settings.name,
            "coordinator_pid": os.getpid(),
            "sites_dir": launch.sites_dir,
            "resume": True,  # a run that is submitted again must go on; an earlier one is refused here
        },
        source="federation.toml",
    )
    refuse_earlier_run(out, resume=launch.resume)
    _finished_round(launch, out)  # another run's folder stays as it is
    return run


def _finished_round(launch: Launch, out: Path) -> int:
    checkpoint = out / CHECKPOINT
    if not checkpoint.exists():
        return 0
    settings, recipe = launch.settings, launch.recipe
    return load_round(checkpoint, settings.schema_for(recipe), identity_of(settings, recipe)).number


@dataclass
class _Seen:
    """What was last seen of sites and rounds."""

    nodes: list[Node] = field(default_factory=list)
    run_status: str = ""
    round: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    history_mark: tuple[int, int] = (0, 0)
    asked: float = -_ASK_EVERY_S


class _Coordinator:
    def __init__(self, launch: Launch, run: RunSettings, on_status: OnStatus | None) -> None:
        self._launch = launch
        self._run = run
        self._out = run.out
        self._on_status = on_status
        self._phase: Phase = "starting"
        self._resubmitted = 0
        self._seen = _Seen()
        self._written: tuple[float, Status | None] = (0.0, None)
        self._certificate_expires = launch.kits.server_expiry()
        self._entries: tuple[SiteEntry, ...] = launch.kits.active(now_utc())
        self._keys = {entry.name: key_bytes(entry.public_key) for entry in launch.kits.entries()}

        self._port = free_port()
        address = f"127.0.0.1:{self._port}"
        authority = launch.kits.authority.resolve()
        self._home = FlowerHome.open(self._out / "flower", CONNECTION, address, certificate=authority)
        secret, secret_file = secrets.token_bytes(32), self._home.folder / "secret"
        write_private(secret_file, secret)
        self._superlink = Program(
            "flower-superlink",
            superlink_command(
                launch.kits,
                launch.settings.listener,
                self._port,
                database=self._home.folder / "state.db",
                log=self._home.folder / "superlink.log",
                secret=secret_file,
            ),
        )
        self._superexec = Program("flower-superexec", superexec_command(launch.kits, address, secret_file))
        self._api = ControlApi(address, authority, secret)

    def run_to_the_end(self) -> None:
        """Start, wait for the quorum, and submit the run until it has finished or was stopped."""
        self._read_history()
        wait_until_free(*self._launch.settings.listener)
        wait_until_listening(self._superlink.keep_up(self._home), self._port)
        self._end_earlier_runs()
        self._wait_for_quorum()
        crashes, before = 0, self._seen.round
        while not self.stop_wanted:
            self._end_earlier_runs()
            status = self._follow(self._submit())
            verdict = judge(self._out, status)
            if verdict == "finished":
                return
            if verdict == "failed":
                raise_failure(self._out, status)
            crashes = 1 if self._seen.round > before else crashes + 1
            before = self._seen.round
            if crashes >= _CRASHES_WITHOUT_A_ROUND:
                raise_failure(self._out, status)
            self._resubmitted += 1

    def _end_earlier_runs(self) -> None:
        """End what a coordinator that was killed, or a ServerApp that is gone, left unfinished."""
        with suppress(FederationError):
            for run in self._api.unfinished_runs():
                self._api.stop_run(run)

    @property
    def stop_wanted(self) -> bool:
        """Whether somebody asked for an end before the last round."""
        return (self._out / STOP).exists() and self._seen.round < self._run.rounds

    def tell(self, phase: Phase, message: str = "") -> Status:
        """Say where things stand, to whoever watches and in the status file."""
        self._phase = phase
        online = {node.key for node in self._seen.nodes if node.online}
        status = Status(
            federation=self._launch.settings.name,
            phase=phase,
            round=self._seen.round,
            rounds=self._run.rounds,
            quorum=self._run.needed,
            sites=tuple(
                SiteStatus(
                    name=entry.name,
                    online=self._keys[entry.name] in online,
                    key_expires=entry.not_after,
                )
                for entry in self._entries
            ),
            metrics=self._seen.metrics,
            refused=self._seen.refused,
            restarts={
                "superlink": self._superlink.restarts,
                "superexec": self._superexec.restarts,
                "run": self._resubmitted,
            },
            certificate_expires=self._certificate_expires,
            message=message,
            pid=os.getpid(),
            updated=now_utc(),
        )
        written, last = self._written
        same = last is not None and last.model_copy(update={"updated": status.updated}) == status
        if not same or time.monotonic() - written > _WRITE_AT_LEAST_EVERY_S:
            write_status(self._out, status)
            self._written = (time.monotonic(), status)
        if self._on_status is not None:
            self._on_status(status)
        return status

    def close(self) -> None:
        """End Flower's programs."""
        self._api.close()
        for program in (self._superexec, self._superlink):
            program.end()

    def _wait_for_quorum(self) -> None:
        while not self.stop_wanted:
            self._look("waiting")
            if sum(site.online for site in self.tell("waiting").sites) >= self._run.needed:
                return
            time.sleep(_TICK_S)

    def _submit(self) -> int:
        (self._out / OUTCOME).unlink(missing_ok=True)
        deadline = time.monotonic() + _ACCEPTED_WITHIN_S
        while True:
            try:
                return self._api.start_run(self._home.root, self._run.to_run_config())
            except FederationError:  # the SuperLink may be starting
                if time.monotonic() > deadline:
                    raise
            self._look("running")
            time.sleep(_TICK_S)

    def _follow(self, run: int) -> str:
        self._seen.run_status = ""
        began = False
        while not self._seen.run_status.startswith("finished"):
            self._look("stopping" if self.stop_wanted else "running", run)
            works = run_in_work(self._out) == str(run)
            if began and not works and not (self._out / OUTCOME).exists():
                return self._give_up(run)
            began = began or works
            time.sleep(_TICK_S)
        self._read_history()
        return self._seen.run_status

    def _give_up(self, run: int) -> str:
        """End a run whose process is gone without a word, which Flower would wait a minute for."""
        with suppress(FederationError):  # a SuperLink that is away stops it when it is asked for the next one
            self._api.stop_run(run)
        self._read_history()
        return "finished:killed"

    def _look(self, phase: Phase, run: int | None = None) -> None:
        self._superlink.keep_up(self._home)
        self._superexec.keep_up(self._home)
        self._read_history()
        if time.monotonic() - self._seen.asked >= _ASK_EVERY_S:
            self._seen.asked = time.monotonic()
            with suppress(FederationError):  # it is being started again; what it would say is asked for later
                self._admit_keys()
                if run is not None:
                    self._seen.run_status = self._api.run_status(run)
        self.tell(phase)

    def _admit_keys(self) -> None:
        """Make the SuperLink's list of nodes what the register says, which may change at any time."""
        self._entries = self._launch.kits.active(now_utc())
        wanted = {key_bytes(entry.public_key): entry.name for entry in self._entries}
        self._keys = {name: key for key, name in wanted.items()}
        nodes = self._api.nodes()
        for node in nodes:
            if node.key not in wanted:
                self._api.unregister(node.number)
        known = {node.key for node in nodes}
        for key, name in wanted.items():
            if key not in known:
                self._api.register(key, name)
        self._seen.nodes = [node for node in nodes if node.key in wanted]

    def _read_history(self) -> None:
        path = self._out / HISTORY
        try:
            stat = path.stat()
        except FileNotFoundError:
            return
        mark = (stat.st_size, stat.st_mtime_ns)
        if mark == self._seen.history_mark:
            return
        self._seen.history_mark = mark
        entries: list[dict[str, Any]] = History(path).read()
        if entries:
            self._seen.refused = {row["site"]: row["reason"] for row in entries[-1]["refused"]}
        finished = [entry for entry in entries if "failed" not in entry]
        self._seen.round = finished[-1]["round"] if finished else 0
        self._seen.metrics = finished[-1]["metrics"] if finished else {}
