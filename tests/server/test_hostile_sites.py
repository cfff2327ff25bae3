"""Registered sites that lie, over TLS with node keys and real processes: what their coordinator makes of it.

Each deed by itself, in the in-process engine, is in ``tests/simulation/test_hazards.py``.
"""

import shlex
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import pytest

from client import flower
from client.kit import Kit
from client.nursery import SOCKET
from client.service.fit import FitReply
from client.service.site import Site
from mediclip.errors import ServiceError
from server.app import FINAL, HISTORY
from server.federation import load_federation
from server.flower_processes import free_port
from server.history import History
from server.provision import provision
from simulation.engine import run_in_process
from tests.deployment import (
    complete_kit,
    coordinator,
    ended,
    run_program,
    running_sites,
    tensors_of,
    wait_until,
)
from tests.hostile_app import PATH
from tests.kits import PATIENCE_S, ROOT
from tests.tiny import largest_difference, tiny_backbone, tiny_plan

pytestmark = pytest.mark.slow
DEEDS = {
    "east": ("nan", "shape", "dtype", "silent"),
    "west": ("metric", "hundredfold", "raise", "many"),
}
REASONS = {
    "nan": "not-finite",
    "shape": "shape",
    "dtype": "encoding",
    "metric": "metric-name",
    "hundredfold": "norm",
    "raise": "site-failed",
    "silent": "no-answer",
}
ROUNDS = 4
CLAIMED = 10**9


@contextmanager
def hostile_site(kit, name, deeds):
    """Run a registered SuperNode whose ClientApp is ``tests/hostile_app.py``."""
    state = Kit(kit).make_state()
    environment = flower.site_environment(state, state / SOCKET)
    program = state / "bin" / "flwr-clientapp"
    arguments = shlex.join([sys.executable, "-P", "-m", "tests.hostile_app", name, ",".join(deeds)])
    program.write_text(f'#!/bin/sh\nexec {arguments} "$@"\n')
    command = flower.supernode_command(
        superlink=Kit(kit).settings.superlink,
        certificate=kit / "ca.crt",
        key=kit / "node_key",
        runtime_port=free_port(),
        node_config={},
    )
    environment = {**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with ended(run_program(kit.with_suffix(".log"), command, environment, stdin=subprocess.PIPE)) as process:
        yield process


def is_registered(kit):
    """Say whether the coordinator knows a key; a site that is supervised tries again, these do not."""
    settings = Kit(kit).settings
    return flower.probe_key(settings.superlink, kit / "ca.crt", kit / "node_key") == "accepted"


class Unchanging:
    """What counts of the site that claims 10⁹ images: in the last round it changes nothing."""

    name = "west"

    def __init__(self, honest):
        self.schema_digest = honest.schema_digest

    def fit(self, request):
        if request.number < ROUNDS:
            raise ServiceError("no answer", code="failed")  # noqa: EM101
        return FitReply(request.tensors, CLAIMED, {})


def test_hostile_sites_are_refused_by_name_and_reason_and_the_others_finish(write_federation, tmp_path):
    sites = ["north", "south", "east", "west", "liar"]
    federation = write_federation(
        address=f"127.0.0.1:{free_port()}",
        sites=sites,
        quorum=2,
        rounds=ROUNDS,
        retries=0,
        join_timeout_s=300.0,
        round_timeout_s=60.0,
    )
    provision(load_federation(federation)[0], tmp_path / "kits")
    kits = {site: tmp_path / "kits" / site for site in sites}
    honest = [kits["north"], kits["south"]]
    for number, kit in enumerate(honest):
        complete_kit(kit, number)
    out, log = tmp_path / "run", tmp_path / "run.log"
    with coordinator(federation, out) as process, ExitStack() as stack:
        wait_until(lambda: is_registered(kits["liar"]), process, log)
        for site, deeds in DEEDS.items():
            stack.enter_context(hostile_site(kits[site], site, deeds))
        stack.enter_context(hostile_site(kits["liar"], "north", ["many"] * ROUNDS))
        stack.enter_context(running_sites(honest))
        assert process.wait(PATIENCE_S) == 0, log.read_text()

    entries = History(out / HISTORY).read()
    for number, entry in enumerate(entries):
        done = {site: deeds[number] for site, deeds in DEEDS.items()}
        expected = {site: REASONS[deed] for site, deed in done.items() if deed in REASONS} | {"liar": "key"}
        assert {row["site"]: row["reason"] for row in entry["refused"]} == expected, number + 1
        counted = {"north", "south"} | {site for site, deed in done.items() if deed not in REASONS}
        assert {row["site"] for row in entry["sites"]} == counted
    (west,) = [row for row in entries[-1]["sites"] if row["site"] == "west"]
    assert (west["examples"], west["claimed_examples"]) == (64, CLAIMED)

    # The model is that of the honest sites, and in the last round of the one that claims too much, capped.
    opened = [Site.open(Kit(kit).site(), tiny_backbone()) for kit in honest]
    plan = replace(tiny_plan(tmp_path / "here", rounds=ROUNDS), quorum=2)
    alone = run_in_process(plan, [*opened, Unchanging(opened[0])])
    deployed = tensors_of(out / FINAL)
    assert all(np.isfinite(value).all() for value in deployed.values())
    assert largest_difference(deployed, alone.tensors) <= 1e-5

    # What the client raised is in nothing that a person reads at the coordinator.
    for path in (path for path in out.rglob("*") if path.is_file() and not path.name.startswith("state.db")):
        content = path.read_bytes()
        assert PATH.encode() not in content, path.name
        assert b"DOE" not in content, path.name
