"""Codec ``low-rank``: differences of matrices as products of two thin ones of whole numbers."""

import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mediclip.exchange.codec import Layout, unreadable
from mediclip.exchange.symbols import entropy, pack_symbols, unpack_symbols
from mediclip.exchange.two_bit import BITS, OVERHEAD, TwoBit
from mediclip.model.trainables import TensorSpec
from mediclip.rng import generator

_LEVELS: Final = 127
_SYMBOL_BITS: Final = 2.5  # of a factor's entry, on average
_FINEST: Final = 0.1  # step over the spread of the factors' entries
_WIDEN: Final = 1.1
_RIDGE: Final = 1e-6
_SMALL: Final = TwoBit()
_ALONE: Final = threading.Lock()
"""The limit on threads is the whole process's: two that set it would undo each other's."""

_Matrix = NDArray[np.float32]


class LowRank:
    """A matrix of K rows and L columns as P·Qᵀ, of a rank such that both fit the budget of ``two-bit``.

    The leading singular directions are found by one step of the power method from a fixed start. P and Q
    share the singular values, √σ each, and are rounded to multiples of one step: so every direction is as
    precise as it matters. The product's sums are of whole numbers below 2²⁴ and exact, so every machine gets
    the same bits. Tensors with one axis, and those too small for a rank of 1, are written as ``two-bit``
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
        # One thread whatever the machine has: in another number of threads the sums round otherwise.
        with _ALONE, threadpool_limits(1, "blas"):
            return self._encode(spec, value, rank)

    def _encode(self, spec: TensorSpec, value: NDArray[np.float32], rank: int) -> bytes:
        layout = Layout.of(spec)
        top = np.abs(value).max() or np.float32(1)
        matrix = value.reshape(layout.rows, layout.columns) / top
        left, right = _factors(matrix, rank, spec.name)
        spread = float(np.sqrt((np.square(left).sum() + np.square(right).sum()) / (left.size + right.size)))
        step, budget = _FINEST * (spread or 1.0), OVERHEAD + BITS * layout.size / 8
        while entropy(_joined(left, right, step)) * (left.size + right.size) > 8 * budget:
            step *= _WIDEN
        while True:
            # Q by least squares against the rounded P, so that it makes up for P's rounding.
            whole = _whole(left, step).astype(np.float32)
            gram = whole.T @ whole + np.eye(rank, dtype=np.float32) * np.float32(
                _RIDGE * (1 + np.square(whole).sum() / rank)
            )
            fitted = np.linalg.solve(gram, whole.T @ matrix).T / np.float32(step * step)
            packed = pack_symbols(np.concatenate([_whole(left, step).ravel(), _whole(fitted, 1.0).ravel()]))
            if len(packed) <= budget:
                break
            step *= _WIDEN
        return np.array([step * step * float(top)], "<f4").tobytes() + packed

    def decode(self, spec: TensorSpec, data: bytes) -> NDArray[np.float32]:
        """Read a tensor; see :class:`mediclip.exchange.codec.Codec`."""
        rank = rank_of(spec)
        if not rank:
            return _SMALL.decode(spec, data)
        layout = Layout.of(spec)
        symbols = unpack_symbols(data[4:], rank * (layout.rows + layout.columns)) if len(data) > 4 else None
        if symbols is None:
            raise unreadable(spec, self.name)
        scale = np.frombuffer(data[:4], "<f4")
        factors = symbols.astype(np.float32)
        left = factors[: rank * layout.rows].reshape(layout.rows, rank)
        right = factors[rank * layout.rows :].reshape(layout.columns, rank)
        with np.errstate(over="ignore", invalid="ignore"):
            values: NDArray[np.float32] = np.multiply(left @ right.T, scale, dtype=np.float32)
        return values.reshape(spec.shape)


def rank_of(spec: TensorSpec) -> int:
    """Give the rank that a tensor is written with, 0 for one that is not written as a product.

    It is at most 1,024: with entries of at most 128 the sums of the product stay below 2²⁴.
    """
    layout = Layout.of(spec)
    if min(layout.rows, layout.columns) < 2:
        return 0
    affordable = BITS * layout.size / (_SYMBOL_BITS * (layout.rows + layout.columns))
    return int(min(affordable, layout.rows, layout.columns, 1024))


def _factors(matrix: _Matrix, rank: int, name: str) -> tuple[_Matrix, _Matrix]:
    """Return U·√S and V·√S of the leading singular triples."""
    start = generator(0, "low-rank", name).standard_normal((matrix.shape[1], rank), np.float32)
    basis = np.linalg.qr(matrix @ start)[0]
    basis = np.linalg.qr(matrix @ (matrix.T @ basis))[0]
    along = matrix.T @ basis
    squares, turn = np.linalg.eigh((along.T @ along).astype(np.float64))
    roots = np.maximum(squares, 0) ** 0.25  # √σ
    safe = np.where(roots > 1e-6 * max(float(roots.max()), 1e-30), roots, np.inf)
    left = (basis @ turn.astype(np.float32)) * np.where(np.isinf(safe), 0, roots).astype(np.float32)
    right = (along @ turn.astype(np.float32)) / safe.astype(np.float32)
    return left, right


def _whole(values: _Matrix, step: float) -> NDArray[np.int8]:
    levels: NDArray[np.float32] = np.clip(np.rint(values / np.float32(step)), -_LEVELS, _LEVELS)
    return levels.astype(np.int8)


def _joined(left: _Matrix, right: _Matrix, step: float) -> NDArray[np.int8]:
    return np.concatenate([_whole(left, step).ravel(), _whole(right, step).ravel()])
