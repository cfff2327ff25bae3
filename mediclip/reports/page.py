"""One HTML page that holds everything it shows: it opens without a network, prints, and can be mailed.

A page is a list of sections; each kind of section is a dataclass here and a block of the template
``templates/page.html``. Text goes in plain and is escaped by the template.
"""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

import jinja2
from markupsafe import Markup

import mediclip
from mediclip.reports.colours import heat_table
from mediclip.reports.figures import Picture

RESEARCH_USE: Final = "Research use only – not for diagnosis."


@dataclass(frozen=True)
class Measure:
    """A number as tables show it.

    Attributes:
        value: The number, or None where it is undefined, shown as a dash.
        interval: Lower and upper end, where known.
        spread: Standard deviation over seeds, where known.
        is_flagged: Whether to mark the number as worse than it should be.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    spread: float | None = None
    is_flagged: bool = False


Cell = Measure | str | int | None


@dataclass(frozen=True)
class Section:
    """What all sections have.

    Attributes:
        title: Heading, also listed under the page's title; none when empty.
        note: A paragraph below the heading.
    """

    kind: ClassVar[str]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Tile:
    """One large number: its name, the number, and a line below."""

    name: str
    value: Cell
    note: str = ""


@dataclass(frozen=True)
class Tiles(Section):
    """The few numbers to see first."""

    kind = "tiles"
    tiles: Sequence[Tile] = ()


@dataclass(frozen=True)
class Row:
    """One line of a table; an emphasised one stands out."""

    cells: Sequence[Cell]
    is_emphasised: bool = False


@dataclass(frozen=True)
class Table(Section):
    """Rows under named columns; the first column names the row."""

    kind = "table"
    columns: Sequence[str] = ()
    rows: Sequence[Row] = ()
    legend: str = ""


@dataclass(frozen=True)
class Chart:
    """An SVG from :mod:`mediclip.reports.charts` with its caption."""

    title: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Charts(Section):
    """Charts side by side."""

    kind = "charts"
    charts: Sequence[Chart] = ()


@dataclass(frozen=True)
class Card:
    """One scan: pictures by caption, and what is known and said about it.

    Attributes:
        title: Such as ``"test image 12"``.
        pictures: Pictures by caption, left to right.
        label: ``"normal"`` or ``"abnormal"``, empty when unknown.
        score: The image score, where there is one.
        note: A line below.
    """

    title: str
    pictures: Mapping[str, Picture]
    label: str = ""
    score: float | None = None
    note: str = ""


@dataclass(frozen=True)
class CardGroup:
    """Cards under a smaller heading."""

    title: str
    cards: Sequence[Card]
    note: str = ""


@dataclass(frozen=True)
class Gallery(Section):
    """Scans and their maps."""

    kind = "gallery"
    groups: Sequence[CardGroup] = ()


@dataclass(frozen=True)
class MapGuide(Section):
    """How to read an anomaly map, with the bar of its colours.

    Attributes:
        value_range: Values shown as clear and as full colour; None when each method
            has its own.
        has_masks: Whether outlines of lesions are drawn.
    """

    kind = "map_guide"
    value_range: tuple[float, float] | None = None
    has_masks: bool = False

    @property
    def colours(self) -> str:
        """The colour map as stops of a CSS gradient."""
        return ", ".join("#" + bytes(colour).hex() for colour in heat_table()[::17])


@dataclass(frozen=True)
class Origin(Section):
    """How the page was made.

    Attributes:
        command: What was typed.
        facts: Names and values such as recipe, seeds, backbone and versions.
    """

    kind = "origin"
    command: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


def write_page(path: Path, *, title: str, lede: str, sections: Sequence[Section]) -> None:
    """Write a page; an earlier one is replaced only when the new one is complete.

    Args:
        path: The file to write, usually ``report.html``; its folder exists.
        title: The heading.
        lede: One or two sentences that say what was found.
        sections: In the order of reading.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mediclip.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    html = environment.get_template("page.html").render(
        title=title, lede=lede, sections=sections, research_use=RESEARCH_USE, version=mediclip.__version__
    )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(html, encoding="utf-8")
    unfinished.replace(path)


def data_uri(picture: Picture) -> str:
    """Put a picture into an address of its own, so that the page needs no other file.

    Args:
        picture: An RGB picture.

    Returns:
        A ``data:`` address. JPEG at a quality of 92 with full colour resolution: a tenth of a PNG's size, and
        coloured edges stay sharp.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
