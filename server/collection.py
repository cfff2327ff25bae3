"""One round's questions and answers: every site is asked, and each answer is admitted, added and dropped."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from mediclip.config import Recipe
from mediclip.errors import UpdateRefusedError
from mediclip.model.trainables import Schema, Trainables
from mediclip.protocol import ARRAYS, CONFIG
from server.admission import Limits, Receipt, admit
from server.aggregation import Round, mean_metrics
from server.roster import NO_ANSWER, Roster
from server.settings import RunSettings
from server.stream import ReplyStream

NEWCOMERS_S: Final = 30.0
"""How long a round in which enough sites take part waits for others to introduce themselves, in seconds."""
_log = logging.getLogger("mediclip.server")


@dataclass
class Collected:
    """What came of one round's questions.

    Attributes:
        receipts: Of the updates that count, by site.
        refused: Why another site's does not, by site.
        attempts: How often the round was asked.
        bytes_down: Payload sent to the sites.
        bytes_up: Payload that came from them.
    """

    receipts: dict[str, Receipt] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    bytes_down: int = 0
    bytes_up: int = 0

    def entry(self, number: int) -> dict[str, Any]:
        """Write the round as a line of history; names, numbers and fixed words alone."""
        receipts = sorted(self.receipts.values(), key=lambda receipt: receipt.site)
        return {
            "round": number,
            "attempts": self.attempts,
            "metrics": mean_metrics(receipts),
            "sites": [
                {"site": r.site, "examples": r.examples, "norm": round(r.norm, 6), "metrics": r.metrics}
                | ({"claimed_examples": r.claimed} if r.claimed != r.examples else {})
                for r in receipts
            ],
            "refused": [{"site": site, "reason": self.refused[site]} for site in sorted(self.refused)],
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
        }


@dataclass(frozen=True)
class Collector:
    """Asks the sites and admits what they answer.

    Attributes:
        grid: Flower's connection to the sites.
        settings: Of the run.
        schema: The tensors that travel.
        recipe: What the sites train with.
        limits: Bounds on an update.
        roster: Who takes part.
        late: Sites that did not answer when they were asked last. One that hangs must not hold up every round
            until the timeout: when all others have answered, it has once more the time that they took.
    """

    grid: Grid
    settings: RunSettings
    schema: Schema
    recipe: Recipe
    limits: Limits
    roster: Roster
    late: set[str] = field(default_factory=set)

    def collect(self, number: int, current: Trainables, round_: Round) -> Collected:
        """Ask every site, and those without an admitted update again while the quorum is missing.

        Args:
            number: The round, from 1.
            current: The global model.
            round_: Takes in the updates that count.

        Returns:
            What is kept of the answers.
        """
        collected = Collected()
        for attempt in range(1, self.settings.retries + 2):
            collected.attempts = attempt
            if attempt > 1:
                self.roster.forget_refusals()
                self.roster.gather(self.grid, self.settings.needed, self.settings.join_timeout_s)
            else:
                is_enough = len(self.roster.sites) >= self.settings.needed
                patience_s = NEWCOMERS_S if is_enough else self.settings.join_timeout_s
                self.roster.call(self.grid, min(patience_s, self.settings.join_timeout_s))
            self._ask(number, current, round_, collected)
            if len(collected.receipts) >= self.settings.needed:
                break
        return collected

    def _ask(self, number: int, current: Trainables, round_: Round, collected: Collected) -> None:
        collected.refused = {s: r for s, r in self.roster.refused.items() if s not in collected.receipts}
        asked = {n: site for n, site in self.roster.sites.items() if site not in collected.receipts}
        stream = ReplyStream(self.grid, self.settings.round_timeout_s)
        requests = self._requests(number, current, sorted(asked, key=asked.__getitem__))
        collected.bytes_down += sum(payload_bytes(request) for request in requests)
        stream.push(requests)
        collected.refused |= dict.fromkeys(asked.values(), NO_ANSWER)
        for node, reply in stream:
            self._take(number, asked[node], reply, current, round_, collected)
            if (
                self._silent(asked, collected) <= self.late
                and len(collected.receipts) >= self.settings.needed
            ):
                stream.hurry()
        silent = self._silent(asked, collected)
        self.late.clear()
        self.late.update(silent)

    def _take(
        self, number: int, site: str, reply: Message, current: Trainables, round_: Round, collected: Collected
    ) -> None:
        del collected.refused[site]
        collected.bytes_up += payload_bytes(reply)
        try:
            update = admit(reply, site, current, self.schema, self.limits)
        except UpdateRefusedError as refusal:
            collected.refused[site] = refusal.reason
            _log.warning("Round %d: %s", number, refusal)
            return
        round_.add(update)
        collected.receipts[site] = update.receipt

    def _silent(self, asked: Mapping[int, str], collected: Collected) -> set[str]:
        return {site for site in asked.values() if collected.refused.get(site) == NO_ANSWER}

    def _requests(self, number: int, current: Trainables, nodes: Sequence[int]) -> list[Message]:
        config = ConfigRecord(
            {
                "server-round": number,
                "seed": self.settings.seed,
                "recipe": self.recipe.model_dump_json(),
                "local-steps": self.settings.local_steps,
                "schema-digest": self.schema.digest(),
            }
        )
        if self.settings.strategy == "fedprox":
            config["proximal-mu"] = self.settings.proximal_mu
        content = RecordDict({ARRAYS: to_record(current), CONFIG: config})
        ttl, group = self.settings.round_timeout_s, str(number)  # the group is named in a SuperNode's log
        return [Message(content, node, MessageType.TRAIN, ttl=ttl, group_id=group) for node in nodes]


def to_record(tensors: Trainables) -> ArrayRecord:
    """Pack tensors for a message."""
    return ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in tensors.items()})


def payload_bytes(message: Message) -> int:
    """Count what a message carries, without its envelope."""
    if message.has_error():
        return 0
    content = message.content
    arrays = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    metrics = sum(record.count_bytes() for record in content.metric_records.values())
    return arrays + metrics + sum(record.count_bytes() for record in content.config_records.values())
