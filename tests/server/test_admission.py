import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from mediclip.errors import UpdateRefusedError
from mediclip.exchange.packet import PACKET
from mediclip.protocol import encode_tensor, error_reply
from server.admission import Limits, admit, reachable_norm
from tests.packets import as_record, change_bytes, change_tensors, packed, unpacked
from tests.tiny import tiny_schema, tiny_tensors

LIMITS = Limits(max_norm=1.0, max_examples=64)
FIRST = tiny_schema().tensors[0]


@pytest.fixture
def question():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    return Message(RecordDict(), 2, "train")


def facts(**changes):
    values = {"codec": "float32/1", "schema-digest": tiny_schema().digest(), "base": ""}
    return ConfigRecord({**values, **{key.replace("_", "-"): value for key, value in changes.items()}})


def with_facts(**changes):
    return RecordDict({**honest_content(), "config": facts(**changes)})


def honest_content(change=1e-4, **metrics):
    arrays = packed({name: value + np.float32(change) for name, value in tiny_tensors().items()})
    numbers = MetricRecord({"num-examples": 8, "train_loss": 0.5, **metrics})
    return RecordDict({"arrays": arrays, "config": facts(), "metrics": numbers})


def refusal(content, question, limits=LIMITS):
    reply = Message(content, reply_to=question)
    with pytest.raises(UpdateRefusedError) as caught:
        admit(reply, "site-3", tiny_tensors(), tiny_schema(), limits)
    assert "the update of site-3 does not count" in str(caught.value)
    return caught.value.reason


def with_tensor(value, name=FIRST.name):
    content = honest_content()
    change_tensors(content, lambda tensors: tensors.update({name: value}))
    return content


def with_bytes(data):
    content = honest_content()
    change_bytes(content, FIRST.name, lambda _: data)
    return content


def with_packet(change):
    content = honest_content()
    content["arrays"] = as_record(change(content["arrays"][PACKET].data))
    return content


def with_array_beside(array):
    content = honest_content()
    content["arrays"]["scan.pixels"] = array
    return content


def with_metric(name, value):
    return honest_content(**{name: value})


def with_value(value):
    tensor = tiny_tensors()[FIRST.name].copy()
    tensor.flat[3] = value
    return with_tensor(tensor)


def test_an_honest_update_is_admitted_as_it_is(question):
    update = admit(Message(honest_content(), reply_to=question), "a", tiny_tensors(), tiny_schema(), LIMITS)
    receipt = update.receipt
    assert (receipt.site, receipt.examples, receipt.claimed) == ("a", 8, 8)
    assert receipt.metrics == {"train_loss": 0.5}
    assert (
        receipt.norm
        == update.difference.norm()
        == pytest.approx(1e-4 * math.sqrt(tiny_schema().size()), rel=1e-3)
    )


def test_what_goes_on_to_the_aggregation_is_the_change_in_float64_and_the_counted_examples(question):
    reply = Message(honest_content(), reply_to=question)
    update = admit(reply, "a", tiny_tensors(), tiny_schema(), Limits(1.0, max_examples=4))
    assert (update.receipt.claimed, update.receipt.examples) == (8, 4)
    difference = np.concatenate([block.copy() for _, block in update.difference.blocks()])
    sent = [value.astype(np.float64) for value in unpacked(reply.content).values()]
    expected = np.concatenate(
        [s.ravel() - v.ravel() for s, v in zip(sent, tiny_tensors().values(), strict=True)]
    )
    assert np.array_equal(difference, expected)


def test_a_claim_of_a_thousand_million_images_counts_as_the_cap(question):
    reply = Message(with_metric("num-examples", 10**9), reply_to=question)
    update = admit(reply, "a", tiny_tensors(), tiny_schema(), LIMITS)
    assert (update.receipt.examples, update.receipt.claimed) == (64, 10**9)


