"""What a site changed, as float64 blocks small enough for a processor's cache, in the schema's order."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mediclip.model.trainables import Schema, Trainables

BLOCK: Final = 2**15
"""Values of a block; 256 KiB in float64."""


@dataclass(frozen=True)
class Difference:
    """One site's change of the model that it was sent.

    Attributes:
        schema: The tensors and their order.
        values: The site's model, or its change where ``base`` is None; finiteness is not assumed.
        base: The model that the site was sent.
    """

    schema: Schema
    values: Trainables
    base: Trainables | None

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Go through all values.

        Yields:
            Offset in the schema's flat order, and float64 differences, at most :data:`BLOCK` of them. The
            array is used again for the next block.
        """
        buffer = np.empty(BLOCK)
        offset = 0
        for spec in self.schema.tensors:
            values = self.values[spec.name].ravel()
            base = None if self.base is None else self.base[spec.name].ravel()
            for start in range(0, len(values), BLOCK):
                part = values[start : start + BLOCK]
                block = buffer[: len(part)]
                if base is None:
                    block[:] = part
                else:
                    np.subtract(part, base[start : start + BLOCK], out=block, dtype=np.float64)
                yield offset, block
                offset += len(part)

    def norm(self) -> float:
        """Return the Euclidean norm; not finite if and only if a value is not."""
        with np.errstate(invalid="ignore", over="ignore"):
            return math.sqrt(sum(float(np.dot(block, block)) for _, block in self.blocks()))


def split(schema: Schema, flat: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Cut a flat array into the schema's tensors, without copying."""
    tensors, offset = {}, 0
    for spec in schema.tensors:
        size = int(np.prod(spec.shape, dtype=np.int64))
        tensors[spec.name] = flat[offset : offset + size].reshape(spec.shape)
        offset += size
    return tensors
