"""What a coordinator says about itself while it runs, in a file that ``mediclip server status`` reads."""

import json
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from mediclip.config import Settings
from mediclip.errors import SettingsError
from mediclip.training.checkpoint import write_atomically
from server.locks import held, holder

STATUS: Final = "coordinator.json"
_LOCK: Final = "coordinator.lock"

Phase = Literal["starting", "waiting", "running", "stopping", "finished", "stopped", "failed", "interrupted"]


class SiteStatus(Settings):
    """One site as the coordinator sees it.

    Attributes:
        name: Name of the site.
        online: Whether its connection is up.
        key_expires: When its key expires.
    """

    name: str
    online: bool
    key_expires: datetime


class Status(Settings):
    """Where a federation stands.

    Attributes:
        federation: Its name.
        phase: ``starting``, ``waiting`` for the quorum, ``running``, ``stopping`` after the round in work,
            and in the end ``finished``, ``stopped``, ``failed``, or ``interrupted`` from outside.
        round: The last finished round.
        rounds: The last round that is to be done.
        quorum: Updates that a round needs.
        sites: Every site whose key counts.
        metrics: Means of the last finished round.
        refused: Site and reason for each update of that round that did not count.
        restarts: How often each of Flower's programs, or the run, was started again.
        certificate_expires: When the server's certificate expires.
        message: What ended the run, if it failed.
        pid: Process of the coordinator.
        updated: When this was written.
    """

    federation: str
    phase: Phase
    round: int
    rounds: int
    quorum: int
    sites: tuple[SiteStatus, ...]
    metrics: dict[str, float]
    refused: dict[str, str]
    restarts: dict[str, int]
    certificate_expires: datetime
    message: str
    pid: int
    updated: datetime

    @property
    def online(self) -> int:
        """Number of sites whose connection is up."""
        return sum(site.online for site in self.sites)


def write_status(out: Path, status: Status) -> None:
    """Replace the status in a run's folder."""
    write_atomically(out / STATUS, status.model_dump_json(indent=2).encode())


def read_status(out: Path) -> Status:
    """Read the status in a run's folder.

    Returns:
        The last status; its phase is ``interrupted`` if no coordinator runs although it was not at an end.

    Raises:
        SettingsError: If there is none.
    """
    try:
        status = Status.model_validate(json.loads((out / STATUS).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        message = (
            f"--out must be the folder of a federation that was started. {out.name} holds no {STATUS}; "
            "name the folder that 'mediclip server start' got."
        )
        raise SettingsError(message) from error
    if status.phase in {"starting", "waiting", "running", "stopping"} and not is_running(out):
        return status.model_copy(update={"phase": "interrupted"})
    return status


def is_running(out: Path) -> bool:
    """Say whether a coordinator holds a run's folder."""
    return holder(out / _LOCK) is not None


def locked(out: Path) -> AbstractContextManager[None]:
    """Hold a run's folder, so that no two coordinators write into it.

    Raises:
        FederationError: If another process holds it.
    """
    message = (
        f"A run's folder must have one coordinator. One works in {out.name} already; stop it with "
        "'mediclip server stop', or choose another folder."
    )
    return held(out / _LOCK, message)
