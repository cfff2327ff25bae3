"""The run's history: one JSON line for each round, on disk before the round counts as finished."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mediclip.errors import CheckpointError
from mediclip.training.checkpoint import write_atomically

Entry = dict[str, Any]


class History:
    """Append-only ``history.jsonl``; every entry has a ``round``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one entry and wait until it is on disk.

        Args:
            entry: Plain values, with the number of its ``round``.
        """
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Entry]:
        """Read all whole entries; a last line that a crash cut short does not count.

        Raises:
            CheckpointError: If a line before the last is damaged.
        """
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").splitlines()
        entries: list[Entry] = []
        for number, line in enumerate(lines, start=1):
            try:
                entries.append(dict(json.loads(line)))
            except ValueError as error:
                if number == len(lines):
                    break
                message = (
                    f"Line {number} of {self._path.name} must be JSON. It is damaged; restore the file or "
                    "start the run in another folder."
                )
                raise CheckpointError(message) from error
        return entries

    def truncate(self, last_round: int) -> None:
        """Drop every entry beyond a round, as a resumed run must: those rounds are done again."""
        kept = [entry for entry in self.read() if entry["round"] <= last_round]
        write_atomically(self._path, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
