"""How a run ended: what the ServerApp wrote down, and the error that this becomes."""

import json
from pathlib import Path
from typing import Final, Literal

from mediclip.errors import (
    CheckpointError,
    FederationError,
    MediClipError,
    PromptError,
    QuorumError,
    SchemaError,
    SettingsError,
)
from server.app import OUTCOME

COMPLETED: Final = "finished:completed"
ERRORS: Final[dict[str, type[MediClipError]]] = {
    kind.code: kind for kind in (CheckpointError, PromptError, QuorumError, SchemaError, SettingsError)
}


def judge(out: Path, status: str) -> Literal["finished", "failed", "crashed"]:
    """Say how a run ended, by both witnesses: ``flwr run`` returns 0 for a failed run too.

    Args:
        out: Folder of the run.
        status: The run's status as Flower names it.

    Returns:
        ``"finished"``, ``"failed"`` for an error that trying again does not mend, or ``"crashed"``.
    """
    outcome = _read(out)
    if outcome.get("status") == "failed" and outcome.get("code") in ERRORS:
        return "failed"
    finished = outcome.get("status") == "finished" and status == COMPLETED
    return "finished" if finished else "crashed"


def raise_failure(out: Path, status: str) -> None:
    """Raise what the ServerApp wrote down; do nothing if the run finished.

    Args:
        out: Folder of the run.
        status: The run's status as Flower names it.

    Raises:
        MediClipError: Of the kind that ended the run; FederationError if that is not known.
    """
    if judge(out, status) == "finished":
        return
    outcome = _read(out)
    if outcome.get("status") == "failed":
        raise ERRORS.get(outcome["code"], FederationError)(outcome["message"])
    message = (
        f"A run of Flower must end as {COMPLETED}. It ended as {status!r} without a word of the "
        f"server; read flower/flwr.log and flower/superlink.log in {out.name}."
    )
    raise FederationError(message)


def _read(out: Path) -> dict[str, str]:
    try:
        return dict(json.loads((out / OUTCOME).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
