"""A run's process in the company of real others."""

import subprocess
import sys
import threading
import time

import pytest

from mediclip.errors import FederationError
from server.run_process import GRACE_S, alone, end_with
from tests.kits import ROOT

# As a ServerApp that Flower's own signal does not reach: it waits for a lock in the handler.
STUBBORN = """
import signal, sys, threading, time
from server.run_process import end_with
signal.signal(signal.SIGINT, signal.SIG_IGN)
end_with(int(sys.argv[1]))
print("up", flush=True)
threading.Lock().acquire()
time.sleep(600)
"""
HOLDING = """
import pathlib, sys, time
from server.run_process import alone
with alone(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def start(program, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    return process


def test_a_run_ends_soon_after_its_coordinator_whatever_it_waits_for():
    coordinator = subprocess.Popen(["sleep", "600"])
    run = start(STUBBORN, coordinator.pid)
    assert run.poll() is None
    coordinator.kill()
    coordinator.wait(10)
    assert run.wait(GRACE_S + 20) == 1
    run.stdout.close()


def test_a_run_without_a_coordinator_is_left_alone():
    before = threading.active_count()
    end_with(0)
    assert threading.active_count() == before


def test_a_runs_folder_is_one_processs_and_the_next_waits_until_that_has_ended(tmp_path):
    first = start(HOLDING, tmp_path)
    with pytest.raises(FederationError, match="One works in"), alone(tmp_path, patience_s=0.0):
        pass
    threading.Timer(0.7, first.kill).start()
    started = time.monotonic()
    with alone(tmp_path, patience_s=30.0):
        assert first.wait(10) < 0
        assert time.monotonic() - started >= 0.5
    first.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
