"""The model file: whole, honest about itself, and noticing every change."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from mediclip.config import load_recipe
from mediclip.errors import CheckpointError
from mediclip.training.checkpoint import load_model, load_tensors, save_model, save_tensors

TENSORS = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 2), np.float32)}
FACTS = {"seed": 3, "preprocess": {"name": "raster"}}


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.safetensors"
    save_tensors(path, TENSORS, FACTS)
    return path


def is_the_same(path):
    tensors, facts = load_tensors(path)
    equal = all(np.array_equal(tensors[name], TENSORS[name]) for name in TENSORS)
    return equal and set(tensors) == set(TENSORS) and facts == FACTS


def test_what_is_written_is_read(small):
    assert is_the_same(small)


def test_every_changed_bit_is_noticed_or_changes_nothing(small):
    data = small.read_bytes()
    noticed = 0
    for position in range(len(data)):
        for bit in (0, 5):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            small.write_bytes(changed)
            try:
                assert is_the_same(small), f"bit {bit} of byte {position} changed the content unnoticed"
            except CheckpointError:
                noticed += 1
    assert noticed > 1.9 * len(data)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 50, -1])
def test_a_truncated_file_is_refused(small, keep):
    small.write_bytes(small.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"small\.safetensors"):
        load_tensors(small)


def test_a_file_of_another_program_a_folder_and_nothing_are_refused(tmp_path):
    save_file(TENSORS, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="written by this project"):
        load_tensors(tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="must exist"):
        load_tensors(tmp_path)
    with pytest.raises(CheckpointError, match="must exist"):
        load_tensors(tmp_path / "absent.safetensors")


def test_a_model_file_stands_alone(tmp_path):
    path = tmp_path / "model.safetensors"
    recipe = load_recipe("reference")
    backbone = {"spec": "embedded", "sha256": "0" * 64}
    save_model(path, TENSORS, recipe=recipe, taps=(2, 4), backbone=backbone, facts=FACTS)
    model = load_model(path)
    assert model.recipe == recipe
    assert (model.taps, model.backbone_spec, model.backbone_sha256) == ((2, 4), "embedded", "0" * 64)
    assert model.facts["seed"] == 3
    assert set(model.facts["versions"]) == {"mediclip", "python", "torch", "open_clip_torch", "numpy", "flwr"}
    assert all(np.array_equal(model.tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("facts", [{"format": 99}, {"format": 1}, {}])
def test_another_format_or_a_model_without_its_facts_is_refused(tmp_path, facts):
    path = tmp_path / "model.safetensors"
    save_tensors(path, TENSORS, facts)
    with pytest.raises(CheckpointError):
        load_model(path)


def test_a_writer_that_dies_leaves_the_old_file(small):
    program = """
import os, sys
from pathlib import Path
import mediclip.training.checkpoint as checkpoint
os.fsync = lambda _: os._exit(9)  # dies with the new content written and not yet in place
checkpoint.write_atomically(Path(sys.argv[1]), b"half")
"""
    done = subprocess.run([sys.executable, "-c", program, str(small)], check=False)
    assert done.returncode == 9
    assert is_the_same(small)
