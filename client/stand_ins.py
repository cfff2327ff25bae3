"""What stands where Flower's SuperNode looks for Python's ``time`` and ``subprocess``."""

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

IDLE_S: Final = 3.0
"""What Flower's SuperNode sleeps where no message waits for it."""

_FIRST_LOOK_S: Final = 0.2
_LOOK_SHARE: Final = 0.05
_REPLY_LOOK_S: Final = 0.05


class EagerClock:
    """Stands for ``time``: the SuperNode looks often after it was busy.

    A node that was idle for a minute sleeps as Flower would have it. One that has just answered looks again
    soon, and less often the longer it waits: what looking adds is a twentieth of the wait.
    """

    def __init__(self) -> None:
        self._idle_s = 0.0

    def pause(self, wanted_s: float) -> float:
        """Give the pause in seconds for the one that Flower asks for."""
        if wanted_s < IDLE_S:  # an answer is being made, or is on its way from the ClientApp
            self._idle_s = 0.0
            return min(wanted_s, _REPLY_LOOK_S)
        pause = min(max(_LOOK_SHARE * self._idle_s, _FIRST_LOOK_S), wanted_s)
        self._idle_s += pause
        return pause

    def sleep(self, wanted_s: float) -> None:
        """Sleep for that long."""
        time.sleep(self.pause(wanted_s))


class WatchedPrograms:
    """Stands for ``subprocess``: a program that the SuperNode starts, its SuperExec, is watched.

    Args:
        on_end: Called once when a program has ended, however it did.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end

    def Popen(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":  # noqa: N802 - Python's name
        """Start a program."""
        program = subprocess.Popen(command)  # noqa: S603 - what Flower starts

        def watch() -> None:
            program.wait()
            self._on_end()

        threading.Thread(target=watch, daemon=True).start()
        return program
