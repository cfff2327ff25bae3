import json
import math
import threading

import numpy as np
import pytest

from client.policy import Policy
from client.service.account import PrivacyAccount
from client.service.audit import AuditLog, read, verify
from client.service.fit import FitReply
from client.service.guard import GuardedSite
from client.service.rounds import RoundStore
from mediclip.errors import CheckpointError, ImageError, PolicyError
from mediclip.privacy.accounting import Mechanism, epsilon
from mediclip.privacy.clipping import update_norm
from mediclip.privacy.ledger import Ledger
from mediclip.privacy.settings import PrivacySettings
from mediclip.protocol import encode_tensor
from tests.kits import PATIENT
from tests.tiny import SHOTS, fit, largest_difference, tiny_request, tiny_schema, tiny_site, tiny_tensors

CODE = "a" * 64


class Keeping:
    """A site with a private part: it sends how often it has trained, and counts on from what it kept."""

    name = "north"

    def __init__(self):
        self.trained = 0

    def schema_digest(self, _):
        return tiny_schema().digest()

    def count_images(self, _):
        return SHOTS

    def image_digests(self, _):
        return ("a", "b", "c", "d")

    def fit_from(self, request, private):
        self.trained += 1
        count = private.get("count", np.zeros(1, np.int64)) + 1
        tensors = {name: value + np.float32(count[0]) for name, value in request.tensors.items()}
        return FitReply(tensors, SHOTS, {"val_loss": float(count[0])}), {"count": count}


@pytest.fixture
def guard(tmp_path):
    def guard(site=None, policy=None, privacy=None):
        rounds, audit = RoundStore(tmp_path / "rounds"), AuditLog(tmp_path / "audit.jsonl")
        account = None if privacy is None else PrivacyAccount(privacy, Ledger(tmp_path / "ledger.jsonl"))
        return GuardedSite(site or Keeping(), policy or Policy(), rounds, audit, account=account, source=CODE)

    return guard


def counted(reply):
    return reply.metrics["val_loss"]


def test_private_state_goes_from_round_to_round_and_over_a_restart(guard):
    site = guard()
    assert [counted(fit(site, tiny_request(n), "f")) for n in (1, 2)] == [1, 2]
    assert counted(fit(guard(), tiny_request(3), "f")) == 3


def test_a_replayed_round_changes_nothing_twice(guard):
    trainer = Keeping()
    site = guard(trainer)
    first = [fit(site, tiny_request(n), "f") for n in (1, 2)]
    again = [fit(guard(trainer), tiny_request(2), "f"), fit(site, tiny_request(2), "f")]
    for reply in again:
        assert largest_difference(reply.tensors, first[1].tensors) == 0
        assert reply.metrics == first[1].metrics
    assert trainer.trained == 2
    assert counted(fit(site, tiny_request(3), "f")) == 3


def test_a_round_asked_anew_with_another_model_starts_from_the_same_private_state(guard):
    site = guard()
    for number in (1, 2):
        fit(site, tiny_request(number), "f")
    assert counted(fit(site, tiny_request(2, tensors=tiny_tensors(1)), "f")) == 2


def test_a_replay_while_the_round_is_in_work_waits_and_trains_once(guard):
    trainer, started, go = Keeping(), threading.Event(), threading.Event()
    plain = trainer.fit_from

    def slow(request, private):
        started.set()
        go.wait(10)
        return plain(request, private)

    trainer.fit_from = slow
    site, replies = guard(trainer), []
    threads = [
        threading.Thread(target=lambda: replies.append(fit(site, tiny_request(), "f"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    started.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert trainer.trained == 1
    assert largest_difference(replies[0].tensors, replies[1].tensors) == 0


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Policy(federation="other"), "federation"),
        (Policy(source_digest="b" * 64), "source"),
        (Policy(max_rounds=1), "rounds"),
        (Policy(min_images=SHOTS + 1), "images"),
        (Policy(max_update_norm=1e-3, clips=False), "norm"),
    ],
)
def test_a_request_outside_the_policy_is_refused_and_logged_and_nothing_is_kept(
    guard, tmp_path, policy, reason
):
    with pytest.raises(PolicyError) as caught:
        fit(guard(policy=policy), tiny_request(2), "f")
    assert caught.value.reason == reason
    (line,) = read(tmp_path / "audit.jsonl")
    assert (line["event"], line["code"], line["round"]) == ("refused", f"policy-{reason}", 2)
    assert list((tmp_path / "rounds").rglob("*")) == []


@pytest.mark.parametrize(
    "policy", [Policy(federation="other"), Policy(source_digest="b" * 64), Policy(min_images=9)]
)
def test_a_roll_call_is_refused_as_a_round_is(guard, tmp_path, policy):
    with pytest.raises(PolicyError):
        guard(policy=policy).schema_digest("{}", "f")
    assert [line["event"] for line in read(tmp_path / "audit.jsonl")] == ["refused"]


def test_nothing_is_trained_for_whom_the_policy_refuses(guard):
    trainer = Keeping()
    for policy in (Policy(federation="other"), Policy(max_rounds=1), Policy(min_images=9)):
        with pytest.raises(PolicyError):
            fit(guard(trainer, policy), tiny_request(2), "f")
    assert trainer.trained == 0


def test_a_policy_that_was_tightened_holds_for_stored_answers_too(guard):
    fit(guard(), tiny_request(), "f")
    assert fit(guard(policy=Policy(metrics=frozenset())), tiny_request(), "f").metrics == {}
    with pytest.raises(PolicyError):
        fit(guard(policy=Policy(max_update_norm=1e-3, clips=False)), tiny_request(), "f")


def test_the_audit_log_says_exactly_what_left(guard, tmp_path):
    site = guard(tiny_site(0))
    replies = [fit(site, tiny_request(), "f") for _ in range(2)]
    first, second = read(tmp_path / "audit.jsonl")
    assert (first["is_repeated"], second["is_repeated"]) == (False, True)
    for line in (first, second):
        assert line["tensors"] == [
            [n, list(v.shape), len(encode_tensor(v))] for n, v in replies[0].tensors.items()
        ]
        assert (line["round"], line["examples"], line["metrics"]) == (1, SHOTS, replies[0].metrics)
        assert 0 < line["norm"] < 1
    assert first["sha256"] == second["sha256"]
    assert verify(tmp_path / "audit.jsonl").lines == 2


def test_what_is_asked_from_outside_is_not_copied_into_the_log(guard, tmp_path):
    with pytest.raises(PolicyError):
        fit(guard(policy=Policy(federation="ours")), tiny_request(recipe=f'"{PATIENT}"'), PATIENT)
    assert PATIENT not in (tmp_path / "audit.jsonl").read_text()


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(f"cannot read {PATIENT}"), "failed"), (ImageError("image 3"), "image")]
)
def test_a_failure_is_logged_by_its_word_and_can_be_asked_again(guard, tmp_path, error, code, caplog):
    trainer = Keeping()
    plain, trainer.fit_from = trainer.fit_from, None

    def failing(*_):
        raise error

    trainer.fit_from = failing
    site = guard(trainer)
    with pytest.raises(type(error)):
        fit(site, tiny_request(), "f")
    trainer.fit_from = plain
    assert counted(fit(site, tiny_request(), "f")) == 1
    events = [(line["event"], line.get("code")) for line in read(tmp_path / "audit.jsonl")]
    assert events == [("failed", code), ("answered", None)]
    assert PATIENT not in caplog.text + json.dumps(read(tmp_path / "audit.jsonl"))


