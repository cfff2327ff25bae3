"""The layout anyone can make by hand: ``normal/``, and if there are any ``abnormal/`` and ``masks/``.

A mask has its image's name up to the extension (``abnormal/scan-7.JPG``, ``masks/scan-7.png``); the same
subfolders may stand below all three. Hidden files and what file managers leave behind are passed over; any
other file that is no image is refused rather than passed over, so that no scan is left out unnoticed.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Final

from mediclip.data.formats import SUFFIXES
from mediclip.data.samples import ABNORMAL, LABEL_NAMES, NORMAL, Dataset, Sample, Split
from mediclip.errors import ManifestError
from mediclip.rng import generator

IGNORED: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
SPLIT_SEED: Final = 0


def open_plain_folders(directory: Path, name: str) -> Dataset:
    """List the images of plain folders, sorted by name.

    Normal images are divided by a fixed permutation that depends on their number alone: half of them, the
    odd one included, are the training pool and the rest are test images, before the abnormal ones. Without
    abnormal images there is nothing to be judged on, so all normal ones are the pool and ``test`` is empty.

    Args:
        directory: The data folder, with ``normal/``.
        name: What to call the set.

    Returns:
        The set. Abnormal images without a mask in a set that has masks keep ``mask=None``.

    Raises:
        ManifestError: If there is no normal image, a file is no image by its extension, two images of a
            folder differ in extension only, or a mask has no image.
    """
    normal, abnormal, masks = (_list_images(directory / f) for f in (*LABEL_NAMES, "masks"))
    if not normal:
        message = (
            f"The 'normal' folder of {name!r} must hold at least one PNG or JPEG image, "
            "but it is empty; add some."
        )
        raise ManifestError(message)
    _refuse_orphans(masks, {*normal, *abnormal})
    healthy = [_sample(path, NORMAL, name, None) for path in normal.values()]
    ill = [_sample(path, ABNORMAL, name, masks.get(key)) for key, path in abnormal.items()]
    if not ill:
        return Dataset(name, _numbered(healthy, "train"), ())
    train, test = _split_normals(healthy)
    return Dataset(name, _numbered(train, "train"), _numbered(test + ill, "test"))


def _split_normals(healthy: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Divide by a fixed permutation, each half in the order of the whole; the first has the odd one."""
    order = generator(SPLIT_SEED, "split", "normal").permutation(len(healthy))
    pool = {int(i) for i in order[: (len(healthy) + 1) // 2]}
    train = [sample for i, sample in enumerate(healthy) if i in pool]
    test = [sample for i, sample in enumerate(healthy) if i not in pool]
    return train, test


def _sample(image: Path, label: int, name: str, mask: Path | None) -> Sample:
    return Sample(0, image, label, LABEL_NAMES[label], name, mask)


def _numbered(samples: list[Sample], split: Split) -> tuple[Sample, ...]:
    return tuple(replace(sample, index=i, split=split) for i, sample in enumerate(samples))


def _list_images(folder: Path) -> dict[str, Path]:
    """Map each image's name below the folder, without extension, to its file; empty if there is no folder."""
    found: dict[str, list[Path]] = {}
    others = 0
    for path in _walk(folder) if folder.is_dir() else ():
        if path.suffix.lower() in SUFFIXES:
            key = PurePath(path.relative_to(folder)).with_suffix("").as_posix()
            found.setdefault(key, []).append(path)
        else:
            others += 1
    if others:
        message = (
            f"The folder '{folder.name}' must hold nothing but PNG and JPEG images, but {others} of its "
            "files have another extension; convert them or move them elsewhere."
        )
        raise ManifestError(message)
    keys = sorted(found)
    twins = [number for number, key in enumerate(keys) if len(found[key]) > 1]
    if twins:
        message = (
            f"Two images in '{folder.name}' must not differ in their extension only, but {len(twins)} of its "
            f"{len(keys)} names stand for more than one, the first of them name {twins[0]} (in alphabetical "
            "order, from 0); rename or remove one."
        )
        raise ManifestError(message)
    return {key: found[key][0] for key in keys}


def _walk(folder: Path) -> Iterator[Path]:
    """Go through a folder and its subfolders in a fixed order, without following links to folders."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith(".") or entry.name.lower() in IGNORED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def _refuse_orphans(masks: dict[str, Path], images: set[str]) -> None:
    """A mask that fits no image is a slip in naming, and would take the pixel metrics away unnoticed."""
    orphans = [number for number, key in enumerate(masks) if key not in images]
    if orphans:
        message = (
            f"Every mask must have the name of its image up to the extension, but {len(orphans)} of the "
            f"{len(masks)} masks have the name of none, the first of them mask {orphans[0]} (in "
            "alphabetical order, from 0); rename them."
        )
        raise ManifestError(message)
