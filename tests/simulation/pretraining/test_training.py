import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.numpy import load_file

from mediclip.errors import CheckpointError, SettingsError
from mediclip.model.backbone_loading import load_backbone
from mediclip.rng import generator
from simulation.phantom import ORGANS
from simulation.pretraining.augment import augment
from simulation.pretraining.batches import Batches
from simulation.pretraining.corpus import Corpus, build_corpus, corpus_digest
from simulation.pretraining.settings import PretrainSettings, load_settings
from simulation.pretraining.student import Student
from simulation.pretraining.training import CHECKPOINT, Pretraining
from tests.mediclip.cli.conftest import call

TINY = {
    "image_size": 64, "examples": 24, "steps": 6, "batch_size": 8, "learning_rate": 2e-3,
    "tower": {"embed_dim": 16, "image_layers": 2, "image_width": 64, "text_layers": 1, "text_width": 32},
}  # fmt: skip


def settings_with(**changes) -> PretrainSettings:
    return PretrainSettings.parse({**TINY, **changes}, source="test")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build_corpus(tmp_path_factory.mktemp("corpus"), seed=0, examples=24, size=64, workers=1)


def test_the_corpus_is_the_same_however_often_it_was_interrupted(tmp_path: Path, corpus: Corpus):
    seen = []
    first = build_corpus(
        tmp_path, seed=0, examples=24, size=64, workers=2, on_example=lambda *a: seen.append(a)
    )
    again = build_corpus(tmp_path, seed=0, examples=24, size=64, workers=1)
    assert seen == [(24, 24)]
    assert corpus_digest(first) == corpus_digest(again) == corpus_digest(corpus)
    masks = first.masks_of(np.arange(24))
    assert [mask.any() for mask in masks] == [finding is not None for finding in first.findings]


def test_a_damaged_chunk_of_the_corpus_is_named(tmp_path: Path):
    build_corpus(tmp_path, seed=0, examples=2, size=64, workers=1)
    next(tmp_path.iterdir()).write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match=r"0-64-00000-2\.safetensors is not; remove it"):
        build_corpus(tmp_path, seed=0, examples=2, size=64, workers=1)


def test_augmentation_moves_image_and_mask_together_and_keeps_their_ranges():
    masks = torch.zeros(32, 64, 64)
    masks[:, 24:40, 20:36] = 1
    images, moved = augment(masks * 0.9 + 0.05, masks, generator(1, "augment"))
    assert images.shape == moved.shape == masks.shape
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1 + 1e-6
    assert float((moved - masks).abs().mean((1, 2)).min()) > 0.002
    agreement = [
        np.corrcoef(i.numpy().ravel(), m.numpy().ravel())[0, 1] for i, m in zip(images, moved, strict=True)
    ]
    assert min(np.abs(agreement)) > 0.8  # an inverted display turns the sign


def test_a_batch_depends_on_its_step_alone_and_an_epoch_takes_every_example_once(corpus: Corpus):
    settings = settings_with()
    batches = Batches(corpus, settings, torch.device("cpu"))
    first, again, other = batches.at(1), Batches(corpus, settings, torch.device("cpu")).at(1), batches.at(2)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.captions, again.captions)
    assert torch.equal(first.hidden, again.hidden)
    assert not torch.equal(first.images, other.images)
    assert sorted(np.concatenate([batches._indexes(step) for step in range(3)])) == list(range(24))
    assert first.captions.shape[0] == 6
    assert first.hidden.shape == (2, 16)
    assert first.hidden.sum(1).tolist() == [8, 8]


