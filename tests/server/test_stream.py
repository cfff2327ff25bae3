import gc
import time
import weakref

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from server.stream import ReplyStream
from simulation.engine import InProcessGrid


@pytest.fixture
def make():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    grids = []

    def make(client, names, kind=InProcessGrid):
        grids.append(kind(client, names, {}, parallel=2))
        return grids[-1]

    yield make
    for grid in grids:
        grid.close()


def echo(message, _):
    return Message(message.content, reply_to=message)


def questions(grid):
    content = RecordDict({"config": ConfigRecord({"server-round": 1})})
    return [Message(content, node, "train") for node in grid.get_node_ids()]


def test_each_reply_comes_with_the_node_that_was_asked(make):
    grid = make(echo, [f"s{n}" for n in range(9)])
    stream = ReplyStream(grid, 10.0)
    stream.push(questions(grid))
    found = list(stream)
    assert sorted(node for node, _ in found) == grid.get_node_ids()
    assert all(reply.metadata.src_node_id == node for node, reply in found)


def test_more_can_be_asked_while_replies_come_in(make):
    grid = make(echo, ["a", "b"])
    stream = ReplyStream(grid, 10.0)
    first, second = questions(grid)
    stream.push([first])
    nodes = []
    for node, _ in stream:
        nodes.append(node)
        if len(nodes) == 1:
            stream.push([second])
    assert nodes == [2, 3]


def test_a_reply_that_was_dealt_with_is_not_kept(make):
    grid = make(echo, [f"s{n}" for n in range(20)])
    stream = ReplyStream(grid, 10.0)
    stream.push(questions(grid))
    seen, most = [], 0
    for _, reply in stream:
        seen.append(weakref.ref(reply))
        del reply
        gc.collect()
        most = max(most, sum(ref() is not None for ref in seen))
    assert len(seen) == 20
    assert most <= 4


def as_the_superlink_says_that_it_is_away(reply):
    reply.metadata.__dict__["_src_node_id"] = 1


def test_a_node_that_stays_away_and_a_second_reply_are_not_heard(make):
    class Away(InProcessGrid):
        def pull_messages(self, message_ids):
            replies = super().pull_messages(message_ids)
            for reply in replies:
                if reply.metadata.src_node_id == 3:
                    as_the_superlink_says_that_it_is_away(reply)
            return [*replies, *replies]

        def get_nodes(self):
            return [node for node in super().get_nodes() if node.node_id != 3]

    grid = make(echo, ["a", "b", "c"], Away)
    stream = ReplyStream(grid, 30.0, away_s=0.3)
    stream.push(questions(grid))
    started = time.monotonic()
    assert sorted(node for node, _ in stream) == [2, 4]
    assert 0.3 <= time.monotonic() - started < 20.0  # and not the whole wait


class Restarting(InProcessGrid):
    """Node 3 loses the first question that it gets, and its connection begins anew."""

    lost = None
    asked: list

    def push_messages(self, messages):
        self.asked = [*getattr(self, "asked", []), *(m.metadata.dst_node_id for m in messages)]
        return super().push_messages(messages)

    def get_nodes(self):
        nodes = list(super().get_nodes())
        for node in nodes:
            node.last_activated_at = "later" if node.node_id == 3 and self.lost else "at first"
        return nodes


def test_a_node_that_was_away_is_asked_again_when_it_is_back(make):
    class Seen(Restarting):
        def pull_messages(self, message_ids):
            replies = super().pull_messages(message_ids)
            for reply in replies:
                if reply.metadata.src_node_id == 3 and not self.lost:
                    self.lost = True
                    as_the_superlink_says_that_it_is_away(reply)
            return replies

    grid = make(echo, ["a", "b", "c"], Seen)
    stream = ReplyStream(grid, 30.0)
    stream.push(questions(grid))
    assert sorted(node for node, _ in stream) == [2, 3, 4]
    assert grid.asked == [2, 3, 4, 3]


def test_a_node_that_was_away_unnoticed_is_asked_again(make):
    class Unseen(Restarting):
        def pull_messages(self, message_ids):
            replies = super().pull_messages(message_ids)
            kept = [r for r in replies if r.metadata.src_node_id != 3 or self.lost]
            self.lost = self.lost or len(kept) < len(replies)
            return kept

    grid = make(echo, ["a", "b", "c"], Unseen)
    stream = ReplyStream(grid, 30.0, look_s=0.2)
    stream.push(questions(grid))
    assert sorted(node for node, _ in stream) == [2, 3, 4]
    assert grid.asked == [2, 3, 4, 3]


def test_a_message_that_could_not_be_sent_is_not_waited_for(make):
    class Lossy(InProcessGrid):
        def push_messages(self, messages):
            return [*super().push_messages(messages[:1]), *[None] * (len(messages) - 1)]

    grid = make(echo, ["a", "b"], Lossy)
    stream = ReplyStream(grid, 10.0)
    stream.push(questions(grid))
    assert [node for node, _ in stream] == [2]


def test_waiting_ends_at_the_timeout(make):
    grid = make(lambda message, context: (time.sleep(5), echo(message, context))[1], ["a"])
    started = time.monotonic()
    stream = ReplyStream(grid, 0.2)
    stream.push(questions(grid))
    assert list(stream) == []
    assert 0.2 <= time.monotonic() - started < 2
