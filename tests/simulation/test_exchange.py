"""Differences between rounds, both ways, with sites that come late, miss a round or forget."""

import shutil

import numpy as np
import pytest

from client.app import app as client_app
from mediclip.exchange.codecs import CODEC_NAMES
from mediclip.exchange.packet import PACKET
from mediclip.model.trainables import initial_trainables
from mediclip.training.checkpoint import load_tensors, save_tensors
from server.app import CHECKPOINT
from simulation.engine import run_in_process
from simulation.plan import SITES_FOLDER
from tests.packets import as_record, change_bytes, change_tensors, unpacked
from tests.tiny import largest_difference, tiny_plan, tiny_schema, tiny_site

LOSSY = [name for name in CODEC_NAMES if name != "float32"]
WHOLE = 4 * tiny_schema().size()
FIRST = tiny_schema().tensors[0].name
EVIL = "site-1"


def run(out, *, numbers=(0, 1, 2), client=client_app, sites=None, on_message=None, **changes):
    return run_in_process(
        tiny_plan(out, **{"codec": "two-bit", **changes}),
        sites or [tiny_site(number) for number in numbers],
        client=client,
        on_message=on_message,
    )


def distance(first, second):
    return float(np.sqrt(sum(np.sum((first[n] - v) ** 2.0) for n, v in second.items())))


def requests_of(messages, number):
    """Codec of what each node was sent in a round, in the order of sending."""
    found = []
    for message in messages:
        is_request = message.metadata.reply_to_message_id == ""
        if is_request and message.content["config"].get("server-round") == number:
            found.append((message.metadata.dst_node_id, message.content["config"]["codec"]))
    return sorted(found)


@pytest.mark.parametrize("codec", LOSSY)
def test_a_codec_costs_few_bytes_and_moves_the_model_little(tmp_path, codec):
    whole = run(tmp_path / "whole", codec="float32", rounds=4)
    coded = run(tmp_path / "coded", codec=codec, rounds=4)
    share = {"float16": 0.51, "int8": 0.26, "two-bit": 0.075, "low-rank": 0.075}[codec]
    for entry in coded.history:
        assert entry["bytes_up"] < 3 * share * WHOLE
        assert entry["bytes_down"] < 3 * share * WHOLE
    start = initial_trainables(tiny_schema(), 7)
    assert distance(coded.tensors, whole.tensors) < 0.5 * distance(whole.tensors, start)


@pytest.mark.parametrize("codec", LOSSY)
def test_a_run_made_in_two_parts_is_the_run_made_at_once(tmp_path, codec):
    whole = run(tmp_path / "whole", rounds=4, codec=codec)
    run(tmp_path / "parts", rounds=2, codec=codec)
    parts = run(tmp_path / "parts", rounds=4, codec=codec, resume=True)
    assert largest_difference(whole.tensors, parts.tensors) == 0
    assert [e["bytes_down"] for e in whole.history] == [e["bytes_down"] for e in parts.history]


def test_the_first_round_needs_no_whole_model_and_later_ones_neither(tmp_path):
    messages = []
    run(tmp_path, rounds=3, on_message=messages.append)
    for number in (1, 2, 3):
        assert {codec for _, codec in requests_of(messages, number)} == {"two-bit/1"}


class Missing:
    """A real site that fails in some rounds."""

    def __init__(self, number, rounds):
        self._site, self._rounds = tiny_site(number), set(rounds)
        self.name, self.schema_digest = self._site.name, self._site.schema_digest

    def fit(self, request):
        if request.number in self._rounds:
            raise OSError
        return self._site.fit(request)


def test_a_site_that_missed_a_round_is_sent_the_whole_model_once(tmp_path):
    messages = []
    sites = [tiny_site(0), Missing(1, {2}), tiny_site(2)]
    result = run(tmp_path, sites=sites, quorum=2, rounds=4, on_message=messages.append)
    codecs = [[codec for _, codec in requests_of(messages, number)] for number in (1, 2, 3, 4)]
    assert codecs == [
        ["two-bit/1"] * 3,
        ["two-bit/1"] * 3,
        ["two-bit/1", "float32/1", "two-bit/1"],
        ["two-bit/1"] * 3,
    ]
    assert [entry["refused"] for entry in result.history] == [
        [],
        [{"site": EVIL, "reason": "site-failed"}],
        [],
        [],
    ]


def test_a_site_that_comes_in_the_third_round_is_sent_the_whole_model(tmp_path):
    messages = []
    sites = [tiny_site(0), Missing(1, {1, 2}), tiny_site(2)]
    run(tmp_path, sites=sites, quorum=2, rounds=3, on_message=messages.append)
    assert [codec for _, codec in requests_of(messages, 3)] == ["two-bit/1", "float32/1", "two-bit/1"]


def test_a_site_that_forgot_everything_says_so_and_is_sent_the_whole_model_in_the_same_attempt(tmp_path):
    run(tmp_path, rounds=2)
    for folder in (tmp_path / SITES_FOLDER).iterdir():
        shutil.rmtree(folder)
    messages = []
    result = run(tmp_path, rounds=3, resume=True, on_message=messages.append)
    assert result.history[-1]["refused"] == []
    assert result.history[-1]["attempts"] == 1
    nodes = requests_of(messages, 3)
    assert [codec for _, codec in nodes] == ["float32/1", "two-bit/1"] * 3
    assert result.history[-1]["bytes_down"] > 3 * WHOLE


