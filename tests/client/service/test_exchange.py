from dataclasses import replace

import numpy as np
import pytest

from client.policy import Policy
from client.service.audit import AuditLog, read
from client.service.exchange import as_seen, encoded, received, without_exchange
from client.service.fit import FitReply
from client.service.guard import GuardedSite
from client.service.rounds import RoundStore
from client.service.simulated import SimulatedSite
from mediclip.errors import BaseModelError, PolicyError, SchemaError
from mediclip.exchange.codecs import CODEC_NAMES, named_codec
from mediclip.exchange.parcel import Parcel, applied, model_digest, pack_difference, pack_values, unpack
from mediclip.model.trainables import initial_trainables
from tests.tiny import (
    SHOTS,
    fit,
    largest_difference,
    question_of,
    tiny_request,
    tiny_schema,
    tiny_site,
    tiny_tensors,
)

SCHEMA = tiny_schema()
LOSSY = [name for name in CODEC_NAMES if name != "float32"]


class Counting:
    """A site with a private part of its own whose change depends on the round alone."""

    name = "north"

    def __init__(self):
        self.trained = 0

    def schema_digest(self, _):
        return SCHEMA.digest()

    def count_images(self, _):
        return SHOTS

    def fit_from(self, request, private):
        self.trained += 1
        assert all(name == "count" for name in private)
        rng = np.random.default_rng(request.number)
        tensors = {
            n: v + (1e-3 * rng.normal(size=v.shape)).astype(np.float32) for n, v in request.tensors.items()
        }
        return FitReply(tensors, SHOTS, {}), {"count": private.get("count", np.zeros(1)) + 1}


def changed(values, number):
    rng = np.random.default_rng(100 + number)
    return {n: v + (1e-3 * rng.normal(size=v.shape)).astype(np.float32) for n, v in values.items()}


def difference_question(number, codec, wanted, held):
    """Ask for a round as a server does whose site holds a model; gives the question and what arrives."""
    change = {n: wanted[n] - held[n] for n in wanted}
    sent = pack_difference(named_codec(codec), SCHEMA, model_digest(held), change)
    question = replace(question_of(tiny_request(number), codec), parcel=sent.parcel)
    return question, applied(held, sent.arrived)


@pytest.fixture
def guard(tmp_path):
    def guard(site=None, policy=None):
        rounds, audit = RoundStore(tmp_path / "rounds"), AuditLog(tmp_path / "audit.jsonl")
        return GuardedSite(site or Counting(), policy or Policy(), rounds, audit, source="a" * 64)

    return guard


@pytest.mark.parametrize("codec", LOSSY)
def test_the_first_difference_starts_from_what_seed_and_schema_give(codec):
    start = initial_trainables(SCHEMA, 7)
    question, arrives = difference_question(1, codec, changed(start, 1), start)
    assert largest_difference(received(question, {}, SCHEMA.digest), arrives) == 0
    assert question.parcel.size < 0.6 * pack_values(SCHEMA, start).size


def test_a_difference_from_a_model_that_is_not_held_is_refused_by_name():
    question, _ = difference_question(4, "int8", tiny_tensors(1), tiny_tensors(2))
    with pytest.raises(BaseModelError, match="send the whole model") as caught:
        received(question, {}, SCHEMA.digest)
    assert caught.value.code == "base"


def test_a_difference_of_foreign_tensors_is_refused_before_it_is_unfolded():
    class Trap(dict):
        def __getitem__(self, _):
            raise AssertionError

    question = question_of(tiny_request())
    parcel = Parcel("two-bit/1", SCHEMA, "0" * 64, Trap())
    with pytest.raises(SchemaError, match="the site's own tensors"):
        received(replace(question, parcel=parcel), {}, lambda: "another")


@pytest.mark.parametrize("codec", LOSSY)
def test_three_rounds_of_differences_both_ways_keep_both_sides_on_the_same_model(guard, codec):
    site, held = guard(), initial_trainables(SCHEMA, 7)
    sent_in_all, meant_in_all = 0.0, 0.0
    for number in (1, 2, 3):
        question, held = difference_question(number, codec, changed(held, number), held)
        request = tiny_request(number, tensors=held)
        answer = site.answer(question, "f")
        assert (answer.parcel.codec, answer.parcel.base) == (named_codec(codec).name, model_digest(held))
        sent_in_all = sent_in_all + unpack(answer.parcel, SCHEMA)[SCHEMA.tensors[0].name]
        trained, _ = Counting().fit_from(request, {})
        meant_in_all = meant_in_all + (trained.tensors[SCHEMA.tensors[0].name] - held[SCHEMA.tensors[0].name])
    assert np.linalg.norm(sent_in_all - meant_in_all) < 0.9 * np.linalg.norm(meant_in_all) / np.sqrt(3)


