"""Encoded views of the support images: made once, kept in half precision, renewed by a schedule of steps."""

import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mediclip.model.network import MediClip
from mediclip.rng import Name, generator
from mediclip.synthesis.batched import BatchedMixture
from mediclip.synthesis.mixture import Mixture
from mediclip.training.batch import Batch, Images, Progress

MEMORY_LIMIT: Final = 1 << 30
"""Bytes up to which a bank is kept in memory; a larger one lies in a temporary file."""

Draw = Callable[[NDArray[np.int64], np.random.Generator], tuple[Images, Images]]


@dataclass(frozen=True)
class ViewGroup:
    """Views that are made together, in half precision.

    Attributes:
        tokens: One ``(n, h, w, C)`` tensor a tap.
        labels: ``(n, S, S)``.
    """

    tokens: list[Tensor]
    labels: Tensor


class TokenBank:
    """Views of support images as tokens.

    The image tower is frozen, so the tokens of a synthesised image never change. A bank holds V views of
    each of K images in K·V slots; a batch takes a random view of each image that it is asked for. Slots are
    filled in groups of a batch each. With ``bank_refresh`` set to N, one group in turn is made anew after
    every N steps: in the background, while the N steps run, and put in place when they are done, so what a
    step sees depends on its number and not on the time. What a bank holds at a step follows from the seed,
    the stream and the step alone; a training that is resumed or repeated sees the same batches.

    The bank takes K·V·(L·h·w·C + S²)·2 bytes for L taps. Up to ``memory_limit`` they are in memory (on the
    backbone's device), above that in a temporary file that vanishes with the process.

    Args:
        network: Gives backbone, taps and recipe; its trainables are not used.
        support: ``(K, S, S)`` in [0, 1].
        seed: The run's seed.
        stream: Names that set this bank's randomness apart, such as the site's.
        memory_limit: Bytes that may be kept in memory, at least 0.
        on_progress: Called with views done and views in all while the bank is made.
    """

    def __init__(
        self,
        network: MediClip,
        support: Images,
        *,
        seed: int,
        stream: tuple[Name, ...] = (),
        memory_limit: int = MEMORY_LIMIT,
        on_progress: Progress | None = None,
    ) -> None:
        recipe = network.recipe
        self._network, self._support = network, support
        self._names: tuple[int, tuple[Name, ...]] = seed, stream
        self._views, self._refresh = recipe.bank_views, recipe.bank_refresh
        self._draw = _draw_of(network, support)
        slots = np.arange(recipe.bank_views * len(support))  # view v of image k is slot v·K + k
        self._groups = np.split(slots, range(recipe.batch_size, len(slots), recipe.batch_size))
        self._held = np.arange(len(self._groups))  # number of the group that lies in each place
        self._worker = ThreadPoolExecutor(1, "bank") if self._refresh > 0 else None
        self._next: tuple[int, Future[ViewGroup]] | None = None
        first = self.make(0)
        self._store = _Store([*first.tokens, first.labels], len(slots), memory_limit, network.backbone.device)
        for place, members in enumerate(self._groups):
            self._put(place, self.make(place) if place else first)
            if on_progress is not None:
                on_progress(int(members[-1]) + 1, len(slots))

    @property
    def is_on_disk(self) -> bool:
        """Whether the bank lies in a file."""
        return self._store.is_on_disk

    @property
    def bytes_per_view(self) -> int:
        """Bytes that one view of one image takes."""
        return self._store.bytes_per_slot

    def batch(self, indexes: NDArray[np.int64], rng: np.random.Generator, *, step: int = 0) -> Batch:
        """Take a random view of each chosen support image.

        Args:
            indexes: ``(B,)`` support images to use.
            rng: Generator of this step.
            step: Number of the step, which says what has been renewed by then.

        Returns:
            The batch, in float32.
        """
        self._advance(step)
        shots = len(self._support)
        views = rng.integers(self._views, size=len(indexes))
        *tokens, labels = self._store.take(views * shots + indexes)
        return Batch(tokens, labels)

    def _advance(self, step: int) -> None:
        """Make the bank what it is at a step."""
        if self._worker is None:
            return
        places = len(self._groups)
        newest = places - 1 + step // self._refresh
        # In each place lies the newest group that belongs there.
        wanted = newest - (newest - np.arange(places)) % places
        for place in np.flatnonzero(wanted != self._held).tolist():
            self._put(place, self._fetch(int(wanted[place])))
            self._held[place] = wanted[place]
        if self._next is None or self._next[0] <= newest:
            self._next = newest + 1, self._worker.submit(self.make, newest + 1)

    def _fetch(self, number: int) -> ViewGroup:
        if self._next is not None and self._next[0] == number:
            return self._next[1].result()
        return self.make(number)

    @torch.no_grad()
    def make(self, number: int) -> ViewGroup:
        """Synthesise and encode a group of views.

        Args:
            number: Number of the group from 0; those of a bank as it is first come first.

        Returns:
            The views, in half precision.
        """
        seed, stream = self._names
        members = self._groups[number % len(self._groups)] % len(self._support)
        images, labels = self._draw(members, generator(seed, *stream, "bank", number))
        tokens = self._network.tokens(torch.from_numpy(images))
        return ViewGroup([t.half() for t in tokens], torch.from_numpy(labels).half())

    def _put(self, place: int, group: ViewGroup) -> None:
        self._store.put(int(self._groups[place][0]), [*group.tokens, group.labels])


