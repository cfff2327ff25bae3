"""The sets of the paper: what they are, where they come from, and which of them a folder holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mediclip.data.manifest import open_dataset
from mediclip.data.samples import Dataset
from mediclip.errors import DataError

LAYOUT: Final = (
    "DIR/NAME/images/{train/normal, test/normal, test/abnormal, test/ground_true} with "
    "DIR/NAME/samples/{train,test}.json as the published code has them, or DIR/NAME/{normal, abnormal, masks}"
)


@dataclass(frozen=True)
class PaperSet:
    """One of the paper's sets.

    Attributes:
        title: What the paper calls it.
        source: Where it comes from.
    """

    title: str
    source: str


PAPER_SETS: Final[Mapping[str, PaperSet]] = {
    "brainmri": PaperSet(
        "BrainMRI",
        "'Brain MRI Images for Brain Tumor Detection' on Kaggle, in the split of the MediCLIP authors",
    ),
    "busi": PaperSet(
        "BUSI",
        "'Dataset of breast ultrasound images', Al-Dhabyani et al., Data in Brief 28 (2020) 104863, in the "
        "split of the MediCLIP authors",
    ),
    "chexpert": PaperSet(
        "CheXpert",
        "Irvin et al., AAAI 2019, from the Stanford AIMI center once its agreement is signed, in the split "
        "of the MediCLIP authors",
    ),
}


@dataclass(frozen=True)
class Found:
    """What a data root holds.

    Attributes:
        folders: Folder of each readable set by name, the paper's first, then others by name.
        datasets: The sets themselves.
        absent: Names of the paper's sets that are not there.
        unreadable: Why a subfolder is no set that can be tested, by name.
    """

    folders: Mapping[str, Path]
    datasets: Mapping[str, Dataset]
    absent: tuple[str, ...]
    unreadable: Mapping[str, str]


def find_sets(root: Path, only: tuple[str, ...] | None = None) -> Found:
    """Look for sets among the subfolders of a folder.

    Args:
        root: Folder with one subfolder a set; the case of its name does not count.
        only: Names to look for; all that there are when None.

    Returns:
        What there is. A set without test images of both classes counts as unreadable.

    Raises:
        DataError: If ``root`` is no folder.
    """
    if not root.is_dir():
        message = f"--data-root must be a folder with one subfolder a set. {root} is none; name another."
        raise DataError(message)
    subfolders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    wanted = [*PAPER_SETS, *(name for name in subfolders if name not in PAPER_SETS)]
    datasets: dict[str, Dataset] = {}
    unreadable: dict[str, str] = {}
    for name in wanted:
        if name not in subfolders or (only is not None and name not in only):
            continue
        try:
            dataset = open_dataset(subfolders[name], name)
        except DataError as error:
            unreadable[name] = str(error)
            continue
        labels = {sample.label for sample in dataset.test}
        if len(labels) == 2:  # both classes
            datasets[name] = dataset
        else:
            unreadable[name] = (
                "A set to be tested must have normal and abnormal test images. It has not both."
            )
    looked_for = tuple(name for name in (only or PAPER_SETS) if name not in subfolders)
    return Found({name: subfolders[name] for name in datasets}, datasets, looked_for, unreadable)
