from dataclasses import replace

import numpy as np
import pytest

from mediclip.errors import CheckpointError
from mediclip.model.trainables import Schema, TensorSpec
from server.checkpointing import RoundState, RunIdentity, load_round, save_round
from tests.tiny import tiny_schema, tiny_tensors

IDENTITY = RunIdentity(tiny_schema().digest(), "recipe", 7, "fedadam", 4)


@pytest.fixture
def state():
    moments = {f"m_t/{name}": value * 2 for name, value in tiny_tensors(1).items()}
    return RoundState(6, tiny_tensors(), moments)


def test_a_round_comes_back_bit_for_bit_with_the_state_of_the_optimiser(tmp_path, state):
    path = tmp_path / "checkpoint.safetensors"
    save_round(path, state, IDENTITY)
    found = load_round(path, tiny_schema(), IDENTITY)
    assert found.number == 6
    assert list(found.tensors) == [spec.name for spec in tiny_schema().tensors]
    for kept, loaded in ((state.tensors, found.tensors), (state.optimiser, found.optimiser)):
        assert kept.keys() == loaded.keys()
        assert all(np.array_equal(kept[name], loaded[name]) for name in kept)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("schema", "other", "schema"),
        ("recipe", "other", "recipe"),
        ("seed", 8, "seed"),
        ("strategy", "fedavg", "strategy"),
        ("local_steps", 5, "local steps"),
    ],
)
def test_a_round_of_another_run_is_refused_by_what_differs(tmp_path, state, key, value, words):
    path = tmp_path / "checkpoint.safetensors"
    save_round(path, state, IDENTITY)
    with pytest.raises(CheckpointError, match=f"a round of the same {words}, "):
        load_round(path, tiny_schema(), replace(IDENTITY, **{key: value}))


@pytest.mark.parametrize("place", [0.0, 0.01, 0.5, 0.999])
def test_a_changed_byte_anywhere_is_noticed(tmp_path, state, place):
    path = tmp_path / "checkpoint.safetensors"
    save_round(path, state, IDENTITY)
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_round(path, tiny_schema(), IDENTITY)


def test_a_file_cut_short_is_refused(tmp_path, state):
    path = tmp_path / "checkpoint.safetensors"
    save_round(path, state, IDENTITY)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_round(path, tiny_schema(), IDENTITY)


def test_tensors_that_are_not_the_schemas_are_refused(tmp_path, state):
    path = tmp_path / "checkpoint.safetensors"
    save_round(path, state, IDENTITY)
    other = Schema((*tiny_schema().tensors, TensorSpec("extra", (1,))))
    with pytest.raises(CheckpointError, match="must hold the schema's tensors"):
        load_round(path, other, IDENTITY)
