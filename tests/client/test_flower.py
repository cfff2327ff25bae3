"""What is relied on of Flower's insides, so that another version of Flower fails here and not at a site."""

import importlib
import inspect
import io
import os
import queue
import re
import subprocess
import sys
import time
import zipfile
from itertools import accumulate

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.exit import ExitCode
from flwr.supercore.superexec import run_superexec
from flwr.supernode import start_client_internal
from flwr.supernode.runtime import run_clientapp as runtime

from client import flower
from client.flower import bundle_digest, exit_codes, installed_digest, site_environment, supernode_command
from client.nursery import SOCKET
from client.stand_ins import IDLE_S, EagerClock, WatchedPrograms
from tests.kits import ROOT


@pytest.fixture(scope="module")
def bundle():
    return build_fab_from_disk(ROOT)


def changed(bundle, change):
    """Write a bundle again with other members."""
    members = {m.filename: zipfile.ZipFile(io.BytesIO(bundle)).read(m) for m in zipfile_members(bundle)}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return buffer.getvalue()


def zipfile_members(bundle):
    return zipfile.ZipFile(io.BytesIO(bundle)).infolist()


def test_flower_looks_up_the_two_names_that_the_site_replaces_when_it_runs():
    source = inspect.getsource(runtime.run_clientapp)
    assert "install_from_fab(fab.content, skip_prompt=True)" in source
    assert "load_client_app_fn = get_load_client_app_fn(" in source
    assert "client_app: ClientApp = load_client_app_fn(" in source
    assert "reply_message = client_app(message=message, context=context)" in source
    assert source.index("install_from_fab(") < source.index("load_client_app_fn(\n")
    assert vars(runtime).keys() >= {"install_from_fab", "get_load_client_app_fn"}


def test_flower_looks_for_what_is_not_there_yet_by_the_two_functions_that_are_replaced():
    loop = importlib.import_module(flower.SUPERNODE_LOOP)
    for module, name in ((loop, "pull_objects"), (runtime, "pull_and_inflate_object_from_tree")):
        function = vars(module)[name]
        assert inspect.getsource(module).count(f"{name}(") == 1
        assert inspect.signature(function).parameters["initial_backoff"].default == 1
        assert flower._sooner(function).keywords == {"initial_backoff": flower._OBJECT_LOOK_S}


def test_flower_starts_its_programs_by_name_from_the_path():
    assert TASK_TYPE_TO_COMMAND[TaskType.CLIENT_APP] == "flwr-clientapp"
    source = inspect.getsource(start_client_internal.start_client_internal)
    assert 'command = ["flower-superexec"]' in source


def test_flowers_supernode_uses_of_time_nothing_but_the_sleep_that_is_replaced():
    loop = importlib.import_module(flower.SUPERNODE_LOOP)
    source = inspect.getsource(loop)
    assert vars(loop)["time"] is time
    assert set(re.findall(r"\btime\.\w+\(", source)) == {"time.sleep("}
    assert re.findall(r"time\.sleep\((.*)\)", source) == ["3", "0.5", "0.5"]
    assert IDLE_S == 3


def test_flowers_supernode_starts_its_superexec_alone_by_the_popen_that_is_replaced():
    loop = importlib.import_module(flower.SUPERNODE_LOOP)
    assert vars(loop)["subprocess"] is subprocess
    assert re.findall(r"\bsubprocess\.\w+\(.*\)", inspect.getsource(loop)) == ["subprocess.Popen(command)"]


def test_the_end_of_a_watched_program_is_told_once():
    told = queue.Queue()
    program = WatchedPrograms(lambda: told.put("ended")).Popen([sys.executable, "-c", "input()"])
    assert told.empty()
    program.kill()
    assert told.get(timeout=60) == "ended"
    assert told.empty()


