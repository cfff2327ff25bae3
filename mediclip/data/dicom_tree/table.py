"""The table that labels a tree of DICOM files: ``manifest.csv`` or ``manifest.jsonl``.

It lies in the folder, or beside it under the folder's name (``scans.csv`` for ``scans/``) where nothing may
be written into the folder. A CSV file has a heading, in UTF-8, with commas or semicolons; JSON lines have one
object a line. Columns, in any order, all optional but the first; empty cells count as left out:

==============  ===================================================================================
``file``        the image, relative to the folder, with forward slashes
``label``       ``normal`` or 0, ``abnormal`` or 1; normal when left out
``mask``        an abnormal image's mask, relative to the folder: an image file, not 0 where abnormal
``split``       ``train`` or ``test``, in every row or in none
``patient``     whose image it is; the file's own patient number when left out
``frame``       which frame of a file with several, from 0
``both_sides``  ``yes`` in all rows of a patient who is in train and in test on purpose
==============  ===================================================================================

Other columns are passed over. What the table names is held inside the folder.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

from mediclip.data.samples import ABNORMAL, LABEL_NAMES, NORMAL, Split
from mediclip.errors import ManifestError

MAX_TABLE_BYTES: Final = 2**26
_SUFFIXES: Final = (".csv", ".jsonl")
_LABELS: Final = {"": NORMAL, "0": NORMAL, "normal": NORMAL, "1": ABNORMAL, "abnormal": ABNORMAL}
_ANSWERS: Final = {"": False, "no": False, "0": False, "false": False, "yes": True, "1": True, "true": True}
_SPLITS: Final[dict[str, Split | None]] = {"": None, "train": "train", "test": "test"}
_MAX_FRAME_DIGITS: Final = 6
_Choice = TypeVar("_Choice")


@dataclass(frozen=True)
class Row:
    """One image as the table describes it.

    Attributes:
        line: Where it stands, from 1, for messages.
        file: The image's path below the folder.
        label: 0 normal, 1 abnormal.
        mask: The mask's path below the folder, or None.
        split: Its side, or None where the table leaves that open.
        patient: Whose image it is, as the table calls the patient, or None.
        frame: Which frame, from 0, or None.
        both_sides: Whether the patient is on both sides on purpose.
    """

    line: int
    file: str = field(repr=False)
    label: int
    mask: str | None = field(repr=False)
    split: Split | None
    patient: str | None = field(repr=False)
    frame: int | None
    both_sides: bool

    def fault(self, *, must: str, found: str, do: str) -> ManifestError:
        """Make the sentence that says what is wrong with the row."""
        return _fault(self.line, must, found, do)


def find_table(directory: Path, name: str) -> Path | None:
    """Look for the table in and beside a folder.

    Args:
        directory: The folder.
        name: What messages call the set.

    Returns:
        The table's path, or None where there is none.

    Raises:
        ManifestError: If there are several.
    """
    real = directory.resolve()
    places = [real / f"manifest{suffix}" for suffix in _SUFFIXES]
    if real.name:
        places += [real.with_name(real.name + suffix) for suffix in _SUFFIXES]
    found = [place for place in places if place.is_file() and not place.is_symlink()]
    if len(found) > 1:
        message = (
            f"The data folder of {name!r} must have one table of labels at most, but there are {len(found)} "
            "in and beside it; keep one of them."
        )
        raise ManifestError(message)
    return found[0] if found else None


def read_table(path: Path, name: str) -> list[Row]:
    """Read a table; no image is looked for.

    Args:
        path: The table, a CSV file unless its name ends in ``.jsonl``.
        name: What messages call the set.

    Returns:
        Its rows, at least one.

    Raises:
        ManifestError: If it cannot be read, is empty, names no file column, or has a row that cannot be used
            or that repeats another one.
    """
    try:
        too_large = path.stat().st_size > MAX_TABLE_BYTES
        text = "" if too_large else path.read_bytes().decode("utf-8-sig")
    except OSError as error:  # its own text would quote the path
        message = f"The table of {name!r} must be readable, but it is not ({error.strerror}); correct that."
        raise ManifestError(message) from None
    except UnicodeDecodeError:
        message = f"The table of {name!r} must be in UTF-8, but it is not; save it again as UTF-8."
        raise ManifestError(message) from None
    if too_large:
        limit = MAX_TABLE_BYTES >> 20
        message = f"The table of {name!r} must have at most {limit} MiB, but it is larger; split the set."
        raise ManifestError(message)
    read = _read_lines if path.suffix.lower() == ".jsonl" else _read_cells
    rows = [_row(line, cells) for line, cells in read(text, name)]
    if not rows:
        message = f"The table of {name!r} must name at least one image, but it is empty; fill or remove it."
        raise ManifestError(message)
    _check_together(rows, name)
    return rows


def _read_lines(text: str, _: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # its text would quote the line
            entry = None
        if not isinstance(entry, dict):
            raise _fault(number, "be one JSON object", "it is not", "correct it")
        yield number, {key: _plain(value, number, key) for key, value in entry.items()}


def _plain(value: object, number: int, key: str) -> str:
    """Write a JSON value as a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int):
        return str(value)
    if key in Row.__annotations__:
        raise _fault(number, f"have a {key} that is a text or a whole number", "it is neither", "correct it")
    return ""


