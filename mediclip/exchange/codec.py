"""What every codec is: two pure functions on one tensor, with a name and a version."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mediclip.errors import SchemaError
from mediclip.model.trainables import TensorSpec


class Codec(Protocol):
    """Writes one tensor as bytes and reads it back.

    ``decode`` gives the same bits on every machine: it multiplies and adds in an order that does not matter,
    so that server and sites hold the same model.

    Attributes:
        name: Name with version, such as ``two-bit/1``, by which both sides agree on it.
        is_exact: Whether ``decode`` gives back every bit. Such a codec sends values; any other sends
            differences, and what it loses is sent with the next one.
    """

    @property
    def name(self) -> str:
        """Name with version."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether nothing is lost."""
        ...

    def encode(self, spec: TensorSpec, value: NDArray[np.float32]) -> bytes:
        """Write a tensor.

        Args:
            spec: Its name and shape.
            value: Finite float32 values of that shape.
        """
        ...

    def decode(self, spec: TensorSpec, data: bytes) -> NDArray[np.float32]:
        """Read a tensor that came over the network; nothing about the bytes is trusted.

        Args:
            spec: Name and shape that it must have.
            data: What :meth:`encode` wrote, or anything else.

        Returns:
            float32 of that shape, possibly read-only, values unchecked. No more memory is reserved than a
            small multiple of the tensor's own size and of ``data``.

        Raises:
            SchemaError: If the bytes are no such tensor.
        """
        ...


@dataclass(frozen=True)
class Layout:
    """A tensor as a matrix, whose rows run over all axes but the last."""

    rows: int
    columns: int

    @classmethod
    def of(cls, spec: TensorSpec) -> "Layout":
        """Lay out a tensor; one with a single axis, or none, is one row."""
        columns = spec.shape[-1] if spec.shape else 1
        return cls(int(np.prod(spec.shape[:-1], dtype=np.int64)), columns)

    @property
    def size(self) -> int:
        """Count the values."""
        return self.rows * self.columns


def unreadable(spec: TensorSpec, codec: str) -> SchemaError:
    """Say that bytes are not what a codec writes for a tensor."""
    return SchemaError(
        f"The tensor '{spec.name}' must be written by the codec {codec} with shape {spec.shape}. It cannot "
        "be read; use the same recipe, taps, backbone and version on both sides."
    )
