"""A DICOM tree gives the same detector and the same figures as the same phantoms in PNG."""

import json

import pytest

from simulation.phantom import write_phantom_set
from simulation.phantom.dicom import write_phantom_dicom
from tests.mediclip.cli.conftest import RECIPE, call


# Brain phantoms are MR, whose greys a site's policy stretches between percentiles: there PNG and DICOM differ
# by intent.
@pytest.mark.parametrize("organ", ["chest", "breast"])
def test_training_and_testing_on_dicom_gives_the_figures_of_png(organ, tmp_path):
    (tmp_path / "small.toml").write_text(RECIPE)
    figures = []
    for name, write in (("png", write_phantom_set), ("dicom", write_phantom_dicom)):
        data, out = tmp_path / name, tmp_path / f"run-{name}"
        write(data, organ, seed=1, train_normal=4, test_normal=4, test_abnormal=4, size=64)
        fixed = ("--backbone", "embedded", "--recipe", tmp_path / "small.toml", "--shots", 4, "--json")
        trained = call("train", "--data", data, *fixed, "--out", out)
        assert trained.code == 0, trained.err
        tested = call(
            "evaluate", "--model", out / "model.safetensors", "--data", data, "--out", out, "--json"
        )
        assert tested.code == 0, tested.err
        metrics = json.loads((out / "metrics.json").read_text())
        figures.append([metrics[m] for m in ("image_auroc", "image_ap", "pixel_auroc", "aupro", "best_dice")])
        assert (metrics["n_normal"], metrics["n_abnormal"]) == (4, 4)
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)
