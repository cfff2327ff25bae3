"""Every program of a federation is killed (SIGKILL) at every phase of a round, and nobody helps.

A gate in the sites' daemons holds them where a program is to be killed: at the roll call, while one trains,
and when one site has sent its update and the other has not. Between rounds there is nothing to hold.
"""

import json
import os
import re
import signal
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from client.kit import Kit
from client.service.site import Site
from client.supervise import STATUS_FILE
from server.app import FINAL, HISTORY
from server.federation import load_federation
from server.flower_processes import free_port, script
from server.history import History
from server.provision import provision
from server.status import read_status
from simulation.engine import run_in_process
from tests.deployment import (
    children_of,
    complete_kit,
    coordinator,
    ended,
    finished_round,
    run_program,
    tensors_of,
    wait_until,
)
from tests.kits import PATIENCE_S
from tests.tiny import largest_difference, tiny_backbone, tiny_plan

pytestmark = pytest.mark.slow
SITES = ("north", "south")
ROLL_CALL = 0
SUPEREXEC = "flower-superexec"


@dataclass
class GatedSite:
    """A site that waits where it is told to."""

    kit: Kit

    @property
    def gate(self):
        return self.kit.folder / "gate"

    def hold(self, number):
        (self.gate / f"hold-{number}").touch()

    def is_at(self, number):
        return (self.gate / f"at-{number}").exists()

    def let_pass(self, number):
        """Let one question pass; the next one waits again."""
        (self.gate / f"pass-{number}").touch()

    def passed(self, number):
        return not (self.gate / f"pass-{number}").exists()

    def release(self, number):
        (self.gate / f"hold-{number}").unlink()

    def sent(self, number):
        """Say whether the coordinator has the site's update of a round."""
        log = (self.kit.state / "supernode.log").read_text()
        within = r"((?!ROUND).)*"
        found = rf"ROUND {number}\]{within}Sending: train{within}Sent successfully"
        return re.search(found, log, re.DOTALL) is not None

    def connections(self):
        """Count how often the site's SuperNode was let in."""
        return (self.kit.state / "supernode.log").read_text().count("SuperNode ID")

    def kill(self, name):
        """Kill one of the site's programs, once it is there, and give its number."""
        while (before := self._pid(name)) is None:
            time.sleep(0.05)
        for marker in self.gate.glob("at-*"):
            marker.unlink()
        os.kill(before, signal.SIGKILL)
        return before

    def has_new(self, name, before):
        return self._pid(name) not in {None, before}

    def programs(self):
        """List the site's programs: what the supervisor started, and what its SuperNode did."""
        return [*(name for name, state in self._status().items() if isinstance(state, dict)), SUPEREXEC]

    def _pid(self, name):
        status = self._status()
        if name != SUPEREXEC:
            return status[name]["pid"]
        return next(iter(children_of(status["pid"], SUPEREXEC)), None)

    def _status(self):
        return json.loads((self.kit.state / STATUS_FILE).read_text())


@contextmanager
def gated(kit):
    """Run a site with a gate."""
    site = GatedSite(Kit(kit))
    site.gate.mkdir()
    command = [script("python"), "-P", "-m", "tests.gated_site", "start", str(kit)]
    with ended(run_program(kit.with_suffix(".log"), command)):
        yield site


class Server:
    """A coordinator that is started again when it was killed whole."""

    def __init__(self, federation, out, stack):
        self._federation, self.out, self._stack = federation, out, stack
        self.log = out.with_suffix(".log")
        self.starts = 0
        self.start()

    def start(self):
        options = ("--resume",) if self.starts else ()
        self.process = self._stack.enter_context(coordinator(self._federation, self.out, *options))
        self.starts += 1

    def wait(self, happened):
        wait_until(happened, self.process, self.log)

    def kill(self, name):
        """Kill one of the coordinator's programs, or all with itself."""
        if name != "everything":
            (victim, *_) = children_of(self.process.pid, name)
            os.kill(victim, signal.SIGKILL)
            return
        victims = [
            pid
            for word in ("server.superlink", "flower-superexec", "flwr-serverapp")
            for pid in children_of(self.process.pid, word)
        ]
        for pid in (self.process.pid, *victims):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        self.start()