def test_whole_or_difference_a_site_trains_from_the_same_bits(tmp_path):
    # The server forgets who holds what: all are sent the whole model, and nothing changes but the bytes.
    plain = run(tmp_path / "plain", rounds=4)
    run(tmp_path / "forgets", rounds=2)
    tensors, facts = load_tensors(tmp_path / "forgets" / CHECKPOINT)
    save_tensors(tmp_path / "forgets" / CHECKPOINT, tensors, {**facts, "holders": []})
    forgets = run(tmp_path / "forgets", rounds=4, resume=True)
    assert largest_difference(plain.tensors, forgets.tensors) == 0
    assert forgets.history[2]["bytes_down"] > 10 * plain.history[2]["bytes_down"]
    assert forgets.history[3]["bytes_down"] == plain.history[3]["bytes_down"]


def test_a_site_whose_policy_allows_float32_alone_takes_part_in_it(tmp_path):
    def client(message, context):
        is_roll_call = message.metadata.message_type == "query.roll_call"
        if is_roll_call and context.node_config["site"] == EVIL:
            message.content["config"]["codec"] = "float32/1"
        return client_app(message, context)

    messages = []
    result = run(tmp_path, client=client, rounds=3, on_message=messages.append)
    assert [entry["refused"] for entry in result.history] == [[]] * 3
    replies = [m for m in messages if m.metadata.reply_to_message_id and m.metadata.message_type == "train"]
    assert not any(reply.has_error() for reply in replies)
    used = {(m.metadata.src_node_id, m.content["config"]["codec"]) for m in replies}
    assert used == {(2, "two-bit/1"), (3, "float32/1"), (4, "two-bit/1")}


def test_a_site_that_agrees_to_a_codec_that_nobody_asked_for_takes_no_part(tmp_path):
    def client(message, context):
        reply = client_app(message, context)
        if message.metadata.message_type == "query.roll_call" and context.node_config["site"] == EVIL:
            reply.content["config"]["codec"] = "low-rank/1"
        return reply

    result = run(tmp_path, client=client, quorum=2)
    assert result.history[0]["refused"] == [{"site": EVIL, "reason": "codec"}]


def set_truncated(content):
    change_bytes(content, FIRST, lambda data: data[:-3])


def set_longer(content):
    change_bytes(content, FIRST, lambda data: data + b"scan")


def set_start(content, value):
    change_bytes(content, FIRST, lambda data: np.array([value], "<f4").tobytes() + data[4:])


def set_nan(content):
    set_start(content, np.nan)


def set_infinite(content):
    set_start(content, 3e38)


def set_huge(content):
    set_start(content, 1e30)


def set_packet(content):
    packet = content["arrays"][PACKET].data
    content["arrays"] = as_record(packet + b"scan")


def set_codec(content):
    content["config"]["codec"] = "float32/1"


def set_base(content):
    content["config"]["base"] = "0" * 64


def set_schema(content):
    content["config"]["schema-digest"] = "0" * 64


def set_more_facts(content):
    content["config"]["note"] = "Jane Doe"


def set_empty_fact(content):
    content["config"]["note"] = ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_truncated, "encoding"),
        (set_longer, "encoding"),
        (set_packet, "encoding"),
        (set_nan, "not-finite"),
        (set_infinite, "not-finite"),
        (set_huge, "norm"),
        (set_codec, "codec"),
        (set_base, "base"),
        (set_schema, "schema"),
        (set_more_facts, "records"),
        (set_empty_fact, "records"),
    ],
)
def test_a_bad_difference_is_refused_by_name_and_reason_and_the_others_finish(tmp_path, change, reason):
    def client(message, context):
        reply = client_app(message, context)
        if context.node_config["site"] == EVIL and message.metadata.message_type == "train":
            change(reply.content)
        return reply

    result = run(tmp_path, client=client, quorum=2, rounds=1)
    assert result.history[0]["refused"] == [{"site": EVIL, "reason": reason}]
    assert [site["site"] for site in result.history[0]["sites"]] == ["site-0", "site-2"]


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Runs of five honest sites and of six whose last is hostile, by strategy."""
    made = {}

    def client(message, context):
        sent = unpacked(message.content)
        reply = client_app(message, context)
        if context.node_config["site"] == "site-5" and message.metadata.message_type == "train":
            change_tensors(
                reply.content,
                lambda tensors: tensors.update(
                    {name: sent[name] - np.float32(5) * (v - sent[name]) for name, v in tensors.items()}
                ),
            )
        return reply

    def six(strategy, *, hostile):
        if (strategy, hostile) not in made:
            out = tmp_path_factory.mktemp("six")
            numbers = range(6 if hostile else 5)
            options = {"strategy": strategy, "codec": "float32", "rounds": 2, "max_update_norm": 1e3}
            made[strategy, hostile] = run(out, numbers=numbers, client=client, **options).tensors
        return made[strategy, hostile]

    return six


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedmedian", "fedtrimmedavg", "multikrum"])
def test_a_hostile_sixth_site_moves_a_robust_rule_far_less_than_the_mean(six, strategy):
    moved = distance(six("fedavg", hostile=True), six("fedavg", hostile=False))
    assert distance(six(strategy, hostile=True), six(strategy, hostile=False)) < 0.4 * moved
    assert distance(six(strategy, hostile=True), six("fedavg", hostile=False)) < 0.4 * moved