def test_the_student_sees_as_open_clip_does_and_hides_what_it_shall(corpus: Corpus):
    student = Student(settings_with()).eval()
    batch = Batches(corpus, settings_with(), torch.device("cpu")).at(0)
    pixels = (batch.images[:, None] - student.mean) / student.std
    with torch.no_grad():
        expected = student.clip.encode_image(pixels)
        last = student._encode(batch.images, batch.hidden)[-1]
        found = student.visual.ln_post(last)[:, 0] @ student.visual.proj
        assert torch.allclose(found[:6], expected[:6], atol=1e-5)
        assert not torch.allclose(found[6:], expected[6:], atol=1e-3)
        # What a hidden patch held cannot be known: changing it changes nothing.
        changed = batch.images.clone()
        row, column = divmod(int(batch.hidden[0].nonzero()[0]), 4)
        changed[6, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = 0.5
        assert torch.allclose(student._encode(changed, batch.hidden)[-1], last)


def test_early_steps_see_the_same_scenes_at_a_smaller_size(corpus: Corpus):
    settings = settings_with(early_size=32, early_share=0.5)
    batches = Batches(corpus, settings, torch.device("cpu"))
    early, late = batches.at(2), batches.at(3)
    assert early.images.shape == early.masks.shape == (8, 32, 32)
    assert early.hidden.shape == (2, 4)
    assert late.images.shape == (8, 64, 64)
    full = Batches(corpus, settings_with(), torch.device("cpu")).at(2)
    shrunk = torch.nn.functional.avg_pool2d(full.masks[:, None], 2)[:, 0]
    assert float((early.masks - shrunk).abs().max()) < 0.6  # edges alone differ: pooled before it is turned
    assert float((early.masks - shrunk).abs().mean()) < 0.01


def test_a_small_image_takes_the_mean_of_the_positions_that_it_covers():
    student = Student(settings_with(early_size=32))
    positions = student.visual.positional_embedding
    with torch.no_grad():
        small = student._positions(4)
        assert student._positions(16) is positions
    assert small.shape == (5, 64)
    assert torch.equal(small[0], positions[0])
    # Row 1, column 0 of the 2 by 2 grid covers rows 2 and 3, columns 0 and 1 of the 4 by 4 grid.
    assert torch.allclose(small[3], positions[[9, 10, 13, 14]].mean(0), atol=1e-6)


def test_the_dense_target_is_the_patches_that_the_mask_covers():
    student = Student(settings_with())
    masks = torch.zeros(1, 64, 64)
    masks[0, :16, 16:32] = 1
    masks[0, 32:35, :] = 1  # 3 of 16 rows: less than a quarter
    assert student._covered(masks)[0].nonzero().flatten().tolist() == [1]


def test_restoration_wants_each_patch_without_its_mean_and_spread():
    student = Student(settings_with())
    images = torch.from_numpy(generator(1, "pixels").random((2, 64, 64), dtype=np.float32))
    target = student._pixels(images)
    assert torch.allclose(target.mean(-1), torch.zeros(2, 16), atol=1e-5)
    patch = images[1, 16:32, 48:64].flatten()
    assert torch.allclose(target[1, 7], (patch - patch.mean()) / (patch.var() + 1e-4).sqrt(), atol=1e-5)


def test_losses_fall_on_a_corpus_that_can_be_learned_by_heart(corpus: Corpus):
    run = Pretraining(settings_with(steps=60, batch_size=24), corpus)
    first = {name: float(value) for name, value in run.take_step().items()}
    while run.step < 59:
        run.take_step()
    last = {name: float(value) for name, value in run.take_step().items()}
    assert last["contrastive"] < 0.95 * first["contrastive"]
    assert last["dense"] < 0.9 * first["dense"]
    assert last["taps"] < 0.9 * first["taps"]
    assert last["restoration"] < first["restoration"]


@pytest.mark.parametrize("early_share", [0, 0.5, 0.9])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(corpus: Corpus, tmp_path: Path, early_share: float):
    settings = settings_with(early_size=32, early_share=early_share)
    whole = Pretraining(settings, corpus)
    whole.run(tmp_path / "whole")
    part = Pretraining(settings, corpus)
    for _ in range(4):
        part.take_step()
    part.save(tmp_path / CHECKPOINT)
    later = Pretraining(settings, corpus)
    later.resume(tmp_path / CHECKPOINT)
    assert later.step == 4
    later.run(tmp_path / "later")
    for name, value in whole.average.items():
        assert torch.equal(value, later.average[name]), name
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, later.student.state_dict()[name]), name


def test_a_run_goes_on_only_with_its_own_settings(corpus: Corpus, tmp_path: Path):
    Pretraining(settings_with(), corpus).save(tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match="learning_rate, steps differ"):
        Pretraining(settings_with(steps=7, learning_rate=1e-3), corpus).resume(tmp_path / CHECKPOINT)


def test_a_run_that_diverges_is_stopped(corpus: Corpus):
    run = Pretraining(settings_with(), corpus)
    with torch.no_grad():
        run.student.clip.logit_scale.fill_(float("nan"))
    with pytest.raises(SettingsError, match="Step 1 had none"):
        run.take_step()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 100}, "'image_size' must be a multiple of 'patch_size'"),
        ({"early_size": 48}, "'early_size' must divide 'image_size'"),
        ({"batch_size": 1}, "batch_size"),
        ({"tower": {"image_width": 100}}, "image_width"),
        ({"wheels": 4}, "wheels"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, message: str):
    with pytest.raises(SettingsError, match=message):
        settings_with(**changes)


def test_the_embedded_backbones_settings_keep_to_its_size():
    settings = load_settings()
    with torch.device("meta"):
        student = Student(settings)
    image = sum(p.numel() for p in student.visual.parameters())
    assert 3e6 <= image <= 6e6
    assert 2 * sum(p.numel() for p in student.clip.parameters()) < 20e6


def test_the_command_leaves_a_backbone_that_open_clip_and_we_read_alike(tmp_path: Path):
    toml = tmp_path / "tiny.toml"
    tower = "\n".join(f"{key} = {value}" for key, value in TINY["tower"].items())
    rest = "\n".join(f"{key} = {value}" for key, value in TINY.items() if key != "tower")
    toml.write_text(f"{rest}\n[tower]\n{tower}\n")
    out = tmp_path / "out"
    words = ("pretrain", "--settings", toml, "--out", out, "--workers", "1")
    told = json.loads(call(*words, "--json").out)
    backbone = load_backbone(f"local-dir:{out}")
    assert backbone.sha256 == told["sha256"] == json.loads((out / "pretraining.json").read_text())["sha256"]
    assert {row["organ"] for row in told["zero_shot"]} == set(ORGANS)
    assert told["sha256"] in (out / "MODEL_CARD.md").read_text()
    weights = load_file(out / "open_clip_model.safetensors")
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float16)}
    theirs = open_clip.create_model(f"local-dir:{out}")
    with torch.no_grad():
        pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        expected = theirs.visual.trunk(pixels) if hasattr(theirs.visual, "trunk") else theirs.visual(pixels)
        assert torch.allclose(backbone.visual(pixels), expected)
    refused = call(*words)
    assert refused.code != 0
    assert "add --resume or name another folder" in refused.err
    assert json.loads(call(*words, "--resume", "--json").out)["sha256"] == told["sha256"]
