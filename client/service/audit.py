"""The site's audit log: one chained JSON line for everything that left or was refused.

It says numbers, names of tensors and fixed words; never an identifier, a path or a text from outside.
"""

from pathlib import Path
from typing import Final

from mediclip import chained_log
from mediclip.chained_log import START, ChainedLog, ChainEnd, read

__all__ = ["START", "AuditLog", "ChainEnd", "read", "verify"]

_NAME: Final = "audit log"


class AuditLog(ChainedLog):
    """An audit log; see :class:`mediclip.chained_log.ChainedLog`.

    Args:
        path: The log; it is made if it is not there, and checked if it is.

    Raises:
        CheckpointError: If a line of it was changed, removed or added from outside.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, name=_NAME)


def verify(path: Path) -> ChainEnd:
    """Check an audit log from its first line to its last; see :func:`mediclip.chained_log.verify`.

    Raises:
        CheckpointError: If a line is damaged, does not follow its predecessor, or lines are missing.
    """
    return chained_log.verify(path, name=_NAME)
