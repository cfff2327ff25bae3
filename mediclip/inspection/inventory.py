"""What images a folder holds, whatever its layout: each with its number, its side and its header's facts."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mediclip.data import raster
from mediclip.data.dicom_tree import TreeChoice, TreeScan, scan_tree
from mediclip.data.dicom_tree.facts import UNREADABLE, ImageFacts
from mediclip.data.formats import NIFTI, RASTER, format_of, suffix_of
from mediclip.data.manifest import open_dataset
from mediclip.data.samples import Dataset, Sample
from mediclip.errors import DataError, ManifestError

OnProgress = Callable[[int, int], None]
# What messages and results call the set: its folder's name may be somebody's.
SET_NAME: Final = "the set"
# Reasons of a scan for DICOM under which images of other formats are found.
_OTHERS: Final = frozenset({"not DICOM", "truncated header", UNREADABLE})


@dataclass(frozen=True)
class Item:
    """One image that was found.

    Attributes:
        title: What results call it, such as ``"train image 3"`` or, without a usable layout, ``"file 12"``.
        path: Its file.
        frame: Which frame of it, None for the one that stands for the file.
        group: Its patient, by a keyed hash; None where nothing is known.
        facts: What its DICOM header says; None for other formats.
        sample: It as a sample; None where there is no usable layout.
    """

    title: str
    path: Path = field(repr=False)
    frame: int | None
    group: str | None = field(repr=False)
    facts: ImageFacts | None
    sample: Sample | None

    @property
    def kind(self) -> str:
        """Its modality, or the format of a file that names none."""
        if self.facts is not None:
            return self.facts.modality or "DICOM"
        suffix = suffix_of(self.path).removeprefix(".")
        return {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF", "tiff": "TIFF"}.get(
            suffix, "NIfTI" if suffix.startswith("nii") else suffix.upper()
        )


@dataclass(frozen=True)
class Inventory:
    """What a folder holds.

    Attributes:
        items: Its images, train before test, or in the order of their paths.
        dataset: The set that they make up, or None.
        fault: Why they make up none; empty if they do.
        left_out: How many files are in the folder and not among the items, for each reason.
    """

    items: tuple[Item, ...]
    dataset: Dataset | None
    fault: str
    left_out: Mapping[str, int]


def take_inventory(
    directory: Path, *, choice: TreeChoice | None = None, on_progress: OnProgress | None = None
) -> Inventory:
    """List the images of a folder; of DICOM files the headers are read, of no file the pixels.

    Args:
        directory: The folder.
        choice: What to take from a tree of DICOM files.
        on_progress: Called with headers read and to be read.

    Returns:
        Its images. A folder that cannot be used as it is gives what is in it, and why.

    Raises:
        ManifestError: If there is no such folder.
        SettingsError: If settings cannot be used.
    """
    if not directory.is_dir():
        message = "The data folder must exist, but it does not; correct its path."
        raise ManifestError(message)
    try:
        dataset = open_dataset(directory, SET_NAME, choice=choice, on_progress=on_progress)
    except ManifestError as error:
        return _without_layout(directory, str(error), on_progress)
    samples = (*dataset.train, *dataset.test)
    facts: dict[Path, ImageFacts] = {}
    if any(sample.image.suffix.lower() not in raster.SUFFIXES for sample in samples):
        scan = scan_tree(directory, SET_NAME, on_progress=on_progress)
        facts = {directory / image.file: image.facts for image in scan.images}
    items = tuple(
        Item(
            f"{sample.split} image {sample.index}",
            sample.image,
            sample.frame,
            sample.group,
            facts.get(sample.image),
            sample,
        )
        for sample in samples
    )
    return Inventory(items, dataset, "", dataset.left_out)


def _without_layout(directory: Path, fault: str, on_progress: OnProgress | None) -> Inventory:
    try:
        scan = scan_tree(directory, SET_NAME, on_progress=on_progress)
    except OSError as error:  # its own text would quote a path
        message = f"The data folder must be readable, but it is not ({error.strerror}); correct that."
        raise ManifestError(message) from None
    found = {image.file: (image.group, image.facts) for image in scan.images}
    others = _other_formats(directory, scan)
    files = sorted({*found, *others}, key=lambda file: file.split("/"))
    items = []
    for number, file in enumerate(files):
        group, facts = found.get(file, (None, None))
        frame = None if facts is None else facts.frames // 2
        items.append(Item(f"file {number}", directory / file, frame, group, facts, None))
    left_out = Counter(scan.left_out) - Counter(scan.reasons[file] for file in others)
    return Inventory(tuple(items), None, fault, dict(sorted(left_out.items())))


def _other_formats(directory: Path, scan: TreeScan) -> set[str]:
    """Find images among the files that are no DICOM, by their content."""
    found = set()
    for file, reason in scan.reasons.items():
        if reason in _OTHERS and suffix_of(Path(file)) != ".dcm":
            try:
                kind = format_of(directory / file, name="a file")
                with (directory / file).open("rb") as stream:
                    is_image = kind is NIFTI or (kind is RASTER and raster.is_raster(stream.read(8)))
            except (DataError, OSError):
                continue
            if is_image:
                found.add(file)
    return found
