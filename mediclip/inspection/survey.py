"""One pass over the pixels of an inventory: what cannot be read, what repeats, how greys are spread.

Every file is decoded in a process that can be ended. The memory is 14 KiB an image, and what a sample of
fixed size takes; nothing of the pixels is kept beyond that.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mediclip.data.manifest import has_masks
from mediclip.data.pool import shared_pool
from mediclip.data.preprocess import Preprocess
from mediclip.data.square import to_square
from mediclip.errors import DataError
from mediclip.evaluation.duplicates import Fingerprint, fingerprint
from mediclip.evaluation.likeness import LikenessIndex
from mediclip.inspection.burned_text import letters_in_line
from mediclip.inspection.inventory import Inventory, Item
from mediclip.rng import generator

SHEET_IMAGES: Final = 24
BINS: Final = 64
MAX_PAIRS: Final = 1000
# Of each modality, whose stored values are compared with what the model sees.
_SPREAD_IMAGES: Final = 48
_SPREAD_VALUES: Final = 2000
_CHUNK: Final = 32
_MAX_WORKERS: Final = 8
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pair:
    """Two images that show the same.

    Attributes:
        first: The earlier one, by its number in the inventory.
        second: The later one.
        distance: 0 for equal pixels, else below ``MAX_DISTANCE`` of :mod:`mediclip.evaluation.likeness`.
        identical: Whether their pixels are equal.
    """

    first: int
    second: int
    distance: float
    identical: bool


@dataclass
class Spread:
    """How the greys of one modality are spread.

    Attributes:
        images: How many images were sampled.
        before: ``(n,)`` float32 stored values, at most 2,000 an image.
        after: ``(64,)`` counts of greys in [0, 1] as the model sees them.
    """

    images: int = 0
    before: list[NDArray[np.float32]] = field(default_factory=list)
    after: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))


@dataclass
class Survey:
    """What the pixels say.

    Attributes:
        sizes: Images by height and width.
        errors: Unusable images by the code of their error.
        faults: What is wrong with them, in their order.
        pairs: Copies, at most a thousand; all are counted.
        letters: Letters in a line by number, of the images that have some.
        flat: Numbers of the images that show one grey.
        spreads: By modality.
        sheet: Squares of the sampled images by number, as the model sees them.
        pair_counts: Copies by kind.
    """

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    letters: dict[int, int] = field(default_factory=dict)
    flat: list[int] = field(default_factory=list)
    spreads: dict[str, Spread] = field(default_factory=dict)
    sheet: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    pair_counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Seen:
    shape: tuple[int, int]
    square: NDArray[np.float32]
    print: Fingerprint
    letters: int
    stored: NDArray[np.float32] | None


def survey(inventory: Inventory, *, seed: int, on_progress: OnProgress | None = None) -> Survey:
    """Read every image once.

    Args:
        inventory: Which images.
        seed: Of the samples for sheet and histograms.
        on_progress: Called with images read and to be read.

    Returns:
        What was seen; images that cannot be used are counted and named, and end nothing.
    """
    found, items = Survey(), inventory.items
    shown = set(_sampled(items, seed, "sheet", SHEET_IMAGES))
    by_kind: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        by_kind[item.kind].append(number)
    spread = {
        numbers[i]
        for kind, numbers in by_kind.items()
        for i in _sampled(numbers, seed, f"spread {kind}", _SPREAD_IMAGES)
    }
    copies = _Copies()
    masked = inventory.dataset is not None and has_masks(inventory.dataset.test)
    # As training would see them: a folder may ask for policies of its own.
    preprocess = Preprocess(policies={} if inventory.dataset is None else inventory.dataset.policies)
    for number, seen in enumerate(_read(items, preprocess, spread, masked=masked)):
        if isinstance(seen, DataError):
            found.errors[seen.code] += 1
            found.faults.append(str(seen))
        else:
            _note(found, items[number], number, seen, is_shown=number in shown)
            _match(found, items, copies.find(number, seen.print))
        if on_progress is not None:
            on_progress(number + 1, len(items))
    return found


def _sampled(things: Sequence[object], seed: int, name: str, count: int) -> list[int]:
    """Draw positions without replacement, in rising order."""
    order = generator(seed, "inspect", name).permutation(len(things))[:count]
    return sorted(int(i) for i in order)


def _read(
    items: Sequence[Item], preprocess: Preprocess, spread: set[int], *, masked: bool
) -> Iterator[_Seen | DataError]:
    """Read images a few at once, in their order."""
    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1), thread_name_prefix="look") as threads:
        for start in range(0, len(items), _CHUNK):
            numbers = range(start, min(start + _CHUNK, len(items)))
            yield from threads.map(
                lambda i: _look(items[i], preprocess, is_sampled=i in spread, masked=masked), numbers
            )


def _look(item: Item, preprocess: Preprocess, *, is_sampled: bool, masked: bool) -> _Seen | DataError:
    pool = shared_pool()
    try:
        grey = pool.read(item.path, name=item.title, frame=item.frame, choices=preprocess.policies)
        square = to_square(grey, preprocess.image_size)
        if masked and item.sample is not None and item.sample.split == "test":
            preprocess.load_mask(item.sample)
        stored = pool.read_stored(item.path, name=item.title, frame=item.frame) if is_sampled else None
    except DataError as error:
        return error
    return _Seen(grey.shape, square, fingerprint(square), letters_in_line(grey), stored)


def _note(found: Survey, item: Item, number: int, seen: _Seen, *, is_shown: bool) -> None:
    found.sizes[seen.shape] += 1
    if seen.letters:
        found.letters[number] = seen.letters
    if seen.square.min() == seen.square.max():
        found.flat.append(number)
    if is_shown:
        found.sheet[number] = seen.square
    if seen.stored is not None:
        spread = found.spreads.setdefault(item.kind, Spread())
        spread.images += 1
        values = seen.stored.ravel()
        spread.before.append(values[:: -(-len(values) // _SPREAD_VALUES)].copy())
        spread.after += np.histogram(seen.square, BINS, (0, 1))[0]


class _Copies:
    """The fingerprints so far."""

    def __init__(self) -> None:
        self._index = LikenessIndex()
        self._numbers: list[int] = []
        self._equal: dict[str, list[int]] = defaultdict(list)

    def find(self, number: int, image: Fingerprint) -> list[Pair]:
        """Compare an image with all before it, and add it."""
        near = {self._numbers[i]: distance for i, distance in self._index.find([image.likeness])[0]}
        equal = set(self._equal[image.digest])
        self._index.add(image.likeness)
        self._numbers.append(number)
        self._equal[image.digest].append(number)
        return [
            Pair(other, number, 0.0 if other in equal else near[other], other in equal)
            for other in sorted({*near, *equal})
        ]


def _match(found: Survey, items: Sequence[Item], pairs: Sequence[Pair]) -> None:
    """Count pairs, but for two frames of one file."""
    for pair in pairs:
        if items[pair.first].path != items[pair.second].path:
            for kind in kinds_of(pair, items):
                found.pair_counts[kind] += 1
            if len(found.pairs) < MAX_PAIRS:
                found.pairs.append(pair)


def kinds_of(pair: Pair, items: Sequence[Item]) -> list[str]:
    """Say what a pair is: ``identical`` or ``near``, and ``train_test``, ``patients`` or ``labels``.

    Args:
        pair: The pair.
        items: The inventory's images.

    Returns:
        How it counts: the last three are of images on both sides of the split, of two known patients, and of
        one label each.
    """
    first, second = items[pair.first], items[pair.second]
    kinds = ["identical" if pair.identical else "near"]
    if first.sample is not None and second.sample is not None:
        if first.sample.split != second.sample.split:
            kinds.append("train_test")
        if first.sample.label != second.sample.label:
            kinds.append("labels")
    if first.group is not None and second.group is not None and first.group != second.group:
        kinds.append("patients")
    return kinds
