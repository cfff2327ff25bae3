"""The benchmark as one HTML page: tables, AUROC against shots, sites and rounds, and ROC curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mediclip.evaluation.image_metrics import RocCurve, roc_curve
from mediclip.reports.charts import line_chart, roc_chart
from mediclip.reports.page import Chart, Charts, Origin, Row, Section, Table, write_page
from simulation.paper.summary import ALL_SETS, Line
from simulation.paper.tables import PART_TITLES, make_tables

_AXES: Final = {"alone": "shots", "federated": "shots", "sites": "sites", "rounds": "rounds"}


def write_benchmark_page(
    path: Path,
    *,
    lines: Sequence[Line],
    documents: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    command: str,
    facts: Mapping[str, str],
) -> None:
    """Write the page.

    Args:
        path: The HTML file; its folder exists.
        lines: From :func:`simulation.paper.summary.summarise_rows`.
        documents: The cells' results, for the ROC curves.
        notes: What is missing, in sentences.
        command: What was typed.
        facts: Whatever makes the numbers again.
    """
    sections: list[Section] = [
        Table(
            f"{PART_TITLES[table.part]}: {table.columns[-1].partition(', ')[2]}",
            columns=table.columns,
            rows=[Row(row) for row in table.rows],
            legend="Mean and standard deviation over seeds, the model of the last step.",
        )
        for table in make_tables(lines)
    ]
    charts = [chart for part, axis in _AXES.items() for chart in _against(lines, part, axis)]
    if charts:
        sections.append(Charts("How it grows", charts=charts))
    if curves := _roc_charts(documents):
        sections.append(Charts("ROC curves, first seed, most shots", charts=curves))
    sections.append(Origin("How this was made", " ".join(notes), command=command, facts=facts))
    lede = _lede(lines)
    write_page(path, title="The benchmark of MediCLIP", lede=lede, sections=sections)


def _against(lines: Sequence[Line], part: str, axis: str) -> list[Chart]:
    """Draw image AUROC against one quantity, a chart for each set, where it takes at least two values."""
    charts = []
    mine = [line for line in lines if line.facts["part"] == part and "image_auroc" in line.metrics]
    for name in dict.fromkeys(line.facts["tested_on"] for line in mine):
        series: dict[str, list[tuple[float, float]]] = {}
        for line in mine:
            if line.facts["tested_on"] == name:
                label = f"{line.facts['recipe']}, {line.facts['method']}"
                point = (float(line.facts[axis]), line.metrics["image_auroc"].mean)
                series.setdefault(label, []).append(point)
        if len({x for points in series.values() for x, _ in points}) > 1:
            svg = line_chart({k: sorted(v) for k, v in series.items()}, x_label=axis, y_label="image AUROC")
            charts.append(Chart(f"{name}: {PART_TITLES[part].lower()}", svg))  # type: ignore[index]
    return charts


def _roc_charts(documents: Sequence[Mapping[str, Any]]) -> list[Chart]:
    alone = [d for d in documents if d["cell"]["part"] in ("alone", "federated") and d.get("scores")]
    best: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for document in alone:
        cell = document["cell"]
        key = (cell["part"], cell["set_name"], cell["recipe"])
        rank = (-cell["shots"], cell["seed"])
        if key not in best or rank < (-best[key]["cell"]["shots"], best[key]["cell"]["seed"]):
            best[key] = document
    charts = []
    for part, name in dict.fromkeys((part, name) for part, name, _ in best):
        curves: dict[str, RocCurve] = {}
        for (one_part, one_set, recipe), document in best.items():
            if (one_part, one_set) != (part, name):
                continue
            for method, values in document["scores"].items():
                if method.startswith("local/") and not method.endswith("site-1"):
                    continue  # one site's own model stands for all
                curve = roc_curve(np.array(values["labels"]), np.array(values["scores"]))
                if curve is not None:
                    curves[f"{recipe}, {method}"] = curve
        if curves:
            charts.append(Chart(f"{name}: {PART_TITLES[part].lower()}", roc_chart(curves)))  # type: ignore[index]
    return charts


def _lede(lines: Sequence[Line]) -> str:
    whole = [line for line in lines if line.facts["set_name"] == ALL_SETS and "image_auroc" in line.metrics]
    if not whole:
        return "Image AUROC by set, with the spread over seeds."
    best = max(whole, key=lambda line: line.metrics["image_auroc"].mean)
    facts = best.facts
    sites = "one site" if facts["sites"] == 1 else f"each of {facts['sites']} sites"
    return (
        f"The best mean image AUROC over the sets is {best.metrics['image_auroc']}: {facts['recipe']}, "
        f"{facts['method']}, {facts['shots']} shots at {sites}."
    )
