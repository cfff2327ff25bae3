"""Fifty sites for three rounds against a real coordinator: time of a round, memory of the server's processes.

The sites are thin: each is a thread here that speaks Flower's fleet protocol with a key of its own, gives
each message to the project's ClientApp, and trains by adding a constant. SuperLink, SuperExec and ServerApp
are those that ``mediclip server start`` runs.
"""

import functools
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supernode.fleet_http_connection import http_request_response

from benchmarks._deployment import PeakMemory, finish, running, write_federation
from benchmarks.harness import Benchmark, Outcome
from client.app import app
from client.service import registry
from client.service.fit import FitReply, FitRequest
from mediclip.model.trainables import BackboneShapes, Schema
from server.federation import load_federation
from server.history import History

_VIT_L_14: Final = (BackboneShapes(width=1024, embed_dim=768, text_width=768), (12, 18, 24))
_VIT_TINY: Final = (BackboneShapes(width=192, embed_dim=192, text_width=128), (6, 9, 12))
_PROCESSES: Final = {
    "server.superlink": "superlink",
    "flower-superexec": "superexec",
    "flwr-serverapp": "serverapp",
}
_PAUSE_S: Final = 0.2
_REGISTERED_WITHIN_S: Final = 120.0
_TARGET_MIB: Final = 1024


@dataclass(frozen=True)
class ThinSite:
    """A site that adds a constant to what it gets.

    Attributes:
        name: Name of the site.
        schema: What it would train.
    """

    name: str
    schema: Schema

    def schema_digest(self, recipe: str) -> str:  # noqa: ARG002 - as every site is asked
        """Digest the tensors."""
        return self.schema.digest()

    def fit(self, request: FitRequest) -> FitReply:
        """Answer a round."""
        step = 1e-5 * (1 + hash(self.name) % 7)
        return FitReply(
            {name: value + step for name, value in request.tensors.items()}, 8, {"train_loss": 0.5}
        )


def serve(site: ThinSite, kit: Path, address: str, stop: threading.Event) -> None:
    """Take part until told to stop.

    Args:
        site: The site.
        kit: Its kit, for the key and the authority's certificate.
        address: ``host:port`` of the coordinator.
        stop: Set it to end.
    """
    private = load_ssh_private_key((kit / "node_key").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)  # noqa: S101 - as provisioned
    registry.serve(site.name, site)
    keys = (private, private.public_key())
    with http_request_response(address, False, (kit / "ca.crt").read_bytes(), keys) as fleet:
        node, receive, send, _, _, pull, push, confirm = fleet
        while not stop.is_set():
            got = receive()
            if got is None:
                stop.wait(_PAUSE_S)
                continue
            run = got[0].metadata.run_id
            message = _fetch(got, functools.partial(pull, run))
            confirm(run, message.metadata.message_id)
            reply = app(message, Context(run, node, {"site": site.name}, RecordDict(), {}))
            _answer(reply, send, functools.partial(push, run))
    registry.withdraw(site.name)


def _fetch(got: tuple[Message, Any], pull: Callable[[str], bytes]) -> Message:
    head, tree = got
    contents = pull_objects([part.object_id for part in iterate_object_tree(tree)], pull)
    message = inflate_object_from_contents(head.metadata.message_id, contents)
    assert isinstance(message, Message)  # noqa: S101 - what was sent
    message.metadata.__dict__["_message_id"] = head.metadata.message_id
    return message


def _answer(reply: Message, send: Callable[..., Any], push: Callable[[str, str, bytes], None]) -> None:
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        parts = get_all_nested_objects(reply)
        wanted, session = send(reply, get_object_tree(reply), 0.0)
        for name, part in parts.items():
            if name in wanted:
                push(session, name, part.deflate())


def _wait_until_registered(out: Path, log: Path, sites: int) -> None:
    """Wait until the coordinator knows every key: Flower's client gives up on one that is not known."""
    deadline = time.monotonic() + _REGISTERED_WITHIN_S
    database = out / "flower" / "state.db"
    while time.monotonic() < deadline:
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as state:
            if state.execute("SELECT COUNT(*) FROM node").fetchone()[0] >= sites:
                return
        time.sleep(_PAUSE_S)
    sys.stderr.write(log.read_text(encoding="utf-8"))
    raise SystemExit(1)


def measure(backbone: tuple[BackboneShapes, tuple[int, ...]], sites: int, rounds: int) -> dict[str, Any]:
    """Run a federation of many thin sites.

    Args:
        backbone: Widths and taps.
        sites: Number of sites.
        rounds: Number of rounds.

    Returns:
        Seconds of each round, and the peak memory of each of the server's processes in MiB.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"site-{number:03d}" for number in range(sites)]
        path = write_federation(folder, names, ("embedded", *backbone), rounds=rounds, join_timeout_s=300.0)
        settings, recipe = load_federation(path)
        schema = settings.schema_for(recipe)
        stop, out, log = threading.Event(), folder / "run", folder / "run.log"
        started = time.monotonic()
        with running(log, "server", "start", str(path), "--out", str(out)) as coordinator:
            threads = [
                threading.Thread(
                    target=serve,
                    args=(ThinSite(site, schema), folder / "kits" / site, settings.address, stop),
                    daemon=True,
                )
                for site in names
            ]
            with PeakMemory(coordinator.pid, _PROCESSES, "coordinator") as memory:
                _wait_until_registered(out, log, sites)
                for thread in threads:
                    thread.start()
                finish(coordinator, log)
            stop.set()  # they try to reach a coordinator that is gone, and end with this process
        entries = History(out / "history.jsonl").read()
    seconds = [entry["seconds"] for entry in entries]
    return {
        "sites": sites,
        "values": schema.size(),
        "answered": [len(entry["sites"]) for entry in entries],
        "round_s": seconds,
        "median_round_s": round(statistics.median(seconds), 2),
        "wall_s": round(time.monotonic() - started, 1),
        "mib_up_and_down": [round((e["bytes_up"] + e["bytes_down"]) / 2**20, 1) for e in entries],
        "peak_mib": memory.mib,
    }


def _measure(backbone: tuple[BackboneShapes, tuple[int, ...]], *, quick: bool) -> Outcome:
    found = measure(backbone, 3 if quick else 50, 2 if quick else 3)
    return Outcome(sum(found["peak_mib"].values()) / _TARGET_MIB, found)


BENCHMARKS = tuple(
    Benchmark(
        f"fifty_sites_{name}",
        f"peak memory of the server's four processes, 50 sites with the trainables of {title}, against 1 GiB",
        target=1,
        unit="GiB",
        measure=functools.partial(_measure, backbone),
        at_most=True,
    )
    for name, title, backbone in (("vit_l_14", "ViT-L-14", _VIT_L_14), ("vit_tiny", "vit-tiny", _VIT_TINY))
)
