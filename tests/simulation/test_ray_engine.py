import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.service.site import Site
from client.settings import SiteSettings
from mediclip.errors import CheckpointError, SettingsError
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
        tiny_plan(tmp_path / "ray", rounds=3, codec="low-rank", join_timeout_s=120.0),
        sites,
        cpus=2,
        on_event=events.append,
    )
    here = run_in_process(
        tiny_plan(tmp_path / "here", rounds=3, codec="low-rank"),
        [Site.open(site, tiny_backbone()) for site in sites],
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
