"""Exported files, run by onnxruntime and torch.export.load, against the detector that they were made from."""

import io
import json

import numpy as np
import onnxruntime
import pytest
import torch
from open_clip.model import CLIP

from mediclip.cli.main import main
from mediclip.data.preprocess import Preprocess
from mediclip.errors import BackboneError, CheckpointError
from mediclip.export import export_detector
from mediclip.model.anomaly_map import image_score
from mediclip.model.backbone_loading import backbone_from_weights
from mediclip.model.network import MediClip
from mediclip.training.checkpoint import load_model, save_model
from tests.tiny import SIZE, tiny_backbone, tiny_recipe, tiny_scans

PREPROCESS = {"image_size": SIZE}


def trained(backbone=None, **changes):
    network = MediClip(backbone or tiny_backbone(), tiny_recipe().model_copy(update=changes))
    return network.initialise(3)


def scored(network, images):
    with torch.inference_mode():
        maps = network(torch.from_numpy(images))
    return image_score(maps, network.recipe.top_share).numpy(), maps.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnxruntime_gives_the_detectors_scores_and_maps(onnx_file, count):
    network, path, _ = onnx_file
    images = np.stack([tiny_scans(number)[0] for number in range(count)])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scores, maps = session.run(["scores", "maps"], {"images": images})
    wanted = scored(network, images)
    np.testing.assert_allclose(scores, wanted[0], atol=1e-5)
    np.testing.assert_allclose(maps, wanted[1], atol=1e-5)


@pytest.mark.slow
def test_the_onnx_file_says_what_it_is_and_holds_no_text_tower(onnx_file):
    network, path, facts = onnx_file
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    stored = json.loads(session.get_modelmeta().custom_metadata_map["mediclip"])
    assert stored == json.loads(json.dumps(facts))
    assert stored["backbone"] == {"name": "embedded", "sha256": network.backbone.sha256}
    assert stored["recipe"] == network.recipe.model_dump(mode="json")
    assert (stored["image_size"], stored["taps"]) == (SIZE, list(network.taps))
    assert stored["preprocess"] == PREPROCESS
    assert stored["max_difference"] < 1e-5
    image_tower = sum(p.numel() for p in network.backbone.visual.parameters())
    assert path.stat().st_size < 4 * image_tower + (1 << 20)
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert session.get_inputs()[0].shape[1:] == [SIZE, SIZE]


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "detector.onnx"
    network = trained(adapter_rank=2)
    facts = export_detector(network, PREPROCESS, path, form="onnx")
    assert list(path.parent.iterdir()) == [path]
    return network, path, facts


@pytest.mark.slow
def test_the_command_writes_what_torch_can_load(tmp_path, capsys):
    network = trained(lean=False)
    model, out = tmp_path / "model.safetensors", tmp_path / "detector.pt2"
    save_model(
        model,
        network.trainables(),
        recipe=network.recipe,
        taps=network.taps,
        backbone={"spec": "embedded", "sha256": network.backbone.sha256},
        facts={"preprocess": Preprocess(SIZE).settings()},
    )
    assert load_model(model).taps == network.taps
    with pytest.raises(SystemExit) as ended:
        main(["export", "--model", str(model), "--format", "torch", "--out", str(out), "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["backbone"]["sha256"] == network.backbone.sha256
    extra = {"mediclip.json": ""}
    program = torch.export.load(io.BytesIO(out.read_bytes()), extra_files=extra)
    assert json.loads(extra["mediclip.json"])["taps"] == list(network.taps)
    images = tiny_scans(1)
    scores, maps = program.module()(torch.from_numpy(images))
    wanted = scored(network, images)
    np.testing.assert_allclose(scores.detach(), wanted[0], atol=1e-5)
    np.testing.assert_allclose(maps.detach(), wanted[1], atol=1e-5)


@pytest.mark.slow
def test_a_file_that_scores_otherwise_is_refused_and_removed(tmp_path):
    with pytest.raises(CheckpointError, match="An exported detector must score as the original within -1"):
        export_detector(trained(), PREPROCESS, tmp_path / "detector.pt2", form="torch", tolerance=-1)
    assert list(tmp_path.iterdir()) == []


def test_a_tower_of_another_kind_is_refused_before_anything_is_written(tmp_path):
    vision = {
        "image_size": SIZE,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 16,
        "qk_norm": True,
    }
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    odd = backbone_from_weights(config, CLIP(**config).state_dict(), spec="odd")
    network = trained(odd)
    images = tiny_scans(1)
    assert np.isfinite(scored(network, images)[0]).all()  # open_clip's own code runs in its place
    with pytest.raises(BackboneError, match="An exported detector must have CLIP's plain image tower"):
        export_detector(network, PREPROCESS, tmp_path / "detector.onnx", form="onnx")
    assert list(tmp_path.iterdir()) == []
