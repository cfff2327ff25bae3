"""Codec ``two-bit``: differences in steps so wide that Huffman's code needs less than two bits a value."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mediclip.exchange.codec import Layout, unreadable
from mediclip.exchange.symbols import entropy, pack_symbols, unpack_symbols
from mediclip.model.trainables import TensorSpec

BITS: Final = 1.9
"""Budget a value; 2.02 would be 0.6 MiB for the 2.49 million values of ViT-L-14."""

_LEVELS: Final = 127
_SAMPLE: Final = 2**16
OVERHEAD: Final = 96  # bytes of a tensor that do not grow with it: its step, and the code's own table
_WIDEN: Final = 1.08


class TwoBit:
    """One step for a tensor, chosen for the budget; the values of a step are its multiples.

    With one step for all values the error is as large everywhere, which for a given size is the best that
    steps can do; what is left is sent with the next difference. A step's width is found on every k-th value,
    then the multiple is fitted to all of them by least squares.

    Source: entropy-coded scalar quantisation, Sullivan, IEEE Trans. Inf. Theory 42 (1996) 1365; error
    feedback as in Karimireddy et al. (arXiv 1901.09847).
    """

    name = "two-bit/1"
    is_exact = False

    def encode(self, spec: TensorSpec, value: NDArray[np.float32]) -> bytes:  # noqa: ARG002 - of the interface
        """Write a tensor; see :class:`mediclip.exchange.codec.Codec`."""
        flat = value.ravel()
        step = _first_step(flat)
        while True:
            symbols = _quantise(flat, step)
            packed = pack_symbols(symbols)
            if len(packed) <= OVERHEAD + BITS * len(flat) / 8:
                break
            step *= _WIDEN
        return np.array([_fitted(flat, symbols, step)], "<f4").tobytes() + packed

    def decode(self, spec: TensorSpec, data: bytes) -> NDArray[np.float32]:
        """Read a tensor; see :class:`mediclip.exchange.codec.Codec`."""
        symbols = unpack_symbols(data[4:], Layout.of(spec).size) if len(data) > 4 else None
        if symbols is None:
            raise unreadable(spec, self.name)
        step = np.frombuffer(data[:4], "<f4")
        with np.errstate(over="ignore", invalid="ignore"):
            values: NDArray[np.float32] = np.multiply(symbols, step, dtype=np.float32)
        return values.reshape(spec.shape)


def _quantise(values: NDArray[np.float32], step: float) -> NDArray[np.int8]:
    width = np.float32(step)
    if width == 0:
        return np.zeros(values.shape, np.int8)
    with np.errstate(over="ignore"):
        levels = np.divide(values, width)
    np.rint(levels, out=levels)
    np.clip(levels, -_LEVELS, _LEVELS, out=levels)
    return levels.astype(np.int8)


def _first_step(values: NDArray[np.float32]) -> float:
    """Find the narrowest of a row of steps that a sample can be written with."""
    sample = values[:: max(1, len(values) // _SAMPLE)]
    spread = float(np.sqrt(np.mean(np.square(sample, dtype=np.float64))))
    if spread == 0:
        spread = float(np.abs(values).max()) if len(values) else 0.0
    step = spread / 2
    while step > 0 and entropy(_quantise(sample, step)) > BITS:
        step *= _WIDEN
    return step


def _fitted(values: NDArray[np.float32], symbols: NDArray[np.int8], step: float) -> float:
    levels = symbols.astype(np.float64)
    weight = float(np.vdot(levels, levels))
    return float(np.vdot(levels, values.astype(np.float64))) / weight if weight else step
