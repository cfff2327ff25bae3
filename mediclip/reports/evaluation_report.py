"""The page about one detector on one test set."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mediclip.evaluation.calibration import Calibration, RealisedDecisions
from mediclip.evaluation.cases import Case, CaseGroup
from mediclip.evaluation.image_metrics import roc_curve
from mediclip.evaluation.prediction import Prediction, Summary
from mediclip.reports.charts import reliability_chart, roc_chart, score_histogram
from mediclip.reports.figures import display_range, grey_picture, overlay
from mediclip.reports.metric_text import METRIC_TITLES, describe_rank, measure
from mediclip.reports.page import (
    Card,
    CardGroup,
    Chart,
    Charts,
    Gallery,
    MapGuide,
    Origin,
    Row,
    Section,
    Table,
    Tile,
    Tiles,
    write_page,
)


def write_evaluation_page(
    path: Path,
    *,
    title: str,
    summary: Summary,
    prediction: Prediction,
    groups: Sequence[CaseGroup],
    command: str,
    facts: Mapping[str, str],
    calibration: Calibration | None = None,
    decisions: RealisedDecisions | None = None,
) -> None:
    """Write the report of one detector.

    Args:
        path: The HTML file to write; its folder exists.
        title: Such as ``"brainmri, 16 normal scans"``.
        summary: From ``summarise(prediction)``.
        prediction: Scores and labels of the whole test set.
        groups: Scans to show, each with the map of one detector.
        command: What was typed.
        facts: Recipe, seed, backbone, versions: whatever makes the numbers again.
        calibration: The detector's calibration, if it has one.
        decisions: What that did on this test set.
    """
    maps = [m for group in groups for case in group.cases for m in case.maps.values()]
    value_range = display_range(maps) if maps else None
    has_masks = any(case.mask is not None for group in groups for case in group.cases)
    sections: list[Section] = [
        _tiles(summary),
        _charts(prediction),
        _table(summary, len(prediction.unique) - int(prediction.unique.sum())),
    ]
    if calibration is not None and decisions is not None:
        sections.insert(2, _decisions(prediction, calibration, decisions))
    if value_range is not None:
        cards = [
            CardGroup(g.title, [_card(c, prediction, value_range) for c in g.cases], g.note) for g in groups
        ]
        sections += [
            MapGuide("How to read a map", value_range=value_range, has_masks=has_masks),
            Gallery("Scans and maps", "Chosen by rank of score alone, errors included.", cards),
        ]
    sections.append(Origin("How this was made", command=command, facts=facts))
    write_page(path, title=title, lede=_lede(summary), sections=sections)


def _lede(summary: Summary) -> str:
    counts = f"{summary['n_abnormal']} abnormal and {summary['n_normal']} normal scans"
    auroc = summary["image_auroc"]
    if auroc is None:
        return f"Scores of {counts}. Without both kinds nothing can be said about how well they separate."
    return (
        f"Tested on {counts}: of all pairs of one abnormal and one normal scan, the abnormal one has the "
        f"higher score in {100 * auroc:.1f} %. A coin would reach 50 %."
    )


def _tiles(summary: Summary) -> Tiles:
    shown = [n for n in METRIC_TITLES if n != "sensitivity_at_95_specificity"]
    tiles = [Tile(METRIC_TITLES[n][0], measure(summary, n)) for n in shown if dict(summary)[n] is not None]
    counts = f"{summary['n_abnormal']} abnormal, {summary['n_normal']} normal"
    return Tiles(tiles=[*tiles, Tile("Test scans", summary["n_abnormal"] + summary["n_normal"], counts)])


def _charts(prediction: Prediction) -> Charts:
    charts = [
        Chart(
            "Scores of both classes",
            score_histogram(prediction.labels, prediction.scores),
            "The less the two overlap, the better. Where they do, no threshold tells them apart.",
        )
    ]
    curve = roc_curve(prediction.labels, prediction.scores)
    if curve is not None:
        note = "Every threshold is a point: abnormal scans found, against normal ones flagged in error."
        charts.insert(0, Chart("ROC curve", roc_chart({"detector": curve}), note))
    return Charts("How well the scores separate", charts=charts)


def _decisions(prediction: Prediction, calibration: Calibration, decided: RealisedDecisions) -> Charts:
    normals = prediction.scores[~prediction.labels]
    low, high = decided.expected_interval
    note = (
        f"Calibrated on {decided.n_calibration} normal scans of this site. At {decided.level:.0%} the "
        f"realised rate should lie in [{low:.3f}, {high:.3f}] with 90 % probability; {decided.uncertain} "
        "test scans are uncertain, since so few scans allow no more."
    )
    if decided.rate is not None and decided.rate_interval is not None and high > 0:
        below, above = decided.rate_interval
        note += f" It was {decided.rate:.3f} [{below:.3f}, {above:.3f}]."
    if decided.sensitivity is not None and decided.f1 is not None and high > 0:
        note += f" Sensitivity {decided.sensitivity:.3f}, F1 {decided.f1:.3f}."
    charts = (
        [Chart("Reliability", reliability_chart(calibration.p_values(normals)), note)] if len(normals) else []
    )
    return Charts("Decisions at a wanted false-positive rate", charts=charts)


def _table(summary: Summary, n_copies: int) -> Table:
    rest = summary["deduplicated"]
    rows: list[Row] = [
        Row([name, measure(summary, key), measure(rest, key), meaning])
        for key, (name, meaning) in METRIC_TITLES.items()
    ]
    rows += [
        Row(["Abnormal scans", summary["n_abnormal"], rest["n_abnormal"], ""]),
        Row(["Normal scans", summary["n_normal"], rest["n_normal"], ""]),
    ]
    return Table(
        "All metrics",
        columns=["", "all scans", "without copies", "what it says"],
        rows=rows,
        legend=(
            "Copies are scans that show an earlier test scan, or one that a detector was trained on, once "
            "more, with equal pixels or nearly so (compressed, scaled, brightened or cut): "
            f"{n_copies} here. Ranges cover 95 % of bootstrap draws of test scans, each class from itself; "
            "they do not cover the chance in training. A dash means that the metric is undefined here: pixel "
            "metrics need masks, the others both classes."
        ),
    )


def _card(case: Case, prediction: Prediction, value_range: tuple[float, float]) -> Card:
    (anomaly_map,) = case.maps.values()
    return Card(
        title=case.title,
        pictures={
            "scan": grey_picture(case.image),
            "map": overlay(case.image, anomaly_map, case.mask, value_range=value_range, scale=2),
        },
        label="abnormal" if case.label else "normal",
        score=case.score,
        note=describe_rank(case.score, prediction),
    )
