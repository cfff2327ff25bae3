"""Replies as they come in: each can be dealt with and dropped before the next is fetched."""

import time
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

AWAY_S: Final = 30.0
LOOK_S: Final = 10.0
HURRY_S: Final = 5.0
_AT_ONCE: Final = 4
_PUSHED_AT_ONCE: Final = 64
_LONGEST_PAUSE_S: Final = 1.0
_SHARE: Final = 0.02  # of the time waited so far
_TIMES_LOOK: Final = 5.0
_LOOK_FOR_AWAY_S: Final = 1.0
_T = TypeVar("_T")


class ReplyStream:
    """Messages on their way, and the replies to them.

    Flower's ``send_and_receive`` keeps all replies of a round in memory and looks for them each three
    seconds. This fetches few at a time, and looks again after a fiftieth of the time it has waited, or after
    five times what looking took if that is longer, at most a second.

    A node that goes away loses the question that it had. It is asked again when it is back, also if it was
    away unnoticed; a site answers a question that it answered before from its store. When nobody else is
    waited for, a node has a while to come back.

    Args:
        grid: Flower's connection to the nodes.
        timeout_s: Longest wait from now in seconds.
        away_s: How long the last nodes that are missing may be away, in seconds.
        look_s: How often to look for nodes that were away unnoticed, in seconds.
    """

    def __init__(
        self, grid: Grid, timeout_s: float, *, away_s: float = AWAY_S, look_s: float = LOOK_S
    ) -> None:
        self._grid = grid
        self._away_s, self._look_s = away_s, look_s
        self._started = time.monotonic()
        self._deadline = self._started + timeout_s
        self._waiting: dict[str, Message] = {}
        self._away: dict[int, tuple[Message, float]] = {}
        self._activated: dict[int, str] = {}
        self._looked = self._started

    def push(self, messages: Sequence[Message]) -> None:
        """Send messages; more can be sent while replies come in."""
        new = {message.metadata.dst_node_id for message in messages} - self._activated.keys()
        if new:
            online = self._online()
            self._activated |= {node: online.get(node, "") for node in new}
        for some in _batches(messages, _PUSHED_AT_ONCE):
            ids = self._grid.push_messages(some)
            for message, message_id in zip(some, ids, strict=False):
                if message_id:  # Flower gives None for one that it could not send
                    self._waiting[message_id] = message

    def __iter__(self) -> Iterator[tuple[int, Message]]:
        """Yield the node that was asked and its reply, each message's first alone, until all are there."""
        while self._waiting or self._may_come_back():
            found, looked = False, time.monotonic()
            for some in _batches(list(self._waiting), _AT_ONCE):
                for reply in self._grid.pull_messages(some):
                    question = self._waiting.pop(reply.metadata.reply_to_message_id, None)
                    if question is None:
                        continue
                    found = True
                    node = question.metadata.dst_node_id
                    if reply.metadata.src_node_id == node:
                        yield node, reply
                    else:  # the SuperLink's own word that the node is away
                        self._away[node] = (question, time.monotonic())
            if time.monotonic() >= self._deadline:
                return
            self._ask_again()
            if not found:
                self._pause(time.monotonic() - looked)

    def hurry(self) -> None:
        """Wait for those that are missing no longer than once more the time until now, and a moment."""
        now = time.monotonic()
        self._deadline = min(self._deadline, now + (now - self._started) + HURRY_S)

    def _may_come_back(self) -> bool:
        since = time.monotonic() - self._away_s
        return any(left > since for _, left in self._away.values())

    def _ask_again(self) -> None:
        """Ask the nodes whose connection began anew since they were asked."""
        every_s = _LOOK_FOR_AWAY_S if self._away else self._look_s
        now = time.monotonic()
        if now - self._looked < every_s:
            return
        self._looked = now
        online = self._online()
        lost = [question for node, (question, _) in self._away.items() if node in online]
        for message_id, question in list(self._waiting.items()):
            node = question.metadata.dst_node_id
            if online.get(node, self._activated[node]) != self._activated[node]:
                del self._waiting[message_id]
                lost.append(question)
        for question in lost:
            node = question.metadata.dst_node_id
            self._away.pop(node, None)
            self._activated[node] = online[node]
        self.push([_anew(question, self._deadline - now) for question in lost])

    def _online(self) -> dict[int, str]:
        """When the connection of each node that is there began."""
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    def _pause(self, look_s: float) -> None:
        now = time.monotonic()
        wanted_s = max(0.002, _SHARE * (now - self._started), _TIMES_LOOK * look_s)
        pause_s = min(wanted_s, _LONGEST_PAUSE_S)
        time.sleep(max(0.0, min(pause_s, self._deadline - now)))


def _anew(question: Message, ttl_s: float) -> Message:
    sent = question.metadata
    return Message(
        question.content,
        sent.dst_node_id,
        sent.message_type,
        ttl=max(ttl_s, 1.0),
        group_id=sent.group_id,
    )


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
