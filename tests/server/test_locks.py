"""Locks between real processes, and what of them is left when one is killed."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from mediclip.errors import FederationError
from server.locks import held, holder
from server.run_process import alone, run_in_work
from tests.kits import ROOT

HOLD = """
import sys, time
from pathlib import Path
from server.locks import held
with held(Path(sys.argv[1]), "taken", owner="17"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds ``lock``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_that_nobody_ever_held_has_no_holder(tmp_path):
    assert holder(tmp_path / "lock") is None
    assert list(tmp_path.iterdir()) == []


def test_a_lock_says_who_holds_it_until_that_process_is_killed(other, tmp_path):
    lock = tmp_path / "lock"
    assert holder(lock) == "17"
    with pytest.raises(FederationError, match="taken"), held(lock, "taken", wait_s=0.1):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert holder(lock) is None
    with held(lock, "taken", owner="4"):
        assert holder(lock) == "4"
    assert holder(lock) is None


def test_a_lock_can_be_waited_for(other, tmp_path):
    threading.Timer(0.2, other.kill).start()
    with held(tmp_path / "lock", "taken", owner="5", wait_s=30.0):
        assert holder(tmp_path / "lock") == "5"


def test_a_serverapp_writes_down_whose_run_it_works_for(tmp_path):
    with alone(tmp_path, 2**63 + 11):
        assert run_in_work(tmp_path) == str(2**63 + 11)
    assert run_in_work(tmp_path) is None
