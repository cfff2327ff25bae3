"""Randomness from one seed through named generators; no global state is read or written."""

import hashlib

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
    text = "\x1f".join([str(int(seed)), *(f"{type(n).__name__}:{_escaped(n)}" for n in names)])
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


def _escaped(name: Name) -> str:
    """Keep the separator out of a name, so that two lists of names never read the same."""
    return str(name).replace("\\", "\\\\").replace("\x1f", "\\x1f")
