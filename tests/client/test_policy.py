import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from client.policy import Policy, update_norm
from client.service.fit import FitReply
from mediclip.errors import PolicyError
from mediclip.protocol import METRIC_NAMES, SENTENCES
from tests.tiny import tiny_request, tiny_tensors

REQUEST = tiny_request()
STEP = np.float32(0.5)
MOVED = {name: value + STEP for name, value in REQUEST.tensors.items()}
REPLY = FitReply(MOVED, 4, dict.fromkeys(METRIC_NAMES, 0.5))
NORM = 0.5 * math.sqrt(sum(value.size for value in MOVED.values()))


def test_a_policy_without_rules_lets_everything_leave_as_it_is():
    policy = Policy()
    policy.check_asker("", "any")
    policy.check_round(10**6)
    released = policy.release(REQUEST, REPLY)
    assert released == REPLY
    assert released.tensors is MOVED


@pytest.mark.parametrize(
    ("judge", "reason", "words"),
    [
        (lambda: Policy(federation="a").check_asker("b", ""), "federation", "'a'"),
        (lambda: Policy(federation="a").check_asker("", ""), "federation", "'a'"),
        (lambda: Policy(source_digest="0" * 64).check_asker("a", "1" * 64), "source", "0000000000000000…"),
        (lambda: Policy(max_rounds=3).check_round(4), "rounds", "at most 3. Got 4"),
        (lambda: Policy(min_images=5).check_images(4), "images", "at least 5 images. There are 4"),
        (lambda: Policy(min_images=5).release(REQUEST, REPLY), "images", "at least 5 images"),
        (lambda: Policy(max_update_norm=NORM * 0.99).release(REQUEST, REPLY), "norm", "norm of at most"),
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
    policy = Policy("a", "0" * 64, 3, 4, frozenset(), NORM * 1.000001)
    policy.check_asker("a", "0" * 64)
    policy.check_round(3)
    assert policy.release(REQUEST, REPLY).tensors is MOVED


@given(st.sets(st.sampled_from(METRIC_NAMES)))
def test_only_the_named_metrics_leave(allowed):
    reply = replace(REPLY, metrics={**REPLY.metrics, "patient_age": 61.0})
    assert set(Policy(metrics=frozenset(allowed)).release(REQUEST, reply).metrics) == allowed


def test_every_policy_word_has_its_reason():
    words = {word.removeprefix("policy-") for word in SENTENCES if word.startswith("policy-")}
    assert words == {"federation", "source", "rounds", "images", "norm", "budget", "steps", "model"}


@settings(deadline=None)
@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32)))
def test_the_norm_is_that_of_numpy_over_all_tensors(value):
    before = {"a": np.zeros((3, 4), np.float32), "b": np.ones(2, np.float32)}
    after = {"a": value, "b": np.full(2, 3, np.float32)}
    expected = np.linalg.norm(np.concatenate([value.ravel().astype(np.float64), [2.0, 2.0]]))
    assert update_norm(before, after) == pytest.approx(expected)
    assert update_norm(tiny_tensors(), tiny_tensors()) == 0
