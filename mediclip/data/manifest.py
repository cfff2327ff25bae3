"""Open a data folder in any of the layouts that are known, as samples in a fixed order.

===================  ==============================================================================
marker               layout
===================  ==============================================================================
folder ``samples/``  MediCLIP sample lists: :mod:`mediclip.data.sample_lists`
folder ``normal/``   plain folders: :mod:`mediclip.data.plain_folders`
neither, but DICOM   a tree of DICOM files: :mod:`mediclip.data.dicom_tree`
===================  ==============================================================================
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from mediclip.data.dicom_tree import TreeChoice, find_settings, is_dicom_tree, open_dicom_tree
from mediclip.data.plain_folders import open_plain_folders
from mediclip.data.sample_lists import open_sample_lists
from mediclip.data.samples import Dataset, Sample, has_masks
from mediclip.errors import ManifestError, SettingsError

__all__ = ["Dataset", "Sample", "has_masks", "open_dataset"]

OnProgress = Callable[[int, int], None]
_LAYOUTS: Final[dict[str, Callable[[Path, str], Dataset]]] = {
    "samples": open_sample_lists,
    "normal": open_plain_folders,
}


def open_dataset(
    directory: Path,
    name: str | None = None,
    *,
    choice: TreeChoice | None = None,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """List the samples of a data folder. No pixel is read; of new DICOM files the headers are.

    Args:
        directory: The data folder.
        name: What to call the set; the folder's own name by default.
        choice: What to take from a tree of DICOM files, before what its settings say.
        on_progress: Called with headers of DICOM files read and to be read.

    Returns:
        The set, with the same order on every machine.

    Raises:
        ManifestError: If the folder is missing, has no known layout or two of them, or if its lists or
            folders cannot be used as they are.
        SettingsError: If the settings or the cache folder of a tree of DICOM files cannot be used, or
            something is chosen from a folder that is none.
    """
    name = name or directory.resolve().name or "data"
    if not directory.is_dir():
        message = f"The data folder of {name!r} must exist, but it does not; correct its path."
        raise ManifestError(message)
    try:
        opener = _opener(directory, name)
        if opener is None:
            settings = choice.over(find_settings(directory, name)) if choice else None
            table = choice.labels if choice else None
            return open_dicom_tree(directory, name, settings=settings, table=table, on_progress=on_progress)
        if choice:
            message = (
                f"--modality, --body-part, --view and --labels must choose from a folder of DICOM files, but "
                f"{name!r} is laid out by hand; leave them out."
            )
            raise SettingsError(message)
        return opener(directory, name)
    except OSError as error:  # its own text would quote a path
        message = (
            f"The data folder of {name!r} must be readable, but it is not ({error.strerror}); "
            "give this user the right to read all of it."
        )
        raise ManifestError(message) from None


def _opener(directory: Path, name: str) -> Callable[[Path, str], Dataset] | None:
    """Find what opens a folder; None for a tree of DICOM files."""
    found = [marker for marker in _LAYOUTS if (directory / marker).is_dir()]
    if len(found) == 1:
        return _LAYOUTS[found[0]]
    if not found and is_dicom_tree(directory):
        return None
    message = (
        f"The data folder of {name!r} must have either a 'samples' folder with MediCLIP's lists, a 'normal' "
        f"folder with images or DICOM files, but it has {'both folders' if found else 'none of them'}; "
        f"{'keep one of them' if found else 'arrange it in one of these ways'}."
    )
    raise ManifestError(message)
