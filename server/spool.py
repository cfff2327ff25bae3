"""All differences of a round in a file, for the rules that need every site's value at once."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from server.difference import Difference

BUDGET: Final = 2**23
"""Values; 64 MiB in float64."""


class Spool:
    """A row of float32 a site in a file without a name, which is gone when the process is.

    The differences are computed in float64 and kept in float32, which holds a difference that came as one
    exactly and any other to 2⁻²⁴ of itself. Memory does not grow with the number of sites, disk does: four
    bytes a value and site.

    Args:
        folder: Where there is room for it.
        size: Number of values.
        budget: Values that are in memory at once.
    """

    def __init__(self, folder: Path, size: int, *, budget: int = BUDGET) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._size = size
        self._budget = budget
        self._rows: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Hold the file for a block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the file."""
        self._file.close()

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites in their own order, whoever answered first."""
        return tuple(sorted(self._rows))

    def add(self, site: str, difference: Difference) -> None:
        """Write one site's row.

        Args:
            site: Its name; a second row of the same name replaces the first.
            difference: Finite.
        """
        row = self._rows.setdefault(site, len(self._rows))
        self._file.seek(4 * row * self._size)
        for _, block in difference.blocks():
            self._file.write(block.astype(np.float32).tobytes())
        self._file.flush()

    def columns(self, sites: Sequence[str] | None = None) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Go through all values, some of them of all sites at a time.

        Args:
            sites: Which sites, in which order; all by name when omitted.

        Yields:
            Offset in the flat order, and float64 ``(sites, values)``.
        """
        chosen = self.sites if sites is None else tuple(sites)
        width = max(1, self._budget // len(chosen))
        for offset in range(0, self._size, width):
            count = min(width, self._size - offset)
            block = np.empty((len(chosen), count))
            for place, site in enumerate(chosen):
                start = 4 * (self._rows[site] * self._size + offset)
                block[place] = np.frombuffer(os.pread(self._file.fileno(), 4 * count, start), np.float32)
            yield offset, block
