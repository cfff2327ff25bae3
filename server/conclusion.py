"""The end of a run: every site is sent the model that is its own from now on, and may say how it likes it.

conclusion.json in the run's folder says who has it. A site that was away gets it when the run is resumed.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from mediclip.config import Recipe
from mediclip.exchange.parcel import pack_values
from mediclip.model.trainables import Schema, Trainables
from mediclip.protocol import ARRAYS, CONFIG, FINAL_METRIC_NAMES
from mediclip.training.checkpoint import write_atomically
from server.collection import to_records
from server.replies import numbers_of
from server.roster import NO_ANSWER, Roster
from server.settings import RunSettings
from server.stream import ReplyStream

CONCLUSION: Final = "conclusion.json"
_LARGEST: Final = 1e9
_log = logging.getLogger("mediclip.server")


@dataclass(frozen=True)
class Delivery:
    """What one site is sent.

    Attributes:
        tensors: The model.
        origin: ``global``, or ``cluster`` for that of the site's cluster.
    """

    tensors: Trainables
    origin: Literal["global", "cluster"] = "global"


@dataclass
class Concluded:
    """Who has a model.

    Attributes:
        sites: Numbers that each site let leave, by its name; usually none.
        refused: Why another site has none.
    """

    sites: dict[str, dict[str, float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Concluded":
        """Read what an earlier end of the run left; nothing where there was none."""
        try:
            return cls(dict(json.loads(path.read_text(encoding="utf-8"))["sites"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, path: Path) -> None:
        """Write it down."""
        values: dict[str, Any] = {
            "sites": {site: self.sites[site] for site in sorted(self.sites)},
            "refused": [{"site": site, "reason": self.refused[site]} for site in sorted(self.refused)],
        }
        write_atomically(path, json.dumps(values, indent=2).encode())


def is_wanted(settings: RunSettings, recipe: Recipe) -> bool:
    """Say whether sites are sent a model at the end: where not all get the same, or compare it."""
    return settings.safeguard or bool(recipe.private) or settings.strategy == "clustered"


def conclude(
    grid: Grid,
    settings: RunSettings,
    schema: Schema,
    recipe: Recipe,
    roster: Roster,
    delivery_of: Callable[[str], Delivery],
) -> Concluded:
    """Send each site of the roster its model, unless it has it, and take in the numbers that come back.

    Args:
        grid: Flower's connection to the sites.
        settings: Of the run.
        schema: The tensors that travel.
        recipe: What the sites train with.
        roster: Who takes part.
        delivery_of: Gives what a site is sent, by its name.

    Returns:
        Who has a model now; it is written into the run's folder. A site that fails is no error of the run.
    """
    path = settings.out / CONCLUSION
    done = Concluded.read(path)
    waiting = {node: site for node, site in roster.sites.items() if site not in done.sites}
    packed: dict[int, tuple[ArrayRecord, ConfigRecord]] = {}  # sites with the same model share its bytes
    requests = []
    for node, site in sorted(waiting.items()):
        delivery = delivery_of(site)
        key = id(delivery.tensors)
        if key not in packed:
            packed[key] = to_records(pack_values(schema, delivery.tensors))
        requests.append(_request(settings, recipe, node, delivery.origin, packed[key]))
    done.refused = dict.fromkeys(waiting.values(), NO_ANSWER)
    stream = ReplyStream(grid, settings.round_timeout_s)
    stream.push(requests)
    for node, reply in stream:
        site = waiting[node]
        numbers, reason = _judged(reply)
        if reason:
            done.refused[site] = reason
            _log.warning("%s did not take the final model: %s", site, reason)
            continue
        del done.refused[site]
        done.sites[site] = numbers
    done.write(path)
    return done


def _request(
    settings: RunSettings, recipe: Recipe, node: int, origin: str, parcel: tuple[ArrayRecord, ConfigRecord]
) -> Message:
    arrays, config = parcel[0], ConfigRecord(dict(parcel[1]))
    config["server-round"] = settings.rounds
    config["seed"] = settings.seed
    config["recipe"] = recipe.model_dump_json()
    config["local-steps"] = settings.local_steps
    config["origin"] = origin
    config["safeguard"] = settings.safeguard
    content = RecordDict({ARRAYS: arrays, CONFIG: config})
    return Message(content, node, MessageType.EVALUATE, ttl=settings.round_timeout_s, group_id="end")


def _judged(reply: Message) -> tuple[dict[str, float], str]:
    """Read a site's numbers, or why there are none."""
    numbers, reason = numbers_of(reply)
    if reason:
        return {}, reason
    found: dict[str, float] = {}
    for name, value in numbers.items():
        if name not in FINAL_METRIC_NAMES:
            return {}, "metric-name"
        if isinstance(value, list) or not abs(value) <= _LARGEST:  # also false for NaN
            return {}, "metric-value"
        found[name] = float(value)
    return found, ""
