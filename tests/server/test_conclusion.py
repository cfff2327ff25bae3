"""The end of a run at the server: every site has its model once, and nothing about a reply is trusted."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from client.app import app as client_app
from mediclip.protocol import ARRAYS, CONFIG, FINAL_KEYS, METRICS
from server.app import FINAL
from server.conclusion import CONCLUSION
from simulation.ended_runs import read_models
from simulation.engine import run_in_process
from tests.tiny import largest_difference, tiny_plan, tiny_site

ENDED = {"site-0": {}, "site-1": {}}


def sites():
    return [tiny_site(number) for number in (0, 1)]


def ending(answer):
    """A ClientApp that answers the end of the run as it is told, at site-1."""

    def client(message, context):
        if message.metadata.message_type == "evaluate" and context.node_config["site"] == "site-1":
            return answer(message)
        return client_app(message, context)

    return client


def conclusion(out):
    return json.loads((out / CONCLUSION).read_text(encoding="utf-8"))


def test_without_a_safeguard_or_parts_a_run_ends_as_it_always_did(tmp_path):
    kinds = set()
    run_in_process(tiny_plan(tmp_path), sites(), on_message=lambda m: kinds.add(m.metadata.message_type))
    assert "evaluate" not in kinds
    assert not (tmp_path / CONCLUSION).exists()


def test_a_safeguard_changes_no_round_and_gives_each_site_its_candidates(tmp_path):
    plain = run_in_process(tiny_plan(tmp_path / "plain"), sites())
    safe = run_in_process(tiny_plan(tmp_path / "safe", safeguard=True), sites())
    assert largest_difference(plain.tensors, safe.tensors) == 0
    for ended in read_models(tmp_path / "safe", list(ENDED)).values():
        assert set(ended.candidates) == {"global", "tuned", "local"}
        assert largest_difference(ended.candidates["global"], safe.tensors) == 0
        assert largest_difference(ended.kept, ended.candidates[ended.conclusion["kept"]]) == 0


def test_what_travels_at_the_end_is_what_the_protocol_lists(tmp_path):
    sent = []
    run_in_process(tiny_plan(tmp_path, safeguard=True), sites(), on_message=sent.append)
    ends = [m for m in sent if m.metadata.message_type == "evaluate"]
    requests = [m for m in ends if not m.metadata.reply_to_message_id]
    replies = [m for m in ends if m.metadata.reply_to_message_id]
    assert len(requests) == len(replies) == 2
    for request in requests:
        assert set(request.content) == {ARRAYS, CONFIG}
        assert set(request.content[CONFIG]) == FINAL_KEYS
    for reply in replies:
        assert set(reply.content) == {METRICS}
        assert dict(reply.content[METRICS]) == {}
    assert conclusion(tmp_path) == {"sites": ENDED, "refused": []}


def metrics(**values):
    return lambda message: Message(RecordDict({METRICS: MetricRecord(values)}), reply_to=message)


def tensors(message):
    return Message(RecordDict({ARRAYS: ArrayRecord([np.ones(3, np.float32)])}), reply_to=message)


def raising(message):
    raise OSError(f"cannot read DOE^JANE of {message.metadata.message_id}")  # noqa: EM102


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (metrics(val_loss=0.5), "metric-name"),
        (metrics(kept_score=float("nan")), "metric-value"),
        (metrics(kept_score=[1.0]), "metric-value"),
        (
            lambda m: Message(RecordDict({ARRAYS: ArrayRecord([np.ones(3, np.float32)])}), reply_to=m),
            "records",
        ),
        (raising, "site-failed"),
    ],
)
def test_a_bad_end_names_the_site_and_the_run_has_finished_all_the_same(tmp_path, answer, reason):
    run_in_process(tiny_plan(tmp_path, safeguard=True), sites(), client=ending(answer))
    assert conclusion(tmp_path) == {
        "sites": {"site-0": {}},
        "refused": [{"site": "site-1", "reason": reason}],
    }
    assert (tmp_path / FINAL).exists()
    assert "DOE" not in (tmp_path / CONCLUSION).read_text()


def test_numbers_that_a_site_lets_leave_are_kept_by_its_name(tmp_path):
    answer = metrics(kept_score=0.75, kept_delivered=1.0)
    run_in_process(tiny_plan(tmp_path, safeguard=True), sites(), client=ending(answer))
    assert conclusion(tmp_path)["sites"]["site-1"] == {"kept_score": 0.75, "kept_delivered": 1.0}


def test_a_site_that_was_away_gets_its_model_when_the_run_is_resumed_and_the_others_are_left_alone(tmp_path):
    plan = tiny_plan(tmp_path, safeguard=True)
    run_in_process(plan, sites(), client=ending(raising))
    asked = []

    def note(message):
        if message.metadata.message_type == "evaluate" and not message.metadata.reply_to_message_id:
            asked.append(message.metadata.dst_node_id)

    run_in_process(replace(plan, resume=True), sites(), on_message=note)
    assert len(asked) == 1
    assert conclusion(tmp_path) == {"sites": ENDED, "refused": []}
    run_in_process(replace(plan, resume=True), sites(), on_message=note)
    assert len(asked) == 1
    assert set(read_models(tmp_path, list(ENDED))) == set(ENDED)
