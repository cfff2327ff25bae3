"""``mediclip inspect``: what is in a data folder, and what training would see."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from mediclip.cli import console, options

if TYPE_CHECKING:
    from mediclip.inspection.inventory import Inventory

_SHOWN_FAULTS = 10
_SHOWN_KINDS = 12


def inspect(
    *,
    data: Annotated[Path, typer.Argument(help="Data folder.", metavar="DIR", show_default=False)],
    synthesis: Annotated[
        bool, typer.Option("--synthesis", help="Write a contact sheet of synthesised anomalies; needs --out.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for inspection.json, page and sheets.", metavar="DIR")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page.", metavar="FILE")] = None,
    modality: options.Modality = None,
    body_part: options.BodyPart = None,
    view: options.View = None,
    labels: options.Labels = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Say what a data folder holds, what is unusable and why, what repeats; show what a model will see.

    Reads every image once, in processes that can be ended. Nothing that is put out names a patient or file.

    Example:  mediclip inspect my-scans --out runs/look
    """
    from mediclip.data.dicom_tree import TreeChoice
    from mediclip.errors import SettingsError
    from mediclip.inspection.inventory import take_inventory
    from mediclip.inspection.summary import summarise
    from mediclip.inspection.survey import survey

    if synthesis and out is None:
        message = "--synthesis must have a folder for the sheet. There is none; add --out DIR."
        raise SettingsError(message)
    choice = TreeChoice.of(modality, body_part, view, labels)
    with console.phases(quiet=as_json) as on_phase:
        inventory = take_inventory(
            data, choice=choice, on_progress=lambda done, total: on_phase("Reading headers", done, total, "")
        )
        seen = survey(
            inventory, seed=seed, on_progress=lambda done, total: on_phase("Reading images", done, total, "")
        )
    found = summarise(inventory, seen, seed=seed)
    sheet = {inventory.items[number].title: square for number, square in sorted(seen.sheet.items())}
    written = _write(found, sheet, out=out, html=html)
    if synthesis and out is not None and not seen.faults and inventory.dataset is not None:
        from mediclip.reports.synthesis_sheet import write_synthesis_sheet

        written.append(write_synthesis_sheet(inventory.dataset, out, seed))
    if as_json:
        console.print_json(found)
    else:
        _print(found, data)
        for path in written:
            console.out.print(f"Written: {escape(str(path))}", soft_wrap=True)
    _refuse(inventory, seen.faults)


def _write(
    found: Mapping[str, Any], sheet: Mapping[str, Any], *, out: Path | None, html: Path | None
) -> list[Path]:
    """Write what was asked for, and say what that is."""
    from mediclip.errors import SettingsError
    from mediclip.reports.inspection_report import sheet_picture, write_inspection_page
    from mediclip.training.checkpoint import versions, write_atomically

    written = []
    pages = [] if html is None else [html]
    if out is not None:
        folder = console.make_folder(out)
        pages.append(folder / "inspection.html")
        written.append(folder / "inspection.json")
        write_atomically(written[0], json.dumps(found, indent=2).encode())
        if sheet:
            written.append(folder / "sheet.png")
            sheet_picture(sheet).save(written[-1])
    for page in pages:
        facts = {f"version of {name}": version for name, version in versions().items()}
        try:
            write_inspection_page(page, found, sheet, facts=facts)
        except OSError as error:
            message = (
                f"--html must be a file that can be written. It is not ({error.strerror}); name another."
            )
            raise SettingsError(message) from None
    return written + pages


def _print(found: Mapping[str, Any], data: Path) -> None:
    copies, text = found["copies"], found["burned_in_text"]
    sizes = ", ".join(f"{size} ({count})" for size, count in list(found["sizes"].items())[:4])
    rows = [
        ["images, usable", f"{found['images']}, {found['usable']}"],
        ["patients, studies", f"{found['patients'] or '–'}, {found['studies'] or '–'}"],
        ["train, normal", str(found["train_normal"])],
        ["test, normal", str(found["test_normal"])],
        ["test, abnormal", str(found["test_abnormal"])],
        ["masks", str(found["masks"])],
        ["sizes in pixels", sizes + (", …" if len(found["sizes"]) > 4 else "")],
        ["copies: equal, nearly equal", f"{copies['identical']}, {copies['near']}"],
        ["copies across train and test", str(copies["train_test"])],
        ["copies across patients", str(copies["patients"])],
        ["text at risk (seen in pixels)", f"{text['images']} ({text['letters_in_pixels']})"],
    ]
    rows += [[f"unusable: {code}", str(count)] for code, count in found["unusable"].items()]
    rows += [[f"left out: {escape(reason)}", str(count)] for reason, count in found["left_out"].items()]
    console.print_table({"": "left", " ": "right"}, rows, title=escape(data.resolve().name))
    _print_kinds(found)
    for sentence in found["faults"][:_SHOWN_FAULTS]:
        console.out.print(escape(sentence), soft_wrap=True)
    console.out.print("Next:")
    for sentence in found["next"]:
        plain = sentence.replace("--data DIR", f"--data {data}")
        console.out.print(f"- {escape(plain)}", soft_wrap=True)


def _print_kinds(found: Mapping[str, Any]) -> None:
    """Print a line for each kind of image, where headers say something."""
    kinds = [kind for kind in found["kinds"] if kind["size"]]
    rows = [
        [
            escape(" ".join(filter(None, (kind["modality"], kind["body_part"], kind["view"])))),
            escape(" ".join(filter(None, (kind["manufacturer"], kind["model"])))),
            kind["size"],
            f"{kind['bits']} {kind['photometric']}\n{_shortened(kind['transfer_syntax'])}",
            str(kind["images"]),
            str(kind["patients"] or "–"),
        ]
        for kind in kinds[:_SHOWN_KINDS]
    ]
    columns = {"kind": "left", "scanner": "left", "size": "left", "coded as": "left"}
    if rows:
        console.print_table({**columns, "images": "right", "patients": "right"}, rows)
    if (rest := len(kinds) - _SHOWN_KINDS) > 0:
        console.out.print(f"{rest} rarer kinds are not shown; --json and --out have them.")


def _shortened(syntax: str) -> str:
    return syntax.replace(" Image Compression", "").replace("Little Endian", "LE")


def _refuse(inventory: "Inventory", faults: list[str]) -> None:
    """End with an error where the folder cannot be trained on as it is."""
    from mediclip.errors import DataError, ManifestError

    if inventory.fault:
        raise ManifestError(inventory.fault)
    if faults:
        message = (
            f"Every listed image must be usable. {len(faults)} of them are not, the first: {faults[0]} "
            "Mend or remove them."
        )
        raise DataError(message)
