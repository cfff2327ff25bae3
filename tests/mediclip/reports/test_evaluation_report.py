"""The report about one detector."""

import numpy as np
import pytest

from mediclip.evaluation.cases import Case, CaseGroup, choose_cases
from mediclip.evaluation.metrics import PixelMetrics
from mediclip.evaluation.prediction import Prediction, summarise
from mediclip.reports.evaluation_report import write_evaluation_page


def case(number, label, *, masks):
    image = np.random.default_rng(number).random((32, 32)).astype(np.float32)
    mask = np.zeros((32, 32), bool)
    mask[8:16, 8:16] = bool(label)
    anomaly_map = (0.4 + 0.2 * mask).astype(np.float32)
    return Case(
        f"test image {number}", label, 0.6, image, mask if masks and label else None, {"one": anomaly_map}
    )


@pytest.fixture
def write(tmp_path):
    def make(labels, scores, *, masks=False, shown=True):
        labels, scores = np.array(labels, bool), np.array(scores, float)
        pixel = None
        if masks:
            pixel = PixelMetrics()
            truth = np.zeros((1, 8, 8), bool)
            truth[0, :2] = True
            pixel.update(np.where(truth, 0.8, 0.2), truth)
        unique = np.arange(len(labels)) > 0
        prediction = Prediction(scores, labels, unique, pixel, pixel)
        groups = [
            CaseGroup(c.title, c.note, tuple(case(p, int(labels[p]), masks=masks) for p in c.positions))
            for c in choose_cases(labels, scores, each=1)
        ]
        path = tmp_path / "report.html"
        write_evaluation_page(
            path,
            title="brainmri",
            summary=summarise(prediction, draws=20),
            prediction=prediction,
            groups=groups if shown else [],
            command="mediclip evaluate --model m",
            facts={"Recipe": "reference", "Seed": "7"},
        )
        return path.read_text(encoding="utf-8")

    return make


def test_the_first_sentence_puts_the_auroc_into_words(write):
    html = write([0, 0, 1, 1], [0.1, 0.35, 0.3, 0.4])
    assert "Tested on 2 abnormal and 2 normal scans" in html
    assert "higher score in 75.0 %. A coin would reach 50 %." in html


def test_all_metrics_stand_beside_those_without_copies(write):
    html = write([0, 0, 1, 1], [0.1, 0.35, 0.3, 0.4], masks=True)
    assert "without copies" in html
    assert "brightened or cut): 1 here." in html
    for name in ("Image AUROC", "Average precision", "Pixel AUROC", "AUPRO", "Best Dice"):
        assert name in html
    assert "mediclip evaluate --model m" in html
    assert "Seed" in html
    assert "reference" in html


def test_scans_are_shown_with_map_label_and_rank(write):
    html = write([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], masks=True)
    assert html.count('<article class="scan card">') == 3
    assert html.count("data:image/jpeg") == 6
    assert "score 0.600" in html
    assert "above all of the normal scans" in html
    assert "cyan line" in html


def test_without_masks_there_is_no_outline_to_explain(write):
    html = write([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4])
    assert "cyan line" not in html
    assert '<div class="name">AUPRO</div>' not in html


def test_a_test_set_of_one_class_says_that_nothing_can_be_said(write):
    html = write([1, 1, 1], [0.1, 0.2, 0.3])
    assert "Without both kinds nothing can be said about how well they separate." in html
    assert "ROC curve" not in html
    assert "above" not in html.split("<article")[1].split("</article>")[0]


def test_without_scans_to_show_the_numbers_stand_alone(write):
    html = write([0, 1], [0.1, 0.2], shown=False)
    assert "<article" not in html
    assert "How to read a map" not in html