def _read_cells(text: str, name: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    heading = text.partition("\n")[0]
    delimiter = ";" if heading.count(";") > heading.count(",") else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, restval="")
    try:
        columns = [column.strip().lower() for column in reader.fieldnames or ()]
        if "file" not in columns or len(set(columns)) != len(columns):
            message = (
                f"The table of {name!r} must have a heading with a 'file' column and no column twice, but it "
                "has another; correct its first line."
            )
            raise ManifestError(message)
        reader.fieldnames = columns
        for cells in reader:
            if None in cells:
                raise _fault(reader.line_num, "have a cell for each column", "it has more", "correct it")
            yield reader.line_num, cells
    except csv.Error:  # its text may quote a cell
        message = (
            f"The table of {name!r} must be a CSV file throughout, but a cell after line {reader.line_num} "
            "has wrong quotes or is too long; correct it."
        )
        raise ManifestError(message) from None


def _row(line: int, cells: Mapping[str, str]) -> Row:
    label = _choose(_LABELS, cells, line, "label", "normal (or 0) or abnormal (or 1)")
    mask = cells.get("mask", "").strip()
    if mask and label == NORMAL:
        must = f"have a mask only where it is {LABEL_NAMES[ABNORMAL]}"
        raise _fault(line, must, "it is normal and has one", "correct the label or remove the mask")
    frame = cells.get("frame", "").strip()
    if frame and not (frame.isascii() and frame.isdigit() and len(frame) <= _MAX_FRAME_DIGITS):
        raise _fault(line, "have a whole number from 0 as its frame", "it has another", "correct it")
    return Row(
        line,
        _inside(cells.get("file", "").strip(), line, "file"),
        label,
        _inside(mask, line, "mask") if mask else None,
        _choose(_SPLITS, cells, line, "split", "train or test"),
        cells.get("patient", "").strip() or None,
        int(frame) if frame else None,
        _choose(_ANSWERS, cells, line, "both_sides", "yes or no"),
    )


def _choose(
    choices: Mapping[str, _Choice], cells: Mapping[str, str], line: int, column: str, wanted: str
) -> _Choice:
    cell = cells.get(column, "").strip().lower()
    if cell not in choices:
        raise _fault(line, f"have {wanted} as its {column}", "it has another", "correct it")
    return choices[cell]


def _inside(value: str, line: int, column: str) -> str:
    """Refuse a path that leads out of the folder by itself; links are looked at when it is used."""
    path = PurePosixPath(value)
    if not value or "\0" in value:
        raise _fault(line, f"have a {column} in the form of a path", "it has none", "correct it")
    if path.is_absolute() or ".." in path.parts:
        must = f"have a {column} that stays inside the folder"
        raise _fault(line, must, "it leads out of it", "correct it")
    return path.as_posix()


def _check_together(rows: list[Row], name: str) -> None:
    seen: dict[tuple[str, int | None], Row] = {}
    for row in rows:
        earlier = seen.setdefault((row.file, row.frame), row)
        if earlier is not row:
            found = f"line {earlier.line} names the same one"
            raise row.fault(must="name a new image", found=found, do="remove one of them")
    given = sum(row.split is not None for row in rows)
    if given not in {0, len(rows)}:
        message = (
            f"The table of {name!r} must give a split in every row or in none, but it does in {given} of "
            f"{len(rows)}; fill in the rest or remove the column."
        )
        raise ManifestError(message)


def _fault(line: int, must: str, found: str, do: str) -> ManifestError:
    return ManifestError(f"Line {line} of the table must {must}, but {found}; {do}.")
