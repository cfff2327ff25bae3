import os
import subprocess
import time

from tests.leftovers import MARK, end_leftovers, started_by

# A process whose parent ends at once and whose session is its own, as one that a killed server leaves.
ORPHAN = "setsid sleep 60 > /dev/null 2>&1 &"


def test_an_orphan_in_a_session_of_its_own_is_found_with_its_test_and_ended():
    environment = {**os.environ, MARK: "of this test"}
    subprocess.run(["sh", "-c", ORPHAN], env=environment, check=True)
    deadline = time.monotonic() + 5
    while not started_by("of this test") and time.monotonic() < deadline:
        time.sleep(0.02)
    (left,) = end_leftovers("of this test", patience_s=0.0)
    assert "sleep 60" in left
    assert "test_an_orphan" in left
    assert end_leftovers("of this test", patience_s=5.0) == []


def test_what_ends_in_time_is_not_left():
    environment = {**os.environ, MARK: "of that test"}
    with subprocess.Popen(["sleep", "0.3"], env=environment) as process:
        assert end_leftovers("of that test", patience_s=5.0) == []
        assert process.wait(5) == 0


def test_of_other_test_runs_nothing_is_found():
    assert started_by("nobody's") == {}
