import time

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from mediclip.protocol import error_reply
from server.roster import Roster
from simulation.engine import InProcessGrid

NAMES = ["north", "south", "west"]
AGREED = {"schema-digest": "d", "source-digest": "s", "codec": "two-bit/1", "error": ""}


class Ward:
    """Nodes that introduce themselves as they are told to."""

    def __init__(self, **changes):
        self.changes = changes
        self.asked = []
        self.answers = {}
        self.grid = InProcessGrid(self, NAMES, {}, parallel=3)

    def __call__(self, message, context):
        name = context.node_config["site"]
        self.asked.append(name)
        answer = self.answers.get(name, {})
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Error):
            return Message(answer, reply_to=message)
        if isinstance(answer, RecordDict):
            return Message(answer, reply_to=message)
        if "wait_s" in answer:
            time.sleep(answer["wait_s"])
            answer = {}
        card = dict(AGREED, site=name) | answer
        return Message(RecordDict({"config": ConfigRecord(card)}), reply_to=message)


@pytest.fixture
def ward():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    ward = Ward()
    yield ward
    ward.grid.close()


@pytest.fixture
def roster():
    return Roster(ConfigRecord({"recipe": "r", "schema-digest": "d", "codec": "two-bit/1"}), "s")


def test_the_codec_of_each_site_is_the_wanted_one_or_float32(ward, roster):
    ward.answers["south"] = {"codec": "float32/1"}
    roster.call(ward.grid, 5.0)
    assert roster.codecs == {"north": "two-bit/1", "south": "float32/1", "west": "two-bit/1"}


def test_every_node_that_agrees_is_on_the_roster_and_asked_once(ward, roster):
    roster.call(ward.grid, 5.0)
    roster.call(ward.grid, 5.0)
    assert roster.sites == {2: "north", 3: "south", 4: "west"}
    assert sorted(ward.asked) == sorted(NAMES)
    assert roster.refused == {}


@pytest.mark.parametrize(
    ("answer", "name", "reason"),
    [
        ({"schema-digest": "e"}, "south", "schema"),
        ({"source-digest": "t"}, "south", "source"),
        ({"codec": "int8/1"}, "south", "codec"),
        ({"codec": ""}, "south", "codec"),
        ({"codec": 1}, "node-3", "answer"),
        ({"schema-digest": "", "error": "support-set"}, "south", "site-support-set"),
        ({"error": "/scans/DOE^JANE"}, "node-3", "answer"),
        ({"site": "north"}, "node-3", "duplicate"),
        ({"site": ""}, "node-3", "name"),
        ({"site": "x" * 65}, "node-3", "name"),
        ({"site": "a\nb"}, "node-3", "name"),
        ({"more": "x"}, "node-3", "answer"),
        ({"site": 3}, "node-3", "answer"),
        (Error(*error_reply("manifest")), "node-3", "site-manifest"),
        (Error(2, "/scans/DOE^JANE"), "node-3", "site-failed"),
        (ValueError("/scans/DOE^JANE"), "node-3", "site-failed"),
        (RecordDict(), "node-3", "answer"),
    ],
)
def test_a_node_that_does_not_agree_takes_no_part_and_its_reason_is_kept(ward, roster, answer, name, reason):
    ward.answers["south"] = answer
    roster.call(ward.grid, 5.0)
    assert roster.sites == {2: "north", 4: "west"}
    assert roster.refused == {name: reason}


@pytest.fixture
def keyed(ward):
    """Let the nodes 2, 3, 4 hold the keys of north, south and west."""
    ward.grid.get_nodes = lambda: [NodeInfo(node_id=n, name=name) for n, name in enumerate(NAMES, start=2)]


