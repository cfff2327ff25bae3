import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.service.site import Site
from client.settings import SiteSettings
from mediclip.errors import CheckpointError, FederationError, MediClipError, QuorumError, SettingsError
from server.app import OUTCOME
from simulation import ray_engine
from simulation.engine import run_in_process
from simulation.ray_engine import run_ray
from tests.tiny import SHOTS, largest_difference, tiny_backbone, tiny_plan, tiny_scans


def settings_of(folder, number, **changes):
    data = folder / f"data-{number}"
    (data / "normal").mkdir(parents=True)
    for index, scan in enumerate(tiny_scans(number)):
        Image.fromarray((scan * 255).astype(np.uint8)).save(data / "normal" / f"{index}.png")
    values = {"name": f"site-{number}", "data": data, "shots": SHOTS, "backbone": "embedded"}
    return SiteSettings.parse({**values, **changes}, source="test")


def processes_of(folder):
    """List the processes whose environment or command names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in text:
            found.append(entry.name)
    return found


@pytest.mark.slow
def test_ray_gives_the_tensors_of_the_in_process_engine_and_leaves_nothing_running(tmp_path):
    sites = [settings_of(tmp_path, 0), settings_of(tmp_path, 1, backbone_sha256=tiny_backbone().sha256)]
    events = []
    on_ray = run_ray(
        tiny_plan(tmp_path / "ray", rounds=3, join_timeout_s=120.0), sites, cpus=2, on_event=events.append
    )
    here = run_in_process(
        tiny_plan(tmp_path / "here", rounds=3), [Site.open(site, tiny_backbone()) for site in sites]
    )
    assert largest_difference(on_ray.tensors, here.tensors) <= 1e-5
    assert [e["bytes_up"] for e in on_ray.history] == [e["bytes_up"] for e in here.history]
    for ray_entry, entry in zip(on_ray.history, here.history, strict=True):
        assert ray_entry["metrics"] == pytest.approx(entry["metrics"], abs=1e-5)
        assert (ray_entry["refused"], entry["refused"]) == ([], [])
    assert [event.number for event in events if event.kind == "round"] == [1, 2, 3]
    assert (tmp_path / "ray" / "flower" / "config.toml").is_file()
    deadline = time.monotonic() + 20
    while processes_of(tmp_path / "ray") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(tmp_path / "ray") == []


@pytest.mark.slow
def test_an_interrupted_run_leaves_none_of_flowers_servers_behind(tmp_path):
    home = tmp_path / "flower"

    def interrupted():
        with ray_engine._superlink(home) as link:
            assert link.list_runs() == []
            assert len(processes_of(home)) >= 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert processes_of(home) == []


def write_outcome(out, **values):
    out.mkdir(exist_ok=True)
    (out / OUTCOME).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("outcome", "status", "error", "words"),
    [
        ({"status": "failed", "code": "quorum", "message": "Two."}, "finished:failed", QuorumError, "Two"),
        ({"status": "failed", "code": "quorum", "message": "Two."}, "finished:completed", QuorumError, "Two"),
        ({"status": "failed", "code": "new", "message": "It."}, "finished:failed", FederationError, "It"),
        ({"status": "finished"}, "finished:failed", FederationError, "ended as 'finished:failed'"),
        ({}, "finished:completed", FederationError, "without a word"),
        ({}, "not started", FederationError, r"flower/flwr\.log"),
    ],
)
def test_how_a_run_ended_is_read_from_what_the_server_wrote_and_what_flower_says(
    tmp_path, outcome, status, error, words
):
    if outcome:
        write_outcome(tmp_path, **outcome)
    with pytest.raises(error, match=words):
        ray_engine._raise_failure(tmp_path, status)


def test_a_run_that_finished_raises_nothing(tmp_path):
    write_outcome(tmp_path, status="finished")
    ray_engine._raise_failure(tmp_path, "finished:completed")


def test_two_sites_of_one_name_are_refused_before_anything_starts(tmp_path):
    site = settings_of(tmp_path, 0)
    with pytest.raises(SettingsError, match="'site-0' stands twice"):
        run_ray(tiny_plan(tmp_path / "out"), [site, site])
    assert not (tmp_path / "out").exists()


def test_an_earlier_run_is_left_as_it_is(tmp_path):
    plan = tiny_plan(tmp_path / "out", rounds=1)
    site = settings_of(tmp_path, 0)
    run_in_process(plan, [Site.open(site, tiny_backbone())])
    before = {path: path.read_bytes() for path in plan.out.iterdir()}
    with pytest.raises(CheckpointError, match="must hold no earlier run"):
        run_ray(plan, [site])
    assert {path: path.read_bytes() for path in plan.out.iterdir()} == before


def test_a_superlink_that_does_not_start_is_an_error_that_names_its_log():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(FederationError, match=r"SuperLink must start.*flower-superlink\.out"):
        ray_engine._wait_until_listening(ended, ray_engine._free_port())


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
    ray_engine._stop_group(parent, timeout_s=0.3)
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)


def test_every_error_that_an_outcome_can_name_can_be_raised_from_its_sentence():
    for code, kind in ray_engine._ERRORS.items():
        error = kind("A sentence.")
        assert isinstance(error, MediClipError)
        assert (error.code, str(error)) == (code, "A sentence.")
