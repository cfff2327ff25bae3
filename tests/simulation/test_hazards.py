"""What goes wrong in stock Flower: one bad site, and the run dies or the site owns the model."""

import json
import logging
import threading
import time

import numpy as np
import pytest
from flwr.app import Array

from client.app import app as client_app
from mediclip.errors import ImageError, QuorumError
from server.app import HISTORY, OUTCOME
from server.history import History
from simulation.engine import run_in_process
from tests.packets import change_tensors, unpacked
from tests.tiny import SHOTS, largest_difference, tiny_plan, tiny_schema, tiny_site

FIRST = tiny_schema().tensors[0].name
EVIL = "site-1"
SECRETS = ("DOE^JANE", "/scans/ward-7")


def run(out, *, numbers=(0, 1, 2), client=client_app, sites=None, on_message=None, **changes):
    return run_in_process(
        tiny_plan(out, **changes),
        sites or [tiny_site(number) for number in numbers],
        client=client,
        on_message=on_message,
        parallel=2,
    )


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The model that the two honest sites make without the third."""
    return run(tmp_path_factory.mktemp("honest"), numbers=(0, 2)).tensors


def tampering(change):
    """The real ClientApp, with one site's updates changed on their way out."""

    def client(message, context):
        sent = unpacked(message.content)
        reply = client_app(message, context)
        if context.node_config["site"] == EVIL and message.metadata.message_type == "train":
            change(reply.content, sent)
        return reply

    return client


def set_nan(content, _):
    def change(tensors):
        tensors[FIRST] = tensors[FIRST].copy()
        tensors[FIRST].flat[0] = np.nan

    change_tensors(content, change)


def set_shape(content, _):
    change_tensors(content, lambda tensors: tensors.update({FIRST: tensors[FIRST][:-1]}))


def set_key(content, _):
    change_tensors(content, lambda tensors: tensors.update(other=tensors.pop(FIRST)))


def set_extra_tensor(content, _):
    change_tensors(content, lambda tensors: tensors.update(tokens=np.zeros((4, 4), np.float32)))


def set_type(content, _):
    change_tensors(content, lambda tensors: tensors.update({FIRST: tensors[FIRST].astype(np.float64)}))


def set_extra_metric(content, _):
    content["metrics"]["patient_age"] = 61.0


def set_nan_metric(content, _):
    content["metrics"]["val_loss"] = float("nan")


def set_no_examples(content, _):
    content["metrics"]["num-examples"] = 0


def set_hundredfold(content, sent):
    def change(tensors):
        for name, value in tensors.items():
            tensors[name] = sent[name] + np.float32(100) * (value - sent[name])

    change_tensors(content, change)


def set_other_array(content, _):
    content["arrays"]["tokens"] = Array(np.zeros((4, 4), np.float32))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_nan, "not-finite"),
        (set_shape, "shape"),
        (set_key, "names"),
        (set_extra_tensor, "names"),
        (set_type, "encoding"),
        (set_other_array, "records"),
        (set_extra_metric, "metric-name"),
        (set_nan_metric, "metric-value"),
        (set_no_examples, "examples"),
        (set_hundredfold, "norm"),
    ],
)
def test_a_bad_update_is_refused_by_name_and_reason_and_the_others_finish(tmp_path, honest, change, reason):
    result = run(tmp_path, client=tampering(change), quorum=2)
    assert [entry["refused"] for entry in result.history] == [[{"site": EVIL, "reason": reason}]] * 2
    assert [[s["site"] for s in entry["sites"]] for entry in result.history] == [["site-0", "site-2"]] * 2
    assert largest_difference(result.tensors, honest) == 0


def test_a_site_that_claims_a_thousand_million_images_weighs_as_much_as_the_cap(tmp_path):
    def claim(content, _):
        content["metrics"]["num-examples"] = 10**9

    lying = run(tmp_path / "lying", client=tampering(claim), max_examples=SHOTS)
    plain = run(tmp_path / "plain")
    assert largest_difference(lying.tensors, plain.tensors) == 0
    site = lying.history[0]["sites"][1]
    assert (site["site"], site["examples"], site["claimed_examples"]) == (EVIL, SHOTS, 10**9)
    assert "claimed_examples" not in lying.history[0]["sites"][0]


def test_a_robust_strategy_bounds_what_an_admitted_site_can_do(tmp_path):
    # Within the norm bound a site may still push; the median moves no further than the honest sites.
    def push(content, sent):
        def change(tensors):
            for name, value in tensors.items():
                tensors[name] = sent[name] - (value - sent[name])

        change_tensors(content, change)

    plain, pushed = (
        run(tmp_path / name, client=client, strategy="fedmedian", rounds=1, numbers=(0, 1, 2, 3, 4)).tensors
        for name, client in (("plain", client_app), ("pushed", tampering(push)))
    )
    mean = run(tmp_path / "mean", client=tampering(push), rounds=1, numbers=(0, 1, 2, 3, 4)).tensors
    assert sum(np.abs(pushed[n] - plain[n]).sum() for n in plain) < sum(
        np.abs(mean[n] - plain[n]).sum() for n in plain
    )


class Raising:
    """A real site that fails with a text that must stay where it is."""

    def __init__(self, number, error=None, times=10**6):
        self._site = tiny_site(number)
        self.name, self.schema_digest = self._site.name, self._site.schema_digest
        self._error = error or OSError(f"cannot read {SECRETS[1]}/{SECRETS[0]}.dcm")
        self._times = times

    def fit(self, request):
        if self._times > 0:
            self._times -= 1
            raise self._error
        return self._site.fit(request)


