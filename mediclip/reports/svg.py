"""Axes and marks in SVG, in data units. Every text that goes in is escaped here."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from markupsafe import Markup

SERIES: Final = 6
WIDTH: Final = 520
_TOP: Final = 14
_LINE: Final = 20
_BELOW: Final = 48
_RIGHT: Final = WIDTH - 16
_LETTER: Final = 6.6


@dataclass
class Frame:
    """Axes, and what is drawn inside them.

    Attributes:
        x_range: Data at the left and right end.
        y_range: Data at the lower and upper end, not equal.
        x_label: What x is.
        y_label: What y is; empty for an axis of names.
        legend: Names of the series in the order of their colours.
        plot_height: Height between the axes.
        left: Room for the names or numbers at the left.
        has_whole_x: Whether x counts something, so that only whole numbers are written at its axis.
        parts: SVG drawn so far.
    """

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_label: str
    y_label: str
    legend: Sequence[str] = ()
    plot_height: int = 230
    left: int = 58
    has_whole_x: bool = False
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A chart of one round would divide by zero.
        if self.x_range[0] == self.x_range[1]:
            self.x_range = (self.x_range[0] - 0.5, self.x_range[1] + 0.5)
        self._legend = _place_legend(self.legend, self.left)
        self._top = _TOP + (_LINE * (1 + max(row for *_, row in self._legend)) if self._legend else 0)
        self._bottom = self._top + self.plot_height

    def x(self, value: float) -> float:
        """Turn a value into a horizontal position."""
        share = (value - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        return round(self.left + share * (_RIGHT - self.left), 1)

    def y(self, value: float) -> float:
        """Turn a value into a vertical position."""
        share = (value - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return round(self._bottom - share * self.plot_height, 1)

    def line(self, points: Iterable[tuple[float, float]], style: str, *, text: str = "") -> None:
        """Draw straight segments through points, in the classes ``style``."""
        path = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        self.parts.append(f'<polyline class="{style}" points="{path}">{_title(text)}</polyline>')

    def bar(self, left: float, right: float, value: float, series: int, *, text: str) -> None:
        """Draw a bar from zero to a value."""
        x, y = self.x(left), self.y(value)
        size = f'width="{max(0.5, self.x(right) - x - 1):.1f}" height="{self.y(0) - y:.1f}"'
        self.parts.append(
            f'<rect class="bar s{series % SERIES}" x="{x}" y="{y}" {size}>{_title(text)}</rect>'
        )

    def mark(self, x: float, y: float, series: int, *, text: str) -> None:
        """Draw the mark of a series."""
        self.parts.append(_mark(self.x(x), self.y(y), series, text))

    def row(self, name: str, start: float, end: float) -> None:
        """Name a stretch of the vertical axis and draw a line below it."""
        top, bottom = self.y(start), self.y(end)
        place = f'x="{self.left - 12}" y="{(top + bottom) / 2 + 4:.1f}"'
        self.parts.append(_text("name", place, name))
        self.parts.append(f'<line class="grid" x1="{self.left}" x2="{_RIGHT}" y1="{bottom}" y2="{bottom}"/>')

    def svg(self, description: str) -> Markup:
        """Finish the drawing.

        Args:
            description: What it shows, for those who cannot see it.

        Returns:
            One ``<svg>`` element.
        """
        size = f'viewBox="0 0 {WIDTH} {self._bottom + _BELOW}"'
        head = f'<svg class="chart" {size} role="img" aria-label="{escape(description)}">'
        inside = "".join([*self._draw_grid(), *self.parts, *self._draw_legend()])
        return Markup(head + inside + "</svg>")  # noqa: S704 - every text went through escape

    def _draw_grid(self) -> list[str]:
        middle = (self.left + _RIGHT) / 2
        parts = [_text("label", f'x="{middle}" y="{self._bottom + 38}"', self.x_label)]
        for tick in nice_ticks(*self.x_range, least_step=1.0 if self.has_whole_x else 0.0):
            x = self.x(tick)
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{self._top}" y2="{self._bottom}"/>')
            parts.append(_text("tick", f'x="{x}" y="{self._bottom + 18}"', f"{tick:.6g}"))
        if not self.y_label:
            return parts
        middle = (self._bottom + self._top) / 2
        parts.append(_text("label", f'transform="translate(14 {middle}) rotate(-90)"', self.y_label))
        for tick in nice_ticks(*self.y_range):
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{self.left}" x2="{_RIGHT}" y1="{y}" y2="{y}"/>')
            parts.append(_text("tick left", f'x="{self.left - 8}" y="{y + 4}"', f"{tick:.6g}"))
        return parts

    def _draw_legend(self) -> list[str]:
        return [
            _mark(x + 6, _TOP + _LINE * row, series, name)
            + _text("legend", f'x="{x + 17}" y="{_TOP + _LINE * row + 4}"', name)
            for series, name, x, row in self._legend
        ]


def nice_ticks(low: float, high: float, *, count: int = 5, least_step: float = 0.0) -> list[float]:
    """Choose round numbers that lie in a range.

    Args:
        low: Left end.
        high: Right end, above ``low``.
        count: How many steps at most, at least 1.
        least_step: Smallest distance of two ticks; 1 for what is counted.

    Returns:
        Rising multiples of 1, 2 or 5 times a power of ten in [``low``, ``high``].
    """
    least = max((high - low) / count, least_step) * (1 - 1e-9)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= least)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _place_legend(names: Sequence[str], left: int) -> list[tuple[int, str, float, int]]:
    """Set names one after another and break lines: series, name, position and line of each."""
    placed, x, row = [], float(left), 0
    for series, name in enumerate(names):
        width = 34 + _LETTER * len(name)
        if x > left and x + width - 17 > _RIGHT:
            x, row = float(left), row + 1
        placed.append((series, name, x, row))
        x += width
    return placed


def _mark(x: float, y: float, series: int, text: str) -> str:
    """Draw a circle, square, diamond or triangle, so that colour is not all that tells."""
    style = f'class="mark s{series % SERIES}"'
    if series % 4 == 0:
        return f'<circle {style} cx="{x}" cy="{y}" r="4">{_title(text)}</circle>'
    outlines = {
        1: ((-3.8, -3.8), (3.8, -3.8), (3.8, 3.8), (-3.8, 3.8)),
        2: ((0, -5.4), (5.4, 0), (0, 5.4), (-5.4, 0)),
        3: ((0, -5), (4.8, 3.8), (-4.8, 3.8)),
    }
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in outlines[series % 4])
    return f'<polygon {style} points="{points}">{_title(text)}</polygon>'


def _text(style: str, place: str, text: str) -> str:
    return f'<text class="{style}" {place}>{escape(text)}</text>'


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
