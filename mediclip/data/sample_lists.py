"""The layout of the published MediCLIP code: two lists with one JSON object a line.

``samples/train.json`` and ``samples/test.json`` name images (and, for abnormal ones, masks) relative to
``images/``. Lists are often downloaded, so what they name is held inside the data folder.

Source: Zhang et al., MediCLIP, arXiv 2405.11315, published implementation (``datasets/``).
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mediclip.data.samples import ABNORMAL, LABEL_NAMES, Dataset, Sample, Split
from mediclip.errors import ManifestError

MAX_LIST_BYTES: Final = 2**26


def open_sample_lists(directory: Path, name: str) -> Dataset:
    """Read both lists.

    Args:
        directory: The data folder, with ``samples/`` and ``images/``.
        name: What to call the set.

    Returns:
        The set, in the order of the lists.

    Raises:
        ManifestError: If a list is missing, empty or has a line that cannot be used (which is named by its
            number, from 1), or if an image is listed twice.
    """
    root = directory / "images"
    if not root.is_dir():
        message = (
            f"The data folder of {name!r} must have an 'images' folder beside 'samples', "
            "but it has none; add it."
        )
        raise ManifestError(message)
    train = _read_list(directory, "train", name)
    test = _read_list(directory, "test", name)
    _refuse_repeats([*train, *test])
    return Dataset(name, tuple(s for s, _ in train), tuple(s for s, _ in test))


@dataclass(frozen=True)
class _Line:
    """Where an entry stands, for messages and for the paths in it."""

    directory: Path
    split: Split
    number: int

    def __str__(self) -> str:
        return f"line {self.number} of the {self.split} list"

    def fault(self, *, must: str, found: str, do: str) -> ManifestError:
        return ManifestError(f"{str(self).capitalize()} must {must}, but {found}; {do}.")


def _read_list(directory: Path, split: Split, name: str) -> list[tuple[Sample, _Line]]:
    """Read one list; an entry's index counts the entries before it, its line counts blank lines too."""
    entries: list[tuple[Sample, _Line]] = []
    for number, raw in enumerate(_list_bytes(directory, split, name).splitlines(), start=1):
        if raw.strip():
            line = _Line(directory, split, number)
            entries.append((_read_sample(raw, line, len(entries), name), line))
    if not entries:
        message = f"The {split} list of {name!r} must name at least one image, but it is empty; fill it."
        raise ManifestError(message)
    return entries


def _list_bytes(directory: Path, split: Split, name: str) -> bytes:
    path = directory / "samples" / f"{split}.json"
    if not path.is_file():
        message = (
            f"The data folder of {name!r} must have the lists train.json and test.json in 'samples', "
            f"but {split}.json is missing; add it."
        )
        raise ManifestError(message)
    if path.stat().st_size > MAX_LIST_BYTES:
        message = (
            f"The {split} list of {name!r} must have at most {MAX_LIST_BYTES >> 20} MiB, "
            "but it is larger; split the set."
        )
        raise ManifestError(message)
    return path.read_bytes().removeprefix(b"\xef\xbb\xbf")


def _read_sample(raw: bytes, line: _Line, index: int, name: str) -> Sample:
    try:
        entry = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):  # a decoding error is a ValueError; its text would quote the line
        entry = None
    if not isinstance(entry, dict):
        raise line.fault(must="be one JSON object in UTF-8", found="it is not", do="correct it")
    label, label_name = _read_label(entry, line)
    image = _inside(entry.get("filename"), line, "filename")
    try:
        found = None if image.is_file() else "it is missing"
    except OSError as error:  # its own text would quote the path
        found = f"it cannot be reached ({error.strerror})"
    if found:
        must, do = "name an image that exists", "restore it or remove the line"
        raise line.fault(must=must, found=found, do=do) from None
    mask = None
    if label == ABNORMAL and entry.get("mask") is not None:
        mask = _inside(entry["mask"], line, "mask")
    return Sample(index, image, label, label_name, name, mask, line.split)


def _read_label(entry: dict[str, Any], line: _Line) -> tuple[int, str]:
    label = entry.get("label")
    if type(label) is not int or label not in {0, 1}:
        must = "have the label 0 (normal) or 1 (abnormal)"
        raise line.fault(must=must, found="it has another or none", do="correct it")
    label_name = entry.get("label_name", LABEL_NAMES[label])
    if not isinstance(label_name, str) or label_name == LABEL_NAMES[1 - label]:
        must = f"have a label_name that fits its label, such as {LABEL_NAMES[label]!r}"
        raise line.fault(must=must, found="it has another", do="correct one of the two")
    return label, label_name


def _inside(value: object, line: _Line, key: str) -> Path:
    """Turn a listed path into a file's path, and refuse one that leads out of the data folder.

    Refused are absolute paths, any ``..`` and links that end outside both the data folder and ``images``
    (which may itself be a link to another disk).
    """
    if not isinstance(value, str) or not value:
        must = f"have a {key} in the form of a path"
        raise line.fault(must=must, found="it has none", do="correct it")
    root = line.directory / "images"
    relative = PurePosixPath(value)
    path = root / relative
    escapes = relative.is_absolute() or ".." in relative.parts
    try:
        target = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a null character
        escapes = True
    else:
        homes = (root.resolve(), line.directory.resolve())
        escapes = escapes or not any(target.is_relative_to(home) for home in homes)
    if escapes:
        must = f"have a {key} that stays inside 'images'"
        raise line.fault(must=must, found="it leads out of the data folder", do="correct it")
    return path


def _refuse_repeats(entries: list[tuple[Sample, _Line]]) -> None:
    """Hold each image to one line: one in both lists would be trained on and judged on."""
    seen: dict[Path, _Line] = {}
    for sample, line in entries:
        earlier = seen.setdefault(sample.image.resolve(), line)
        if earlier is not line:
            found = f"{earlier} names the same one"
            raise line.fault(must="name a new image", found=found, do="remove one of them")
