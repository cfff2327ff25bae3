"""Prediction with real, small detectors on real files, against scoring one image at a time."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mediclip.config import load_recipe
from mediclip.data.manifest import open_dataset
from mediclip.data.preprocess import Preprocess
from mediclip.errors import MaskError
from mediclip.evaluation.duplicates import fingerprint
from mediclip.evaluation.metrics import PixelMetrics
from mediclip.evaluation.predict import predict, predict_cases, summarise
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.network import MediClip

SIZE = 64
PREPROCESS = Preprocess(SIZE)


class CountingMediClip(MediClip):
    """A detector that counts the images it encodes."""

    encoded = 0

    def tokens(self, images):
        self.encoded += len(images)
        return super().tokens(images)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("embedded", image_size=SIZE)


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("default").model_copy(update={"image_size": SIZE})


@pytest.fixture
def detector(backbone, recipe):
    def make(seed, taps=None):
        return CountingMediClip(backbone, recipe, taps).initialise(seed)

    return make


@pytest.fixture
def folder(tmp_path):
    """Write six normal and five abnormal scans; the bright square of an abnormal one is its mask."""
    rng = np.random.default_rng(0)
    for name in ("normal", "abnormal", "masks"):
        (tmp_path / name).mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 90, (80, 80), np.uint8)).save(tmp_path / "normal" / f"{i}.png")
    for i in range(5):
        scan, mask = rng.integers(0, 90, (80, 80), np.uint8), np.zeros((80, 80), np.uint8)
        scan[10 : 30 + i, 20:44], mask[10 : 30 + i, 20:44] = 230, 255
        Image.fromarray(scan).save(tmp_path / "abnormal" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path


def one_by_one(network, samples):
    with torch.no_grad():
        return np.stack(
            [network(torch.from_numpy(PREPROCESS.load_image(s))[None])[0].numpy() for s in samples]
        )


def same_pixels(first, second):
    np.testing.assert_array_equal(first.normal, second.normal)
    np.testing.assert_array_equal(first.abnormal, second.abnormal)
    np.testing.assert_allclose(first.overlap, second.overlap)
    assert first.regions == second.regions


def test_scores_and_pixels_are_those_of_one_image_at_a_time(folder, detector):
    samples = open_dataset(folder).test
    network = detector(1)
    prediction = predict({"one": network}, samples, PREPROCESS, batch_size=3)["one"]
    maps = one_by_one(network, samples)
    highest = np.sort(maps.reshape(len(maps), -1))[:, -int(0.05 * maps[0].size) :]  # as the recipe says
    np.testing.assert_allclose(prediction.scores, highest.mean(1), atol=1e-6)
    np.testing.assert_array_equal(prediction.labels, [s.label == 1 for s in samples])
    exact = PixelMetrics()
    exact.update(maps, np.stack([PREPROCESS.load_mask(s) for s in samples]))
    assert prediction.pixel.pixel_auroc() == pytest.approx(exact.pixel_auroc(), abs=1e-4)
    assert prediction.pixel.regions == exact.regions == 5
    assert prediction.unique.all()
    same_pixels(prediction.unique_pixel, prediction.pixel)


def test_images_are_encoded_once_for_all_detectors_with_the_same_backbone_and_taps(folder, detector):
    samples = open_dataset(folder).test
    networks = {"first": detector(1), "second": detector(2), "deep": detector(1, taps=(1,))}
    together = predict(networks, samples, PREPROCESS, batch_size=4)
    assert [n.encoded for n in networks.values()] == [len(samples), 0, len(samples)]
    for name, network in networks.items():
        alone = predict({"alone": network}, samples, PREPROCESS, batch_size=4)["alone"]
        np.testing.assert_array_equal(together[name].scores, alone.scores)
        same_pixels(together[name].pixel, alone.pixel)
    assert len({tuple(p.scores) for p in together.values()}) == 3


def test_only_the_maps_that_were_asked_for_are_kept(folder, detector):
    samples = open_dataset(folder).test
    wanted = {samples[0].index, samples[-1].index}
    network = detector(1)
    prediction = predict({"one": network}, samples, PREPROCESS, batch_size=4, keep_maps=wanted)["one"]
    assert prediction.maps.keys() == wanted
    maps = one_by_one(network, samples)
    np.testing.assert_allclose(prediction.maps[samples[-1].index], maps[-1], atol=1e-6)
    assert prediction.maps[samples[0].index].base is None


def test_copies_and_support_images_are_left_out_of_the_second_count(folder, detector):
    shutil.copy(folder / "abnormal" / "0.png", folder / "abnormal" / "9.png")
    shutil.copy(folder / "masks" / "0.png", folder / "masks" / "9.png")
    samples = open_dataset(folder).test
    normal = next(i for i, s in enumerate(samples) if s.label == 0)
    copy = next(i for i, s in enumerate(samples) if s.image.name == "9.png" and s.label == 1)
    support = [fingerprint(PREPROCESS.load_image(samples[normal]))]
    networks = {"one": detector(1)}
    prediction = predict(networks, samples, PREPROCESS, batch_size=4, support=support)["one"]
    np.testing.assert_array_equal(np.flatnonzero(~prediction.unique), sorted([normal, copy]))
    rest = [s for i, s in enumerate(samples) if i not in {normal, copy}]
    alone = predict(networks, rest, PREPROCESS, batch_size=len(rest))["one"]
    assert prediction.unique_pixel.regions == alone.pixel.regions
    assert prediction.unique_pixel.normal.sum() == alone.pixel.normal.sum()
    summary = summarise(prediction, draws=10)
    assert summary["deduplicated"]["n_normal"] == summary["n_normal"] - 1
    assert summary["deduplicated"]["n_abnormal"] == summary["n_abnormal"] - 1


def test_a_batch_of_copies_alone_is_counted_once(folder, detector):
    sample = open_dataset(folder).test[-1]
    prediction = predict({"one": detector(1)}, [sample] * 3, PREPROCESS, batch_size=1)["one"]
    assert prediction.unique.tolist() == [True, False, False]
    assert prediction.pixel.regions == 3
    assert prediction.unique_pixel.regions == 1


def test_sets_without_masks_have_no_pixel_metrics(folder, detector):
    shutil.rmtree(folder / "masks")
    prediction = predict({"one": detector(1)}, open_dataset(folder).test, PREPROCESS)["one"]
    assert prediction.pixel is None
    assert summarise(prediction, draws=10)["aupro"] is None


def test_progress_is_told_after_each_batch(folder, detector):
    samples = open_dataset(folder).test
    told = []
    predict({"one": detector(1)}, samples, PREPROCESS, batch_size=3, on_batch=lambda *a: told.append(a))
    assert told == [(3, 8), (6, 8), (8, 8)]


def test_a_mask_that_vanished_is_an_error_that_names_the_image(folder, detector):
    samples = open_dataset(folder).test
    lost = next(s for s in samples if s.mask is not None)
    lost.mask.unlink()
    with pytest.raises(MaskError, match=f"the mask of {lost.title}"):
        predict({"one": detector(1)}, samples, PREPROCESS)


def test_no_samples_give_an_empty_prediction(detector):
    prediction = predict({"one": detector(1)}, [], PREPROCESS)["one"]
    assert prediction.scores.shape == prediction.labels.shape == (0,)
    assert summarise(prediction)["image_auroc"] is None


def test_cases_carry_the_maps_of_every_detector(folder, detector):
    samples = open_dataset(folder).test
    networks = {"first": detector(1), "second": detector(2)}
    prediction = predict({"first": networks["first"]}, samples, PREPROCESS)["first"]
    groups = predict_cases(networks, samples, PREPROCESS, prediction, each=1)
    cases = [case for group in groups for case in group.cases]
    assert len(cases) == 5
    for case in cases:
        sample = next(s for s in samples if s.title == case.title)
        assert case.label == sample.label
        assert (case.mask is None) == (sample.label == 0)
        np.testing.assert_array_equal(case.image, PREPROCESS.load_image(sample))
        highest = np.sort(case.maps["first"], axis=None)[-int(0.05 * case.image.size) :]
        assert highest.mean() == pytest.approx(case.score, abs=1e-6)
        np.testing.assert_allclose(
            case.maps["second"], one_by_one(networks["second"], [sample])[0], atol=1e-6
        )