class _Store:
    """Arrays of slots in half precision, in memory or in a file."""

    def __init__(
        self, examples: Sequence[Tensor], slots: int, memory_limit: int, device: torch.device
    ) -> None:
        shapes = [(slots, *example.shape[1:]) for example in examples]
        self._device = device
        total = 2 * sum(map(math.prod, shapes))
        self.bytes_per_slot = total // slots
        self.is_on_disk = total > memory_limit
        if not self.is_on_disk:
            self._arrays = [torch.empty(shape, dtype=torch.half, device=device) for shape in shapes]
            return
        self._arrays = []
        for shape in shapes:
            with tempfile.TemporaryFile() as file:  # unlinked at once: the mapping alone keeps it
                file.truncate(2 * math.prod(shape))
                mapped = np.memmap(file, np.float16, "r+", shape=shape)
            self._arrays.append(torch.from_numpy(mapped))

    def put(self, start: int, values: Sequence[Tensor]) -> None:
        """Write ``(n, ...)`` values from a slot on."""
        for array, value in zip(self._arrays, values, strict=True):
            array[start : start + len(value)] = value

    def take(self, slots: NDArray[np.int64]) -> list[Tensor]:
        """Read slots as float32 on the device."""
        if self._device.type == "cpu":
            return [_widened(array, slots.tolist()) for array in self._arrays]
        chosen = torch.from_numpy(slots)
        if self._device.type == "cuda":
            chosen = chosen.pin_memory()
            if not self.is_on_disk:
                chosen = chosen.to(self._device, non_blocking=True)
        taken = (array.index_select(0, chosen) for array in self._arrays)
        return [value.to(self._device, torch.float32, non_blocking=True) for value in taken]


def _widened(array: Tensor, slots: list[int]) -> Tensor:
    """Read slots as float32 without a copy of them in half precision."""
    values = torch.empty(len(slots), *array.shape[1:])
    for value, slot in zip(values, slots, strict=True):
        value.copy_(array[slot])
    return values


def _draw_of(network: MediClip, support: Images) -> Draw:
    """Give what makes training images: the batched forms for a lean recipe, else the per-image ones."""
    recipe = network.recipe
    if recipe.lean:
        batched = BatchedMixture(recipe.tasks, recipe.second_anomaly, support)
        return lambda indexes, rng: batched.draw(indexes, rng)[:2]
    plain = Mixture(recipe.tasks, recipe.second_anomaly)
    return lambda indexes, rng: plain.draw_batch(support[indexes], support, rng)[:2]
