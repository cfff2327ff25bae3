"""The benchmark's numbers as CSV and as Markdown."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from simulation.paper.grid import Part
from simulation.paper.summary import ALL_SETS, KEYS, METRICS, Line

PART_TITLES: Final[Mapping[Part, str]] = {
    "alone": "One site, k normal images",
    "zero_shot": "No image at all: phrases alone (means something where the text tower is real)",
    "federated": "Several sites of one set, k normal images each",
    "sites": "More sites, the same images each",
    "rounds": "The same steps in fewer or more rounds",
    "ablation": "What each part of the recipe is worth",
    "transfer": "Trained on one set, tested on another",
}
LEFT: Final = ("recipe", "variant", "method", "trained on")
"""Columns of words; all others are numbers."""

_HEADINGS: Final = {
    "image_auroc": "image AUROC",
    "unique_image_auroc": "without copies",
    "pixel_auroc": "pixel AUROC",
}


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        part: The part of the benchmark that it shows.
        columns: Headings.
        rows: Cells, as many as there are headings.
    """

    part: Part
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write one line for each cell, method and tested set."""
    stream = io.StringIO(newline="")
    names = [*KEYS, "seed", *METRICS, "n_normal", "n_abnormal"]
    table = csv.DictWriter(stream, names, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return stream.getvalue()


def make_tables(lines: Sequence[Line]) -> list[TextTable]:
    """Lay out each part of the benchmark: sets as columns, what was compared as rows.

    Args:
        lines: From :func:`simulation.paper.summary.summarise_rows`.

    Returns:
        A table of image AUROC for each part that has lines, then one of pixel AUROC where any set has masks.
        ``transfer`` has the set trained on as rows.
    """
    tables = []
    for part in PART_TITLES:
        mine = [line for line in lines if line.facts["part"] == part]
        if mine:
            tables += [_transfer(mine)] if part == "transfer" else _by_set(part, mine)
    return tables


def to_markdown(table: TextTable) -> str:
    """Write a table for a Markdown page, numbers to the right."""
    rule = ["---" if column in LEFT else "--:" for column in table.columns]
    lines = [table.columns, rule, *table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _by_set(part: Part, lines: Sequence[Line]) -> list[TextTable]:
    sets = list(dict.fromkeys(line.facts["tested_on"] for line in lines))
    sets.sort(key=lambda name: name == ALL_SETS)
    # Only what differs within the part earns a column.
    labels = [
        key
        for key in ("sites", "shots", "rounds", "recipe", "variant", "method")
        if len({line.facts[key] for line in lines}) > 1 or key == "method"
    ]
    found: dict[tuple[str, ...], dict[str, Line]] = {}
    for line in lines:
        label = tuple(str(line.facts[key]) or "(whole recipe)" for key in labels)
        found.setdefault(label, {})[line.facts["tested_on"]] = line
    tables = []
    for metric in ("image_auroc", "pixel_auroc"):
        shown = [
            name for name in sets if any(name in by and metric in by[name].metrics for by in found.values())
        ]
        if not shown:
            continue
        columns = [*labels, *(f"{name}, {_HEADINGS[metric]}" for name in shown)]
        rows = [[*label, *(_cell(by.get(name), metric) for name in shown)] for label, by in found.items()]
        tables.append(TextTable(part, columns, rows))
    return tables


def _transfer(lines: Sequence[Line]) -> TextTable:
    sets = [name for name in dict.fromkeys(line.facts["set_name"] for line in lines) if name != ALL_SETS]
    by_pair = {(line.facts["set_name"], line.facts["tested_on"]): line for line in lines}
    rows = [[name, *(_cell(by_pair.get((name, other)), "image_auroc") for other in sets)] for name in sets]
    return TextTable("transfer", ["trained on", *(f"{name}, image AUROC" for name in sets)], rows)


def _cell(line: Line | None, metric: str) -> str:
    if line is None or metric not in line.metrics:
        return "–"
    text = str(line.metrics[metric])
    unique = line.metrics.get(f"unique_{metric}")
    if unique is not None and f"{unique.mean:.3f}" != f"{line.metrics[metric].mean:.3f}":
        text += f" ({unique.mean:.3f} without copies)"
    return text
