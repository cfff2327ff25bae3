"""Loading, naming and telling backbones apart."""

import json

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from mediclip.errors import BackboneError
from mediclip.model.backbone import _weights_of, backbone_from_weights, load_backbone

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
EMBEDDED_SHA256 = "00841405"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("backbone")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = open_clip.model.CLIP(**CONFIG)
    save_file(clip.state_dict(), path / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CONFIG, "preprocess_cfg": preprocess})
    )
    return path


def weights(folder):
    return load_file(folder / "open_clip_model.safetensors")


def test_a_folder_gives_its_widths_taps_and_normalisation(folder):
    backbone = load_backbone(f"local-dir:{folder}")
    assert (backbone.shapes.width, backbone.shapes.embed_dim, backbone.shapes.text_width) == (32, 16, 16)
    assert (backbone.depth, backbone.image_size) == (3, 32)
    assert backbone.mean.flatten().tolist() == [0.5] * 3
    assert backbone.std.flatten().tolist() == [0.25] * 3
    assert backbone.name == f"local-dir:{folder.name}"


@pytest.mark.parametrize(("depth", "taps"), [(24, (12, 18, 24)), (12, (6, 9, 12)), (4, (2, 3, 4)), (1, (1,))])
def test_the_default_taps_are_at_a_half_three_quarters_and_the_end(depth, taps, folder):
    backbone = load_backbone(f"local-dir:{folder}")
    backbone.depth = depth
    assert backbone.default_taps() == taps


def test_the_digest_is_of_the_numbers_not_of_the_way_they_came(folder):
    one = load_backbone(f"local-dir:{folder}").sha256
    assert one == load_backbone(f"local-dir:{folder}").sha256
    plain = backbone_from_weights(CONFIG, weights(folder), spec="a").sha256
    assert plain == backbone_from_weights(CONFIG, weights(folder), spec="b").sha256
    assert plain != one  # another normalisation gives other tokens


def test_one_changed_bit_or_another_activation_is_another_backbone(folder):
    changed = weights(folder)
    changed["visual.conv1.weight"].view(torch.int32).view(-1)[5] ^= 1
    first = backbone_from_weights(CONFIG, weights(folder), spec="a").sha256
    assert backbone_from_weights(CONFIG, changed, spec="a").sha256 != first
    quick = CONFIG | {"quick_gelu": True}
    assert backbone_from_weights(quick, weights(folder), spec="a").sha256 != first


def test_the_expected_digest_is_demanded(folder):
    backbone = load_backbone(f"local-dir:{folder}")
    assert load_backbone(f"local-dir:{folder}", expected_sha256=backbone.sha256).sha256 == backbone.sha256
    with pytest.raises(BackboneError, match="must have the SHA-256 0000"):
        load_backbone(f"local-dir:{folder}", expected_sha256="0" * 64)


def test_weights_that_do_not_fit_are_refused(folder):
    short = weights(folder)
    del short["visual.conv1.weight"]
    with pytest.raises(BackboneError, match=r"visual\.conv1"):
        backbone_from_weights(CONFIG, short, spec="case")
    with pytest.raises(BackboneError):
        backbone_from_weights(CONFIG | {"embed_dim": 8}, weights(folder), spec="case")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nonsense", "NAME:TAG"),
        ("nonsense:openai", "open_clip model"),
        ("ViT-L-14:nonsense", "one of the tags openai"),
        ("local-dir:/nowhere", "Correct the spec"),
        ("RN50:random", "must be an open_clip ViT"),
    ],
)
def test_a_spec_that_cannot_be_loaded_says_what_could(spec, said):
    with pytest.raises(BackboneError, match=said):
        load_backbone(spec)


def test_a_damaged_weights_file_is_one_sentence(folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BackboneError, match="must be loadable by open_clip") as raised:
        load_backbone(f"local-dir:{tmp_path}")
    assert "\n" not in str(raised.value)


def test_openai_weights_bring_their_activation():
    assert _weights_of("ViT-L-14", "openai")["force_quick_gelu"]
    assert not _weights_of("ViT-L-14", "laion2b_s32b_b82k")["force_quick_gelu"]


def test_loading_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    load_backbone("embedded", image_size=32)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_embedded_backbone_is_the_same_everywhere():
    assert load_backbone("embedded").sha256.startswith(EMBEDDED_SHA256)


def test_position_embeddings_are_resized_for_another_image_size(folder):
    backbone = load_backbone(f"local-dir:{folder}", image_size=64)
    assert backbone.image_size == 64
    (tokens,) = backbone.patch_tokens(backbone.normalise(torch.rand(1, 64, 64)), (3,))
    assert tokens.shape == (1, 4, 4, 32)
    assert np.isfinite(tokens.numpy()).all()