def test_the_norm_may_be_exactly_the_bound(question):
    tensors = tiny_tensors()
    tensors[FIRST.name] = tensors[FIRST.name].copy()
    zeros = {name: np.zeros_like(value) for name, value in tensors.items()}
    spike = {name: value.copy() for name, value in zeros.items()}
    spike[FIRST.name].flat[0] = 1.0
    content = RecordDict(
        {
            "arrays": packed(spike),
            "config": facts(),
            "metrics": MetricRecord({"num-examples": 1}),
        }
    )
    update = admit(Message(content, reply_to=question), "a", zeros, tiny_schema(), LIMITS)
    assert update.receipt.norm == 1.0
    below = Limits(max_norm=math.nextafter(1.0, 0), max_examples=64)
    content["metrics"] = MetricRecord({"num-examples": 1})
    with pytest.raises(UpdateRefusedError):
        admit(Message(content, reply_to=question), "a", zeros, tiny_schema(), below)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: with_value(np.nan), "not-finite"),
        (lambda: with_value(np.inf), "not-finite"),
        (lambda: honest_content(change=1.0), "norm"),
        (lambda: with_value(3e38), "norm"),
        (lambda: with_tensor(np.zeros((2, 2), np.float32)), "shape"),
        (lambda: with_tensor(np.zeros(FIRST.shape, np.float64)), "encoding"),
        (lambda: with_bytes(b"no array"), "encoding"),
        (lambda: with_bytes(b""), "encoding"),
        (lambda: with_bytes(encode_tensor(np.zeros((2, 2), np.float32))), "encoding"),
        (lambda: with_tensor(np.zeros(2, np.float32), "scan.pixels"), "names"),
        (lambda: with_packet(lambda _: b""), "encoding"),
        (lambda: with_packet(lambda packet: packet[:-1]), "encoding"),
        (lambda: with_packet(lambda packet: packet + b"\0"), "encoding"),
        (lambda: with_packet(lambda packet: packet.replace(b"float32", b"float64")), "encoding"),
        (lambda: with_packet(lambda packet: b"[" * 10**6 + packet), "encoding"),
        (lambda: RecordDict({**honest_content(), "arrays": ArrayRecord({})}), "records"),
        (lambda: with_array_beside(Array(np.zeros(2, np.float32))), "records"),
        (lambda: RecordDict({"metrics": MetricRecord({"num-examples": 1})}), "records"),
        (lambda: RecordDict({**honest_content(), "more": ConfigRecord({"note": "x"})}), "records"),
        (lambda: RecordDict({**honest_content(), "arrays": MetricRecord({})}), "records"),
        (RecordDict, "records"),
        (lambda: with_facts(more="x"), "records"),
        (lambda: with_facts(codec="two-bit/1"), "codec"),
        (lambda: with_facts(codec=["float32/1"]), "codec"),
        (lambda: with_facts(schema_digest="0" * 64), "schema"),
        (lambda: with_facts(base="0" * 64), "base"),
        (lambda: with_metric("num-examples", 0), "examples"),
        (lambda: with_metric("num-examples", -5), "examples"),
        (lambda: with_metric("num-examples", 8.0), "examples"),
        (lambda: with_metric("num-examples", [8]), "examples"),
        (lambda: with_metric("patient_age", 61.0), "metric-name"),
        (lambda: with_metric("val_loss", float("nan")), "metric-value"),
        (lambda: with_metric("val_loss", 10**400), "metric-value"),
        (lambda: with_metric("val_loss", [0.1, 0.2]), "metric-value"),
    ],
)
def test_every_other_update_is_refused_with_its_reason(content, reason, question):
    assert refusal(content(), question) == reason


def test_a_missing_tensor_is_refused(question):
    content = honest_content()
    change_tensors(content, lambda tensors: tensors.pop(FIRST.name))
    assert refusal(content, question) == "names"


def test_tensors_in_another_order_are_refused(question):
    content = honest_content()
    change_tensors(content, lambda tensors: tensors.update({FIRST.name: tensors.pop(FIRST.name)}))
    assert refusal(content, question) == "names"


def test_the_word_of_a_sites_error_is_the_reason(question):
    assert refusal(Error(*error_reply("schema")), question) == "site-schema"


def test_the_text_of_a_foreign_error_goes_nowhere(question):
    reply = Message(Error(2, "/scans/DOE^JANE.dcm"), reply_to=question)
    with pytest.raises(UpdateRefusedError) as caught:
        admit(reply, "a", tiny_tensors(), tiny_schema(), LIMITS)
    assert caught.value.reason == "site-failed"
    assert "DOE" not in str(caught.value)


def test_the_derived_bound_is_twice_what_steady_gradients_let_adam_reach():
    # Adam with a constant gradient moves every value by the learning rate in each step.
    values, gradient, first, second = np.zeros(1000), np.linspace(-3, 3, 1000), 0.0, 0.0
    for step in range(1, 11):
        first = 0.5 * first + 0.5 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        values -= 1e-3 * (first / (1 - 0.5**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    assert np.linalg.norm(values) == pytest.approx(reachable_norm(1e-3, 10, 1000) / 2, rel=1e-4)
