"""Codec ``int8``: differences in 255 steps, with a step of its own for each row."""

import numpy as np
from numpy.typing import NDArray

from mediclip.exchange.codec import Layout, unreadable
from mediclip.exchange.symbols import pack_symbols, unpack_symbols
from mediclip.model.trainables import TensorSpec

_LEVELS = 127


class Int8:
    """One byte a value before Huffman's code, and four for each row.

    Source: Alistarh et al., QSGD, section 3 (arXiv 1610.02132), with rounding to the nearest step in place of
    a random one, because error feedback makes up for the bias.
    """

    name = "int8/1"
    is_exact = False

    def encode(self, spec: TensorSpec, value: NDArray[np.float32]) -> bytes:
        """Write a tensor; see :class:`mediclip.exchange.codec.Codec`."""
        layout = Layout.of(spec)
        rows = value.reshape(layout.rows, layout.columns)
        steps: NDArray[np.float32] = (np.abs(rows).max(axis=1) / np.float32(_LEVELS)).astype("<f4")
        safe = np.where(steps > 0, steps, 1)[:, None]
        levels = np.clip(np.rint(rows / safe), -_LEVELS, _LEVELS)
        return steps.tobytes() + pack_symbols(levels.astype(np.int8))

    def decode(self, spec: TensorSpec, data: bytes) -> NDArray[np.float32]:
        """Read a tensor; see :class:`mediclip.exchange.codec.Codec`."""
        layout = Layout.of(spec)
        head = 4 * layout.rows
        symbols = unpack_symbols(data[head:], layout.size) if len(data) > head else None
        if symbols is None:
            raise unreadable(spec, self.name)
        steps = np.frombuffer(data[:head], "<f4")[:, None]
        rows = symbols.reshape(layout.rows, layout.columns)
        with np.errstate(over="ignore", invalid="ignore"):
            values: NDArray[np.float32] = np.multiply(rows, steps, dtype=np.float32)
        return values.reshape(spec.shape)
