"""Many sites in one process: the same ServerApp and ClientApp without SuperLink, Ray or sockets."""

import copy
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import app as client_app
from client.service.fit import SiteService
from client.service.registry import SITE, serve, withdraw
from mediclip.config import Recipe
from mediclip.errors import CheckpointError
from mediclip.model.trainables import Schema, Trainables
from mediclip.protocol import CONFIG, METRICS, NUM_EXAMPLES
from mediclip.training.checkpoint import write_atomically
from server.app import CHECKPOINT, HISTORY, app as server_app, refuse_earlier_run
from server.checkpointing import RunIdentity, load_round
from server.history import Entry, History
from server.settings import RunSettings, StrategyName

SCHEMA_FILE = "schema.json"
RECIPE_FILE = "recipe.json"
_RUN_ID = 1
_SERVER_NODE = 1
_FIRST_NODE = 2

ClientCallable = Callable[[Message, Context], Message]
OnMessage = Callable[[Message], None]


@dataclass(frozen=True)
class Event:
    """Something that a person who waits wants to see.

    Attributes:
        kind: ``"joined"``, ``"update"`` or ``"error"``, each from one site, or ``"round"`` when one is over.
        number: The round, 0 before the first.
        site: Name of the site; empty for ``"round"``.
        metrics: Numbers of the update, or the round's means.
    """

    kind: str
    number: int
    site: str
    metrics: dict[str, float]


OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Plan:
    """One federated run, whatever the engine.

    Attributes:
        out: Folder of the run.
        schema: The tensors that travel.
        recipe: What the sites train with.
        rounds: Last round.
        seed: The run's seed.
        local_steps: Optimiser steps of each site in each round.
        strategy: How updates become the next global model.
        quorum: Admitted updates that a round needs; all sites when omitted.
        proximal_mu: Weight of FedProx's pull.
        server_learning_rate: Step of FedAdam.
        trim_fraction: Share that the trimmed mean cuts off at each end.
        retries: How often a round without quorum is asked again.
        round_timeout_s: Longest wait for the sites' answers in seconds.
        join_timeout_s: Longest wait for sites to appear in seconds.
        max_examples: Most images that one site can count with.
        max_update_norm: Largest norm of an update; derived from the optimiser when 0.
        resume: Go on from the last finished round in ``out``.
    """

    out: Path
    schema: Schema
    recipe: Recipe
    rounds: int
    seed: int
    local_steps: int
    strategy: StrategyName = "fedavg"
    quorum: int | None = None
    proximal_mu: float = 0.0
    server_learning_rate: float = 1e-2
    trim_fraction: float = 0.2
    retries: int = 2
    round_timeout_s: float = 3600.0
    join_timeout_s: float = 600.0
    max_examples: int = 64
    max_update_norm: float = 0.0
    resume: bool = False

    def prepare(self, sites: int, sites_dir: Path | None = None) -> RunSettings:
        """Check the plan and write what the server reads into ``out``.

        Args:
            sites: Number of sites.
            sites_dir: Folder of ``site-K.toml`` for simulated nodes.

        Returns:
            The settings for Flower's run-config.

        Raises:
            CheckpointError: If ``out`` holds a run and ``resume`` is not set.
            SettingsError: If a number is out of its range.
        """
        out = self.out.resolve()
        values = {
            name: getattr(self, name)
            for name in RunSettings.model_fields
            if name not in {"out", "schema_file", "recipe_file", "sites", "quorum", "sites_dir"}
        }
        values |= {
            "out": out,
            "schema_file": out / SCHEMA_FILE,
            "recipe_file": out / RECIPE_FILE,
            "sites": sites,
            "quorum": self.quorum or 0,
            "sites_dir": "" if sites_dir is None else str(sites_dir.resolve()),
        }
        settings = RunSettings.parse(values, source="the run's plan")
        refuse_earlier_run(out, resume=self.resume)
        self.finished_round()  # another run's folder stays as it is
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(settings.schema_file, self.schema.to_json().encode())
        write_atomically(settings.recipe_file, self.recipe.model_dump_json().encode())
        return settings

    def finished_round(self) -> int:
        """Look up the last finished round in ``out``, 0 if there is none.

        Raises:
            CheckpointError: If the round there is damaged or of another run.
        """
        checkpoint = self.out / CHECKPOINT
        return load_round(checkpoint, self.schema, self.identity).number if checkpoint.exists() else 0

    @property
    def identity(self) -> RunIdentity:
        """What the plan's rounds belong to."""
        return RunIdentity(
            self.schema.digest(), self.recipe.digest(), self.seed, self.strategy, self.local_steps
        )


