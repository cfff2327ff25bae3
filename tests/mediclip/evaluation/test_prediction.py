"""Summaries of predictions: every number beside its definition, plain and without copies."""

import json

import numpy as np
import pytest
import sklearn.metrics

from mediclip.errors import DataError
from mediclip.evaluation.metrics import PixelMetrics
from mediclip.evaluation.prediction import METRIC_NAMES, Prediction, pool, summarise


def make(seed, n=30, *, masks=True, copies=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2 == 0
    scores = np.clip(0.5 + 0.1 * rng.normal(size=n) + 0.1 * labels, 0, 1)
    unique = np.arange(n) >= copies
    maps = rng.random((n, 8, 8))
    truth = labels[:, None, None] & (np.arange(64).reshape(8, 8) < 20)
    pixel, unique_pixel = PixelMetrics(), PixelMetrics()
    pixel.update(maps, truth)
    unique_pixel.update(maps[unique], truth[unique])
    return Prediction(
        scores, labels, unique, pixel if masks else None, unique_pixel if masks else None, {0: maps[0]}
    )


def test_the_summary_agrees_with_scikit_learn_and_survives_json():
    prediction = make(0)
    summary = summarise(prediction, draws=50)
    expected = sklearn.metrics.roc_auc_score(prediction.labels, prediction.scores)
    assert summary["image_auroc"] == pytest.approx(expected, abs=1e-12)
    assert (summary["n_normal"], summary["n_abnormal"]) == (15, 15)
    assert summary["pixel_auroc"] == prediction.pixel.pixel_auroc()
    assert summary["aupro"] == prediction.pixel.aupro()
    low, high = summary["image_auroc_interval"]
    assert low < expected < high
    again = json.loads(json.dumps(summary))
    assert again["image_ap"] == summary["image_ap"]
    assert set(METRIC_NAMES) <= again.keys()


def test_without_copies_both_columns_are_equal():
    summary = summarise(make(0), draws=20)
    assert summary["deduplicated"] == {k: v for k, v in summary.items() if k != "deduplicated"}


def test_copies_are_left_out_of_the_second_column():
    prediction = make(0, copies=7)
    rest = summarise(prediction, draws=20)["deduplicated"]
    expected = sklearn.metrics.roc_auc_score(prediction.labels[7:], prediction.scores[7:])
    assert rest["image_auroc"] == pytest.approx(expected, abs=1e-12)
    assert rest["n_normal"] + rest["n_abnormal"] == 23
    assert rest["pixel_auroc"] == prediction.unique_pixel.pixel_auroc()
    assert rest["pixel_auroc"] != prediction.pixel.pixel_auroc()


def test_what_is_undefined_is_none():
    one_class = Prediction(np.array([0.4, 0.6]), np.array([False, False]), np.array([True, True]))
    summary = summarise(one_class, draws=5)
    undefined = {k for k, v in summary["deduplicated"].items() if v is None}
    assert undefined == {
        "image_auroc",
        "image_auroc_interval",
        "image_ap",
        "image_ap_interval",
        "sensitivity_at_95_specificity",
        "pixel_auroc",
        "aupro",
        "best_dice",
    }


def test_the_seed_fixes_the_intervals():
    prediction = make(2)
    first, again, other = (summarise(prediction, draws=50, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first["image_auroc_interval"] != other["image_auroc_interval"]


def test_pooled_sites_equal_one_large_test_set():
    first, second = make(1, copies=2), make(2, masks=False)
    joined = pool([first, second])
    np.testing.assert_array_equal(joined.scores, np.concatenate([first.scores, second.scores]))
    np.testing.assert_array_equal(joined.unique, np.concatenate([first.unique, second.unique]))
    assert joined.pixel.pixel_auroc() == first.pixel.pixel_auroc()
    assert joined.pixel is not first.pixel
    assert pool([second]).pixel is None
    both = pool([first, first])
    assert both.pixel.regions == 2 * first.pixel.regions


def test_pooling_nothing_is_refused():
    with pytest.raises(DataError) as caught:
        pool([])
    assert str(caught.value) == (
        "Pooling must be given at least 1 prediction. Got none; test at least one site."
    )
