import subprocess
import sys
import time
from pathlib import Path

import pytest

from mediclip.errors import FederationError
from server.flower_processes import FlowerHome, free_port, stop_group, wait_until_listening


def test_a_superlink_that_does_not_start_is_an_error_that_names_its_log():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(FederationError, match=r"SuperLink must start.*flower-superlink\.out"):
        wait_until_listening(ended, free_port())


def is_running(pid):
    try:
        state = (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, and nobody has asked how


def test_a_group_of_processes_is_ended_even_a_child_that_will_not_go():
    script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; sleep 60' & wait"
    parent = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    child = parent.stdout.readline().strip()
    assert is_running(child)
    stop_group(parent, timeout_s=0.3)
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)


def test_what_flower_complains_of_is_no_answer_and_lies_in_the_log(tmp_path):
    home = FlowerHome.open(tmp_path / "flower", "nowhere", f"127.0.0.1:{free_port()}")
    assert home.list_runs() == []
    assert "Connection" in (home.folder / "flwr.log").read_text()


def test_flowers_programs_import_the_application_wherever_they_are_started(tmp_path, monkeypatch):
    for name in ("client", "server", "mediclip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('another checkout')")
    monkeypatch.chdir(tmp_path)
    home = FlowerHome.open(tmp_path / "flower", "nowhere", f"127.0.0.1:{free_port()}")
    code = "import client, server, mediclip; print(client.__file__, server.__file__)"
    assert home.start("imports", sys.executable, "-c", code).wait(60) == 0
    written = (home.folder / "imports.out").read_text()
    assert written.split() == [str(home.root / name / "__init__.py") for name in ("client", "server")]
