"""``mediclip inspect``: what is in a data folder, and what training would see."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from mediclip.cli import console, options

if TYPE_CHECKING:
    from mediclip.data.manifest import Dataset

_SHEET_ROWS = 2


def inspect(
    *,
    data: Annotated[Path, typer.Argument(help="Data folder.", metavar="DIR", show_default=False)],
    synthesis: Annotated[
        bool, typer.Option("--synthesis", help="Write a contact sheet of synthesised anomalies; needs --out.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the sheet.", metavar="DIR")] = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Say what a data folder holds, what is unusable and why; draw what training would see.

    Example:  mediclip inspect my-scans --synthesis --out runs/look
    """
    from mediclip.data.manifest import open_dataset
    from mediclip.errors import DataError, SettingsError

    if synthesis and out is None:
        message = "--synthesis must have a folder for the sheet. There is none; add --out DIR."
        raise SettingsError(message)
    dataset = open_dataset(data)
    found, faults = _look(dataset, quiet=as_json)
    if synthesis and out is not None and not faults:
        found["sheet"] = str(_write_sheet(dataset, console.make_folder(out), seed))
    if as_json:
        console.print_json(found)
    else:
        _print(found, faults, data)
    if faults:
        message = (
            f"Every listed image must be usable. {len(faults)} of them are not, the first: {faults[0]} "
            "Mend or remove them."
        )
        raise DataError(message)


def _look(dataset: "Dataset", *, quiet: bool) -> tuple[dict[str, Any], list[str]]:
    from mediclip.data.formats import read_shape
    from mediclip.data.manifest import has_masks
    from mediclip.data.preprocess import Preprocess
    from mediclip.errors import DataError
    from mediclip.evaluation.duplicates import CopyFilter, fingerprint

    preprocess = Preprocess()
    samples = [*dataset.train, *dataset.test]
    masked = has_masks(dataset.test)
    sizes: Counter[str] = Counter()
    faults: list[str] = []
    copies: list[str] = []
    filter_ = CopyFilter()
    with console.progress("Reading", quiet=quiet) as bar:
        for done, sample in enumerate(samples, start=1):
            try:
                height, width = read_shape(sample.image, name=sample.title)
                if not filter_.is_new(fingerprint(preprocess.load_image(sample))):
                    copies.append(sample.title)
                if masked and sample.split == "test":
                    preprocess.load_mask(sample)
                sizes[f"{width}x{height}"] += 1
            except DataError as error:
                faults.append(str(error))
            bar(done, len(samples))
    counted = {
        "train_normal": len(dataset.train),
        "test_normal": sum(s.label == 0 for s in dataset.test),
        "test_abnormal": sum(s.label == 1 for s in dataset.test),
        "masks": sum(s.mask is not None for s in dataset.test),
    }
    found = {
        "set": dataset.name,
        **counted,
        "sizes": dict(sizes.most_common()),
        "copies": copies,
        "unusable": faults,
    }
    return found, faults


def _write_sheet(dataset: "Dataset", folder: Path, seed: int) -> Path:
    from mediclip.data.preprocess import Preprocess, load_images
    from mediclip.data.support import draw_support
    from mediclip.reports.figures import SheetRow, contact_sheet, difference
    from mediclip.rng import generator
    from mediclip.synthesis import TASKS, Mixture

    normal = [s for s in dataset.train if s.label == 0]
    support = load_images(draw_support(normal, min(8, len(normal)), seed), Preprocess())
    rows = []
    for task in TASKS:
        mixture = Mixture({task: 1.0}, second_anomaly=0.5)
        for row in range(_SHEET_ROWS):
            before = support[row % len(support)]
            made = mixture.draw(before, support, generator(seed, "sheet", task, row))
            tiles = [before, made.image, made.label, difference(before, made.image)]
            rows.append(SheetRow(task.replace("_", " ") if row == 0 else "", tiles))
    sheet = contact_sheet(
        rows,
        ["scan", "with anomaly", "label", "difference"],
        title=f"{dataset.name}: what training sees",
    )
    path = folder / "synthesis.png"
    sheet.save(path)
    return path


def _print(found: dict[str, Any], faults: list[str], data: Path) -> None:
    sizes = ", ".join(f"{size} ({count})" for size, count in list(found["sizes"].items())[:4])
    rows = [
        ["train, normal", str(found["train_normal"])],
        ["test, normal", str(found["test_normal"])],
        ["test, abnormal", str(found["test_abnormal"])],
        ["masks", str(found["masks"])],
        ["sizes in pixels", sizes + (", …" if len(found["sizes"]) > 4 else "")],
        ["copies of another image", str(len(found["copies"]))],
        ["unusable", str(len(faults))],
    ]
    console.print_table({"": "left", " ": "right"}, rows, title=str(found["set"]))
    for fault in faults[:10]:
        console.out.print(f"  - {escape(fault)}", soft_wrap=True)
    if "sheet" in found:
        console.out.print(f"Sheet: {found['sheet']}", soft_wrap=True)
    if not faults:
        console.out.print(
            f"Next:  mediclip train --data {data} --shots {min(16, max(1, found['train_normal']))} "
            "--backbone embedded --out runs/first",
            soft_wrap=True,
        )
