"""The nursery as a real process, asked as Flower's SuperExec would, by the site's own script."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.flower import site_environment
from client.nursery import SOCKET
from tests.kits import ROOT


@contextmanager
def nursery(folder, environment):
    with (folder / "nursery.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "client.nursery", str(folder / SOCKET)],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log,
        )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (folder / SOCKET).exists():
        assert process.poll() is None, (folder / "nursery.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(10)


@pytest.fixture
def environment(tmp_path):
    return {**site_environment(tmp_path, tmp_path / SOCKET), "PYTHONPROFILEIMPORTTIME": "1"}


def run(environment, *arguments):
    """Run ``flwr-clientapp`` by name; it tells on its standard error what it imports in its own process."""
    return subprocess.run(
        ["flwr-clientapp", *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def imports_flower(done):
    return "| flwr.supernode.cli.flwr_clientapp\n" in re.sub(" +", " ", done.stderr)


def test_a_clientapp_is_started_warm_with_its_arguments_output_and_status(environment, tmp_path):
    with nursery(tmp_path, environment):
        assert (tmp_path / SOCKET).stat().st_mode & 0o777 == 0o600
        told = run(environment, "--help")
        wrong = run(environment, "--token")
    assert (told.returncode, wrong.returncode) == (0, 2)
    assert "Run a Flower ClientApp" in told.stdout
    assert "argument --token: expected one argument" in wrong.stderr
    assert not imports_flower(told)


def test_without_a_nursery_the_program_starts_as_flower_would_start_it(environment):
    told = run(environment, "--help")
    assert (told.returncode, "Run a Flower ClientApp" in told.stdout) == (0, True)
    assert imports_flower(told)


def test_a_socket_that_a_killed_nursery_left_is_no_hindrance(environment, tmp_path):
    with nursery(tmp_path, environment) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert imports_flower(run(environment, "--help"))
    with nursery(tmp_path, environment):
        deadline = time.monotonic() + 30  # the old socket is there from the start
        while imports_flower(run(environment, "--help")):
            assert time.monotonic() < deadline


def test_what_is_no_request_changes_nothing_for_the_next(environment, tmp_path):
    with nursery(tmp_path, environment):
        for junk in (b"", b"no JSON"):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(str(tmp_path / SOCKET))
                stranger.sendall(junk)
        with socket.socket(socket.AF_UNIX) as stranger, Path(os.devnull).open("wb") as null:
            stranger.connect(str(tmp_path / SOCKET))
            socket.send_fds(stranger, [b"no JSON"], [null.fileno(), null.fileno()])
        assert run(environment, "--help").returncode == 0


def test_a_nursery_ends_with_its_starter(environment, tmp_path):
    with nursery(tmp_path, environment) as process:
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_clientapp_whose_superexec_is_gone_ends_though_it_waits_for_a_supernode(environment, tmp_path):
    superexec = subprocess.Popen(["sleep", "60"])
    with nursery(tmp_path, environment), socket.create_server(("127.0.0.1", 0)) as supernode:
        waiting = subprocess.Popen(
            ["flwr-clientapp", "--insecure", "--token", "x", "--parent-pid", str(superexec.pid),
             "--runtime-api-address", f"127.0.0.1:{supernode.getsockname()[1]}"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with supernode.accept()[0]:  # and never an answer
            assert waiting.poll() is None
            superexec.kill()
            superexec.wait()
            assert waiting.wait(60) == 1