@dataclass(frozen=True)
class FederatedResult:
    """What a run left.

    Attributes:
        tensors: The final global model.
        history: One entry for each round, as in ``history.jsonl``.
        seconds: Wall time of this call.
    """

    tensors: Trainables
    history: list[Entry]
    seconds: float

    @property
    def bytes_up_per_round(self) -> float:
        """Mean payload from all sites together in one round, in bytes."""
        return _mean(entry["bytes_up"] for entry in self.history)

    @property
    def bytes_down_per_round(self) -> float:
        """Mean payload to all sites together in one round, in bytes."""
        return _mean(entry["bytes_down"] for entry in self.history)


def run_in_process(
    plan: Plan,
    sites: Sequence[SiteService],
    *,
    parallel: int | None = None,
    on_event: OnEvent | None = None,
    on_message: OnMessage | None = None,
    client: ClientCallable = client_app,
) -> FederatedResult:
    """Run a federation in this process.

    Torch works with one thread in each site, as it does under Ray, so that the sums come out the same; what
    more cores gain comes from sites that train side by side.

    Args:
        plan: The run.
        sites: The sites, with different names; they may share a backbone.
        parallel: Sites that train at the same time; as many as there are cores when omitted. It does not
            change the result.
        on_event: Called from the server's thread.
        on_message: Sees a copy of each message, in both directions.
        client: The ClientApp, or a stand-in.

    Returns:
        Final tensors and history, which also lie in ``plan.out``.

    Raises:
        CheckpointError: If ``plan.out`` holds another run.
        QuorumError: If a round has too few updates.
        SettingsError: If a number is out of its range or two sites share a name.
    """
    started = time.monotonic()
    settings = plan.prepare(len(sites))
    finished = plan.finished_round()
    run_config = settings.to_run_config()
    workers = parallel or min(len(sites), os.cpu_count() or 1)
    with ExitStack() as stack:
        for site in sites:
            serve(site.name, site)
            stack.callback(withdraw, site.name)
        stack.enter_context(_one_torch_thread())
        stack.enter_context(_quiet_flower())
        watch = RoundWatch(settings.out / HISTORY, on_event, after=finished)
        grid = InProcessGrid(
            client,
            [site.name for site in sites],
            dict(run_config),
            parallel=workers,
            on_event=on_event,
            on_message=on_message,
            before_push=watch.look,
        )
        stack.callback(grid.close)
        _identify()
        server_app(grid, Context(_RUN_ID, _SERVER_NODE, {}, RecordDict(), dict(run_config)))
        watch.look()
    return read_result(plan, time.monotonic() - started)


def read_result(plan: Plan, seconds: float) -> FederatedResult:
    """Read what a finished run left in its folder.

    Args:
        plan: The run.
        seconds: How long it took.

    Returns:
        Final tensors and history.

    Raises:
        CheckpointError: If the folder does not hold the plan's last round.
    """
    state = load_round(plan.out / CHECKPOINT, plan.schema, plan.identity)
    if state.number < plan.rounds:
        message = f"The run must have finished round {plan.rounds}. It has {state.number}; resume it."
        raise CheckpointError(message)
    return FederatedResult(state.tensors, History(plan.out / HISTORY).read(), seconds)


