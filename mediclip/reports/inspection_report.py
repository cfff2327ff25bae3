"""The page of ``mediclip inspect``: what is in a data folder, and what a model will really see of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mediclip.reports.charts import grey_histogram
from mediclip.reports.figures import Picture, SheetRow, contact_sheet, grey_picture
from mediclip.reports.page import (
    Card,
    CardGroup,
    Chart,
    Charts,
    Gallery,
    Origin,
    Row,
    Section,
    Table,
    Tile,
    Tiles,
    write_page,
)

SHEET_COLUMNS: Final = 6
MAX_KINDS: Final = 40
_KIND_COLUMNS: Final = {
    "scanner": ("manufacturer", "model"),
    "size": ("size",),
    "bits": ("bits", "photometric"),
    "transfer syntax": ("transfer_syntax",),
    "images": ("images",),
    "patients": ("patients",),
}
_COPY_NAMES: Final = {
    "identical": "pairs of equal pixels",
    "near": "pairs of near-copies",
    "train_test": "of both, on both sides of the split",
    "patients": "of both, of two patients",
    "labels": "of both, one normal and one abnormal",
}
_TEXT_NAMES: Final = {
    "header_says_so": "the header says so (BurnedInAnnotation)",
    "usual_for_modality": "usual for the modality (such as US), and the header does not deny it",
    "letters_in_pixels": "what looks like letters in a line",
}

Squares = Mapping[str, NDArray[np.float32]]


def write_inspection_page(
    path: Path, found: Mapping[str, Any], sheet: Squares, *, facts: Mapping[str, str]
) -> None:
    """Write the page.

    Args:
        path: The file to write.
        found: The summary of :mod:`mediclip.inspection.summary`.
        sheet: ``(S, S)`` squares in [0, 1] as a model sees them, by the titles of the images.
        facts: How the page was made, such as versions.
    """
    unusable = found["images"] - found["usable"]
    lede = f"{found['images']} images, {found['usable']} of them usable."
    if found["patients"]:
        lede = f"{found['images']} images of {found['patients']} patients, {found['usable']} of them usable."
    sections: list[Section] = [
        _tiles(found, unusable),
        Table("What to do next", columns=["", "in this order"], rows=_numbered(found["next"])),
        _kinds(found["kinds"]),
        _left_out(found, unusable),
        _copies(found["copies"]),
        _text(found["burned_in_text"]),
        _histograms(found["histograms"]),
        _sheet(found, sheet),
        Origin("How this page was made", command="mediclip inspect DIR", facts=facts),
    ]
    write_page(
        path, title="What is in the data folder", lede=lede, sections=[s for s in sections if _shows(s)]
    )


def sheet_picture(sheet: Squares) -> Picture:
    """Draw the contact sheet as one picture.

    Args:
        sheet: ``(S, S)`` squares in [0, 1] by title, at least one.

    Returns:
        Six images a row.
    """
    tiles = list(sheet.values())
    blank = np.zeros_like(tiles[0])
    rows = []
    for start in range(0, len(tiles), SHEET_COLUMNS):
        row = tiles[start : start + SHEET_COLUMNS]
        rows.append(SheetRow("", [*row, *[blank] * (SHEET_COLUMNS - len(row))]))
    return contact_sheet(rows, [""] * SHEET_COLUMNS, title="What a model will see")


def _shows(section: Section) -> bool:
    match section:
        case Table(rows=rows):
            return bool(rows)
        case Charts(charts=charts):
            return bool(charts)
        case Gallery(groups=groups):
            return bool(groups)
    return True


def _tiles(found: Mapping[str, Any], unusable: int) -> Tiles:
    copies = found["copies"]
    return Tiles(
        tiles=[
            Tile("Normal, to train on", found["train_normal"]),
            Tile("Normal, to test on", found["test_normal"]),
            Tile("Abnormal, to test on", found["test_abnormal"], f"{found['masks']} with masks"),
            Tile("Patients", found["patients"], "as far as the files say"),
            Tile("Unusable", unusable),
            Tile("Pairs of copies", copies["identical"] + copies["near"], f"{copies['near']} nearly equal"),
            Tile("Text at risk", found["burned_in_text"]["images"]),
        ]
    )


def _numbered(sentences: Sequence[str]) -> list[Row]:
    return [Row([str(number), sentence]) for number, sentence in enumerate(sentences, start=1)]


def _kinds(kinds: Sequence[Mapping[str, Any]]) -> Table:
    """Show the columns in which at least one kind has something."""
    shown = {
        title: keys
        for title, keys in _KIND_COLUMNS.items()
        if any(kind[key] not in {"", None} for kind in kinds for key in keys)
    }
    columns = {"kind": ("modality", "body_part", "view"), **shown}
    rows = [Row([_joined(kind, keys) for keys in columns.values()]) for kind in kinds[:MAX_KINDS]]
    rest = len(kinds) - MAX_KINDS
    legend = f"{rest} rarer kinds are left out here; inspection.json has them." if rest > 0 else ""
    return Table("What is there", columns=[*columns], rows=rows, legend=legend)


def _joined(kind: Mapping[str, Any], keys: Sequence[str]) -> str | int | None:
    values = [kind[key] for key in keys if kind[key] not in {"", None}]
    if not values:
        return "–" if isinstance(kind[keys[0]], str) else None
    return values[0] if len(values) == 1 else " ".join(map(str, values))


def _left_out(found: Mapping[str, Any], unusable: int) -> Table:
    rows = [Row([f"unusable: {code}", count]) for code, count in found["unusable"].items()]
    rows += [Row([f"left out: {reason}", count]) for reason, count in found["left_out"].items()]
    rows += [Row([f"one grey: {title}", 1]) for title in found["one_grey"]]
    note = " ".join(found["faults"][:5]) if unusable else ""
    return Table("What cannot be used, and what is no image", note, columns=["reason", "files"], rows=rows)


def _copies(copies: Mapping[str, Any]) -> Table:
    rows = [Row([name, str(copies[key])]) for key, name in _COPY_NAMES.items()]
    rows += [
        Row([f"{pair['first']} and {pair['second']}", ", ".join(pair["is"])]) for pair in copies["pairs"][:20]
    ]
    legend = (
        "Near-copies show one picture after another compression, at another size or brightness, or with up "
        "to 5 % cut off. Neighbouring slices of one patient may count as such."
    )
    is_empty = not (copies["identical"] or copies["near"])
    return Table("Copies", columns=["images", "what they are"], rows=[] if is_empty else rows, legend=legend)


def _text(text: Mapping[str, Any]) -> Table:
    rows = [Row([name, text[key]]) for key, name in _TEXT_NAMES.items()]
    named = ", ".join(text["letters_in"][:20])
    legend = (
        "Letters are guessed from pixels: names are found where they are drawn bright and at full size."
        + (f" Look at: {named}." if named else "")
    )
    return Table("Text burned into pixels", columns=["why", "images"], rows=rows, legend=legend)


def _histograms(histograms: Mapping[str, Any]) -> Charts:
    charts = []
    for kind, one in histograms.items():
        for when, x_label in (("before", "stored values"), ("after", "greys of the model")):
            part = one[when]
            if any(part["shares"]):
                svg = grey_histogram(part["shares"], part["low"], part["high"], x_label=x_label)
                charts.append(Chart(f"{kind}, {when} preprocessing", svg, f"images sampled: {one['images']}"))
    return Charts("How greys are spread", charts=charts)


def _sheet(found: Mapping[str, Any], sheet: Squares) -> Gallery:
    titles = list(sheet)
    cards = [
        Card("", {title: grey_picture(sheet[title]) for title in titles[start : start + SHEET_COLUMNS]})
        for start in range(0, len(titles), SHEET_COLUMNS)
    ]
    note = f"{len(titles)} images drawn with seed {found['sheet']['seed']}, as they reach the network."
    groups = [CardGroup("", cards)] if cards else []
    return Gallery("What a model will see", note, groups=groups)
