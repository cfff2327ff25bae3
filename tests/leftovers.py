"""Finds processes that tests started and left running, also those whose parents are gone."""

import os
import signal
import time
from pathlib import Path

MARK = "MEDICLIP_TEST_PROCESS"
"""Name of an environment variable that every process of a test run inherits, orphans too."""


def started_by(mark):
    """Give what still runs with a mark in its environment, by its number: what it is, and of which test.

    Whoever has ended but was not asked how (a zombie) does not run, and has no environment any more.
    """
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        number = int(entry.name)
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile, or another user's
            continue
        if "multiprocessing.resource_tracker" in command:
            continue  # Python's own helper, which ends when the process that it tidies up after does
        if number != os.getpid() and f"{MARK}={mark}".encode() in environment:
            test = next((v[20:].decode() for v in environment if v.startswith(b"PYTEST_CURRENT_TEST=")), "")
            found[number] = f"{number} {command.strip()[:200]} (of {test or 'the test session'})"
    return found


def end_leftovers(mark, *, patience_s):
    """Wait for the processes of a test run to end, and end the others.

    Returns:
        What had to be ended, in words.
    """
    deadline = time.monotonic() + patience_s
    while (left := started_by(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for number in left:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return sorted(left.values())
