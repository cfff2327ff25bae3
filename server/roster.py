"""Which node is which site, and whether it agrees on model and code; each node is asked once.

A node that the coordinator registered has the name of the site whose key it proved to hold, and takes part
under that name alone. Simulated nodes have no key: their word counts.
"""

import logging
import time
from dataclasses import dataclass, field
from typing import Final

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from mediclip.exchange.codecs import FLOAT32
from mediclip.protocol import CONFIG, PRESENT_KEYS, ROLL_CALL, SENTENCES, error_word
from server.stream import ReplyStream

NO_ANSWER: Final = "no-answer"
_LONGEST_NAME: Final = 64
_log = logging.getLogger("mediclip.server")


@dataclass
class Roster:
    """The nodes that take part, by the names that they gave.

    Attributes:
        question: What a node is asked: the recipe, the digest of the tensors that travel and the codec.
        source: Digest of the code that must run everywhere.
        sites: Name of each node that agreed.
        refused: Why another node takes no part: ``no-answer``, ``site-<code>``, ``answer``, ``name``, ``key``
            (it gave another name than that of its key), ``schema``, ``codec``, ``source`` or ``duplicate``,
            by site, or by ``node-<id>`` where the name is not known.
        codecs: Codec that each site agreed to, a name with version.
    """

    question: ConfigRecord
    source: str
    sites: dict[int, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    codecs: dict[str, str] = field(default_factory=dict)
    _asked: set[int] = field(default_factory=set)

    def call(self, grid: Grid, timeout_s: float) -> None:
        """Ask every node that has not yet answered, and forget those that are gone.

        Args:
            grid: Flower's connection to the nodes.
            timeout_s: Longest wait for the answers in seconds.
        """
        registered = {node.node_id: node.name for node in grid.get_nodes()}
        online = set(registered)
        self.sites = {node: name for node, name in self.sites.items() if node in online}
        self._asked &= online
        content = RecordDict({CONFIG: self.question})
        kind = f"{MessageType.QUERY}.{ROLL_CALL}"
        questions = [Message(content, node, kind, ttl=timeout_s) for node in sorted(online - self._asked)]
        if not questions:
            return
        stream = ReplyStream(grid, timeout_s)
        stream.push(questions)
        waiting = {q.metadata.dst_node_id: registered[q.metadata.dst_node_id] for q in questions}
        self.refused |= {_label(node, name): NO_ANSWER for node, name in waiting.items()}
        for node, reply in sorted(stream, key=lambda answer: answer[0]):
            self._asked.add(node)
            label = _label(node, waiting[node])
            self.refused.pop(label, None)
            name, reason = self._judge(reply, waiting[node])
            if reason:
                self.refused[name or label] = reason
            else:
                self.sites[node] = name
                self.refused.pop(name, None)

    def gather(self, grid: Grid, wanted: int, timeout_s: float) -> None:
        """Wait until as many nodes as wanted have answered.

        Args:
            grid: Flower's connection to the nodes.
            wanted: Nodes to wait for, at least 1.
            timeout_s: Longest wait in seconds; whoever is missing then can still come in a later round.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = 0.05
        while True:
            self.call(grid, max(deadline - time.monotonic(), 1.0))
            if len(self._asked) >= wanted or time.monotonic() >= deadline:
                return
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 3.0)

    def forget_refusals(self) -> None:
        """Ask the nodes that were refused again, next time."""
        self._asked = set(self.sites)

    def _judge(self, reply: Message, registered: str) -> tuple[str, str]:
        card, reason = _introduction(reply)
        if reason:
            return registered, reason
        name = card["site"]
        if registered and name != registered:
            _log.warning("The node with the key of %s gave the name %r; it takes no part", registered, name)
            return registered, "key"
        if name in self.sites.values():
            return registered, "duplicate"
        if card["error"]:
            return name, f"site-{card['error']}"
        self.codecs[name] = card["codec"]
        agreements = {
            "schema": card["schema-digest"] == self.question["schema-digest"],
            "codec": card["codec"] in {self.question["codec"], FLOAT32.name},
            "source": card["source-digest"] == self.source,
        }
        return name, next((reason for reason, is_met in agreements.items() if not is_met), "")


def _label(node: int, name: str) -> str:
    return name or f"node-{node}"


def _introduction(reply: Message) -> tuple[dict[str, str], str]:
    if reply.has_error():
        return {}, f"site-{error_word(reply.error.code)}"
    config = reply.content.get(CONFIG)
    if set(reply.content) != {CONFIG} or not isinstance(config, ConfigRecord):
        return {}, "answer"
    card = {key: value for key, value in config.items() if isinstance(value, str)}
    if set(config) != PRESENT_KEYS or set(card) != PRESENT_KEYS or card["error"] not in {"", *SENTENCES}:
        return {}, "answer"
    if not card["site"].isprintable() or not 0 < len(card["site"]) <= _LONGEST_NAME:
        return {}, "name"
    return card, ""
