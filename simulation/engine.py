"""Many sites in one process: the same ServerApp and ClientApp without SuperLink, Ray or sockets."""

import copy
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import app as client_app
from client.service.registry import SITE, serve, withdraw
from client.service.roles import Fitter
from mediclip.protocol import CONFIG, METRICS, NUM_EXAMPLES
from server.app import HISTORY, app as server_app
from simulation.plan import SITES_FOLDER, Event, FederatedResult, OnEvent, Plan, RoundWatch, read_result
from simulation.threads import one_torch_thread

_RUN_ID = 1
_SERVER_NODE = 1
_FIRST_NODE = 2

ClientCallable = Callable[[Message, Context], Message]
OnMessage = Callable[[Message], None]


def run_in_process(
    plan: Plan,
    sites: Sequence[Fitter],
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
            serve(site.name, site, settings.out / SITES_FOLDER / folder_name(site.name))
            stack.callback(withdraw, site.name)
        stack.enter_context(one_torch_thread())
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
        if reply.metadata.message_type == MessageType.EVALUATE:
            return  # the end of the run, which is no round
        site = self._names[reply.metadata.src_node_id]
        if reply.has_error():
            self._on_event(Event("error", number, site, {}))
        elif number == 0:
            self._on_event(Event("joined", number, site, {}))
        else:
            numbers = reply.content.metric_records.get(METRICS, MetricRecord())
            metrics = {k: v for k, v in numbers.items() if k != NUM_EXAMPLES and isinstance(v, float)}
            self._on_event(Event("update", number, site, metrics))


def _round_number(message: Message) -> int:
    number = message.content.config_records[CONFIG].get("server-round", 0)
    return number if isinstance(number, int) else 0


def folder_name(site: str) -> str:
    """Name the folder of a site: its name may be one that no folder can have."""
    return hashlib.sha256(site.encode()).hexdigest()[:16]


def _identify() -> None:
    # A Message takes its sender from here; under SuperLink and Ray, Flower sets it.
    TaskIdentity.task_id = TaskIdentity.run_id = _RUN_ID
    TaskIdentity.node_id = _SERVER_NODE


@contextmanager
def _quiet_flower() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
