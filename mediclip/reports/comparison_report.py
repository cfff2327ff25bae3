"""The page that puts methods side by side: untrained, each site alone, federated, everything pooled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final, Literal

from markupsafe import Markup

from mediclip.evaluation.cases import Case, CaseGroup
from mediclip.evaluation.prediction import Summary
from mediclip.reports.charts import Point, interval_chart, line_chart
from mediclip.reports.figures import Picture, display_range, grey_picture, overlay
from mediclip.reports.metric_text import METRIC_TITLES, measure
from mediclip.reports.page import (
    Card,
    CardGroup,
    Cell,
    Chart,
    Charts,
    Gallery,
    MapGuide,
    Measure,
    Origin,
    Row,
    Section,
    Table,
    Tile,
    Tiles,
    write_page,
)

ALL_SITES: Final = "all"
_COUNTS: Final[dict[str, Literal["n_abnormal", "n_normal"]]] = {
    "Abnormal": "n_abnormal",
    "Normal": "n_normal",
}
METHOD_TITLES: Final = {
    "untrained": "the backbone as it is",
    "winclip": "phrases alone, by windows (WinCLIP)",
    "patchcore": "a bank of each site's normal patches alone (PatchCore)",
    "local": "each site alone",
    "federated": "trained together, scans stay at the site",
    "kept": "what each site keeps of that, judged on synthetic anomalies of its own",
    "centralised": "all support scans in one place",
}


@dataclass(frozen=True)
class MethodResult:
    """The metrics of one method at one site, or pooled over sites.

    Attributes:
        method: A key of :data:`METHOD_TITLES`, or another name.
        site: Name of the site, or ``"all"`` for the whole set; of local models their mean.
        set_name: Name of the data set.
        summary: From ``summarise``.
    """

    method: str
    site: str
    set_name: str
    summary: Summary


@dataclass(frozen=True)
class RoundCurve:
    """A quantity that was followed over rounds.

    Attributes:
        title: Heading of the chart.
        y_label: What the values are.
        series: Points (round, value) by the name of a site or method.
        note: A line below the chart.
    """

    title: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    note: str = ""


def write_comparison_page(
    path: Path,
    *,
    title: str,
    results: Sequence[MethodResult],
    curves: Sequence[RoundCurve] = (),
    groups: Sequence[CaseGroup] = (),
    tiles: Sequence[Tile] = (),
    command: str,
    facts: Mapping[str, str],
) -> None:
    """Write the comparison of methods.

    A federated number that is below that of the same site alone is marked wherever it stands.

    Args:
        path: The HTML file to write; its folder exists.
        title: Such as ``"Four sites, eight scans each"``.
        results: One for each method, set and site, and for each method and set with the site ``"all"``.
        curves: What was followed over rounds, each with at least one finite value.
        groups: Scans to show, each with a map by method.
        tiles: Further numbers to show first, such as the bytes of a round.
        command: What was typed.
        facts: Recipe, seeds, engine, backbone, versions: whatever makes the numbers again.
    """
    grids = [_Grid.of(results, name) for name in dict.fromkeys(r.set_name for r in results)]
    charts = [Chart(f"Image AUROC by site, {grid.set_name}", grid.chart()) for grid in grids]
    charts += [
        Chart(c.title, line_chart(c.series, x_label="round", y_label=c.y_label), c.note) for c in curves
    ]
    sections: list[Section] = [
        Tiles(tiles=[*_tiles(grids), *tiles]),
        *(grid.table() for grid in grids),
        Charts("By site and by round" if curves else "By site", charts=charts),
        *(grid.pooled_table() for grid in grids),
    ]
    if groups:
        sections.append(_guide(groups))
        sections.append(_gallery(groups))
    sections.append(Origin("How this was made", command=command, facts=facts))
    write_page(path, title=title, lede=" ".join(grid.verdict() for grid in grids), sections=sections)


@dataclass(frozen=True)
class _Grid:
    """The results of one set by method and site, both in the order of the page."""

    set_name: str
    summaries: Mapping[str, Mapping[str, Summary]]
    sites: Sequence[str]

    @classmethod
    def of(cls, results: Sequence[MethodResult], set_name: str) -> "_Grid":
        mine = [r for r in results if r.set_name == set_name]
        known = [m for m in METHOD_TITLES if any(r.method == m for r in mine)]
        methods = dict.fromkeys([*known, *(r.method for r in mine)])
        sites = [s for s in dict.fromkeys(r.site for r in mine) if s != ALL_SITES]
        summaries = {m: {r.site: r.summary for r in mine if r.method == m} for m in methods}
        return cls(set_name, summaries, sites)

    def auroc(self, method: str, site: str) -> float | None:
        summary = self.summaries.get(method, {}).get(site)
        return None if summary is None else summary["image_auroc"]

    def mean(self, method: str) -> float | None:
        """Average a method over the sites that have a number, each site counting once."""
        values = [v for s in self.sites if (v := self.auroc(method, s)) is not None]
        return fmean(values) if values else self.auroc(method, ALL_SITES)

    def is_below_local(self, method: str, site: str) -> bool:
        return method == "federated" and _is_below(self.auroc(method, site), self.auroc("local", site))

    def table(self) -> Table:
        return Table(
            f"Image AUROC, {self.set_name}",
            "The chance that an abnormal scan scores above a normal one; 0.5 is a coin.",
            columns=["", "mean of sites", *self.sites],
            rows=[self._row(m) for m in self.summaries],
            legend=(
                "Small numbers: 95 % of bootstrap draws of test scans. All sites are tested on the same "
                "scans. ▼ below the same site alone."
            ),
        )

    def pooled_table(self) -> Table:
        pooled = {m: s[ALL_SITES] for m, s in self.summaries.items() if ALL_SITES in s}
        plain = [
            Row([name, *(measure(s, key) for s in pooled.values()), meaning])
            for key, (name, meaning) in METRIC_TITLES.items()
        ]
        rest = [
            Row([f"{name}, without copies", *(measure(s["deduplicated"], key) for s in pooled.values()), ""])
            for key, (name, _) in METRIC_TITLES.items()
            if key in {"image_auroc", "pixel_auroc"}
        ]
        counts = [
            Row([f"{name} scans", *(s[key] for s in pooled.values()), ""]) for name, key in _COUNTS.items()
        ]
        return Table(
            f"All metrics, {self.set_name}",
            "Over all test scans of the set; for local the mean over the sites' own models.",
            columns=["", *pooled, "what it says"],
            rows=[*plain, *rest, *counts],
            legend=(
                "Copies are scans that show an earlier test scan or a training scan of any site once more, "
                "with equal pixels or nearly so (compressed, scaled, brightened or cut). A "
                "dash means that the metric is undefined here: pixel metrics need masks, the others both "
                "classes."
            ),
        )

    def _row(self, method: str) -> Row:
        below = method == "federated" and _is_below(self.mean(method), self.mean("local"))
        cells: list[Cell] = [method, Measure(self.mean(method), is_flagged=below)]
        for site in self.sites:
            summary = self.summaries[method].get(site)
            flag = self.is_below_local(method, site)
            cells.append(None if summary is None else measure(summary, "image_auroc", is_flagged=flag))
        return Row(cells, is_emphasised=method == "federated")

    def chart(self) -> Markup:
        groups: dict[str, dict[str, Point]] = {}
        for site in self.sites or [ALL_SITES]:
            for method, summaries in self.summaries.items():
                value = self.auroc(method, site)
                if value is not None:
                    low, high = summaries[site]["image_auroc_interval"] or (None, None)
                    groups.setdefault(site, {})[method] = Point(value, low, high)
        return interval_chart(groups, x_label="image AUROC")

    def verdict(self) -> str:
        """Say in words how federated stands to the others, good or bad."""
        federated = self.mean("federated")
        if federated is None:
            return f"No federated result on {self.set_name}."
        others = {
            "the sites alone": self.mean("local"),
            "pooling all support scans": self.mean("centralised"),
        }
        parts = [_compare(federated, v, name) for name, v in others.items() if v is not None]
        sentence = f"On {self.set_name}, federated training reaches a mean image AUROC of {federated:.3f}"
        sentence += f": {' and '.join(parts)}." if parts else "."
        below = [s for s in self.sites if self.is_below_local("federated", s)]
        return sentence + (f" It is worse than the site alone at {', '.join(below)}." if below else "")


def _is_below(value: float | None, other: float | None) -> bool:
    return value is not None and other is not None and value < other


def _compare(value: float, other: float, name: str) -> str:
    difference = round(value - other, 3)
    if difference == 0:
        return f"the same as {name}"
    return f"{abs(difference):.3f} {'above' if difference > 0 else 'below'} {name} ({other:.3f})"


def _tiles(grids: Sequence[_Grid]) -> list[Tile]:
    """Show every method of one set; of several sets, federated with the others beside it."""
    if len(grids) == 1:
        (grid,) = grids
        return [Tile(m.capitalize(), Measure(grid.mean(m)), METHOD_TITLES.get(m, "")) for m in grid.summaries]
    tiles = []
    for grid in grids:
        others = [m for m in grid.summaries if m != "federated"]
        values = [f"{m} {v:.3f}" for m in others if (v := grid.mean(m)) is not None]
        tiles.append(Tile(f"Federated, {grid.set_name}", Measure(grid.mean("federated")), ", ".join(values)))
    return tiles


def _guide(groups: Sequence[CaseGroup]) -> MapGuide:
    has_masks = any(case.mask is not None for group in groups for case in group.cases)
    return MapGuide("How to read a map", has_masks=has_masks)


def _gallery(groups: Sequence[CaseGroup]) -> Gallery:
    cases = [case for group in groups for case in group.cases]
    methods = dict.fromkeys(name for case in cases for name in case.maps)
    ranges = {m: display_range([c.maps[m] for c in cases if m in c.maps]) for m in methods}

    def card(case: Case) -> Card:
        pictures: dict[str, Picture] = {"scan": grey_picture(case.image)}
        for method, one in case.maps.items():
            pictures[method] = overlay(case.image, one, case.mask, value_range=ranges[method], scale=2)
        return Card(case.title, pictures, "abnormal" if case.label else "normal", case.score)

    return Gallery(
        "The same scans, method by method",
        "Chosen by rank of the federated score alone, errors included; the score shown is that one.",
        [CardGroup(g.title, [card(c) for c in g.cases], g.note) for g in groups],
    )
