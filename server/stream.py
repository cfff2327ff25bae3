"""Replies as they come in: each can be dealt with and dropped before the next is fetched."""

import time
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

_AT_ONCE: Final = 4
_PUSHED_AT_ONCE: Final = 64
_LONGEST_PAUSE_S: Final = 1.0
_SHARE: Final = 0.02  # of the time waited so far
_T = TypeVar("_T")


class ReplyStream:
    """Messages on their way, and the replies to them.

    Flower's ``send_and_receive`` keeps all replies of a round in memory and looks for them each three
    seconds. This fetches few at a time, and looks again after a fiftieth of the time it has waited, at most a
    second.

    Args:
        grid: Flower's connection to the nodes.
        timeout_s: Longest wait from now in seconds.
    """

    def __init__(self, grid: Grid, timeout_s: float) -> None:
        self._grid = grid
        self._started = time.monotonic()
        self._deadline = self._started + timeout_s
        self._waiting: dict[str, int] = {}

    def push(self, messages: Sequence[Message]) -> None:
        """Send messages; more can be sent while replies come in."""
        for some in _batches(messages, _PUSHED_AT_ONCE):
            ids = self._grid.push_messages(some)
            for message, message_id in zip(some, ids, strict=False):
                if message_id:  # Flower gives None for one that it could not send
                    self._waiting[message_id] = message.metadata.dst_node_id

    def __iter__(self) -> Iterator[tuple[int, Message]]:
        """Yield the node that was asked and its reply, each message's first alone, until all are there."""
        while self._waiting:
            found = False
            for some in _batches(list(self._waiting), _AT_ONCE):
                for reply in self._grid.pull_messages(some):
                    node = self._waiting.pop(reply.metadata.reply_to_message_id, None)
                    if node is None:
                        continue
                    found = True
                    if reply.metadata.src_node_id == node:  # else the SuperLink's own word that it is away
                        yield node, reply
            if time.monotonic() >= self._deadline:
                return
            if not found:
                self._pause()

    def _pause(self) -> None:
        now = time.monotonic()
        pause_s = min(max(0.002, _SHARE * (now - self._started)), _LONGEST_PAUSE_S)
        time.sleep(max(0.0, min(pause_s, self._deadline - now)))


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
