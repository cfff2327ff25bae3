"""Charts as inline SVG: no script, no font and no colour of their own, so that the page's themes apply.

A series is told apart by colour and by the shape of its marks, and every mark says its numbers when pointed
at.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mediclip.evaluation.image_metrics import RocCurve
from mediclip.reports.svg import SERIES, Frame

_MOST_MARKS: Final = 40
_ACCENT: Final = 2  # the series colour of a curve that stands alone
_ROW_STEP: Final = 16
_ROW_GAP: Final = 18


@dataclass(frozen=True)
class Point:
    """A value with its interval; ``low`` and ``high`` are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.3f}{interval}"


def roc_chart(curves: Mapping[str, RocCurve]) -> Markup:
    """Draw ROC curves over the diagonal of chance.

    Args:
        curves: By the name in the legend, in the order of their colours.

    Returns:
        An SVG element.
    """
    legend = list(curves) if len(curves) > 1 else []
    frame = Frame((0, 1), (0, 1), "false positive rate", "true positive rate", legend=legend, plot_height=280)
    frame.line([(0, 0), (1, 1)], "chance", text="chance")
    for i, (name, curve) in enumerate(curves.items(), start=0 if legend else _ACCENT):
        points = zip(curve.false_positive_rate.tolist(), curve.true_positive_rate.tolist(), strict=True)
        frame.line(points, f"curve s{i % SERIES}", text=name)
    return frame.svg(f"ROC curve of {', '.join(curves)}")


def reliability_chart(p_values: NDArray[np.float64]) -> Markup:
    """Draw how often normal images were called abnormal, against how often that was allowed.

    Args:
        p_values: ``(N,)`` in (0, 1] of normal test images; N is at least 1.

    Returns:
        An SVG element; a calibration that holds stays near the diagonal, a cautious one below it.
    """
    levels = np.concatenate(([0.0], np.unique(p_values), [1.0]))
    realised = np.searchsorted(np.sort(p_values), levels, side="right") / len(p_values)
    frame = Frame((0, 1), (0, 1), "wanted false-positive rate", "realised", plot_height=280)
    frame.line([(0, 0), (1, 1)], "chance", text="what was asked for")
    points = zip(levels.tolist(), realised.tolist(), strict=True)
    frame.line(points, f"curve s{_ACCENT}", text="realised on normal test scans")
    return frame.svg("Realised against wanted false-positive rate")


def score_histogram(labels: NDArray[np.bool_], scores: NDArray[np.float64], *, bins: int = 28) -> Markup:
    """Draw how the scores of both classes are spread, each class as shares of itself.

    Args:
        labels: ``(N,)`` bool, True for abnormal; N is at least 1.
        scores: ``(N,)`` finite.
        bins: Bars of each class over the range of all scores, at least 1.

    Returns:
        An SVG element.
    """
    edges = np.histogram_bin_edges(scores, bins=bins)
    classes = {"normal": scores[~labels], "abnormal": scores[labels]}
    shares = {n: np.histogram(s, edges)[0] / max(1, len(s)) for n, s in classes.items()}
    top = max(float(s.max()) for s in shares.values())
    frame = Frame(
        (float(edges[0]), float(edges[-1])),
        (0, top),
        "image score",
        "share of the class",
        legend=list(shares),
        plot_height=260,
    )
    for i, (name, share) in enumerate(shares.items()):
        for left, right, value in zip(edges[:-1], edges[1:], share, strict=True):
            if value:
                text = f"{name}: {value:.0%} from {left:.3f} to {right:.3f}"
                frame.bar(float(left), float(right), float(value), i, text=text)
    return frame.svg("How the scores of normal and abnormal images are spread")


def grey_histogram(shares: Sequence[float], low: float, high: float, *, x_label: str) -> Markup:
    """Draw how greys or stored values are spread.

    Args:
        shares: ``(n,)`` share of the pixels in each of n bins of equal width, at least one above 0.
        low: Left end of the first bin.
        high: Right end of the last bin, above ``low``.
        x_label: What the values are.

    Returns:
        An SVG element.
    """
    frame = Frame((low, high), (0, max(shares)), x_label, "share of pixels", plot_height=170)
    width = (high - low) / len(shares)
    for i, share in enumerate(shares):
        if share:
            left = low + i * width
            text = f"{share:.1%} from {left:.4g} to {left + width:.4g}"
            frame.bar(left, left + width, share, _ACCENT, text=text)
    return frame.svg(f"How {x_label} are spread")


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str) -> Markup:
    """Draw values over rounds or steps.

    Args:
        series: Points (x, y) by the name in the legend, at least one finite point in all; x is a whole
            number. A value that is not finite breaks its line.
        x_label: What x is.
        y_label: What y is.

    Returns:
        An SVG element.
    """
    runs = {name: _finite_runs(points) for name, points in series.items()}
    finite = [point for parts in runs.values() for part in parts for point in part]
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    frame = Frame(
        (min(xs), max(xs)),
        _padded(min(ys), max(ys)),
        x_label,
        y_label,
        legend=list(series) if len(series) > 1 else [],
        has_whole_x=True,
    )
    for i, (name, parts) in enumerate(runs.items()):
        for part in parts:
            frame.line(part, f"curve s{i % SERIES}", text=name)
        for x, y in [p for part in parts for p in part] if len(series[name]) <= _MOST_MARKS else []:
            frame.mark(x, y, i, text=f"{name}: {y:.4g} at {x_label} {x:g}")
    return frame.svg(f"{y_label} by {x_label} of {', '.join(series)}")


def interval_chart(groups: Mapping[str, Mapping[str, Point]], *, x_label: str) -> Markup:
    """Draw values with their intervals, a row for each group and a mark for each series.

    Args:
        groups: Points by series name, by group name, at least one in all; a series keeps its colour in
            every group.
        x_label: What the values are.

    Returns:
        An SVG element.
    """
    series = list(dict.fromkeys(name for points in groups.values() for name in points))
    heights = {name: _ROW_STEP * len(points) + _ROW_GAP for name, points in groups.items()}
    every = [v for points in groups.values() for p in points.values() for v in (p.value, p.low, p.high)]
    known = [v for v in every if v is not None]
    low, high = _padded(min(known), max(known))
    frame = Frame(
        (low, min(high, 1.0) if max(known) <= 1 else high),
        (sum(heights.values()), 0),
        x_label,
        "",
        legend=series,
        plot_height=sum(heights.values()),
        left=28 + 7 * max(map(len, groups)),
    )
    top = 0.0
    for name, points in groups.items():
        frame.row(name, top, top + heights[name])
        for j, (one, point) in enumerate(points.items()):
            at, i = top + _ROW_GAP / 2 + _ROW_STEP * (j + 0.5), series.index(one)
            if point.low is not None and point.high is not None:
                frame.line([(point.low, at), (point.high, at)], f"whisker s{i % SERIES}")
            frame.mark(point.value, at, i, text=f"{name}, {one}: {point}")
        top += heights[name]
    return frame.svg(f"{x_label} of {', '.join(series)} for {', '.join(groups)}")


def _padded(low: float, high: float) -> tuple[float, float]:
    """Leave room at both ends, without leaving the sign of the data."""
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def _finite_runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Split a series where a value is missing."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append((x, y))
        else:
            runs.append([])
    return [run for run in runs if run]
