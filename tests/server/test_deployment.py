"""The deployed federation as coordinator and sites run it: real processes, TLS and node keys."""

import json
from dataclasses import replace

import pytest

from client.kit import Kit
from client.service.audit import read
from client.service.site import Site
from client.settings import load_site_settings
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.network import MediClip
from mediclip.model.trainables import shared_schema
from mediclip.training.checkpoint import load_model
from server.app import HISTORY
from server.conclusion import CONCLUSION
from server.federation import load_federation
from server.flower_processes import free_port
from server.history import History
from server.provision import provision
from server.status import read_status
from simulation.ended_runs import read_models
from simulation.engine import run_in_process
from tests.deployment import (
    complete_kit,
    coordinator,
    finished_round,
    mediclip,
    phase,
    running_sites,
    tensors_of,
    wait_until,
)
from tests.kits import PATIENCE_S
from tests.tiny import largest_difference, tiny_backbone, tiny_plan, tiny_recipe, tiny_schema

pytestmark = pytest.mark.slow


@pytest.fixture
def deploy(write_federation, tmp_path):
    """Give a function that provisions a federation and completes its kits."""

    def make(sites, rounds, *, settings=None, **changes):
        path = write_federation(
            address=f"127.0.0.1:{free_port()}",
            sites=sites,
            rounds=rounds,
            join_timeout_s=300.0,
            **{"round_timeout_s": 300.0, **changes},
        )
        provision(load_federation(path)[0], tmp_path / "kits")
        kits = [tmp_path / "kits" / site for site in sites]
        for number, kit in enumerate(kits):
            complete_kit(kit, number, **(settings(kit.name) if settings else {}))
        return path, kits

    return make


def in_process(folder, kits, rounds, **changes):
    opened = [Site.open(load_site_settings(kit / "site.toml"), tiny_backbone()) for kit in kits]
    return run_in_process(tiny_plan(folder, rounds=rounds, **changes), opened).tensors


def test_three_sites_stopped_and_resumed_get_the_tensors_of_the_in_process_engine(deploy, tmp_path):
    federation, kits = deploy(["north", "south", "west"], 3, codec="low-rank")
    out, log = tmp_path / "run", tmp_path / "run.log"
    with running_sites(kits):
        with coordinator(federation, out) as process:
            wait_until(lambda: finished_round(out) >= 1, process, log)
            stop = mediclip(tmp_path / "stop.log", "server", "stop", "--out", str(out), "--timeout", "120")
            assert stop.wait(PATIENCE_S) == 0, (tmp_path / "stop.log").read_text()
            assert process.wait(PATIENCE_S) == 0
        reached = finished_round(out)
        assert phase(out) == "stopped"
        assert 1 <= reached < 3
        assert not (out / "final.safetensors").exists()
        with coordinator(federation, out, "--resume", "--json") as process:
            assert process.wait(PATIENCE_S) == 0, log.read_text()
    status = read_status(out)
    assert (status.phase, status.round, status.refused) == ("finished", 3, {})
    assert json.loads("{" + log.read_text().rpartition("\n{")[2])["phase"] == "finished"
    assert [entry["round"] for entry in History(out / HISTORY).read()] == [1, 2, 3]
    here = in_process(tmp_path / "here", kits, 3, codec="low-rank")
    assert largest_difference(tensors_of(out / "final.safetensors"), here) <= 1e-5
    whole = 3 * 4 * tiny_schema().size()
    assert all(
        entry["bytes_down"] + entry["bytes_up"] < 0.2 * whole for entry in History(out / HISTORY).read()
    )
    assert (out / "flower").stat().st_mode & 0o077 == 0