@pytest.mark.usefixtures("keyed")
@pytest.mark.parametrize("liar", NAMES)
@pytest.mark.parametrize("claim", [*NAMES, "east"])
def test_a_node_takes_part_under_the_name_of_its_key_alone(ward, roster, liar, claim):
    ward.answers[liar] = {"site": claim}
    roster.call(ward.grid, 5.0)
    honest = {node: name for node, name in enumerate(NAMES, start=2) if name != liar}
    if claim == liar:
        assert (roster.sites, roster.refused) == (dict(enumerate(NAMES, start=2)), {})
    else:
        assert (roster.sites, roster.refused) == (honest, {liar: "key"})


@pytest.mark.usefixtures("keyed")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Error(*error_reply("manifest")), "site-manifest"),
        ({"site": ""}, "name"),
        (RecordDict(), "answer"),
        ({"wait_s": 0.6}, "no-answer"),
    ],
)
def test_a_node_with_a_key_is_refused_by_its_name_whatever_it_answers(ward, roster, answer, reason):
    ward.answers["south"] = answer
    roster.call(ward.grid, 0.3)
    assert roster.refused == {"south": reason}


def test_the_superlinks_own_word_about_a_node_that_left_is_no_nodes_answer(ward, roster):
    class Away(InProcessGrid):
        def pull_messages(self, message_ids):
            answers = super().pull_messages(message_ids)
            for answer in answers:
                answer.metadata.__dict__["_src_node_id"] = 1
            return answers

    grid = Away(ward, NAMES, {}, parallel=3)
    roster.call(grid, 5.0)
    grid.close()
    assert roster.sites == {}
    assert roster.refused == {f"node-{node}": "no-answer" for node in (2, 3, 4)}


def test_a_refused_node_is_asked_again_only_when_its_refusal_is_forgotten(ward, roster):
    ward.answers["south"] = {"schema-digest": "e"}
    roster.call(ward.grid, 5.0)
    ward.answers.clear()
    roster.call(ward.grid, 5.0)
    assert "south" in roster.refused
    roster.forget_refusals()
    roster.call(ward.grid, 5.0)
    assert roster.refused == {}
    assert sorted(roster.sites.values()) == NAMES
    assert ward.asked.count("north") == 1


def test_a_silent_node_is_asked_again_in_the_next_call(ward, roster):
    ward.answers["west"] = {"wait_s": 0.4}
    roster.call(ward.grid, 0.1)
    assert set(roster.sites.values()) == {"north", "south"}
    assert roster.refused == {"node-4": "no-answer"}
    roster.call(ward.grid, 5.0)
    assert set(roster.sites.values()) == set(NAMES)
    assert roster.refused == {}


def test_a_node_that_goes_and_comes_back_is_asked_anew(ward, roster):
    roster.call(ward.grid, 5.0)
    online = [2, 4]
    ward.grid.get_node_ids = lambda: online
    roster.call(ward.grid, 5.0)
    assert set(roster.sites.values()) == {"north", "west"}
    online.append(3)
    roster.call(ward.grid, 5.0)
    assert set(roster.sites.values()) == set(NAMES)


def test_gathering_waits_for_late_nodes_and_no_longer_than_it_must(ward, roster):
    started = time.monotonic()
    online = []
    ward.grid.get_node_ids = lambda: [2, 3] if time.monotonic() - started > 0.3 else online
    roster.gather(ward.grid, 2, 10.0)
    assert 0.3 <= time.monotonic() - started < 10.0  # and not the whole wait
    assert set(roster.sites.values()) == {"north", "south"}


def test_gathering_ends_in_time_when_a_node_never_comes(ward, roster):
    started = time.monotonic()
    roster.gather(ward.grid, 4, 0.3)
    assert time.monotonic() - started >= 0.3
    assert len(roster.sites) == 3


def test_gathering_does_not_wait_for_a_node_that_has_refused(ward, roster):
    ward.answers["south"] = {"schema-digest": "e"}
    started = time.monotonic()
    roster.gather(ward.grid, 3, 30.0)
    assert time.monotonic() - started < 30.0
