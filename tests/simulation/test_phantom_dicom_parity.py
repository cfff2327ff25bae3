"""A DICOM tree alone gives the same detectors and the same figures as the same phantoms in PNG."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mediclip.training.checkpoint import load_model
from simulation.phantom import write_phantom_set
from simulation.phantom.dicom import write_phantom_dicom
from tests.mediclip.cli.conftest import RECIPE, call

ORGANS = ("chest", "brain", "breast")
NAMES = ("method", "site", "set")
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "aupro", "best_dice")
# Phantoms of the brain are MR, whose greys are usually stretched between percentiles: PNG has them as stored.
AS_STORED = '[policy]\nMR = "stored-range"\n'


def write_both(folder: Path, organ: str) -> dict[str, Path]:
    """Write one set of phantoms as PNG with lists, and as a tree of DICOM files that says how to show MR."""
    (folder / "small.toml").write_text(RECIPE)
    counts = {"train_normal": 6, "test_normal": 4, "test_abnormal": 4, "size": 64}
    folders = {"png": folder / "png" / organ, "dicom": folder / "dicom" / organ}
    writers: dict[str, Callable[..., Any]] = {"png": write_phantom_set, "dicom": write_phantom_dicom}
    for name, data in folders.items():
        writers[name](data, organ, seed=1, **counts)
    (folders["dicom"] / "dicom.toml").write_text(AS_STORED)
    return folders


def common(folder: Path) -> tuple[object, ...]:
    return "--backbone", "embedded", "--recipe", folder / "small.toml", "--json"


@pytest.mark.parametrize("organ", ORGANS)
def test_training_and_testing_on_dicom_gives_the_figures_of_png(organ: str, tmp_path: Path):
    figures = []
    for name, data in write_both(tmp_path, organ).items():
        out = tmp_path / f"run-{name}"
        trained = call("train", "--data", data, *common(tmp_path), "--shots", 4, "--out", out)
        assert trained.code == 0, trained.err
        model = out / "model.safetensors"
        tested = call("evaluate", "--model", model, "--data", data, "--out", out, "--json")
        assert tested.code == 0, tested.err
        metrics = json.loads((out / "metrics.json").read_text())
        figures.append([metrics[name] for name in METRICS])
        assert (metrics["n_normal"], metrics["n_abnormal"]) == (4, 4)
        chosen = load_model(model).facts["preprocess"].get("chosen_policies")
        assert chosen == ({"MR": "stored-range"} if name == "dicom" else None)
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)


def test_simulating_sites_on_dicom_gives_the_figures_of_png(tmp_path: Path):
    written = [write_both(tmp_path, organ) for organ in ORGANS]
    rows = {}
    for name in ("png", "dicom"):
        sets = [word for folders in written for word in ("--data", f"{folders[name].name}={folders[name]}")]
        out = tmp_path / f"run-{name}"
        small = ("--sites", 3, "--shots", 4, "--rounds", 2, "--parallel", 1)
        ran = call("simulate", "run", *sets, *common(tmp_path), *small, "--out", out)
        assert ran.code == 0, ran.err
        rows[name] = json.loads((out / "result.json").read_text())["rows"]
    assert len(rows["png"]) == len(rows["dicom"]) > 3 * 4
    for png, dicom in zip(rows["png"], rows["dicom"], strict=True):
        assert [png[key] for key in ("method", "site", "set")] == [
            dicom[key] for key in ("method", "site", "set")
        ]
        assert [png[key] for key in METRICS] == pytest.approx([dicom[key] for key in METRICS], abs=1e-6)


def test_a_model_is_not_used_under_another_policy_than_it_was_trained_with(tmp_path: Path):
    data = write_both(tmp_path, "brain")["dicom"]
    words = ("train", "--data", data, *common(tmp_path), "--shots", 2, "--out", tmp_path / "run")
    refused = call(*words, "--policy", "MR=header-voi")
    assert refused.code == 2
    assert refused.err.endswith(
        "The policy of MR must be the same for the model and for brain, but these name 'header-voi' and "
        "'stored-range'; name one of them in both, or train again."
    )
    assert call(*words).code == 0
    model = ("--model", tmp_path / "run/model.safetensors", "--out", tmp_path / "scores")
    scan = next(data.rglob("*.dcm"))
    assert call("score", scan, *model, "--policy", "MR=stored-range").code == 0
    refused = call("score", scan, *model, "--policy", "MR=foreground-percentiles")
    assert (refused.code, "these name 'stored-range' and 'foreground-percentiles'" in refused.err) == (
        2,
        True,
    )
    (data / "dicom.toml").write_text(AS_STORED.replace("stored-range", "foreground-percentiles"))
    refused = call("evaluate", "--data", data, *model)
    assert refused.code == 2
    assert "must be the same for the model and for brain" in refused.err
