"""A log of JSON lines that tells when it was changed: each line holds the digest of the one before it.

The end of the chain is kept in a second file, so that lines cut off at the end are missed too. A line is on
the disk when :meth:`ChainedLog.append` returns, whatever kills the process after that.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mediclip.errors import CheckpointError
from mediclip.training.checkpoint import write_atomically

START: Final = "0" * 64
_PREVIOUS: Final = "previous"


@dataclass(frozen=True)
class ChainEnd:
    """How far a log goes.

    Attributes:
        lines: Number of lines.
        sha256: Digest of the last line without its line end; zeros for an empty log.
    """

    lines: int = 0
    sha256: str = START


class ChainedLog:
    """A log that is only ever appended to, by one process.

    Args:
        path: The log; it is made if it is not there, and checked if it is.
        name: What messages call it.

    Raises:
        CheckpointError: If a line of it was changed, removed or added from outside.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self._path = path
        _drop_torn_line(path, name)
        self._end = verify(path, name=name)
        self._last = {key: value for line in read(path) for key, value in line.items()}
        if _kept_end(path, name) != self._end:
            self._keep_end()

    @property
    def end(self) -> ChainEnd:
        """How far the log goes."""
        return self._end

    def last(self, key: str) -> dict[str, Any]:
        """Give what the last line with this key has there; an empty table if there is none."""
        return dict(self._last.get(key, {}))

    def append(self, event: str, **facts: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
        """Write a line and wait until it is on the disk.

        Args:
            event: Fixed word for what happened.
            **facts: Plain values.
        """
        line = {
            "line": self._end.lines + 1,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            _PREVIOUS: self._end.sha256,
            "event": event,
            **facts,
        }
        text = json.dumps(line, separators=(",", ":"), allow_nan=False).encode()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._end = ChainEnd(self._end.lines + 1, _digest(text))
        self._last |= line
        self._keep_end()

    def _keep_end(self) -> None:
        end = {"lines": self._end.lines, "sha256": self._end.sha256}
        write_atomically(_end_file(self._path), json.dumps(end).encode())


def read(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log as they are, unchecked."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def verify(path: Path, *, name: str) -> ChainEnd:
    """Check a log from its first line to its last.

    Args:
        path: The log; one that does not exist is empty.
        name: What messages call it.

    Returns:
        How far it goes.

    Raises:
        CheckpointError: If a line is damaged, does not follow its predecessor, or lines are missing at the
            end. One line more than the kept end is what a crash leaves, and no fault.
    """
    kept = _kept_end(path, name)
    end = ChainEnd()
    ends = [end]
    content = path.read_bytes() if path.exists() else b""
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            line = json.loads(text)
            is_next = line[_PREVIOUS] == end.sha256 and line["line"] == number
        except (ValueError, KeyError, TypeError):
            is_next = False
        if not is_next:
            raise _broken(name, found=f"line {number} does not follow the line before it")
        end = ChainEnd(number, _digest(text))
        ends.append(end)
    if content and not content.endswith(b"\n"):
        raise _broken(name, found="its last line is cut off")
    if kept.lines not in {end.lines, end.lines - 1}:
        raise _broken(name, found=f"it has {end.lines} lines where {kept.lines} were written")
    if ends[kept.lines] != kept:
        raise _broken(name, found=f"line {kept.lines} is not the one that was written")
    return end


def _drop_torn_line(path: Path, name: str) -> None:
    """Remove what a crash left of a line that was not yet counted."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole, _, torn = content.rpartition(b"\n")
    if torn and len(whole.splitlines()) == _kept_end(path, name).lines:
        with path.open("r+b") as file:
            file.truncate(len(content) - len(torn))


def _end_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.end")


def _kept_end(path: Path, name: str) -> ChainEnd:
    file = _end_file(path)
    if not file.exists():
        return ChainEnd()
    try:
        values = json.loads(file.read_bytes())
        return ChainEnd(int(values["lines"]), str(values["sha256"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(name, found="the file of its end cannot be read") from error


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _broken(name: str, *, found: str) -> CheckpointError:
    message = (
        f"The {name} must be as it was written. It is not: {found}; keep a copy of it and find out who "
        "changed it before the site goes on."
    )
    return CheckpointError(message)
