"""Torch with one thread: what every site gets in every engine, so that sums come out the same."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread a caller while the block runs, and what it used before afterwards."""
    import torch  # noqa: PLC0415 - the command line imports this module and must start at once

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