class InProcessGrid(Grid):
    """Flower's Grid, with the ClientApp called directly.

    Like a real transport it copies each message both ways, gives each node one message at a time, turns an
    exception into an error reply and lets the server wait no longer than its timeout.

    Args:
        client: The ClientApp.
        names: Names of the sites.
        run_config: Flower's settings of the run.
        parallel: Messages that are answered at the same time.
        on_event: Told of every reply and every round.
        on_message: Shown a copy of each message.
        before_push: Called before messages are sent, when the last round is in the history.
    """

    def __init__(
        self,
        client: ClientCallable,
        names: Sequence[str],
        run_config: dict[str, Any],
        *,
        parallel: int,
        on_event: OnEvent | None = None,
        on_message: OnMessage | None = None,
        before_push: Callable[[], None] | None = None,
    ) -> None:
        self._client = client
        self._names = {_FIRST_NODE + i: name for i, name in enumerate(names)}
        self._contexts = {
            node: Context(_RUN_ID, node, {SITE: name}, RecordDict(), dict(run_config))
            for node, name in self._names.items()
        }
        self._queues = {node: ThreadPoolExecutor(1, f"site-{node}") for node in self._names}
        self._slots = threading.Semaphore(parallel)
        self._pending: dict[str, Future[Message]] = {}
        self._on_event = on_event
        self._on_message = on_message
        self._before_push = before_push
        self._numbers: dict[str, int] = {}
        self._run = Run.create_empty(_RUN_ID)

    def set_run(self, run: Run) -> None:
        """Set the run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """List the nodes in a fixed order."""
        return sorted(self._names)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Start answering messages; returns their ids."""
        if self._before_push is not None:
            self._before_push()
        ids = []
        for message in messages:
            sent = copy.deepcopy(message)
            sent.metadata.__dict__["_message_id"] = str(uuid4())
            self._show(sent)
            node = sent.metadata.dst_node_id
            self._numbers[sent.metadata.message_id] = _round_number(sent)
            self._pending[sent.metadata.message_id] = self._queues[node].submit(self._answer, sent)
            ids.append(sent.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Take the answers that are there."""
        done = [i for i in message_ids if i in self._pending and self._pending[i].done()]
        replies = [self._pending.pop(i).result() for i in done]
        for reply in replies:
            self._show(reply)
            self._tell(reply)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for the answers, or as many as come in time."""
        ids = self.push_messages(messages)
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while missing := [self._pending[i] for i in ids if i in self._pending]:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            done, _ = wait(missing, left, return_when="FIRST_COMPLETED")
            replies += self.pull_messages(ids)
            if not done:
                break
        for late in ids:
            self._pending.pop(late, None)
        return replies

    def close(self) -> None:
        """Answer nothing more; what is being answered runs to its end unheard."""
        for queue in self._queues.values():
            queue.shutdown(wait=False, cancel_futures=True)

    def _answer(self, message: Message) -> Message:
        with self._slots:
            try:
                reply = self._client(message, self._contexts[message.metadata.dst_node_id])
            except Exception as error:  # noqa: BLE001 - this is what Flower's own transports do
                reason = f"{type(error)}:<'{error}'>"
                reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        return copy.deepcopy(reply)

    def _show(self, message: Message) -> None:
        if self._on_message is not None:
            self._on_message(copy.deepcopy(message))

    def _tell(self, reply: Message) -> None:
        if self._on_event is None:
            return
        number = self._numbers.pop(reply.metadata.reply_to_message_id, 0)
        site = self._names[reply.metadata.src_node_id]
        if reply.has_error():
            self._on_event(Event("error", number, site, {}))
        elif number == 0:
            self._on_event(Event("joined", number, site, {}))
        else:
            numbers = reply.content.metric_records.get(METRICS, MetricRecord())
            metrics = {k: v for k, v in numbers.items() if k != NUM_EXAMPLES and isinstance(v, float)}
            self._on_event(Event("update", number, site, metrics))


class RoundWatch:
    """Tells of every round that history has gained since the last look.

    Args:
        path: The run's ``history.jsonl``.
        on_event: Told of each round, once.
        after: Round after which to begin.
    """

    def __init__(self, path: Path, on_event: OnEvent | None, *, after: int = 0) -> None:
        self._history = History(path)
        self._on_event = on_event
        self._last = after

    def look(self) -> None:
        """Read the history and tell what is new."""
        if self._on_event is None:
            return
        for entry in self._history.read():
            if entry["round"] > self._last and "failed" not in entry:
                self._last = entry["round"]
                self._on_event(Event("round", self._last, "", entry["metrics"]))


def _round_number(message: Message) -> int:
    number = message.content.config_records[CONFIG].get("server-round", 0)
    return number if isinstance(number, int) else 0


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0


def _identify() -> None:
    # A Message takes its sender from here; under SuperLink and Ray, Flower sets it.
    TaskIdentity.task_id = TaskIdentity.run_id = _RUN_ID
    TaskIdentity.node_id = _SERVER_NODE


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    import torch  # noqa: PLC0415 - the command line imports this module and must start at once

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet_flower() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