@pytest.mark.shared
def test_three_real_sets_agree(deploy, tmp_path, shared):
    recipe = tiny_recipe().model_copy(update={"image_size": 224})
    spec = f"local-dir:{shared / 'weights' / 'vit-tiny-imagenet'}"
    backbone, taps = load_backbone(spec, image_size=recipe.image_size), (6, 9, 12)

    def settings(name):
        data = shared / "data" / name
        return {"data": data, "backbone": spec, "backbone_sha256": backbone.sha256, "taps": taps}

    federation, kits = deploy(
        ["brainmri", "busi", "chestxray"],
        5,
        settings=settings,
        training=recipe,
        taps=list(taps),
        backbone={"spec": spec, "sha256": backbone.sha256, **vars(backbone.shapes)},
    )
    out, log = tmp_path / "run", tmp_path / "run.log"
    with running_sites(kits), coordinator(federation, out) as process:
        assert process.wait(PATIENCE_S) == 0, log.read_text()
    plan = replace(
        tiny_plan(tmp_path / "here", rounds=5), recipe=recipe, schema=MediClip(backbone, recipe, taps).schema
    )
    opened = [Site.open(load_site_settings(kit / "site.toml"), backbone) for kit in kits]
    here = run_in_process(plan, opened)
    assert largest_difference(tensors_of(out / "final.safetensors"), here.tensors) <= 1e-5
    entries = History(out / HISTORY).read()
    assert [len(entry["sites"]) for entry in entries] == [3] * 5
    losses = [[row["metrics"]["train_loss"] for row in entry["sites"]] for entry in entries]
    assert losses[0] != losses[-1]


def test_a_site_that_is_revoked_while_the_run_goes_on_is_out_and_the_others_finish(deploy, tmp_path):
    federation, kits = deploy(["north", "south"], 4, quorum=1, round_timeout_s=60.0)
    out, log = tmp_path / "run", tmp_path / "run.log"
    with running_sites(kits), coordinator(federation, out) as process:
        wait_until(lambda: finished_round(out) >= 1, process, log)
        revoking = mediclip(
            tmp_path / "revoke.log", "server", "provision", str(federation), "--revoke-site", "south"
        )
        assert revoking.wait(PATIENCE_S) == 0
        assert process.wait(PATIENCE_S) == 0, log.read_text()
    status = read_status(out)
    assert (status.phase, [site.name for site in status.sites]) == ("finished", ["north"])
    assert [row["site"] for row in History(out / HISTORY).read()[-1]["sites"]] == ["north"]


def test_private_parts_clusters_and_the_safeguard_end_as_in_one_process(deploy, tmp_path):
    recipe = tiny_recipe().model_copy(update={"private": ("normal_prompts",)})
    options = {"strategy": "clustered", "safeguard": True}
    federation, kits = deploy(
        ["north", "south", "west"],
        2,
        settings=lambda _: {"share_descriptor": True},
        training=recipe,
        **options,
    )
    out, log = tmp_path / "run", tmp_path / "run.log"
    with running_sites(kits), coordinator(federation, out) as process:
        assert process.wait(240) == 0, log.read_text()
    names = [kit.name for kit in kits]
    ended = json.loads((out / CONCLUSION).read_text())
    assert ended == {"sites": {name: {} for name in names}, "refused": []}, log.read_text()
    plan = replace(
        tiny_plan(tmp_path / "here", rounds=2, **options),
        recipe=recipe,
        schema=shared_schema(tiny_schema(), recipe.private),
    )
    opened = [Site.open(load_site_settings(kit / "site.toml"), tiny_backbone()) for kit in kits]
    here = run_in_process(plan, opened)
    assert largest_difference(tensors_of(out / "final.safetensors"), here.tensors) <= 1e-5
    for name, wanted in read_models(plan.out, names).items():
        (folder,) = (Kit(tmp_path / "kits" / name).models).iterdir()
        found = {path.stem: load_model(path).tensors for path in folder.glob("*.safetensors")}
        assert set(found) == {"personal", "tuned", "local", "model"}
        for candidate, tensors in wanted.candidates.items():
            assert largest_difference(found[candidate], tensors) <= 1e-5
        left = [line["event"] for line in read(Kit(tmp_path / "kits" / name).audit)]
        assert left.count("described") == left.count("concluded") == 1
