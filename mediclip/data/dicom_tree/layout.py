"""A tree of DICOM files as a data set: filtered, labelled, split by patient."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from mediclip.data.dicom_tree.scan import OnProgress, TreeImage, TreeScan, scan_tree, walk
from mediclip.data.dicom_tree.settings import TreeSettings, find_settings, find_settings_file
from mediclip.data.dicom_tree.table import Row, find_table, read_table
from mediclip.data.patients import on_both_sides, split_by_patient
from mediclip.data.samples import LABEL_NAMES, NORMAL, Dataset, Sample, Split
from mediclip.data.source import opened
from mediclip.errors import DataError, ManifestError

NOT_LISTED: Final = "not in the table"
_FILTERS: Final = {
    "modality": "other modality",
    "body_part": "other body part",
    "view": "other view",
}


def is_dicom_tree(directory: Path) -> bool:
    """Tell whether a folder, or any below it, holds a DICOM file (PS3.10 7.1), or says that it does.

    Args:
        directory: The folder.

    Returns:
        True at the first file with the signature or the extension ``.dcm``, or if a table or a settings file
        for DICOM trees is there.

    Raises:
        ManifestError: If there are two tables or two settings files.
        OSError: If a folder cannot be read.
    """
    real = directory.resolve()
    if find_table(real, real.name) is not None or find_settings_file(real, real.name) is not None:
        return True
    files, _ = walk(real)
    return any(
        file.relative.lower().endswith(".dcm") or _has_signature(real / file.relative) for file in files
    )


def _has_signature(path: Path) -> bool:
    try:
        with opened(path, name="a file") as stream:
            return stream.read(132)[128:] == b"DICM"
    except DataError:
        return False


def open_dicom_tree(
    directory: Path,
    name: str,
    *,
    settings: TreeSettings | None = None,
    table: Path | None = None,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """List the images of a tree of DICOM files; of new ones the headers are read, of none the pixels.

    Without a table all images are normal and the training pool. With one, the images that it names are the
    set. Where it gives no split, :func:`mediclip.data.patients.split_by_patient` does.

    Args:
        directory: The folder.
        name: What to call the set.
        settings: What to take; those in or beside the folder when omitted.
        table: Labels, masks and split; the table in or beside the folder, if any, when omitted.
        cache: Folder to remember headers in, outside the data folder; the user's cache when omitted.
        on_progress: Called with headers read and to be read.

    Returns:
        The set, in the order of paths or of the table; ``group`` tells the patients apart, as far as files or
        table know them. ``left_out`` counts what is in the folder and not in the set.

    Raises:
        ManifestError: If there is no image, the table names one that is not there or cannot be used, or a
            patient is on both sides of its split without its saying so.
        SettingsError: If settings or cache folder cannot be used.
    """
    settings = find_settings(directory, name) if settings is None else settings
    table = find_table(directory, name) if table is None else table
    scan = scan_tree(directory, name, cache=cache, on_progress=on_progress)
    chosen, reasons = _filtered(scan, settings)
    rows = None if table is None else read_table(table, name)
    if rows is None:
        samples = [
            _sample(directory, image, NORMAL, frame)
            for image in chosen.values()
            for frame in _frames(image, settings)
        ]
        splits: Sequence[Split] = ["train"] * len(samples)
    else:
        samples, splits = _listed(directory, rows, chosen, {**scan.reasons, **reasons}, settings, scan)
        named = {row.file for row in rows}
        reasons |= dict.fromkeys(chosen.keys() - named, NOT_LISTED)
    left_out = Counter(scan.left_out) + Counter(reasons.values()) - _own_files(directory, scan, table, rows)
    if not samples:
        found = ", ".join(f"{reason}: {count}" for reason, count in sorted(left_out.items()))
        message = (
            f"The data folder of {name!r} must hold a usable image that its settings ask for, but of its "
            f"files none is one ({found or 'it is empty'}); correct the folder or the settings."
        )
        raise ManifestError(message)
    train, test = (
        tuple(
            replace(sample, index=i, set_name=name, split=side)
            for i, sample in enumerate(s for s, split in zip(samples, splits, strict=True) if split == side)
        )
        for side in ("train", "test")
    )
    return Dataset(name, train, test, dict(sorted(left_out.items())), settings.policy)


def _own_files(
    directory: Path, scan: TreeScan, table: Path | None, rows: Sequence[Row] | None
) -> Counter[str]:
    """Count what is no image but belongs to the set all the same: its table, settings and masks."""
    places = [file for file in (table, find_settings_file(directory, "")) if file is not None]
    own = {row.mask for row in rows or () if row.mask is not None}
    for place in places:
        if place.parent.resolve() == directory.resolve():
            own.add(place.name)
    return Counter(scan.reasons[file] for file in own if file in scan.reasons)


def _filtered(scan: TreeScan, settings: TreeSettings) -> tuple[dict[str, TreeImage], dict[str, str]]:
    """Part the images into those that are asked for and those that are not, with the reason, by path."""
    chosen: dict[str, TreeImage] = {}
    reasons: dict[str, str] = {}
    for image in scan.images:
        for key, reason in _FILTERS.items():
            wanted = getattr(settings, key)
            if wanted and getattr(image.facts, key) not in wanted:
                reasons[image.file] = reason
                break
        else:
            chosen[image.file] = image
    return chosen, reasons


def _frames(image: TreeImage, settings: TreeSettings) -> Sequence[int]:
    frames = image.facts.frames
    return {"first": [0], "middle": [frames // 2], "all": range(frames)}[settings.frames]


def _sample(
    directory: Path,
    image: TreeImage,
    label: int,
    frame: int,
    mask: Path | None = None,
    group: str | None = None,
) -> Sample:
    """Make a sample whose index, set and split are still to come."""
    path = directory / image.file
    return Sample(0, path, label, LABEL_NAMES[label], "", mask, group=group or image.group, frame=frame)


def _listed(
    directory: Path,
    rows: Sequence[Row],
    chosen: Mapping[str, TreeImage],
    reasons: Mapping[str, str],
    settings: TreeSettings,
    scan: TreeScan,
) -> tuple[list[Sample], Sequence[Split]]:
    """Find what the table names; an image that is there but not asked for is passed over."""
    samples: list[Sample] = []
    used: list[Row] = []
    for row in rows:
        image = chosen.get(row.file)
        if image is None:
            _check_left_out(row, reasons.get(row.file))
            continue
        group = None if row.patient is None else scan.pseudonyms.name("patient", row.patient)
        mask = None if row.mask is None else _mask(directory, row)
        for frame in _row_frames(row, image, settings):
            samples.append(_sample(directory, image, row.label, frame, mask, group))
            used.append(row)
    _refuse_repeats(samples, used)
    patients = [sample.group for sample in samples]
    if not used or used[0].split is None:
        return samples, split_by_patient([sample.label for sample in samples], patients)
    splits: list[Split] = [row.split or "test" for row in used]
    _refuse_both_sides(used, splits, patients)
    return samples, splits


def _row_frames(row: Row, image: TreeImage, settings: TreeSettings) -> Sequence[int]:
    if row.frame is None:
        return _frames(image, settings)
    if row.frame >= image.facts.frames:
        found = f"its image has {image.facts.frames}"
        raise row.fault(must="name a frame that exists, from 0", found=found, do="correct it")
    return [row.frame]


def _check_left_out(row: Row, reason: str | None) -> None:
    """Let a row pass whose image the settings leave out; refuse one whose file is no image."""
    if reason in _FILTERS.values():
        return
    found = "there is none" if reason is None else f"its file is left out ({reason})"
    must = "name a usable image in the folder"
    raise row.fault(must=must, found=found, do="correct the path or remove the line")


def _mask(directory: Path, row: Row) -> Path:
    """Find a mask's file, and hold it inside the folder whatever links there are."""
    path = directory / (row.mask or "")
    try:
        inside = path.resolve().is_relative_to(directory.resolve())
        found = "it leads out of it" if not inside else None if path.is_file() else "it is missing"
    except (OSError, RuntimeError) as error:  # a loop of links; its own text would quote the path
        found = f"it cannot be reached ({getattr(error, 'strerror', None) or 'a loop of links'})"
    if found:
        must = "name a mask that exists inside the folder"
        raise row.fault(must=must, found=found, do="restore it or correct the path")
    return path


def _refuse_repeats(samples: Sequence[Sample], rows: Sequence[Row]) -> None:
    seen: dict[tuple[Path, int | None], Row] = {}
    for sample, row in zip(samples, rows, strict=True):
        earlier = seen.setdefault((sample.image, sample.frame), row)
        if earlier is not row:
            found = f"line {earlier.line} names the same one"
            raise row.fault(must="name a new frame of its file", found=found, do="remove one of them")


def _refuse_both_sides(rows: Sequence[Row], splits: Sequence[Split], patients: Sequence[str | None]) -> None:
    shared = on_both_sides(splits, patients)
    pairs = zip(rows, patients, strict=True)
    faults = [(row, patient) for row, patient in pairs if patient in shared and not row.both_sides]
    if faults:
        row = faults[0][0]
        raise row.fault(
            must="name an image of a patient who is in train or in test alone",
            found=f"this patient is in both ({len({patient for _, patient in faults})} are in the table)",
            do="move all images of a patient to one side, or write yes as both_sides in all of them",
        )
