from dataclasses import replace

import numpy as np
import pytest

from client.service.fit import RoundAnswer
from client.service.rounds import KEPT_ROUNDS, Question, RoundStore
from mediclip.errors import CheckpointError
from mediclip.exchange.parcel import pack_values, unpack
from tests.tiny import largest_difference, tiny_request, tiny_schema, tiny_tensors


def ask(number=1, federation="f", codec="float32/1", **changes):
    return Question(federation, tiny_request(number, **changes), codec)


def reply(value=0.0):
    tensors = {name: tensor + np.float32(value) for name, tensor in tiny_tensors().items()}
    return RoundAnswer(pack_values(tiny_schema(), tensors), 4, {"val_loss": 0.1 + value})


def kept(value):
    return {"moment": np.full((2, 3), float(value)), "step": np.array([value], np.int64)}


@pytest.fixture
def store(tmp_path):
    return RoundStore(tmp_path / "rounds")


def test_an_answer_comes_back_bit_for_bit_in_its_order_after_a_restart(store, tmp_path):
    store.keep(ask(), reply(0.3), {})
    again = RoundStore(tmp_path / "rounds").answer(ask())
    assert again.parcel == reply(0.3).parcel
    assert list(again.parcel.tensors) == list(reply().parcel.tensors)
    arrived = unpack(again.parcel, tiny_schema())
    assert largest_difference(arrived, {n: v + np.float32(0.3) for n, v in tiny_tensors().items()}) == 0
    assert (again.examples, again.metrics) == (4, reply(0.3).metrics)


@pytest.mark.parametrize(
    "other",
    [
        ask(2),
        ask(federation="g"),
        ask(codec="two-bit/1"),
        ask(seed=8),
        ask(local_steps=3),
        ask(proximal_mu=0.1),
        ask(schema_digest="x"),
        ask(recipe="{}"),
        ask(tensors=tiny_tensors(1)),
    ],
)
def test_another_question_gets_no_stored_answer(store, other):
    store.keep(ask(), reply(), {})
    assert store.answer(other) is None


def test_the_private_state_is_that_of_the_round_before(store):
    assert store.private_before(ask(1)) == {}
    for number in (1, 2, 4):
        store.keep(ask(number), reply(), kept(number))
    for number, expected in ((2, 1), (3, 2), (4, 2), (5, 4), (9, 4)):
        found = store.private_before(ask(number))
        assert found["step"].tolist() == [expected]
        assert found["moment"].dtype == np.float64
    assert store.private_before(ask(5, seed=8)) == {}


def test_a_round_that_is_done_anew_makes_later_ones_void(store):
    for number in (1, 2, 3):
        store.keep(ask(number), reply(), kept(number))
    store.keep(ask(2, tensors=tiny_tensors(1)), reply(), kept(20))
    assert store.answer(ask(3)) is None
    assert store.private_before(ask(9))["step"].tolist() == [20]


def test_old_rounds_are_forgotten(store, tmp_path):
    for number in range(1, 8):
        store.keep(ask(number), reply(), {})
    files = sorted(path.name for path in (tmp_path / "rounds").rglob("*.safetensors"))
    assert files == [f"round-{n:06d}.safetensors" for n in (5, 6, 7)]
    assert len(files) == KEPT_ROUNDS


def test_a_damaged_round_is_an_error_and_no_new_answer(store, tmp_path):
    store.keep(ask(), reply(), {})
    (path,) = (tmp_path / "rounds").rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        store.answer(ask())


def test_a_resumed_run_is_the_same_run_and_another_seed_is_another():
    assert ask(1).run() == ask(9, tensors=tiny_tensors(1)).run()
    assert ask(1).run() != Question("f", replace(tiny_request(), seed=8)).run()
