"""A coordinator and its sites as real processes over TLS on loopback, from kits that were provisioned."""

import os
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from client.settings import SiteSettings
from mediclip.training.checkpoint import load_tensors
from server.app import CHECKPOINT, HISTORY
from server.flower_processes import script
from server.history import History
from server.status import STATUS, read_status
from tests.kits import PATIENCE_S, ROOT
from tests.tiny import SHOTS, tiny_backbone, tiny_scans

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
PROGRAM = "from mediclip.cli.main import main; main()"


def complete_kit(folder, number, **settings):
    """Do what a site does with its kit: put scans in place, unless it has others, and edit site.toml."""
    scans = folder / "scans" / "normal"
    for index, scan in enumerate(tiny_scans(number) if "data" not in settings else ()):
        scans.mkdir(parents=True, exist_ok=True)
        Image.fromarray((scan * 255).astype(np.uint8)).save(scans / f"{index}.png")
    values = {
        "name": folder.name,
        "data": "scans",
        "shots": SHOTS,
        "backbone": "embedded",
        "backbone_sha256": tiny_backbone().sha256,
        "min_metric_images": SHOTS,
        **settings,
    }
    (folder / "site.toml").write_text(SiteSettings.parse(values, source="test").to_toml(), encoding="utf-8")


def run_program(log, command, environment=ENVIRONMENT, *, stdin=subprocess.DEVNULL):
    """Start a program in a process group of its own, its output going to a file."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def mediclip(log, *arguments, environment=ENVIRONMENT):
    """Start ``mediclip``, its output going to a file."""
    return run_program(log, [script("python"), "-c", PROGRAM, *arguments], environment)


@contextmanager
def ended(process):
    """End a process and its group with the block."""
    try:
        yield process
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
                process.wait(15)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


@contextmanager
def running_sites(kits, environment=ENVIRONMENT):
    """Run ``mediclip client start`` for each kit."""
    with ExitStack() as stack:
        for kit in kits:
            log = kit.with_suffix(".log")
            process = mediclip(log, "client", "start", "--kit", str(kit), environment=environment)
            stack.enter_context(ended(process))
        yield


@contextmanager
def coordinator(federation, out, *options, environment=ENVIRONMENT):
    """Run ``mediclip server start``; what it started ends with it."""
    arguments = ("server", "start", str(federation), "--out", str(out), *options)
    process = mediclip(out.with_suffix(".log"), *arguments, environment=environment)
    with ended(process):
        yield process


def wait_until(happened, process, log, *, timeout_s=PATIENCE_S):
    """Wait for something while a process runs."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def tensors_of(path):
    """Read the model in a round's file."""
    tensors, _ = load_tensors(path)
    return {n.removeprefix("trainable/"): v for n, v in tensors.items() if n.startswith("trainable/")}


def finished_round(out):
    """Give the last round that is durable in a run's folder."""
    rounds = [entry["round"] for entry in History(out / HISTORY).read() if "failed" not in entry]
    return rounds[-1] if rounds and (out / CHECKPOINT).exists() else 0


def phase(out):
    """Give the coordinator's phase, empty before it has one."""
    return read_status(out).phase if (out / STATUS).exists() else ""


def children_of(pid, word):
    """List the descendants of a process whose command line holds a word, parents first."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                commands[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[1])
    found, front = [], [pid]
    while front:
        front = [child for child, parent in parents.items() if parent in front]
        found += [child for child in front if word in commands.get(child, "")]
    return found