def everything_written(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_what_a_client_raises_is_in_no_message_no_file_and_no_log(tmp_path, honest, caplog):
    messages = []
    sites = [tiny_site(0), Raising(1), tiny_site(2)]
    with caplog.at_level(logging.DEBUG):
        result = run(tmp_path, sites=sites, quorum=2, on_message=messages.append)
    assert largest_difference(result.tensors, honest) == 0
    assert result.history[0]["refused"] == [{"site": EVIL, "reason": "site-failed"}]
    told = [repr(m.error if m.has_error() else dict(m.content)) for m in messages]
    for secret in SECRETS:
        assert not any(secret in text for text in told)
        assert secret.encode() not in everything_written(tmp_path)
        assert secret not in caplog.text
    assert "OSError at" in caplog.text


def test_an_error_of_the_project_reaches_the_history_as_its_word(tmp_path):
    error = ImageError("The test image 3 must be an image. It is empty; remove it.")
    result = run(tmp_path, sites=[tiny_site(0), Raising(1, error), tiny_site(2)], quorum=2)
    assert result.history[0]["refused"] == [{"site": EVIL, "reason": "site-image"}]


def test_a_site_that_stumbles_is_asked_again_and_the_result_is_the_undisturbed_one(tmp_path):
    stumbling = run(tmp_path / "a", sites=[tiny_site(0), Raising(1, times=2), tiny_site(2)], retries=2)
    plain = run(tmp_path / "b")
    assert largest_difference(stumbling.tensors, plain.tensors) == 0
    assert [entry["attempts"] for entry in stumbling.history] == [3, 1]
    assert [entry["refused"] for entry in stumbling.history] == [[], []]


def test_sites_with_an_admitted_update_are_not_asked_twice_in_a_round(tmp_path):
    asked = []

    def client(message, context):
        if message.metadata.message_type == "train":
            asked.append((context.node_config["site"], message.content["config"]["server-round"]))
        return client_app(message, context)

    run(tmp_path, sites=[tiny_site(0), Raising(1, times=1)], retries=1, rounds=1, client=client)
    assert sorted(asked) == [("site-0", 1), ("site-1", 1), ("site-1", 1)]


def test_a_round_without_quorum_is_an_error_that_is_reported_and_keeps_what_was_done(tmp_path):
    class Leaving(Raising):
        def fit(self, request):
            self._times = 1 if request.number == 2 else 0
            return super().fit(request)

    with pytest.raises(QuorumError, match=r"Round 2 had 2 after 3 attempts \(site-1: site-failed\)"):
        run(tmp_path, sites=[tiny_site(0), Leaving(1), tiny_site(2)], retries=2, rounds=3)
    entries = History(tmp_path / HISTORY).read()
    assert [(e["round"], e.get("failed"), e["attempts"]) for e in entries] == [(1, None, 1), (2, "quorum", 3)]
    assert json.loads((tmp_path / OUTCOME).read_text())["code"] == "quorum"
    resumed = run(tmp_path, rounds=3, resume=True)
    plain = run(tmp_path.with_name(f"{tmp_path.name}-plain"), rounds=3)
    assert largest_difference(resumed.tensors, plain.tensors) == 0
    assert [e["round"] for e in resumed.history] == [1, 2, 3]


def test_a_silent_site_is_timed_out_by_name_and_the_others_finish(tmp_path, honest):
    stop = threading.Event()

    def client(message, context):
        if context.node_config["site"] == EVIL and message.metadata.message_type == "train":
            stop.wait(30)
        return client_app(message, context)

    started = time.monotonic()
    try:
        result = run(tmp_path, client=client, quorum=2, round_timeout_s=1.5)
    finally:
        stop.set()
    assert time.monotonic() - started < 10
    assert [entry["refused"] for entry in result.history] == [[{"site": EVIL, "reason": "no-answer"}]] * 2
    assert largest_difference(result.tensors, honest) == 0


def test_a_site_of_another_model_is_named_and_the_others_finish(tmp_path, honest):
    sites = [tiny_site(0), tiny_site(1, taps=(1, 2)), tiny_site(2)]
    result = run(tmp_path, sites=sites, quorum=2)
    assert result.history[0]["refused"] == [{"site": EVIL, "reason": "schema"}]
    assert largest_difference(result.tensors, honest) == 0


def test_a_site_of_another_code_is_named_and_the_others_finish(tmp_path, honest):
    def client(message, context):
        reply = client_app(message, context)
        if context.node_config["site"] == EVIL and message.metadata.message_type == "query.roll_call":
            reply.content["config"]["source-digest"] = "another checkout"
        return reply

    result = run(tmp_path, client=client, quorum=2)
    assert result.history[0]["refused"] == [{"site": EVIL, "reason": "source"}]
    assert largest_difference(result.tensors, honest) == 0


def test_sites_that_disagree_on_the_schema_end_the_run_in_one_sentence_when_all_are_needed(tmp_path):
    with pytest.raises(QuorumError, match=r"Round 1 had 1 after 1 attempts \(site-1: schema\)"):
        run(tmp_path, sites=[tiny_site(0), tiny_site(1, taps=(1, 2))])
