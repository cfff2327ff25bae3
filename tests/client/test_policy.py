import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from client.policy import Policy
from client.service.fit import FitReply
from mediclip.errors import PolicyError
from mediclip.privacy.clipping import update_norm
from mediclip.protocol import METRIC_NAMES, SENTENCES
from tests.tiny import tiny_request

REQUEST = tiny_request()
STEP = np.float32(0.5)
MOVED = {name: value + STEP for name, value in REQUEST.tensors.items()}
REPLY = FitReply(MOVED, 4, dict.fromkeys(METRIC_NAMES, 0.5))
MODEL_NORM = math.sqrt(
    sum(float((value.astype(np.float64) ** 2).sum()) for value in REQUEST.tensors.values())
)
NORM = 0.5 * math.sqrt(sum(value.size for value in MOVED.values()))


def test_a_policy_without_rules_lets_everything_leave_as_it_is():
    policy = Policy()
    policy.check_asker("", "any")
    policy.check_round(10**6, 1)
    released = policy.release(REQUEST, REPLY)
    assert released.reply == REPLY
    assert released.reply.tensors is MOVED
    assert released.made_norm == released.norm == pytest.approx(NORM)
    assert not released.is_clipped


@pytest.mark.parametrize(
    ("judge", "reason", "words"),
    [
        (lambda: Policy(federation="a").check_asker("b", ""), "federation", "'a'"),
        (lambda: Policy(federation="a").check_asker("", ""), "federation", "'a'"),
        (lambda: Policy(source_digest="0" * 64).check_asker("a", "1" * 64), "source", "0000000000000000…"),
        (lambda: Policy(max_rounds=3).check_round(4, 2), "rounds", "at most 3. Got 4"),
        (lambda: Policy(min_images=5).check_images(4), "images", "at least 5 images. There are 4"),
        (lambda: Policy(min_images=5).release(REQUEST, REPLY), "images", "at least 5 images"),
        (
            lambda: Policy(min_local_steps=3).check_round(1, 2),
            "steps",
            "at least 3 local steps. Got 2; ask the coordinator",
        ),
        (
            lambda: Policy(max_model_norm=MODEL_NORM * 0.99).check_model(REQUEST.tensors),
            "model",
            "raise 'max_model_norm'",
        ),
        (
            lambda: Policy(max_model_norm=1e9).check_model({n: v * np.nan for n, v in MOVED.items()}),
            "model",
            "has nan",
        ),
        (
            lambda: Policy(max_update_norm=NORM * 0.99, clips=False).release(REQUEST, REPLY),
            "norm",
            "norm of at most",
        ),
        (
            lambda: Policy(max_update_norm=1e9).release(
                REQUEST, replace(REPLY, tensors={n: v * np.nan for n, v in MOVED.items()})
            ),
            "norm",
            "It has nan",
        ),
    ],
)
def test_what_lies_outside_is_refused_with_a_reason_that_may_leave(judge, reason, words):
    with pytest.raises(PolicyError, match=words) as caught:
        judge()
    assert (caught.value.reason, caught.value.code) == (reason, f"policy-{reason}")
    assert caught.value.code in SENTENCES


def test_what_lies_on_the_edge_is_allowed():
    policy = Policy(
        "a",
        "0" * 64,
        3,
        4,
        frozenset(),
        NORM * 1.000001,
        min_local_steps=2,
        max_model_norm=MODEL_NORM * 1.000001,
    )
    policy.check_asker("a", "0" * 64)
    policy.check_round(3, 2)
    policy.check_model(REQUEST.tensors)
    assert policy.release(REQUEST, REPLY).reply.tensors is MOVED


@pytest.mark.parametrize("share", [0.5, 0.999999, 1e-6])
def test_a_large_update_is_shortened_to_the_bound_and_what_it_was_is_told(share):
    policy = Policy(max_update_norm=NORM * share)
    released = policy.release(REQUEST, REPLY)
    assert released.is_clipped
    assert released.norm == update_norm(REQUEST.tensors, released.reply.tensors) <= NORM * share
    assert released.made_norm == pytest.approx(NORM)
    again = policy.release(REQUEST, released.reply)
    assert again.reply.tensors is released.reply.tensors
    assert not again.is_clipped


def test_an_update_that_is_not_finite_is_refused_and_not_shortened():
    broken = replace(REPLY, tensors={n: v * np.inf for n, v in MOVED.items()})
    with pytest.raises(PolicyError, match="norm of at most"):
        Policy(max_update_norm=1.0).release(REQUEST, broken)


@pytest.mark.parametrize(("least", "leaves"), [(4, True), (5, False)])
def test_no_number_leaves_that_stands_for_too_few_images(least, leaves):
    released = Policy(min_metric_images=least).release(REQUEST, REPLY)
    assert bool(released.reply.metrics) is leaves


def test_where_noise_hides_the_images_no_number_leaves_at_all():
    counted = replace(REPLY, examples=1)
    released = Policy(is_private=True, min_images=4).release(REQUEST, counted)
    assert (released.reply.examples, released.reply.metrics) == (1, {})


@given(st.sets(st.sampled_from(METRIC_NAMES)))
def test_only_the_named_metrics_leave(allowed):
    reply = replace(REPLY, metrics={**REPLY.metrics, "patient_age": 61.0})
    assert set(Policy(metrics=frozenset(allowed)).release(REQUEST, reply).reply.metrics) == allowed


def test_every_policy_word_has_its_reason():
    words = {word.removeprefix("policy-") for word in SENTENCES if word.startswith("policy-")}
    assert words == {
        *("federation", "source", "rounds", "images", "norm", "budget", "steps", "model", "codec"),
        "descriptor",
    }
