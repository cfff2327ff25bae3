"""The layout anyone can make by hand: ``normal/``, and if there are any ``abnormal/`` and ``masks/``.

A mask has its image's name up to the extension (``abnormal/scan-7.JPG``, ``masks/scan-7.png``); the same
subfolders may stand below all three. Hidden files and what file managers leave behind are passed over; any
other file that is no image is refused rather than passed over, so that no scan is left out unnoticed. So are
links that lead out of the folder; ``normal/`` itself may be one, to another disk.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Final

from mediclip.data import raster
from mediclip.data.dicom_tree.scan import scan_tree
from mediclip.data.formats import SUFFIXES, suffix_of
from mediclip.data.patients import split_by_patient
from mediclip.data.samples import ABNORMAL, LABEL_NAMES, NORMAL, Dataset, Sample, Split
from mediclip.errors import ManifestError

IGNORED: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def open_plain_folders(directory: Path, name: str) -> Dataset:
    """List the images of plain folders, sorted by name.

    Normal images are divided by a fixed permutation that depends on their number alone: half of them, the
    odd one included, are the training pool and the rest are test images, before the abnormal ones. Without
    abnormal images there is nothing to be judged on, so all normal ones are the pool and ``test`` is empty.
    DICOM files say whose they are: their patients are divided, and nobody is on both sides
    (:func:`mediclip.data.patients.split_by_patient`).

    Args:
        directory: The data folder, with ``normal/``.
        name: What to call the set.

    Returns:
        The set. Abnormal images without a mask in a set that has masks keep ``mask=None``.

    Raises:
        ManifestError: If there is no normal image, a file is no image by its extension or a link out of the
            folder, two images of a folder differ in extension only, or a mask has no image.
    """
    normal, abnormal, masks = (_list_images(directory / f, directory) for f in (*LABEL_NAMES, "masks"))
    if not normal:
        message = (
            f"The 'normal' folder of {name!r} must hold at least one PNG or JPEG image, "
            "but it is empty; add some."
        )
        raise ManifestError(message)
    _refuse_orphans(masks, {*normal, *abnormal})
    groups = _patients(directory, name, [*normal.values(), *abnormal.values()])
    samples = [_sample(path, NORMAL, name, None, groups) for path in normal.values()]
    samples += [_sample(path, ABNORMAL, name, masks.get(key), groups) for key, path in abnormal.items()]
    patients = [i if sample.group is None else sample.group for i, sample in enumerate(samples)]
    splits = split_by_patient([sample.label for sample in samples], patients)
    return Dataset(name, _side("train", samples, splits), _side("test", samples, splits))


def _patients(directory: Path, name: str, images: Sequence[Path]) -> dict[Path, str]:
    """Find out whose the DICOM files among the images are; other formats do not say."""
    if all(path.suffix.lower() in raster.SUFFIXES for path in images):
        return {}
    return {directory / image.file: image.group for image in scan_tree(directory, name).images}


def _sample(image: Path, label: int, name: str, mask: Path | None, groups: Mapping[Path, str]) -> Sample:
    return Sample(0, image, label, LABEL_NAMES[label], name, mask, group=groups.get(image))


def _side(side: Split, samples: Sequence[Sample], splits: Sequence[Split]) -> tuple[Sample, ...]:
    chosen = (sample for sample, split in zip(samples, splits, strict=True) if split == side)
    return tuple(replace(sample, index=i, split=side) for i, sample in enumerate(chosen))


def _list_images(folder: Path, directory: Path) -> dict[str, Path]:
    """Map each image's name below the folder, without extension, to its file; empty if there is no folder."""
    found: dict[str, list[Path]] = {}
    others = 0
    for path in _walk(folder) if folder.is_dir() else ():
        if (suffix := suffix_of(path)) in SUFFIXES:
            key = PurePath(path.relative_to(folder)).as_posix()[: -len(suffix)]
            found.setdefault(key, []).append(path)
        else:
            others += 1
    if others:
        message = (
            f"The folder '{folder.name}' must hold nothing but PNG, JPEG, TIFF, DICOM and NIfTI images, "
            f"but {others} of its files have another extension; convert them or move them elsewhere."
        )
        raise ManifestError(message)
    _refuse_links_out([path for paths in found.values() for path in paths], folder, directory)
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


def _refuse_links_out(paths: Sequence[Path], folder: Path, directory: Path) -> None:
    """Hold every file inside the data folder, or inside what one of its three folders is a link to."""
    homes = [directory.resolve(), folder.resolve()]
    out = 0
    for path in paths:
        if path.is_symlink():
            try:
                target = path.resolve()
            except (OSError, RuntimeError):  # a loop of links
                out += 1
            else:
                out += not any(target.is_relative_to(home) for home in homes)
    if out:
        message = (
            f"The folder '{folder.name}' must hold images, but {out} of its files are links that lead out of "
            "the data folder; copy the images in."
        )
        raise ManifestError(message)


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