def test_a_node_looks_often_after_an_answer_and_as_seldom_as_flower_when_idle():
    clock = EagerClock()
    assert clock.pause(0.5) < 0.1
    pauses = [clock.pause(3) for _ in range(200)]
    waits = list(accumulate(pauses, initial=0.0))
    assert pauses[0] <= 0.2
    assert all(pause <= max(0.2, wait / 20) + 1e-9 for pause, wait in zip(pauses, waits, strict=False))
    assert pauses[-1] == 3
    assert clock.pause(0.5) < 0.1
    assert clock.pause(3) == pauses[0]


def test_superexec_still_takes_the_pause_between_two_looks_for_work(monkeypatch, tmp_path):
    environment = site_environment(tmp_path, tmp_path / SOCKET)
    monkeypatch.setenv(
        run_superexec._TASK_POLL_INTERVAL_ENV, environment[run_superexec._TASK_POLL_INTERVAL_ENV]
    )
    assert run_superexec._get_task_poll_interval() <= 0.1


def test_the_numbers_that_a_supervisor_reads_are_flowers_own():
    assert ExitCode.SUPERNODE_CONNECTION_ERROR == flower.CONNECTION_ERROR
    assert ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED == flower.ACTIVATION_FAILED
    assert ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL == 2003


def test_the_bundle_of_this_application_is_that_of_the_site(bundle):
    assert bundle_digest(bundle) == installed_digest() != ""


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update({"client/app.py": m["client/app.py"] + b"\n# reads scans\n"}),
        lambda m: m.update({"client/extra.py": b""}),
        lambda m: m.pop("client/service/fit.py"),
        lambda m: m.clear(),
        lambda m: m.update({"client/big.py": b" " * (2**20 + 1)}),
    ],
    ids=["changed", "added", "removed", "empty", "large"],
)
def test_a_bundle_with_other_client_code_has_another_digest(bundle, change):
    assert bundle_digest(changed(bundle, change)) != installed_digest()


def test_a_member_that_stands_twice_is_no_bundle(bundle):
    buffer = io.BytesIO(bundle)
    with zipfile.ZipFile(buffer, "a") as made, pytest.warns(UserWarning, match="Duplicate name"):
        made.writestr("client/app.py", b"")
    assert bundle_digest(buffer.getvalue()) == ""


@pytest.mark.parametrize("junk", [b"", b"PK\3\4", b"\0" * 100])
def test_junk_is_no_bundle(junk):
    assert bundle_digest(junk) == ""


def test_other_code_in_a_bundle_does_not_matter_to_a_site(bundle):
    other = changed(bundle, lambda m: m.update({"server/app.py": b"", "README.md": b"hello"}))
    assert bundle_digest(other) == installed_digest()


def test_the_sites_own_program_is_the_one_that_flower_finds(tmp_path):
    environment = site_environment(tmp_path, tmp_path / SOCKET)
    found = subprocess.run(
        ["sh", "-c", "command -v flwr-clientapp; command -v flower-superexec; flwr-clientapp --help"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert found[0] == str(tmp_path / "bin" / "flwr-clientapp")
    assert found[1].endswith("flower-superexec")
    assert any("Run a Flower ClientApp" in line for line in found)
    assert (tmp_path / "bin" / "flwr-clientapp").stat().st_mode & 0o777 == 0o700
    assert {environment[name] for name in flower.QUIET} == {"0", "1"}


def test_a_supernode_understands_the_command_and_says_why_it_ends(tmp_path):
    (tmp_path / "key").write_text("no key")
    command = supernode_command(
        superlink="127.0.0.1:9",
        certificate=tmp_path / "none",
        key=tmp_path / "key",
        runtime_port=1,
        node_config={"socket": "/a b/site.sock"},
    )
    assert command[-1] == 'socket="/a b/site.sock"'
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": flower.python_path()},
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "usage:" not in done.stderr
    assert command[0] == sys.executable


@pytest.mark.parametrize(
    ("log", "codes"),
    [
        ("", (None, None)),
        ("Exit Code: 305\nFailed\n[code: 2004] could not", (305, 2004)),
        ("Exit Code: 302\nExit Code: 305\n", (305, None)),
    ],
)
def test_the_reason_of_an_end_is_read_from_what_was_written(log, codes):
    assert exit_codes(log) == codes
