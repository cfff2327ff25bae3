"""A run that is killed without warning goes on where it was, and ends with the same model."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mediclip.training.checkpoint import load_tensors
from server.app import FINAL, HISTORY
from server.history import History
from simulation.engine import run_in_process
from tests.tiny import largest_difference, tiny_plan, tiny_site

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 5

# Runs the federation, and kills itself at the moment that the arguments say.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from server import app as server
from simulation.engine import run_in_process
from tests.tiny import tiny_plan, tiny_site

out, moment, strategy = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def on_event(event):
    if moment == "training" and (event.kind, event.number) == ("update", 3):
        die()

def dying(function, place):
    def wrapped(*arguments):
        if moment == place and arguments[1].number == 3:
            die()
        function(*arguments)
    return wrapped

server.save_round = dying(server.save_round, "checkpoint")
plan = tiny_plan(out, rounds=int(sys.argv[4]), resume=True, strategy=strategy, codec="low-rank")
run_in_process(plan, [tiny_site(n) for n in range(2)], on_event=on_event)
"""


def start(out, moment, strategy):
    command = [sys.executable, "-c", PROGRAM, str(out), moment, strategy, str(ROUNDS)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    return run_in_process(
        tiny_plan(out, rounds=ROUNDS, strategy="fedadam", codec="low-rank"), [tiny_site(0), tiny_site(1)]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "finished", "written"),
    [
        ("training", 2, [1, 2]),
        ("checkpoint", 2, [1, 2, 3]),  # the history has the round, the checkpoint has not
    ],
)
def test_a_run_killed_in_its_third_round_and_resumed_ends_with_the_same_tensors(
    tmp_path, undisturbed, moment, finished, written
):
    killed = start(tmp_path, moment, "fedadam")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    plan = tiny_plan(tmp_path, rounds=ROUNDS, strategy="fedadam", codec="low-rank", resume=True)
    assert plan.finished_round() == finished
    assert [entry["round"] for entry in History(tmp_path / HISTORY).read()] == written
    resumed = start(tmp_path, "never", "fedadam")
    assert resumed.returncode == 0, resumed.stderr
    final, _ = load_tensors(tmp_path / FINAL)
    tensors = {name.removeprefix("trainable/"): value for name, value in final.items()}
    assert largest_difference(tensors, undisturbed.tensors) == 0
    assert all(value.dtype == np.float32 for value in tensors.values())
    entries = History(tmp_path / HISTORY).read()
    assert [entry["metrics"] for entry in entries] == [entry["metrics"] for entry in undisturbed.history]