@pytest.fixture
def federation(write_federation, tmp_path):
    """Give a function that starts a federation of two gated sites."""

    @contextmanager
    def started(rounds, holds):
        path = write_federation(
            address=f"127.0.0.1:{free_port()}",
            sites=SITES,
            rounds=rounds,
            join_timeout_s=300.0,
            round_timeout_s=300.0,
        )
        provision(load_federation(path)[0], tmp_path / "kits")
        kits = [tmp_path / "kits" / site for site in SITES]
        for number, kit in enumerate(kits):
            complete_kit(kit, number)
        with ExitStack() as stack:
            sites = [stack.enter_context(gated(kit)) for kit in kits]
            for site, number in holds:
                sites[site].hold(number)
            yield Server(path, tmp_path / "run", stack), *sites

    return started


def assert_undisturbed(server, kits, rounds, folder):
    """Every round is there once with all sites, and the model is that of an undisturbed run."""
    status = read_status(server.out)
    assert (status.phase, status.round) == ("finished", rounds)
    entries = History(server.out / HISTORY).read()
    assert [entry["round"] for entry in entries] == list(range(1, rounds + 1))
    assert [sorted(row["site"] for row in entry["sites"]) for entry in entries] == [list(SITES)] * rounds
    opened = [Site.open(kit.site(), tiny_backbone()) for kit in kits]
    plain = run_in_process(tiny_plan(folder, rounds=rounds), opened)
    assert largest_difference(tensors_of(server.out / FINAL), plain.tensors) <= 1e-5


NORTH, SOUTH = 0, 1


def test_a_sites_programs_are_killed_at_every_phase_and_the_model_is_the_undisturbed_one(
    federation, tmp_path
):
    with federation(13, [(NORTH, ROLL_CALL)]) as (server, north, south):
        server.wait(lambda: north.is_at(ROLL_CALL))
        programs = north.programs()
        training, sent, between = (
            range(1 + i * len(programs), 1 + (i + 1) * len(programs)) for i in range(3)
        )
        for number in training:
            north.hold(number)
        for number in sent:
            south.hold(number)
        for name in programs:
            server.wait(lambda: north.is_at(ROLL_CALL))
            before = north.kill(name)
            server.wait(lambda name=name, before=before: north.has_new(name, before))
        server.wait(lambda: north.is_at(ROLL_CALL))
        north.release(ROLL_CALL)
        for number, name in zip(training, programs, strict=True):
            server.wait(lambda number=number: north.is_at(number))
            before = north.kill(name)
            server.wait(lambda name=name, before=before: north.has_new(name, before))
            north.release(number)
        for number, name in zip(sent, programs, strict=True):
            server.wait(lambda number=number: south.is_at(number) and north.sent(number))
            connected = north.connections()
            before = north.kill(name)
            server.wait(lambda name=name, before=before: north.has_new(name, before))
            if name in {"supernode", SUPEREXEC}:
                # A site that is away when a round begins is asked when the others, held here, have answered.
                server.wait(lambda connected=connected: north.connections() > connected)
            south.release(number)
        for number, name in zip(between, programs, strict=True):
            server.wait(lambda number=number: finished_round(server.out) >= number)
            north.kill(name)
        assert server.process.wait(PATIENCE_S) == 0, server.log.read_text()
    assert_undisturbed(server, [north.kit, south.kit], 13, tmp_path / "here")
    assert server.starts == 1
    assert set(programs) == {"daemon", "supernode", "nursery", SUPEREXEC}


def test_a_coordinators_programs_are_killed_at_every_phase_and_no_round_is_lost(federation, tmp_path):
    programs = ("flwr-serverapp", "flower-superexec", "everything", "server.superlink")
    training, sent, between = range(1, 5), range(5, 9), range(9, 13)
    holds = [
        *((NORTH, number) for number in (ROLL_CALL, *training)),
        *((SOUTH, number) for number in sent),
    ]
    with federation(13, holds) as (server, north, south):
        for name in programs:
            server.wait(lambda: north.is_at(ROLL_CALL))
            server.kill(name)
            if name != programs[-1]:
                north.let_pass(ROLL_CALL)  # the answer to a run that is gone
                server.wait(lambda: north.passed(ROLL_CALL))
        north.release(ROLL_CALL)
        for number, name in zip(training, programs, strict=True):
            server.wait(lambda number=number: north.is_at(number))
            server.kill(name)
            north.release(number)
        for number, name in zip(sent, programs, strict=True):
            server.wait(lambda number=number: south.is_at(number) and north.sent(number))
            server.kill(name)
            south.release(number)
        for number, name in zip(between, programs, strict=True):
            server.wait(lambda number=number: finished_round(server.out) >= number)
            server.kill(name)
        assert server.process.wait(PATIENCE_S) == 0, server.log.read_text()
    assert_undisturbed(server, [north.kit, south.kit], 13, tmp_path / "here")
    assert server.starts == 5
