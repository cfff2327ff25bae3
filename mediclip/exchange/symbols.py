"""Small whole numbers as few bytes: Huffman's code by zlib, read back within a bound on memory and time."""

import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

_RAW: Final = -15
_MEMORY_LEVEL: Final = 9


def pack_symbols(symbols: NDArray[np.int8]) -> bytes:
    """Write symbols with Huffman's code, made anew for about every 32,000 of them.

    Repeats are not searched for: in trained differences there are none, and the search takes most of the
    time.

    Args:
        symbols: Whole numbers; the code needs at least 1 bit for each.

    Returns:
        A raw deflate stream (RFC 1951).
    """
    packer = zlib.compressobj(6, zlib.DEFLATED, _RAW, _MEMORY_LEVEL, zlib.Z_HUFFMAN_ONLY)
    return packer.compress(np.ascontiguousarray(symbols).tobytes()) + packer.flush()


def unpack_symbols(data: bytes, size: int) -> NDArray[np.int8] | None:
    """Read symbols that came over the network.

    Args:
        data: What :func:`pack_symbols` wrote, or anything else.
        size: How many symbols there must be; no more are ever written to memory.

    Returns:
        The symbols, ``(size,)``, or None if the stream is damaged, longer, shorter or followed by other
        bytes.
    """
    unpacker = zlib.decompressobj(_RAW)
    try:
        text = unpacker.decompress(data, size + 1)
    except zlib.error:
        return None
    if len(text) != size or not unpacker.eof or unpacker.unused_data:
        return None
    return np.frombuffer(text, np.int8)


def entropy(symbols: NDArray[np.int8]) -> float:
    """Return the bits that a symbol needs on average if its neighbours tell nothing about it."""
    counts = np.bincount(symbols.view(np.uint8), minlength=256)
    shares = counts[counts > 0] / len(symbols)
    return float(-(shares * np.log2(shares)).sum())
