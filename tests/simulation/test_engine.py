import logging
import re
import threading
import time

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

from client.service import registry
from mediclip.errors import CheckpointError, FederationError, SettingsError
from mediclip.exchange.codecs import CODEC_NAMES, FLOAT32, agreed_codec, named_codec
from mediclip.exchange.packet import PACKET, PACKET_DTYPE, PACKET_KIND, from_packet
from mediclip.protocol import (
    DESCRIPTOR,
    DESCRIPTOR_KEYS,
    FINAL_KEYS,
    METRIC_NAMES,
    NUM_EXAMPLES,
    PARCEL_KEYS,
    PRESENT_KEYS,
    ROLL_CALL_KEYS,
    TRAIN_KEYS,
)
from server.settings import RunSettings
from simulation.engine import InProcessGrid, run_in_process
from simulation.plan import Event, read_result
from tests.tiny import SHOTS, largest_difference, tiny_plan, tiny_schema, tiny_site

HEXADECIMAL = re.compile("[0-9a-f]{64}")
STRATEGIES = RunSettings.model_fields["strategy"].annotation.__args__


def three_sites():
    return [tiny_site(number) for number in range(3)]


def run(out, *, sites=None, **changes):
    plan_keys = {
        key: changes.pop(key)
        for key in list(changes)
        if key not in {"parallel", "on_event", "on_message", "client"}
    }
    return run_in_process(tiny_plan(out, **plan_keys), sites or three_sites(), **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed"), rounds=3, parallel=1)


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_the_result_does_not_depend_on_how_many_sites_train_at_once(tmp_path, undisturbed, parallel):
    found = run(tmp_path, rounds=3, parallel=parallel)
    assert largest_difference(found.tensors, undisturbed.tensors) == 0


def test_the_result_does_not_depend_on_the_order_of_the_sites_or_who_answers_first(tmp_path, undisturbed):
    class Slow:
        def __init__(self, site, delay_s):
            self.name, self.schema_digest = site.name, site.schema_digest
            self.fit = lambda request: (time.sleep(delay_s), site.fit(request))[1]

    sites = [Slow(site, delay) for site, delay in zip(three_sites(), (0.2, 0.1, 0.0), strict=True)]
    found = run(tmp_path, rounds=3, parallel=3, sites=[sites[1], sites[2], sites[0]])
    assert largest_difference(found.tensors, undisturbed.tensors) == 0


def test_the_result_depends_on_the_seed(tmp_path, undisturbed):
    assert largest_difference(run(tmp_path, rounds=3, seed=8).tensors, undisturbed.tensors) > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_made_in_two_parts_is_the_run_made_at_once(tmp_path, strategy):
    options = {"strategy": strategy, "proximal_mu": 0.5, "sites": three_sites()}
    whole = run(tmp_path / "whole", rounds=4, **options)
    run(tmp_path / "parts", rounds=2, **options)
    parts = run(tmp_path / "parts", rounds=4, resume=True, **options)
    assert largest_difference(whole.tensors, parts.tensors) == 0
    numbers = [(entry["round"], entry["metrics"]) for entry in parts.history]
    assert numbers == [(entry["round"], entry["metrics"]) for entry in whole.history]


def test_each_strategy_gives_a_model_of_its_own_except_those_that_agree_on_equal_terms(tmp_path):
    found = {
        name: run(tmp_path / name, strategy=name, proximal_mu=5.0, rounds=2).tensors for name in STRATEGIES
    }
    pairs = [(a, b) for a in STRATEGIES for b in STRATEGIES if a < b]
    same = {(a, b) for a, b in pairs if largest_difference(found[a], found[b]) < 1e-9}
    # Of three sites the trimmed mean cuts one at each end: it is the median. Where nothing is private and all
    # sites are alike, both of ours are plain averaging.
    ours = {("clustered", "fedavg"), ("clustered", "personal"), ("fedavg", "personal")}
    assert same == {("fedmedian", "fedtrimmedavg"), *ours}


def test_training_lowers_the_loss_on_the_sites_own_anomalies(tmp_path):
    history = run(tmp_path, rounds=6, local_steps=4).history
    losses = [entry["metrics"]["val_loss"] for entry in history]
    assert losses[-1] < losses[0] - 0.02


def test_one_site_alone_is_enough(tmp_path):
    assert len(run(tmp_path, sites=[tiny_site(0)]).history) == 2


def test_a_finished_run_can_be_resumed_and_is_the_same(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, resume=True)
    assert largest_difference(first.tensors, again.tensors) == 0
    assert first.history == again.history


def test_events_tell_who_joined_each_update_and_each_round_in_order(tmp_path):
    events = []
    result = run(tmp_path, on_event=events.append, parallel=1)
    names = {"site-0", "site-1", "site-2"}
    assert {e.site for e in events if e.kind == "joined"} == names
    for number in (1, 2):
        updates = [e for e in events if (e.kind, e.number) == ("update", number)]
        assert {e.site for e in updates} == names
        assert all(set(e.metrics) == set(METRIC_NAMES) for e in updates)
    rounds = [e for e in events if e.kind == "round"]
    assert rounds == [Event("round", h["round"], "", h["metrics"]) for h in result.history]
    assert events.index(rounds[0]) < min(i for i, e in enumerate(events) if e.number == 2)


def test_a_resumed_run_tells_only_of_its_own_rounds(tmp_path):
    run(tmp_path, rounds=2)
    events = []
    run(tmp_path, rounds=3, resume=True, on_event=events.append)
    assert [e.number for e in events if e.kind == "round"] == [3]


def check_message(message, codec=FLOAT32):
    """The list of everything that may travel; whatever is not on it fails."""
    assert not message.has_error()
    content, metadata = message.content, message.metadata
    is_request = metadata.reply_to_message_id == ""
    if metadata.message_type == "query.roll_call":
        assert set(content) == {"config"}
        assert set(content["config"]) == (ROLL_CALL_KEYS if is_request else PRESENT_KEYS)
        return
    if metadata.message_type == f"query.{DESCRIPTOR}":
        assert set(content) == ({"config"} if is_request else {"metrics"})
        (record,) = content.values()
        assert set(record) == (DESCRIPTOR_KEYS if is_request else {DESCRIPTOR})
        return
    if metadata.message_type == "evaluate" and not is_request:
        assert {name: dict(record) for name, record in content.items()} == {"metrics": {}}
        return
    assert metadata.message_type in {"train", "evaluate"}
    assert set(content) == {"arrays", "config"} | (set() if is_request else {"metrics"})
    arrays, facts = content["arrays"], content["config"]
    packet = arrays[PACKET]
    assert set(arrays) == {PACKET}
    assert (packet.dtype, packet.shape, packet.stype) == (PACKET_DTYPE, (len(packet.data),), PACKET_KIND)
    schema, tensors = from_packet(packet.data)
    assert (schema, list(tensors)) == (tiny_schema(), [spec.name for spec in schema.tensors])
    assert facts["codec"] in {FLOAT32.name, codec.name}
    assert facts["base"] == "" if facts["codec"] == FLOAT32.name else HEXADECIMAL.fullmatch(facts["base"])
    # What travels is what the codec makes of values of those shapes: to the last byte, with room for no more.
    read = agreed_codec(facts["codec"])
    for spec in tiny_schema().tensors:
        value = read.decode(spec, tensors[spec.name])
        assert np.isfinite(value).all()
    if metadata.message_type == "evaluate":
        assert set(facts) == FINAL_KEYS
    elif is_request:
        assert TRAIN_KEYS - {"proximal-mu"} <= set(facts) <= TRAIN_KEYS
        assert facts["answer-codec"] == codec.name
    else:
        assert set(facts) == PARCEL_KEYS
        assert facts["codec"] == codec.name
        assert set(content["metrics"]) == {NUM_EXAMPLES, *METRIC_NAMES}
        assert content["metrics"][NUM_EXAMPLES] == SHOTS
        assert all(type(content["metrics"][name]) is float for name in METRIC_NAMES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_message_of_a_run_holds_trainables_allowed_metrics_and_fixed_keys_alone(tmp_path, strategy):
    messages = []
    run(tmp_path, strategy=strategy, proximal_mu=0.1, on_message=messages.append)
    # A roll call and two rounds; clusters ask for a descriptor and send a model at the end besides.
    assert len(messages) == 3 * 2 * (1 + 2 + (2 if strategy == "clustered" else 0))
    for message in messages:
        check_message(message)
        assert len(get_all_nested_objects(message)) <= 7  # a request each, on each leg of its way


@pytest.mark.parametrize("codec", [name for name in CODEC_NAMES if name != "float32"])
def test_differences_hold_no_more_than_whole_values_do(tmp_path, codec):
    messages = []
    run(tmp_path, codec=codec, on_message=messages.append)
    assert len(messages) == 3 * 2 * (1 + 2)
    for message in messages:
        check_message(message, named_codec(codec))


def test_the_process_is_left_as_it_was(tmp_path):
    threads, level = torch.get_num_threads(), logging.getLogger("flwr").level
    run(tmp_path / "a")
    with pytest.raises(FederationError):
        run(tmp_path / "b", sites=[tiny_site(0, taps=(1, 9))])
    assert torch.get_num_threads() == threads
    assert logging.getLogger("flwr").level == level
    with pytest.raises(SettingsError):
        registry.find({"site": "site-0"}, {})


def test_two_sites_of_one_name_are_refused_and_neither_stays(tmp_path):
    with pytest.raises(SettingsError, match="'site-0' is served already"):
        run(tmp_path, sites=[tiny_site(0), tiny_site(0)])
    run(tmp_path, sites=[tiny_site(0)])


def test_the_traffic_of_a_round_is_the_mean_over_rounds_of_all_sites_together(tmp_path):
    result = run(tmp_path, rounds=2)
    ups = [entry["bytes_up"] for entry in result.history]
    assert result.bytes_up_per_round == sum(ups) / 2
    assert result.bytes_down_per_round > result.bytes_up_per_round > 3 * 4 * tiny_schema().size()


def test_a_plan_out_of_range_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(SettingsError, match="'rounds' of the run's plan"):
        tiny_plan(tmp_path / "new", rounds=0).prepare(2)
    assert not (tmp_path / "new").exists()


def test_reading_a_run_that_has_not_reached_its_last_round_is_an_error(tmp_path):
    run(tmp_path, rounds=1)
    with pytest.raises(CheckpointError, match=r"must have finished round 2\. It has 1"):
        read_result(tiny_plan(tmp_path, rounds=2), 0.0)


class TestGrid:
    """The parts of a real transport that a server relies on."""

    @pytest.fixture
    def make(self):
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        grids = []

        def make(client, names=("a", "b"), parallel=2, **options):
            grids.append(InProcessGrid(client, names, {"seed": 1}, parallel=parallel, **options))
            return grids[-1]

        yield make
        for grid in grids:
            grid.close()

    @staticmethod
    def messages(grid, content=None):
        content = content or RecordDict({"config": ConfigRecord({"server-round": 1})})
        return [Message(content, node, "train") for node in grid.get_node_ids()]

    def test_answers_come_back_from_every_node_to_the_message_that_asked(self, make):
        grid = make(lambda message, _: Message(message.content, reply_to=message))
        replies = grid.send_and_receive(self.messages(grid))
        assert sorted(reply.metadata.src_node_id for reply in replies) == grid.get_node_ids() == [2, 3]
        assert all(reply.metadata.reply_to_message_id for reply in replies)

    def test_a_client_that_changes_its_message_changes_nobody_elses(self, make):
        def scribbling(message, _):
            seen.append(message.content["config"]["n"])
            message.content["config"]["n"] = 99
            return Message(message.content, reply_to=message)

        seen = []
        grid = make(scribbling, parallel=1)
        content = RecordDict({"config": ConfigRecord({"n": 1})})
        replies = grid.send_and_receive(self.messages(grid, content))
        assert seen == [1, 1]
        assert content["config"]["n"] == 1
        replies[0].content["config"]["n"] = 5
        assert replies[1].content["config"]["n"] == 99

    def test_an_exception_is_an_error_reply_with_its_text_as_flower_sends_it(self, make):
        def failing(*_):
            raise ValueError("text")  # noqa: EM101

        (reply, _) = make(failing).send_and_receive(self.messages(make(failing)))
        assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        assert "text" in reply.error.reason

    def test_waiting_ends_at_the_timeout_and_a_late_answer_is_never_seen(self, make):
        def slow_b(message, context):
            if context.node_config["site"] == "b":
                time.sleep(0.4)
            return Message(message.content, reply_to=message)

        grid = make(slow_b)
        started = time.monotonic()
        replies = grid.send_and_receive(self.messages(grid), timeout=0.1)
        assert 0.1 <= time.monotonic() - started < 0.35
        assert [reply.metadata.src_node_id for reply in replies] == [2]
        again = grid.send_and_receive(self.messages(grid), timeout=5.0)
        assert len(again) == 2

    def test_a_node_answers_one_message_at_a_time_and_no_more_nodes_than_allowed_work_at_once(self, make):
        working, most, lock = set(), [0], threading.Lock()

        def counting(message, context):
            name = context.node_config["site"]
            with lock:
                assert name not in working
                working.add(name)
                most[0] = max(most[0], len(working))
            time.sleep(0.02)
            with lock:
                working.remove(name)
            return Message(message.content, reply_to=message)

        grid = make(counting, names="abcde", parallel=2)
        replies = grid.send_and_receive([*self.messages(grid), *self.messages(grid)])
        assert len(replies) == 10
        assert not any(reply.has_error() for reply in replies)
        assert most == [2]

    def test_the_run_and_its_messages_are_flowers_own(self, make):
        grid = make(lambda message, _: Message(Error(1, "x"), reply_to=message))
        grid.set_run(grid.run)
        message = grid.create_message(RecordDict(), "train", 2, "group")
        assert (message.metadata.dst_node_id, message.metadata.group_id) == (2, "group")
        assert grid.run.run_id == 1
