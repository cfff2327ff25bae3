"""Randomness from one seed through named generators; no global state is read or written."""

import hashlib
import operator

import numpy as np

Name = str | int


def derive_seed(seed: int, *names: Name) -> int:
    """Derive a 128-bit seed for one purpose from the run's seed.

    Args:
        seed: The run's seed, any int.
        names: What the random numbers are for, such as ``("synthesis", "site-1", 7)``. The order counts.

    Returns:
        An int in [0, 2**128), the same on every machine and Python version.
    """
    text = "\x1f".join([str(int(seed)), *map(_tagged, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def generator(seed: int, *names: Name) -> np.random.Generator:
    """Return the NumPy generator for one purpose.

    Args:
        seed: The run's seed, any int.
        names: What the random numbers are for; different names give independent streams.

    Returns:
        A fresh PCG64 generator at the start of its stream.
    """
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))


def _tagged(name: Name) -> str:
    """Write a name with its kind, so that two lists of names never read the same.

    NumPy's integers count as int: a number names the same stream wherever it comes from.
    """
    if not isinstance(name, str):
        return f"int:{operator.index(name)}"
    escaped = name.replace("\\", "\\\\").replace("\x1f", "\\x1f")
    return f"str:{escaped}"
