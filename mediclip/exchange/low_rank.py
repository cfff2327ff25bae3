"""Codec ``low-rank``: differences of matrices as products of two thin ones of whole numbers."""

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mediclip.exchange.codec import Grid, unreadable
from mediclip.exchange.symbols import pack_symbols, unpack_symbols
from mediclip.exchange.two_bit import BITS, TwoBit
from mediclip.model.trainables import TensorSpec
from mediclip.rng import generator

_LEVELS: Final = 15
_FINENESS: Final = 0.5  # step over the entries' spread
_SYMBOL_BITS: Final = 3.4
_RIDGE: Final = 1e-9
_SHIFTS: Final = 24
_HEAD: Final = struct.Struct("<Hf")
_SMALL: Final = TwoBit()


class LowRank:
    """A matrix of K rows and L columns as P·Qᵀ of the largest rank that the budget of ``two-bit`` holds.

    P spans the leading left singular directions, found by one step of the power method from a fixed start; Q
    is what the matrix has along them. Both are rounded to whole numbers: one step for P, and for each column
    of Q a power of two of a common step, so that the product's sums are exact in float64 and every machine
    gets the same bits. Tensors with one axis, and those too small for a rank of 1, are written as ``two-bit``
    does.

    Source: Vogels et al., PowerSGD, algorithm 1 (arXiv 1905.13727); Halko et al., algorithm 4.3 (0909.4061).
    """

    name = "low-rank/1"
    is_exact = False

    def encode(self, spec: TensorSpec, value: NDArray[np.float32]) -> bytes:
        """Write a tensor; see :class:`mediclip.exchange.codec.Codec`."""
        rank = rank_of(spec)
        if not rank:
            return _SMALL.encode(spec, value)
        grid = Grid.of(spec)
        top = np.abs(value).max()
        matrix = value.reshape(grid.rows, grid.columns) / (top or np.float32(1))
        start = generator(0, "low-rank", spec.name).standard_normal((grid.columns, rank), np.float32)
        basis = np.linalg.qr(matrix @ start)[0]
        basis = np.linalg.qr(matrix @ (matrix.T @ basis))[0]
        left, left_step = _rounded(basis)
        # Least squares against the rounded basis, so that Q makes up for P's rounding.
        thin = left.astype(np.float64) * left_step
        gram = thin.T @ thin + np.eye(rank) * _RIDGE
        right = np.linalg.solve(gram, thin.T @ matrix).T * left_step
        shifts, step = _shifts(np.sqrt(np.mean(right**2, axis=0)))
        whole = np.clip(np.rint(right / (step * 2.0 ** -shifts.astype(np.float64))), -_LEVELS, _LEVELS)
        symbols = np.concatenate([left.ravel(), whole.astype(np.int8).ravel()])
        return _HEAD.pack(rank, step * float(top)) + shifts.tobytes() + pack_symbols(symbols)

    def decode(self, spec: TensorSpec, data: bytes) -> NDArray[np.float32]:
        """Read a tensor; see :class:`mediclip.exchange.codec.Codec`."""
        rank = rank_of(spec)
        if not rank:
            return _SMALL.decode(spec, data)
        grid, head = Grid.of(spec), _HEAD.size + rank
        if len(data) <= head or _HEAD.unpack_from(data)[0] != rank:
            raise unreadable(spec, self.name)
        step = float(_HEAD.unpack_from(data)[1])
        shifts = np.frombuffer(data[_HEAD.size : head], np.uint8)
        symbols = unpack_symbols(data[head:], rank * (grid.rows + grid.columns))
        if symbols is None or shifts.max() > _SHIFTS:
            raise unreadable(spec, self.name)
        left = symbols[: rank * grid.rows].reshape(grid.rows, rank)
        right = symbols[rank * grid.rows :].reshape(grid.columns, rank)
        # Whole numbers below 2^(7 + 7 + 24) in sums of at most 2^15: exact in float64, in whatever order.
        product = (left * 2.0 ** (_SHIFTS - shifts.astype(np.float64))) @ right.T.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            return (product * (step * 2.0**-_SHIFTS)).astype(np.float32).reshape(spec.shape)


def rank_of(spec: TensorSpec) -> int:
    """Give the rank that a tensor is written with, 0 for one that is not written as a product."""
    grid = Grid.of(spec)
    if min(grid.rows, grid.columns) < 2:
        return 0
    return int(
        min(BITS * grid.size / (_SYMBOL_BITS * (grid.rows + grid.columns)), *(grid.rows, grid.columns))
    )


def _rounded(basis: NDArray[np.float32]) -> tuple[NDArray[np.int8], float]:
    step = _FINENESS * float(np.sqrt(np.mean(np.square(basis))))
    return np.clip(np.rint(basis / step), -_LEVELS, _LEVELS).astype(np.int8), step


def _shifts(spread: NDArray[np.float64]) -> tuple[NDArray[np.uint8], float]:
    """Give each column a power of two of the largest column's step, so that all use their levels."""
    largest = float(spread.max())
    if largest == 0:
        return np.zeros(len(spread), np.uint8), 1.0
    with np.errstate(divide="ignore"):
        shifts = np.clip(np.floor(np.log2(largest / spread)), 0, _SHIFTS)
    return shifts.astype(np.uint8), _FINENESS * largest
