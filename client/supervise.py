"""Keeps a site's daemon and SuperNode running, through crashes of either and of the coordinator.

What ends is started again after a pause that grows while it keeps ending. What was seen with Flower:

- The SuperNode was killed: the coordinator counts the old connection until its heartbeat expires, about a
  minute, and turns the new one away (exit code 305, answer 2004). The old one is signed off; where that was
  not possible, as after a power failure, the new one is tried again until it is in.
- The SuperNode's SuperExec was killed: Flower does not notice, and the site would answer nothing any more.
  The SuperNode ends with it here, and is started again.
- The coordinator is away: the SuperNode itself tries again without end, and if it ends, it is started again.
- The key is not known: it is tried again too, seldom, because a coordinator may register it later.
- The daemon was killed: it is started at once. A round in work is asked again by the ClientApp and answered.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Literal

from client import flower
from client.kit import Kit
from client.nursery import SOCKET as NURSERY
from mediclip.training.checkpoint import write_atomically

Part = Literal["daemon", "node"]
STATUS_FILE: Final = "status.json"
_POLL_S: Final = 0.25
_END_S: Final = 15.0
_LARGEST_LOG: Final = 10 * 2**20
_log = logging.getLogger("mediclip.client")


@dataclass
class Backoff:
    """How long to wait before something that has ended is started again.

    Attributes:
        first_s: Pause after the first end.
        longest_s: Largest pause; each is twice the one before.
        healthy_s: How long it must have run for the pauses to begin anew.
    """

    first_s: float
    longest_s: float
    healthy_s: float = 60.0
    _next_s: float | None = None

    def after(self, ran_s: float) -> float:
        """Give the pause in seconds after something ran for ``ran_s`` seconds."""
        pause = self.first_s if self._next_s is None or ran_s >= self.healthy_s else self._next_s
        self._next_s = min(2 * pause, self.longest_s)
        return pause


@dataclass
class Worker:
    """A program that is to run for as long as the site does.

    Attributes:
        name: What status and log call it.
        command: Gives the command; asked at every start, as a port may have been taken since.
        environment: Its environment variables.
        log: File that its output is appended to.
        backoff: Pauses between starts.
        explain: Says in plain words why it ended, from its exit status and what it wrote since its start.
    """

    name: str
    command: Callable[[], Sequence[str]]
    environment: Mapping[str, str]
    log: Path
    backoff: Backoff
    explain: Callable[[int, str], str]
    starts: int = 0
    note: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    _started: float = 0.0
    _due: float = 0.0
    _log_start: int = field(default=0, repr=False)

    def poll(self, *, may_start: bool = True) -> bool:
        """Start the program if it is due, and notice if it has ended.

        Args:
            may_start: Whether what it needs is there.

        Returns:
            Whether something has changed.
        """
        now = time.monotonic()
        if self.process is None:
            if not may_start or now < self._due:
                return False
            self._start(now)
            return True
        status = self.process.poll()
        if status is None:
            if self.note and now - self._started >= self.backoff.healthy_s:
                self.note = ""
                return True
            return False
        pause = self.backoff.after(now - self._started)
        self.note = self.explain(status, self._written())
        _log.warning("%s ended: %s; it is started again in %.0f s", self.name, self.note, pause)
        self._due = now + pause
        _close(self.process)
        self.process = None
        return True

    def stop(self) -> None:
        """Ask the program to end, and make it."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _close(self.process)
        self.process = None

    def state(self) -> dict[str, Any]:
        """Give plain values for the status file."""
        pid = None if self.process is None else self.process.pid
        return {"pid": pid, "starts": self.starts, "note": self.note}

    def _start(self, now: float) -> None:
        if self.log.exists() and self.log.stat().st_size > _LARGEST_LOG:
            self.log.replace(self.log.with_suffix(".old.log"))
        with _opened(self.log) as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(  # noqa: S603 - our own programs
                list(self.command()),
                cwd=self.log.parent,
                env=dict(self.environment),
                stdin=subprocess.PIPE,  # it ends when this process does
                stdout=log,
                stderr=log,
            )
        self._started = now
        self.starts += 1

    def _written(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read(1 << 20).decode(errors="replace")


class Supervisor:
    """A site's programs.

    Args:
        kit: The site's kit.
        part: ``"daemon"`` or ``"node"`` (SuperNode and ClientApps) where each has a user of its own; both
            when omitted.

    Raises:
        FederationError: If the folder of the part belongs to another user.
        SettingsError: If the site's settings cannot be used.
    """

    def __init__(self, kit: Kit, part: Part | None = None) -> None:
        self._kit = kit
        self._workers: list[Worker] = []
        state = kit.make_node_state() if part == "node" else kit.make_state()
        environment = flower.site_environment(state, state / NURSERY)
        self._status = state / STATUS_FILE
        if part != "node":
            command = [sys.executable, "-P", "-m", "client.service.daemon", "--kit", str(kit.folder)]
            self._add("daemon", lambda: command, environment, state, Backoff(0.5, 60.0))
        if part != "daemon":
            nursery = [sys.executable, "-P", "-m", "client.nursery", str(state / NURSERY)]
            self._add("supernode", lambda: _supernode(kit), environment, state, Backoff(2.0, 10.0), self._why)
            self._add("nursery", lambda: nursery, environment, state, Backoff(0.5, 60.0))

    def _add(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        environment: Mapping[str, str],
        folder: Path,
        backoff: Backoff,
        explain: Callable[[int, str], str] = lambda status, _: f"exit status {status}",
    ) -> None:
        log = folder / f"{name}.log"
        self._workers.append(Worker(name, command, environment, log, backoff, explain))

    def run(self, stop: threading.Event) -> None:
        """Keep them running until told to stop."""
        self._tell()
        try:
            while not stop.wait(_POLL_S):
                changed = [self._poll(worker) for worker in self._workers]
                if any(changed):
                    self._tell()
        finally:
            for worker in reversed(self._workers):
                worker.stop()
            self._status.unlink(missing_ok=True)

    def _poll(self, worker: Worker) -> bool:
        needs_daemon = worker.name != "daemon" and worker.process is None
        return worker.poll(may_start=not needs_daemon or is_listening(self._kit.socket))

    def _why(self, status: int, written: str) -> str:
        settings = self._kit.settings
        flower.sign_off(settings.superlink, self._kit.certificate, self._kit.key, written)
        if flower.SUPEREXEC_ENDED in written:
            return "its SuperExec ended"
        code, answer = flower.exit_codes(written)
        if code != flower.CONNECTION_ERROR:
            return f"exit status {status}" if code is None else f"Flower's exit code {code}"
        known = flower.probe_key(settings.superlink, self._kit.certificate, self._kit.key)
        if known == "accepted" and answer == flower.ACTIVATION_FAILED:
            return "the coordinator still counts the connection before, up to a minute"
        return {
            "accepted": "the coordinator was away for a moment",
            "unknown": "the coordinator does not know this site's key",
            "refused": "the coordinator does not accept the signature; compare the clocks",
            "unreachable": "the coordinator cannot be reached",
        }[known]

    def _tell(self) -> None:
        status = {
            "pid": os.getpid(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            **{worker.name: worker.state() for worker in self._workers},
        }
        write_atomically(self._status, json.dumps(status).encode())


def is_listening(path: Path) -> bool:
    """Say whether something answers on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _supernode(kit: Kit) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return flower.supernode_command(
        superlink=kit.settings.superlink,
        certificate=kit.certificate,
        key=kit.key,
        runtime_port=port,
        node_config={"socket": str(kit.socket)},
    )


def _opened(path: Path) -> IO[bytes]:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    file = os.fdopen(descriptor, "ab")
    file.seek(0, os.SEEK_END)
    return file


def _close(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        process.stdin.close()
