"""The process that a ServerApp runs in: alone in its run's folder, and gone soon after its coordinator.

Flower asks a ServerApp to end when the program that started it is gone. One that waits for a SuperLink that
is gone as well may never come to it, and one that was given up may still be at work when the next begins.
"""

import os
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from server.locks import held, holder

RUN_LOCK: Final = "run.lock"
PATIENCE_S: Final = 30.0
GRACE_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.5


def end_with(coordinator: int) -> None:
    """End this process when the coordinator's has ended, a few seconds later and whatever it is doing then.

    Nothing is lost: a round is on disk, or it is done again.

    Args:
        coordinator: Number of the coordinator's process; 0 where there is none, as in a simulation.
    """
    if coordinator:
        threading.Thread(target=_watch, args=(coordinator,), daemon=True).start()


def alone(out: Path, run: int = 0, *, patience_s: float = PATIENCE_S) -> AbstractContextManager[None]:
    """Hold a run's folder for this process, so that no two write its rounds and its end is seen at once.

    Args:
        out: The folder.
        run: Flower's number of the run.
        patience_s: How long another process may take to end.

    Raises:
        FederationError: If another still holds it.
    """
    message = (
        f"A run's folder must have one ServerApp. One works in {out.name} still; end that process, or choose "
        "another folder."
    )
    return held(out / RUN_LOCK, message, owner=str(run), wait_s=patience_s)


def run_in_work(out: Path) -> str | None:
    """Say whose process works in a run's folder: Flower's number of the run, None if there is none."""
    return holder(out / RUN_LOCK)


def _watch(coordinator: int) -> None:
    while _is_alive(coordinator):
        time.sleep(_LOOK_EVERY_S)
    time.sleep(GRACE_S)
    os._exit(1)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
