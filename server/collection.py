"""One round's questions and answers: every site is asked, and each answer is admitted, added and dropped."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from mediclip.config import Recipe
from mediclip.errors import BaseModelError, UpdateRefusedError
from mediclip.exchange.codecs import agreed_codec
from mediclip.exchange.packet import PACKET, PACKET_DTYPE, PACKET_KIND, to_packet
from mediclip.exchange.parcel import Parcel
from mediclip.model.trainables import Schema
from mediclip.protocol import ARRAYS, CONFIG, error_word
from server.admission import Limits, Receipt, admit
from server.aggregation import Round, mean_metrics
from server.downlink import Downlink, Outgoing
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
        downlink: What the sites hold.
        late: Sites that did not answer when they were asked last. One that hangs must not hold up every round
            until the timeout: when all others have answered, it has once more the time that they took.
    """

    grid: Grid
    settings: RunSettings
    schema: Schema
    recipe: Recipe
    limits: Limits
    roster: Roster
    downlink: Downlink
    late: set[str] = field(default_factory=set)

    def collect(self, number: int, outgoing_of: Callable[[str], Outgoing], round_: Round) -> Collected:
        """Ask every site, and those without an admitted update again while the quorum is missing.

        Args:
            number: The round, from 1.
            outgoing_of: Gives the model that a site is sent, by its name.
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
            self._ask(number, outgoing_of, round_, collected)
            if len(collected.receipts) >= self.settings.needed:
                break
        return collected

    def _ask(
        self, number: int, outgoing_of: Callable[[str], Outgoing], round_: Round, collected: Collected
    ) -> None:
        collected.refused = {s: r for s, r in self.roster.refused.items() if s not in collected.receipts}
        asked = {n: site for n, site in self.roster.sites.items() if site not in collected.receipts}
        stream = ReplyStream(self.grid, self.settings.round_timeout_s)
        outgoing = {n: outgoing_of(site) for n, site in asked.items()}
        changes = {n for n, site in asked.items() if outgoing[n].change and self.downlink.is_holder(site)}
        records = _Records()
        requests = [
            self._request(number, records.of(outgoing[n], as_change=n in changes), n, asked[n])
            for n in sorted(asked, key=asked.__getitem__)
        ]
        collected.bytes_down += sum(payload_bytes(request) for request in requests)
        stream.push(requests)
        collected.refused |= dict.fromkeys(asked.values(), NO_ANSWER)
        for node, reply in stream:
            site = asked[node]
            collected.bytes_up += payload_bytes(reply)
            if node in changes and _lacks_base(reply):
                changes.remove(node)
                whole = records.of(outgoing[node], as_change=False)
                request = self._request(number, whole, node, site)
                collected.bytes_down += payload_bytes(request)
                stream.push([request])
                continue
            self._take(number, site, reply, outgoing[node], round_, collected)
            if (
                self._silent(asked, collected) <= self.late
                and len(collected.receipts) >= self.settings.needed
            ):
                stream.hurry()
        silent = self._silent(asked, collected)
        self.late.clear()
        self.late.update(silent)

    def _take(
        self, number: int, site: str, reply: Message, outgoing: Outgoing, round_: Round, collected: Collected
    ) -> None:
        del collected.refused[site]
        codec = agreed_codec(self.roster.codecs[site])
        base = "" if codec.is_exact else outgoing.digest
        try:
            update = admit(reply, site, outgoing.view, self.schema, self.limits, codec=codec, base=base)
        except UpdateRefusedError as refusal:
            collected.refused[site] = refusal.reason
            _log.warning("Round %d: %s", number, refusal)
            return
        round_.add(update)
        collected.receipts[site] = update.receipt

    def _silent(self, asked: Mapping[int, str], collected: Collected) -> set[str]:
        return {site for site in asked.values() if collected.refused.get(site) == NO_ANSWER}

    def _request(
        self, number: int, parcel: tuple[ArrayRecord, ConfigRecord], node: int, site: str
    ) -> Message:
        arrays, config = parcel[0], ConfigRecord(dict(parcel[1]))  # all sites share one record of arrays
        config["server-round"] = number
        config["seed"] = self.settings.seed
        config["recipe"] = self.recipe.model_dump_json()
        config["local-steps"] = self.settings.local_steps
        config["answer-codec"] = self.roster.codecs[site]
        config["differences-follow"] = not self.downlink.codec.is_exact
        if self.settings.strategy == "fedprox":
            config["proximal-mu"] = self.settings.proximal_mu
        content = RecordDict({ARRAYS: arrays, CONFIG: config})
        ttl, group = self.settings.round_timeout_s, str(number)  # the group is named in a SuperNode's log
        return Message(content, node, MessageType.TRAIN, ttl=ttl, group_id=group)


class _Records:
    """Models packed for messages: sites that are sent the same share its bytes."""

    def __init__(self) -> None:
        self._packed: dict[int, tuple[ArrayRecord, ConfigRecord]] = {}

    def of(self, outgoing: Outgoing, *, as_change: bool) -> tuple[ArrayRecord, ConfigRecord]:
        """Give a model, whole or as the difference that it comes with."""
        parcel = outgoing.change if as_change and outgoing.change is not None else outgoing.whole
        if id(parcel) not in self._packed:
            self._packed[id(parcel)] = to_records(parcel)
        return self._packed[id(parcel)]


def _lacks_base(reply: Message) -> bool:
    return reply.has_error() and error_word(reply.error.code) == BaseModelError.code


def to_records(parcel: Parcel) -> tuple[ArrayRecord, ConfigRecord]:
    """Pack a parcel for a message."""
    packet = to_packet(parcel.schema, parcel.tensors)
    arrays = ArrayRecord({PACKET: Array(PACKET_DTYPE, (len(packet),), PACKET_KIND, packet)})
    facts = {"codec": parcel.codec, "schema-digest": parcel.schema.digest(), "base": parcel.base}
    return arrays, ConfigRecord(dict(facts))


def payload_bytes(message: Message) -> int:
    """Count what a message carries, without its envelope: tensors as they are, a number as eight bytes."""
    if message.has_error():
        return 0
    content = message.content
    arrays = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    numbers = [item for record in content.metric_records.values() for item in record.items()]
    facts = [item for record in content.config_records.values() for item in record.items()]
    return arrays + sum(len(key) + _plain_bytes(value) for key, value in (*numbers, *facts))


def _plain_bytes(value: object) -> int:
    if isinstance(value, list):
        return sum(_plain_bytes(item) for item in value)
    return len(value) if isinstance(value, str | bytes) else 8
