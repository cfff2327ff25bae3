"""The model file: whole, honest about itself, and noticing every change."""

import resource
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from mediclip.config import load_recipe
from mediclip.errors import CheckpointError
from mediclip.training.checkpoint import (
    load_model,
    load_tensors,
    save_model,
    save_tensors,
    write_atomically,
)

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


GOOD = {
    "format": 1,
    "recipe": load_recipe("reference").model_dump(mode="json"),
    "taps": [2, 4],
    "backbone": {"spec": "embedded", "sha256": "0" * 64},
}


def test_the_least_that_a_model_file_holds_is_enough(tmp_path):
    path = tmp_path / "model.safetensors"
    save_tensors(path, TENSORS, GOOD)
    assert (load_model(path).taps, load_model(path).facts) == ((2, 4), {})


@pytest.mark.parametrize("number", [0, 2, 99, "1", None])
def test_another_format_is_named_with_what_to_do(tmp_path, number):
    path = tmp_path / "model.safetensors"
    save_tensors(path, TENSORS, GOOD | {"format": number})
    with pytest.raises(CheckpointError, match=f"must have format 1.*has {number!r}; use it with the version"):
        load_model(path)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": None},
        {"recipe": {}},
        {"recipe": "reference"},
        {"recipe": GOOD["recipe"] | {"of_a_later_version": 1}},
        {"recipe": GOOD["recipe"] | {"prompts": {"normal": [], "abnormal": ["lesion"]}}},
        {"taps": None},
        {"taps": "24"},
        {"taps": [1.5]},
        {"taps": ["2"]},
        {"backbone": "embedded"},
        {"backbone": {"spec": "embedded"}},
        {"backbone": {"spec": 1, "sha256": None}},
    ],
    ids=str,
)
def test_a_model_whose_facts_are_not_usable_is_one_sentence(tmp_path, change):
    path = tmp_path / "model.safetensors"
    save_tensors(path, TENSORS, GOOD | change)
    with pytest.raises(CheckpointError, match="must hold a usable recipe, taps and a backbone") as raised:
        load_model(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("facts", [[], "text", 3, None])
def test_facts_that_are_no_table_are_refused(tmp_path, facts):
    path = tmp_path / "model.safetensors"
    save_tensors(path, TENSORS, facts)
    with pytest.raises(CheckpointError, match="written by this project"):
        load_tensors(path)


def test_types_that_numpy_lacks_and_bottomless_json_are_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    for kind in (torch.bfloat16, torch.float8_e4m3fn):
        save_torch({"a": torch.zeros(3).to(kind)}, path, metadata={"mediclip": "{}", "sha256": ""})
        with pytest.raises(CheckpointError):
            load_tensors(path)
    save_torch({"a": torch.zeros(3)}, path, metadata={"mediclip": "[" * 100_000, "sha256": ""})
    with pytest.raises(CheckpointError, match="written by this project"):
        load_tensors(path)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int64, np.uint8, bool])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (3, 4)])
def test_every_shape_and_type_comes_back_as_it_was(tmp_path, kind, shape):
    path = tmp_path / "any.safetensors"
    value = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind)
    save_tensors(path, {"value": value, "turned": value.T}, {})
    tensors, _ = load_tensors(path)
    assert (tensors["value"].dtype, tensors["value"].shape) == (value.dtype, shape)
    assert np.array_equal(tensors["value"], value)
    assert np.array_equal(tensors["turned"], value.T)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    save_tensors(one, TENSORS, FACTS)
    save_tensors(other, dict(reversed(TENSORS.items())), dict(reversed(FACTS.items())))
    assert load_tensors(one)[1] == load_tensors(other)[1]
    assert digest_of(one) == digest_of(other)


def digest_of(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata()["sha256"]


def test_a_tensor_of_another_file_does_not_pass_for_ours(small, tmp_path):
    other = tmp_path / "other.safetensors"
    save_tensors(other, TENSORS | {"b": TENSORS["b"] + 1}, FACTS)
    with safe_open(small, framework="numpy") as file:
        save_file(load_tensors(other)[0], small, metadata=file.metadata())
    with pytest.raises(CheckpointError, match="has changed since"):
        load_tensors(small)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(small):
    before = small.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # a file size that the kernel refuses to pass
    try:
        with pytest.raises(OSError, match="too large"):
            write_atomically(small, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert small.read_bytes() == before
    assert [p.name for p in small.parent.iterdir()] == [small.name]


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "model.safetensors"
    program = """
import sys
from pathlib import Path
import numpy as np
from mediclip.training.checkpoint import save_tensors
print("ready", flush=True)
number = 0
while True:
    number += 1
    save_tensors(Path(sys.argv[1]), {"a": np.full(500_000, number, np.float32)}, {"number": number})
"""
    last = 0
    for pause in (0.05, 0.11, 0.17, 0.23):
        with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            while not path.exists():
                time.sleep(0.005)
            time.sleep(pause)
            writer.kill()
        tensors, facts = load_tensors(path)
        last = facts["number"]
        assert (tensors["a"] == last).all()
    assert last > 0


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
