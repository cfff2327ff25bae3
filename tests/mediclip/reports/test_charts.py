"""Charts: well-formed, inside their frame, with every number reachable, and safe with any name."""

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mediclip.evaluation.metrics import roc_curve
from mediclip.reports.charts import Point, interval_chart, line_chart, roc_chart, score_histogram
from mediclip.reports.svg import WIDTH, nice_ticks

NASTY = '<script>alert("x")</script> & co'


def parse(svg):
    root = ET.fromstring(svg)  # noqa: S314 - made by the code under test
    assert root.get("role") == "img"
    return root


def titles(root):
    return [e.text for e in root.iter("title")]


def assert_inside(root):
    """Check that no mark, line or bar leaves the drawing."""
    height = float(root.get("viewBox").split()[3])
    places = []
    for element in root.iter():
        if element.tag == "circle":
            places.append((float(element.get("cx")), float(element.get("cy"))))
        elif element.tag in {"polyline", "polygon"}:
            places += [tuple(map(float, p.split(","))) for p in element.get("points").split()]
        elif element.tag == "rect":
            places.append((float(element.get("x")), float(element.get("y"))))
            assert float(element.get("height")) >= 0
    assert places
    assert all(0 <= x <= WIDTH and 0 <= y <= height for x, y in places)


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6))
def test_ticks_are_round_even_and_inside(low, width):
    ticks = nice_ticks(low, low + width)
    assert 1 <= len(ticks) <= 6
    assert all(low - 1e-6 * width <= t <= low + width * (1 + 1e-6) for t in ticks)
    steps = [b - a for a, b in pairwise(ticks)]
    if steps:
        assert max(steps) == pytest.approx(min(steps), rel=1e-3)
        digits = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-6)
        assert min(abs(digits - d) for d in (1, 2, 5, 10)) < 1e-3


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 10, [2, 4, 6, 8, 10]), (3, 4.2, [3, 3.5, 4])],
)
def test_ticks_of_usual_axes(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_a_roc_curve_has_a_point_for_each_threshold_and_the_line_of_chance():
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    curve = roc_curve(labels, scores)
    root = parse(roc_chart({"detector": curve}))
    chance, line = root.iter("polyline")
    assert chance.get("class") == "chance"
    assert len(line.get("points").split()) == len(curve.thresholds)
    assert_inside(root)


def test_two_curves_are_named_in_a_legend_and_one_is_not():
    curve = roc_curve([0, 1], [0.1, 0.2])
    one, two = parse(roc_chart({"a": curve})), parse(roc_chart({"a": curve, "b": curve}))
    names = [[e.text for e in root.iter("text") if e.get("class") == "legend"] for root in (one, two)]
    assert names == [[], ["a", "b"]]


def test_histogram_bars_of_each_class_sum_to_one():
    rng = np.random.default_rng(0)
    labels, scores = rng.random(200) < 0.4, rng.random(200)
    root = parse(score_histogram(labels, scores, bins=10))
    bars = [r for r in root.iter("rect") if r.get("class").startswith("bar")]
    for series in ("s0", "s1"):
        heights = [float(b.get("height")) for b in bars if b.get("class").endswith(series)]
        assert sum(heights) / max(float(b.get("height")) for b in bars) > 1
    assert any(t.startswith("normal: ") for t in titles(root))
    assert any(t.startswith("abnormal: ") for t in titles(root))
    assert_inside(root)


@pytest.mark.parametrize("labels", [[True], [False], [True, True]])
def test_histograms_of_one_class_or_one_image_are_drawn(labels):
    assert_inside(parse(score_histogram(np.array(labels), np.full(len(labels), 0.5))))


def test_a_missing_value_breaks_the_line():
    series = {"site-1": [(1, 0.5), (2, math.nan), (3, 0.7), (4, 0.8)]}
    root = parse(line_chart(series, x_label="round", y_label="loss"))
    assert [len(p.get("points").split()) for p in root.iter("polyline")] == [1, 2]
    assert "site-1: 0.7 at round 3" in titles(root)
    assert not any("nan" in (t or "") for t in titles(root))


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=12),
        st.lists(st.tuples(st.integers(1, 50), st.floats(-1e3, 1e3)), min_size=1, max_size=50),
        min_size=1,
        max_size=9,
    )
)
def test_line_charts_of_any_values_and_names_stay_inside(series):
    root = parse(line_chart(series, x_label="round", y_label="value"))
    assert_inside(root)
    assert len({id(e) for e in root.iter("polyline")}) == len(series)


@pytest.mark.parametrize(("rounds", "written"), [(1, ["1"]), (2, ["1", "2"]), (3, ["1", "2", "3"])])
def test_rounds_are_counted_in_whole_numbers(rounds, written):
    points = [(i, 0.5) for i in range(1, rounds + 1)]
    root = parse(line_chart({"loss": points}, x_label="round", y_label="loss"))
    assert [e.text for e in root.iter("text") if e.get("class") == "tick"] == written


def test_long_series_are_drawn_without_marks():
    root = parse(line_chart({"loss": [(i, 1 / (i + 1)) for i in range(400)]}, x_label="step", y_label="loss"))
    assert not list(root.iter("circle"))


def test_every_value_and_interval_can_be_read():
    groups = {
        "site-1": {"local": Point(0.8, 0.7, 0.9), "federated": Point(0.85)},
        "site-2": {"federated": Point(0.9, 0.85, 1.0)},
    }
    root = parse(interval_chart(groups, x_label="image AUROC"))
    assert {"site-1, local: 0.800 (0.700 to 0.900)", "site-1, federated: 0.850"} <= set(titles(root))
    assert "site-2, federated: 0.900 (0.850 to 1.000)" in titles(root)
    assert len(list(root.iter("polyline"))) == 2
    assert_inside(root)


def test_a_series_keeps_its_colour_where_another_is_missing():
    groups = {"a": {"x": Point(0.1), "y": Point(0.2)}, "b": {"y": Point(0.3)}}
    root = parse(interval_chart(groups, x_label="value"))
    marks = {e.find("title").text: e.get("class") for e in root.iter() if e.find("title") is not None}
    assert marks["b, y: 0.300"] == marks["a, y: 0.200"] == "mark s1"


@pytest.mark.parametrize(
    "svg",
    [
        line_chart({NASTY: [(0, 1), (1, 2)], "b": [(0, 1)]}, x_label=NASTY, y_label=NASTY),
        interval_chart({NASTY: {NASTY: Point(0.5, 0.4, 0.6)}}, x_label=NASTY),
        roc_chart({NASTY: roc_curve([0, 1], [0.1, 0.2]), "b": roc_curve([0, 1], [0.1, 0.2])}),
    ],
    ids=["line", "interval", "roc"],
)
def test_names_cannot_become_markup(svg):
    assert "<script" not in svg
    assert any(NASTY in (e.text or "") for e in parse(svg).iter())


def test_many_names_take_more_lines_of_the_legend():
    few, many = ({f"hospital-{i}": [(1, 0.5), (2, 0.6)] for i in range(n)} for n in (2, 14))
    heights = [
        float(parse(line_chart(s, x_label="r", y_label="v")).get("viewBox").split()[3]) for s in (few, many)
    ]
    assert heights[1] > heights[0]
    legend = [
        e
        for e in parse(line_chart(many, x_label="r", y_label="v")).iter("text")
        if e.get("class") == "legend"
    ]
    assert all(float(e.get("x")) + 6.6 * len(e.text) <= WIDTH for e in legend)