NOISE = PrivacySettings(mode="image", clip=0.1, noise_multiplier=8.0, budget=9.0, rounds=5, local_steps=2)
PRIVATE = Policy(is_private=True)


def spent(rounds):
    return pytest.approx(epsilon([Mechanism(8.0, 1.0, 2)] * rounds, NOISE.delta))


def test_what_was_clipped_is_told_in_the_audit_log(guard, tmp_path):
    bound = 0.25
    reply = fit(guard(policy=Policy(max_update_norm=bound)), tiny_request(), "f")
    (line,) = read(tmp_path / "audit.jsonl")
    assert line["norm"] == update_norm(tiny_tensors(), reply.tensors) <= bound
    assert line["clipped_from"] == pytest.approx(math.sqrt(tiny_schema().size()))
    again = fit(guard(policy=Policy(max_update_norm=bound)), tiny_request(), "f")
    assert largest_difference(again.tensors, reply.tensors) == 0


def test_every_round_is_paid_once_and_told_in_the_audit_log(guard, tmp_path):
    site = guard(policy=PRIVATE, privacy=NOISE)
    for number in (1, 1, 2):
        assert fit(site, tiny_request(number), "f").metrics == {}
    assert fit(guard(policy=PRIVATE, privacy=NOISE), tiny_request(2), "f")  # a restart changes nothing
    told = [line["privacy"] for line in read(tmp_path / "audit.jsonl")]
    assert [facts["epsilon"] for facts in told] == [spent(n) for n in (1, 1, 2, 2)]
    assert (told[-1]["mode"], told[-1]["unit"], told[-1]["budget"]) == ("image", "image", 9.0)


def test_the_round_that_would_overspend_is_refused_before_it_is_trained(guard, tmp_path):
    trainer = Keeping()
    budget = epsilon([Mechanism(8.0, 1.0, 2)] * 2, NOISE.delta) + 1e-6
    site = guard(trainer, PRIVATE, NOISE.model_copy(update={"budget": budget}))
    for number in (1, 2):
        fit(site, tiny_request(number), "f")
    with pytest.raises(PolicyError) as caught:
        fit(site, tiny_request(3), "f")
    assert (caught.value.code, trainer.trained) == ("policy-budget", 2)
    assert read(tmp_path / "audit.jsonl")[-1]["code"] == "policy-budget"
    with pytest.raises(PolicyError):  # in another run and federation too: the images are the same
        fit(site, tiny_request(1, seed=99), "g")
    assert fit(site, tiny_request(2), "f")


def test_a_round_is_paid_before_it_is_trained_and_once_if_it_dies_there(guard, tmp_path):
    trainer = Keeping()
    plain = trainer.fit_from

    def dying(*_):
        assert Ledger(tmp_path / "ledger.jsonl").last_epsilon == spent(1)
        raise SystemExit

    trainer.fit_from = dying
    for _ in range(2):
        with pytest.raises(SystemExit):
            fit(guard(trainer, PRIVATE, NOISE), tiny_request(), "f")
    trainer.fit_from = plain
    fit(guard(trainer, PRIVATE, NOISE), tiny_request(), "f")
    assert read(tmp_path / "audit.jsonl")[-1]["privacy"]["epsilon"] == spent(1)


def test_an_answer_without_noise_is_not_given_out_once_noise_is_on(guard):
    fit(guard(privacy=PrivacySettings()), tiny_request(), "f")
    with pytest.raises(PolicyError, match="it would be inf"):
        fit(guard(policy=PRIVATE, privacy=NOISE), tiny_request(), "f")


def test_a_ledger_that_was_removed_or_restored_from_before_is_missed(guard, tmp_path):
    site = guard(policy=PRIVATE, privacy=NOISE)
    fit(site, tiny_request(), "f")
    for path in tmp_path.glob("ledger*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"must hold the 2 lines that the audit log names\. It holds 0"):
        guard(policy=PRIVATE, privacy=NOISE)
