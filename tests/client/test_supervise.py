"""A site as `mediclip client start` keeps it, against a coordinator of real Flower processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from client.service.audit import read, verify
from client.service.remote import RemoteSite
from client.service.site import Site
from client.supervise import STATUS_FILE, Backoff, is_listening
from mediclip.errors import ServiceError
from mediclip.protocol import METRIC_NAMES
from server.app import HISTORY
from server.history import History
from simulation.engine import run_in_process
from simulation.plan import read_result
from tests.deployment import children_of
from tests.kits import FEDERATION, PATIENT, ROOT, WARD, make_kit
from tests.superlink import coordinator, wait_until
from tests.tiny import fit, largest_difference, tiny_plan, tiny_request

START = "import sys; from mediclip.cli.main import main; main(['client', 'start', '--kit', sys.argv[1]])"


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_healthy_run():
    backoff = Backoff(1.0, 8.0, healthy_s=60.0)
    assert [backoff.after(0.5) for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    assert [backoff.after(60.0), backoff.after(0.5)] == [1, 2]


@pytest.fixture
def link(tmp_path):
    with coordinator(tmp_path / "link") as running:
        yield running


@contextmanager
def started(kit):
    with (kit.folder / "start.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(kit.folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def programs(kit):
    try:
        return json.loads((kit.state / STATUS_FILE).read_text())
    except (OSError, ValueError):
        return {"daemon": {"pid": None, "starts": 0}, "supernode": {"pid": None, "starts": 0, "note": ""}}


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def submit(link, plan, app=ROOT):
    """Run the federation with Flower, as the coordinator will."""
    settings = plan.prepare(1).model_copy(update={"federation": FEDERATION})
    run_config = link.folder / "run-config.toml"
    run_config.write_text(
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.to_run_config().items())
    )
    link.flwr("run", str(app), "dep", "--stream", "--run-config", str(run_config))
    return settings


@pytest.fixture(scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_a_site_takes_part_over_tls_survives_kills_and_runs_no_code_but_its_own(link, tmp_path):
    kit = make_kit(tmp_path / "kit", superlink=link.superlink)
    shutil.copy2(link.folder / "ca.crt", kit.certificate)
    link.register(kit)
    out = tmp_path / "out"
    with started(kit):
        wait_until(lambda: link.statuses() == ["online"], 180)
        plan = tiny_plan(out, rounds=2, join_timeout_s=60.0)
        submit(link, plan)
        deployed = read_result(plan, 0.0)

        # The model is that of the in-process engine, and the audit log holds what left.
        alone = run_in_process(tiny_plan(tmp_path / "alone", rounds=2), [Site.open(kit.site())])
        assert largest_difference(deployed.tensors, alone.tensors) == 0
        left = [line for line in read(kit.audit) if line["event"] == "answered"]
        assert [(line["round"], set(line["metrics"])) for line in left] == [
            (1, set(METRIC_NAMES)),
            (2, set(METRIC_NAMES)),
        ]

        # A bundle whose client code was changed: the site's own code answers, and refuses.
        other = tmp_path / "other"
        shutil.copytree(ROOT / "client", other / "client")
        shutil.copytree(ROOT / "server", other / "server")
        for name in ("pyproject.toml", "README.md"):
            shutil.copy2(ROOT / name, other / name)
        stolen = tmp_path / "stolen.txt"
        with (other / "client" / "app.py").open("a") as code:
            code.write(f"\nopen({str(stolen)!r}, 'w').write('read by foreign code')\n")
        submit(link, tiny_plan(tmp_path / "evil", rounds=1, join_timeout_s=8.0, retries=0), other)
        (entry,) = History(tmp_path / "evil" / HISTORY).read()
        assert [r["reason"] for r in entry["refused"]] == ["site-policy-source"]
        assert not stolen.exists()
        assert len([line for line in read(kit.audit) if line["event"] == "answered"]) == 2

        # The daemon is killed: it is started again, and the round that it answered is repeated from disk.
        before = programs(kit)["daemon"]["pid"]
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: programs(kit)["daemon"]["pid"] not in {None, before}, 180)
        wait_until(lambda: is_listening(kit.socket), 180)
        assert RemoteSite(kit.socket).describe().audit_lines == verify(kit.audit).lines

        pids = [programs(kit)[name]["pid"] for name in ("daemon", "supernode")]
    assert not any(is_alive(pid) for pid in pids)
    assert not kit.socket.exists()

    # No patient and no path is at the coordinator or in what the site's processes wrote.
    folders = [link.folder, out, tmp_path / "evil", kit.state]
    written = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    for path in written:
        content = path.read_bytes()
        assert not [secret for secret in (PATIENT, WARD) if secret.encode() in content], path.name


@pytest.mark.slow
def test_a_killed_supernode_is_tried_again_until_the_coordinator_lets_it_in(link, tmp_path):
    kit = make_kit(tmp_path, superlink=link.superlink)
    shutil.copy2(link.folder / "ca.crt", kit.certificate)
    link.register(kit)
    with started(kit) as process:
        wait_until(lambda: link.statuses() == ["online"], 180)
        # Alone it is signed off, and in again without anybody's heartbeat expiring.
        os.kill(programs(kit)["supernode"]["pid"], signal.SIGKILL)
        wait_until(lambda: whole_log(kit).count("SuperNode ID") == 2, 180)
        assert link.statuses() == ["online"]
        # Flower does not notice that its SuperExec is gone: the site must, or it answers nothing any more.
        os.kill(*children_of(process.pid, "flower-superexec"), signal.SIGKILL)
        wait_until(lambda: programs(kit)["supernode"]["note"] == "its SuperExec ended", 180)
        wait_until(lambda: whole_log(kit).count("SuperNode ID") == 3, 180)
        wait_until(lambda: children_of(process.pid, "flower-superexec"), 180)
        process.kill()  # the whole site loses its power
        os.kill(programs(kit)["supernode"]["pid"], signal.SIGKILL)
    with started(kit):
        # Turned away while its old connection counts: told so, and tried again.
        wait_until(lambda: "counts the connection before" in programs(kit)["supernode"]["note"], 180)
        tried = programs(kit)["supernode"]["starts"]
        wait_until(lambda: programs(kit)["supernode"]["starts"] > tried, 180)
        assert link.statuses() == ["online"]  # the dead one, for another minute
        link.expire_heartbeats()
        wait_until(lambda: "SuperNode ID" in latest(kit), 180)
        assert link.statuses() == ["online"]


def latest(kit):
    """Give what the SuperNode wrote since its last start."""
    return whole_log(kit).rpartition("Starting Flower SuperNode")[2]


def whole_log(kit):
    return (kit.state / "supernode.log").read_text()


@pytest.mark.slow
def test_what_a_killed_supervisor_leaves_ends_by_itself(tmp_path):
    kit = make_kit(tmp_path)  # nobody answers at its coordinator's address
    with started(kit) as process:
        wait_until(lambda: programs(kit)["supernode"]["pid"] is not None, 180)
        pids = [programs(kit)[name]["pid"] for name in ("daemon", "supernode")]
        process.kill()
        process.wait(10)
        wait_until(lambda: not any(is_alive(pid) for pid in pids), 180)
        with pytest.raises(ServiceError):
            fit(RemoteSite(kit.socket, patience_s=0.1), tiny_request())
