"""The server's round over 10, 100 and 1,000 sites of ViT-L-14's trainables: its memory, its time per site.

The sites are replies that are made when the server fetches them, so that what is measured is the server: the
real round loop, admission, aggregation and checkpoint.
"""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from benchmarks.exchange import drawn_update, vit_l_14
from benchmarks.harness import Benchmark, Outcome, in_fresh_process, rounded
from mediclip.config import load_recipe
from mediclip.exchange.codecs import CodecName, named_codec
from mediclip.exchange.parcel import Parcel, model_digest, pack_difference, pack_values
from mediclip.model.trainables import Schema, initial_trainables
from mediclip.protocol import ARRAYS, CONFIG, METRICS, NUM_EXAMPLES
from mediclip.provenance import source_digest
from server.app import federate
from server.collection import to_records
from server.settings import StrategyName
from simulation.plan import Plan

_SEED = 7
_DIFFERENT = 4
_FIRST = 2
_BUDGET_MIB = 1024


class _Sites(Grid):
    """Sites that answer at once with one of a few updates."""

    def __init__(self, sites: int, schema: Schema, codec: CodecName) -> None:
        start = initial_trainables(schema, _SEED)
        updates = [drawn_update(schema, seed) for seed in range(_DIFFERENT)]
        self._parcels = [_parcel(schema, start, update, codec) for update in updates]
        self._schema, self._sites = schema, sites
        self._asked: dict[str, Message] = {}
        self.making_s = 0.0

    def set_run(self, run: Run) -> None:
        """Not needed."""

    @property
    def run(self) -> Run:
        """An empty run."""
        return Run.create_empty(1)

    def create_message(self, *_: Any, **__: Any) -> Message:  # noqa: ANN401 - of the interface
        """Not needed."""
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        """List the nodes."""
        return list(range(_FIRST, _FIRST + self._sites))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Remember what was asked."""
        ids = []
        for message in messages:
            name = f"{len(self._asked)}-{message.metadata.dst_node_id}-{message.metadata.message_type}"
            message.metadata.__dict__["_message_id"] = name
            self._asked[name] = message
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Answer."""
        started = time.process_time()
        replies = [self._answer(self._asked.pop(name)) for name in message_ids]
        self.making_s += time.process_time() - started
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Answer all."""
        del timeout
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        node, config = message.metadata.dst_node_id, message.content.config_records[CONFIG]
        if message.metadata.message_type != "train":
            digest = self._schema.digest()
            card = {"site": f"site-{node:05d}", "schema-digest": digest, "source-digest": source_digest()}
            content = RecordDict({CONFIG: ConfigRecord({**card, "codec": str(config["codec"]), "error": ""})})
        else:
            content = _packed(self._parcels[node % _DIFFERENT])
        reply = Message(content, reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = node
        return reply


def _parcel(schema: Schema, start: Any, update: Any, codec: CodecName) -> Parcel:  # noqa: ANN401 - trainables
    if named_codec(codec).is_exact:
        return pack_values(schema, {name: value + update[name] for name, value in start.items()})
    return pack_difference(named_codec(codec), schema, model_digest(start), update).parcel


def _packed(parcel: Parcel) -> RecordDict:
    arrays, facts = to_records(parcel)  # new bytes for each site, as a network would give them
    return RecordDict({ARRAYS: arrays, CONFIG: facts, METRICS: MetricRecord({NUM_EXAMPLES: 8})})


def run_round(sites: int, strategy: StrategyName, codec: CodecName, quick: bool) -> dict[str, float]:  # noqa: FBT001
    """Run one round and say what processor time it took beside the making of the replies.

    Args:
        sites: How many answer.
        strategy: What joins them.
        codec: How they travel.
        quick: Whether only the code is tried.
    """
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    schema = vit_l_14(quick=quick)
    with tempfile.TemporaryDirectory() as name:
        plan = Plan(
            Path(name) / "run",
            schema,
            load_recipe("default"),
            1,
            _SEED,
            40,
            strategy=strategy,
            codec=codec,
            max_update_norm=1e3,
        )
        grid = _Sites(sites, schema, codec)
        started = time.process_time()
        federate(grid, plan.prepare(sites))
        spent = time.process_time() - started - grid.making_s
    return {"cpu_s_a_site": rounded(spent / sites), "copy_cpu_s": rounded(_copy_seconds(schema.size()))}


def _copy_seconds(size: int) -> float:
    """Time what a site cannot do without: its values and the model read, the sum read and written."""
    values, sums = np.zeros(2 * size, np.float32), np.zeros(size)
    into, added = np.empty_like(values), np.empty_like(sums)
    taken = []
    for _ in range(5):
        started = time.process_time()
        np.copyto(into, values)
        np.copyto(added, sums)
        taken.append(time.process_time() - started)
    return min(taken)


def _memory(*, quick: bool) -> Outcome:
    counts = (5, 20) if quick else (10, 100, 1000)
    details: dict[str, Any] = {}
    peak = 0.0
    for count in counts:
        cost = in_fresh_process(run_round, count, "fedavg", "float32", quick)
        details[f"{count} sites"] = {"peak_mib": rounded(cost.peak_mib), **cost.value}
        peak = cost.peak_mib
    return Outcome(peak / _BUDGET_MIB, details)


def _others(*, quick: bool) -> Outcome:
    count = 5 if quick else 100
    details: dict[str, Any] = {}
    peaks = []
    rounds: tuple[tuple[StrategyName, CodecName], ...] = (
        ("fedavg", "low-rank"),
        ("fedadam", "two-bit"),
        ("fedmedian", "float32"),
        ("fedtrimmedavg", "float32"),
        ("multikrum", "float32"),
    )
    for strategy, codec in rounds[:2] if quick else rounds:
        cost = in_fresh_process(run_round, count, strategy, codec, quick)
        details[f"{strategy}, {codec}"] = {"peak_mib": rounded(cost.peak_mib), **cost.value}
        peaks.append(cost.peak_mib)
    return Outcome(max(peaks) / _BUDGET_MIB, details)


BENCHMARKS = (
    Benchmark(
        "aggregation_memory",
        "peak memory of a server's process in a round of 1,000 sites of ViT-L-14, against 1 GiB",
        target=1.0,
        unit="of 1 GiB",
        measure=_memory,
        at_most=True,
    ),
    Benchmark(
        "aggregation_robust",
        "the same with 100 sites, for the other strategies and for differences, the most of them",
        target=1.0,
        unit="of 1 GiB",
        measure=_others,
        at_most=True,
    ),
)
