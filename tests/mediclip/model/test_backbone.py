"""Loading, naming and telling backbones apart."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

import mediclip.model
from mediclip.errors import BackboneError, SettingsError
from mediclip.model.backbone import OPENAI_MEAN, OPENAI_STD, Backbone
from mediclip.model.backbone_loading import _weights_of, backbone_from_weights, load_backbone
from simulation.pretraining.settings import load_settings

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
EMBEDDED = Path(mediclip.model.__file__).parent / "embedded"


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


def test_loading_leaves_the_global_random_state_alone(folder):
    before = torch.random.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002 - that it is left alone is the point
    load_backbone("embedded", image_size=32)
    load_backbone(f"local-dir:{folder}")
    load_backbone("ViT-S-32-alt:random")
    backbone_from_weights(CONFIG, weights(folder), spec="a")
    with pytest.raises(BackboneError):
        load_backbone("local-dir:/nowhere")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_a_random_architecture_is_the_same_each_time_whatever_was_drawn_before():
    first = load_backbone("ViT-S-32-alt:random").sha256
    with torch.random.fork_rng(devices=[]):
        torch.rand(10)
        assert load_backbone("ViT-S-32-alt:random").sha256 == first


def test_the_embedded_backbone_is_what_its_recipe_and_card_say_and_small():
    recipe = json.loads((EMBEDDED / "pretraining.json").read_text())
    assert load_backbone("embedded").sha256 == recipe["sha256"]
    assert recipe["settings"] == load_settings().model_dump(mode="json")
    assert recipe["sha256"] in (EMBEDDED / "MODEL_CARD.md").read_text()
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) <= 20e6


def test_open_clip_reads_the_embedded_backbone_as_we_do():
    ours, theirs = load_backbone("embedded"), open_clip.create_model(f"local-dir:{EMBEDDED}").eval()
    images = torch.rand(2, 224, 224, generator=torch.Generator().manual_seed(0))
    ids = open_clip.tokenize(["normal.", "a focal lesion."])
    with torch.no_grad():
        pixels = ours.normalise(images)
        assert torch.allclose(ours.visual(pixels), theirs.encode_image(pixels), atol=1e-5)
        found = ours.encode_embedded_text(ours.embed(ids), ids.argmax(1), causal=True)
        assert torch.allclose(found, theirs.encode_text(ids), atol=1e-5)


def test_the_embedded_architecture_can_be_had_with_random_weights():
    trained, blank = load_backbone("embedded"), load_backbone("embedded:random")
    assert blank.name == "embedded:random"
    assert blank.shapes == trained.shapes
    assert blank.sha256 == load_backbone("embedded:random").sha256 != trained.sha256
    assert load_backbone("embedded:random", image_size=64).image_size == 64


def test_the_embedded_backbone_takes_other_sizes():
    backbone = load_backbone("embedded", image_size=64)
    assert backbone.image_size == 64
    assert backbone.visual.positional_embedding.shape[0] == 1 + 4 * 4


def test_position_embeddings_are_resized_for_another_image_size(folder):
    backbone = load_backbone(f"local-dir:{folder}", image_size=64)
    assert backbone.image_size == 64
    (tokens,) = backbone.patch_tokens(backbone.normalise(torch.rand(1, 64, 64)), (3,))
    assert tokens.shape == (1, 4, 4, 32)
    assert np.isfinite(tokens.numpy()).all()


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Give the same weights as a folder of a named model, as safetensors and as a torch checkpoint."""
    path = tmp_path_factory.mktemp("named")
    model = open_clip.get_model_config("ViT-S-32-alt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = open_clip.model.CLIP(**model)
    save_file(clip.state_dict(), path / "open_clip_model.safetensors")
    torch.save(clip.state_dict(), path / "weights.pt")
    preprocess = {"mean": OPENAI_MEAN, "std": OPENAI_STD}
    text = json.dumps({"model_cfg": model, "preprocess_cfg": preprocess})
    (path / "open_clip_config.json").write_text(text)
    return path


def test_a_folder_and_a_file_of_the_same_weights_are_the_same_backbone(named):
    folder = load_backbone(f"local-dir:{named}")
    files = [
        load_backbone(f"ViT-S-32-alt:{named / name}")
        for name in ("open_clip_model.safetensors", "weights.pt")
    ]
    assert {file.sha256 for file in files} == {folder.sha256}
    assert load_backbone(f"local-dir:{named}", image_size=224).sha256 == folder.sha256
    assert load_backbone(f"local-dir:{named}", image_size=64).sha256 != folder.sha256
    assert files[0].name == "ViT-S-32-alt:open_clip_model.safetensors"


@pytest.mark.parametrize("tower", ["vision_cfg", "text_cfg"])
def test_other_heads_over_the_same_weights_are_another_backbone(folder, tower):
    # The number of heads shows in no weight's shape, so a wrong configuration would go unnoticed.
    change = {"head_width": 32} if tower == "vision_cfg" else {"heads": 4}
    other = CONFIG | {tower: CONFIG[tower] | change}
    first, second = (backbone_from_weights(c, weights(folder), spec="a") for c in (CONFIG, other))
    assert first.sha256 != second.sha256


def test_weights_stored_in_half_precision_are_the_same_backbone_as_their_values_in_single(folder):
    halves = {name: value.half() for name, value in weights(folder).items()}
    singles = {name: value.float() for name, value in halves.items()}
    first, second = (backbone_from_weights(CONFIG, w, spec="a") for w in (halves, singles))
    assert first.sha256 == second.sha256


@pytest.mark.parametrize(
    ("build", "change", "said"),
    [
        (open_clip.model.CLIP, {"vocab_size": 60_000}, "vocabulary 60000"),
        (open_clip.model.CLIP, {"no_causal_mask": True}, "causal False"),
        (open_clip.model.CLIP, {"pool_type": "last"}, "pooling last"),
        (open_clip.model.CustomTextCLIP, {"pool_type": "last"}, "pooling last"),
        (open_clip.model.CustomTextCLIP, {"embed_cls": True}, "class token True"),
    ],
)
def test_a_text_tower_that_would_read_our_tokens_as_other_words_is_refused(build, change, said):
    with torch.random.fork_rng(devices=[]):
        clip = build(**CONFIG | {"text_cfg": CONFIG["text_cfg"] | change})
    with pytest.raises(BackboneError, match=f"Got one with {said};"):
        Backbone(clip, spec="other")


def test_a_clip_with_its_text_tower_apart_gives_the_same_features(folder):
    with torch.random.fork_rng(devices=[]):
        apart = open_clip.model.CustomTextCLIP(**CONFIG)
    own = weights(folder)
    names = {n: n if n.startswith(("visual.", "logit")) else f"text.{n}" for n in own}
    apart.load_state_dict({names[n]: value for n, value in own.items()})
    first, second = backbone_from_weights(CONFIG, own, spec="a"), Backbone(apart, spec="b")
    assert first.sha256 == second.sha256
    sequences = first.embed(torch.tensor([[49406, 320, 49407, 0]]))
    ends = torch.tensor([2])
    for causal in (True, False):
        ours, theirs = (b.encode_embedded_text(sequences, ends, causal=causal) for b in (first, second))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_both_towers_agree_with_open_clips_own_encoders(folder, quick_gelu):
    """The causal text feature and, through the last tap, the image feature, as open_clip computes them."""
    model = CONFIG | {"quick_gelu": quick_gelu}
    with torch.random.fork_rng(devices=[]):
        clip = open_clip.model.CLIP(**model).eval()
    clip.load_state_dict(weights(folder))
    backbone = backbone_from_weights(model, weights(folder), spec="a")
    ids = open_clip.get_tokenizer("ViT-B-32")(["a lesion.", "no evidence of disease."])
    with torch.no_grad():
        ours = backbone.encode_embedded_text(backbone.embed(ids), ids.argmax(1), causal=True)
        assert torch.allclose(ours, clip.encode_text(ids), atol=1e-6)
    start, end = backbone.start_and_end
    assert ids[0, : int(ids[0].argmax()) + 1].tolist() == [start, *backbone.token_ids("a lesion."), end]


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_torch_cannot_use_is_one_sentence(device):
    with pytest.raises(SettingsError, match=f"It cannot use '{device}'; name another"):
        load_backbone("embedded", image_size=32, device=device)


@pytest.mark.parametrize(
    "change",
    [
        {"vision_cfg": CONFIG["vision_cfg"] | {"patch_size": 0}},
        {"text_cfg": CONFIG["text_cfg"] | {"heads": 3}},
        {"embed_dim": -1},
        {"custom_text": True},
        {"vision_cfg": "large"},
    ],
)
def test_a_configuration_that_no_model_can_have_is_one_sentence(folder, change):
    with pytest.raises(BackboneError, match=r"must fit its model_cfg\. They do not") as raised:
        backbone_from_weights(CONFIG | change, weights(folder), spec="case")
    assert "\n" not in str(raised.value)


@pytest.mark.shared
def test_a_real_backbone_loads_from_its_folder_with_its_published_taps(shared):
    backbone = load_backbone(f"local-dir:{shared / 'weights' / 'vit-tiny-imagenet'}")
    assert (backbone.depth, backbone.default_taps()) == (12, (6, 9, 12))
    assert backbone.shapes.width == 192
