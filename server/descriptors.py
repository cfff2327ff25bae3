"""Asks sites for the descriptors of their scans; a site that does not give one takes part all the same."""

import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from mediclip.protocol import CONFIG, DESCRIPTOR
from server.clusters import Clusters, Descriptor
from server.replies import numbers_of
from server.roster import NO_ANSWER, Roster
from server.stream import ReplyStream

_LONGEST: Final = 4096
_TOLERANCE: Final = 1e-3
_log = logging.getLogger("mediclip.server")


@dataclass
class Descriptors:
    """What sites said of their scans.

    Attributes:
        recipe: The recipe as JSON.
        refused: Why a site gave none: ``site-<code>``, ``records``, ``values`` or ``no-answer``, by its name.
    """

    recipe: str
    refused: dict[str, str] = field(default_factory=dict)
    _nodes: set[int] = field(default_factory=set)

    def ask(self, grid: Grid, roster: Roster, known: Clusters, timeout_s: float) -> dict[str, Descriptor]:
        """Ask the sites of the roster that were not yet asked.

        Args:
            grid: Flower's connection to the sites.
            roster: Who takes part.
            known: The sites whose descriptor is there.
            timeout_s: Longest wait in seconds.

        Returns:
            Descriptors of norm 1 by the site's name, as long as the known ones, or else as most of them are.
        """
        self._nodes &= set(roster.sites)  # a node that left and came back may have another policy
        asked = {n: s for n, s in roster.sites.items() if s not in known.members and n not in self._nodes}
        if not asked:
            return {}
        self._nodes |= set(asked)
        content = RecordDict({CONFIG: ConfigRecord({"recipe": self.recipe})})
        kind = f"{MessageType.QUERY}.{DESCRIPTOR}"
        stream = ReplyStream(grid, timeout_s)
        stream.push([Message(content, node, kind, ttl=timeout_s) for node in sorted(asked)])
        self.refused |= dict.fromkeys(asked.values(), NO_ANSWER)
        found: dict[str, Descriptor] = {}
        for node, reply in stream:
            site = asked[node]
            values, reason = _judged(reply)
            if reason:
                self.refused[site] = reason
                _log.warning("%s gives no descriptor: %s", site, reason)
                continue
            del self.refused[site]
            found[site] = values
        lengths = Counter(map(len, found.values()))
        length = known.length or max(lengths, key=lambda number: (lengths[number], number), default=0)
        odd = [site for site, values in found.items() if len(values) != length]
        self.refused |= dict.fromkeys(odd, "values")
        return {site: values for site, values in found.items() if site not in odd}

    def entry(self) -> dict[str, list[dict[str, str]]]:
        """Write who gave none as a part of a line of history; nothing where all did."""
        rows = [{"site": site, "reason": self.refused[site]} for site in sorted(self.refused)]
        return {"undescribed": rows} if rows else {}


def _judged(reply: Message) -> tuple[Descriptor, str]:
    """Read a descriptor, or why there is none."""
    numbers, reason = numbers_of(reply)
    if reason or set(numbers) != {DESCRIPTOR}:
        return (), reason or "records"
    values = numbers[DESCRIPTOR]
    if not isinstance(values, list) or not 1 <= len(values) <= _LONGEST:
        return (), "values"
    if not abs(math.hypot(*values) - 1) <= _TOLERANCE:  # also true for NaN
        return (), "values"
    return tuple(float(value) for value in values), ""
