"""The comparison of methods, good news and bad."""

import json

import numpy as np
import pytest

from mediclip.evaluation.cases import Case, CaseGroup
from mediclip.evaluation.prediction import Prediction, pool, summarise
from mediclip.reports.comparison_report import MethodResult, RoundCurve, write_comparison_page
from mediclip.reports.page import Tile


def prediction(auroc):
    """Make 10 abnormal and 10 normal scores in which 10 * auroc abnormal ones lie above all normal ones."""
    labels = np.arange(20) < 10
    above = np.arange(20) < round(10 * auroc)
    scores = np.where(labels, np.where(above, 0.8, 0.2), 0.5)
    return Prediction(scores, labels, np.ones(20, bool))


def results_of(aurocs, set_name="busi"):
    """Turn AUROCs by method and site into results."""
    results = []
    for method, sites in aurocs.items():
        parts = {site: prediction(v) for site, v in sites.items()}
        results += [MethodResult(method, s, set_name, summarise(p, draws=5)) for s, p in parts.items()]
        results.append(MethodResult(method, "all", set_name, summarise(pool(list(parts.values())), draws=5)))
    return results


GOOD = {
    "untrained": {"site-1": 0.5, "site-2": 0.5},
    "local": {"site-1": 0.7, "site-2": 0.7},
    "federated": {"site-1": 0.8, "site-2": 0.9},
    "centralised": {"site-1": 0.9, "site-2": 0.9},
}
MIXED = GOOD | {"federated": {"site-1": 0.6, "site-2": 0.9}}
BAD = GOOD | {"federated": {"site-1": 0.6, "site-2": 0.6}}


@pytest.fixture
def write(tmp_path):
    def make(results, **more):
        path = tmp_path / "report.html"
        values = {"title": "Two sites", "command": "mediclip simulate run", "facts": {"Seed": "3"}}
        write_comparison_page(path, results=results, **{**values, **more})
        return path.read_text(encoding="utf-8")

    return make


def test_the_first_sentence_compares_federated_with_both_ends(write):
    html = write(results_of(GOOD))
    assert (
        "On busi, federated training reaches a mean image AUROC of 0.850: 0.150 above the sites alone "
        "(0.700) and 0.050 below pooling all support scans (0.900)."
    ) in html
    assert "worse" not in html
    assert 'class="number flag"' not in html


def test_a_site_that_loses_is_named_and_marked(write):
    html = write(results_of(MIXED))
    assert "0.050 above the sites alone (0.700)" in html
    assert "It is worse than the site alone at site-1." in html
    assert html.count('class="number flag">▼ ') == 1


def test_a_mean_that_loses_is_marked_as_well(write):
    html = write(results_of(BAD))
    assert "0.100 below the sites alone (0.700)" in html
    assert "at site-1, site-2." in html
    assert html.count('class="number flag">▼ ') == 3  # the mean and two sites


def test_equal_numbers_are_called_the_same(write):
    html = write(results_of(GOOD | {"federated": GOOD["local"]}))
    assert "the same as the sites alone and 0.200 below" in html


def test_methods_stand_in_the_order_of_the_story_and_others_follow(write):
    shuffled = {"winner": {"site-1": 1.0}, **{m: GOOD[m] for m in reversed(GOOD)}}
    html = write(results_of(shuffled))
    places = [html.index(f'<th scope="row">{m}</th>') for m in (*GOOD, "winner")]
    assert places == sorted(places)


def test_a_missing_method_or_site_is_a_dash_and_not_an_error(write):
    partial = {"local": {"site-1": 0.7}, "federated": {"site-1": 0.8, "site-2": 0.9}}
    html = write(results_of(partial))
    assert "pooling" not in html.split("</header>")[0]
    assert "–" in html
    assert "No federated result on busi." in write(results_of({"local": {"site-1": 0.7}}))


def test_several_sets_get_their_own_tables_sentences_and_tiles(write):
    html = write(results_of(GOOD) + results_of(BAD, "brainmri"))
    for text in (
        "Image AUROC, busi",
        "Image AUROC, brainmri",
        "All metrics, brainmri",
        "On brainmri, federated",
    ):
        assert text in html
    assert "Federated, busi" in html
    assert "untrained 0.500, local 0.700, centralised 0.900" in html


def test_results_that_went_through_json_give_the_same_page(write):
    results = results_of(MIXED)
    again = [MethodResult(r.method, r.site, r.set_name, json.loads(json.dumps(r.summary))) for r in results]
    assert write(again) == write(results)


def test_rounds_tiles_and_scans_are_shown(write):
    image = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    maps = {m: np.full((32, 32), 0.4 + 0.1 * i, np.float32) for i, m in enumerate(GOOD)}
    mask = np.zeros((32, 32), bool)
    mask[4:9, 4:9] = True
    html = write(
        results_of(GOOD),
        curves=[RoundCurve("Loss of training", "loss", {"site-1": [(1, 0.9), (2, 0.5)]}, "lower is better")],
        groups=[CaseGroup("Found", "clear", (Case("test image 3", 1, 0.7, image, mask, maps),))],
        tiles=[Tile("Sent", "0.6 MiB", "up")],
    )
    assert "Loss of training" in html
    assert "site-1: 0.5 at round 2" in html
    assert "0.6 MiB" in html
    assert html.count("data:image/jpeg") == 5
    assert "one scale for all its pictures" in html
    assert "cyan line" in html