@pytest.mark.parametrize("codec", LOSSY)
def test_a_replayed_round_gets_the_same_bytes_and_spends_nothing_twice_over_a_restart(guard, codec):
    trainer, held = Counting(), initial_trainables(SCHEMA, 7)
    questions, answers = [], []
    for number in (1, 2):
        question, held = difference_question(number, codec, changed(held, number), held)
        questions.append(question)
        answers.append(guard(trainer).answer(question, "f"))
    again = [guard(trainer).answer(questions[1], "f") for _ in range(2)]
    assert [answer.parcel for answer in again] == [answers[1].parcel] * 2
    assert trainer.trained == 2
    third, held = difference_question(3, codec, changed(held, 3), held)
    undisturbed = guard(trainer).answer(third, "f")
    whole = replace(third, parcel=pack_values(SCHEMA, held))
    assert guard(trainer).answer(whole, "f").parcel == undisturbed.parcel  # whole or difference: one question
    assert trainer.trained == 3


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("is_kept", [True, False])
def test_a_simulated_site_answers_a_round_again_from_the_same_state(tmp_path, codec, is_kept):
    folder = tmp_path / "kept" if is_kept else None
    site, held = SimulatedSite(tiny_site(0), folder), initial_trainables(SCHEMA, 7)
    first, held_1 = difference_question(1, codec, changed(held, 1), held)
    second, _ = difference_question(2, codec, changed(held_1, 2), held_1)
    site.answer(first)
    expected = site.answer(second)
    assert site.answer(second).parcel == expected.parcel
    if is_kept:
        assert SimulatedSite(tiny_site(0), folder).answer(second).parcel == expected.parcel


def test_whole_values_leave_nothing_behind(tmp_path):
    site = SimulatedSite(tiny_site(0), tmp_path / "kept")
    fit(site, tiny_request())
    assert not (tmp_path / "kept").exists()


def test_leftovers_are_no_part_of_the_trainers_own_state():
    request = tiny_request(tensors=initial_trainables(SCHEMA, 7))
    reply = FitReply(changed(request.tensors, 1), SHOTS, {})
    answer, state = encoded(question_of(request, "two-bit"), request, reply, {})
    assert without_exchange({**state, "count": np.ones(1)}).keys() == {"count"}
    left = {n: state[f"exchange/left/{n}"] for n in request.tensors}
    seen = as_seen(answer, request).tensors
    assert largest_difference(applied(seen, left), reply.tensors) < 1e-7


@pytest.mark.parametrize("codec", LOSSY)
def test_what_leaves_stays_within_the_sites_own_norm_and_the_rest_waits(guard, codec):
    request = tiny_request(tensors=initial_trainables(SCHEMA, 7))
    free = fit(guard(policy=Policy()), request, "f", codec=codec)
    norm = np.sqrt(sum(np.sum((free.tensors[n] - v) ** 2.0) for n, v in request.tensors.items()))
    limited = guard(policy=Policy(max_update_norm=0.5 * norm))
    bounded = fit(limited, tiny_request(2, tensors=request.tensors), "f", codec=codec)
    found = np.sqrt(sum(np.sum((bounded.tensors[n] - v) ** 2.0) for n, v in request.tensors.items()))
    assert 0.3 * norm < found <= 0.5 * norm * (1 + 1e-6)


def test_the_policy_chooses_the_wanted_codec_else_float32_else_none(guard):
    for allowed, wanted, expected in (
        (CODEC_NAMES, "two-bit/1", "two-bit/1"),
        (("float32", "int8"), "two-bit/1", "float32/1"),
        (("int8",), "int8/1", "int8/1"),
        (CODEC_NAMES, "two-bit/9", "float32/1"),
    ):
        assert guard(policy=Policy(codecs=frozenset(allowed))).choose_codec(wanted, "f") == expected
    with pytest.raises(PolicyError) as caught:
        guard(policy=Policy(codecs=frozenset({"int8"}))).choose_codec("two-bit/1", "f")
    assert caught.value.code == "policy-codec"


def test_no_update_leaves_in_a_codec_that_the_policy_does_not_name(guard, tmp_path):
    trainer = Counting()
    with pytest.raises(PolicyError) as caught:
        fit(guard(trainer, Policy(codecs=frozenset({"float32"}))), tiny_request(), "f", codec="two-bit")
    assert caught.value.code == "policy-codec"
    assert trainer.trained == 0
    assert [line["event"] for line in read(tmp_path / "audit.jsonl")] == ["refused"]


def test_the_audit_log_says_codec_bytes_and_the_norm_of_what_the_coordinator_reads(guard, tmp_path):
    request = tiny_request(tensors=initial_trainables(SCHEMA, 7))
    answer = guard().answer(question_of(request, "two-bit"), "f")
    (line,) = read(tmp_path / "audit.jsonl")
    assert line["codec"] == "two-bit/1"
    assert line["tensors"] == [
        [s.name, list(s.shape), len(answer.parcel.tensors[s.name])] for s in SCHEMA.tensors
    ]
    arrived = unpack(answer.parcel, SCHEMA)
    assert line["norm"] == pytest.approx(np.sqrt(sum(np.sum(v**2.0) for v in arrived.values())), rel=1e-4)
