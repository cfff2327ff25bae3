"""A site that never trained is described by its own daemon and gets its cluster's model, by the commands."""

import json
from pathlib import Path

import pytest

from client.service.audit import read
from client.service.site import Site
from mediclip.training.checkpoint import load_model
from server.app import CHECKPOINT
from server.checkpointing import RoundState, save_round
from server.clusters import Clusters
from server.federation import load_federation
from server.model_file import identity_of, write_model
from tests.kits import PATIENT, daemon, make_kit
from tests.mediclip.cli.conftest import call
from tests.tiny import tiny_recipe, tiny_tensors

pytestmark = pytest.mark.slow


@pytest.fixture
def federation(write_federation):
    return write_federation(strategy="clustered")


@pytest.fixture
def described(federation, tmp_path):
    """What a new site's daemon says of its scans, and what they look like from inside."""
    kit = make_kit(tmp_path / "new", share_descriptor=True, recipe=str(federation.with_name("tiny.toml")))
    with daemon(kit):
        told = call("client", "describe", "--kit", kit.folder, "--out", tmp_path / "new.json")
    assert told.code == 0, told.err
    assert [line["event"] for line in read(kit.audit)].count("described") == 1
    return tmp_path / "new.json", Site.open(kit.site()).descriptor(tiny_recipe().model_dump_json())


def end_run(federation, out, descriptors):
    """Leave what a run of two clusters leaves: the first cluster has a model of its own, the second none."""
    settings, recipe = load_federation(federation)
    clusters = Clusters(settings.cluster_distance)
    clusters.take_in(descriptors)
    out.mkdir()
    state = RoundState(2, tiny_tensors(1), models={1: tiny_tensors(2)}, clusters=clusters.facts())
    save_round(out / CHECKPOINT, state, identity_of(settings, recipe))
    write_model(settings, recipe, out)


def test_a_new_site_gets_the_model_of_the_sites_it_is_like(federation, described, tmp_path):
    file, own = described
    text = file.read_text()
    assert json.loads(text)["descriptor"] == pytest.approx(own)
    assert PATIENT not in text
    opposite = [-value for value in own]
    end_run(federation, tmp_path / "run", {"north": own, "south": own, "west": opposite})
    told = call("server", "assign", federation, file, "--out", tmp_path / "run", "--json")
    assert told.code == 0, told.err
    answer = json.loads(told.out)
    assert answer["cluster"] == 1
    assert load_model(Path(answer["model"])).facts["method"] == "cluster"


def test_a_site_like_none_gets_the_model_of_all_and_a_foreign_file_is_refused(
    federation, described, tmp_path
):
    file, own = described
    opposite = [-value for value in own]
    end_run(federation, tmp_path / "run", {"north": opposite, "south": opposite})
    told = call("server", "assign", federation, file, "--out", tmp_path / "run")
    assert told.code == 0, told.err
    assert "model of all sites" in told.out
    file.write_text("{}")
    told = call("server", "assign", federation, file, "--out", tmp_path / "run")
    assert told.code != 0
    assert "must be a file that 'mediclip client describe' wrote" in told.err
    file.write_text(json.dumps({"descriptor": [1.0, 2.0]}))
    told = call("server", "assign", federation, file, "--out", tmp_path / "run")
    assert told.code != 0
    assert "must be as long as those of the run" in told.err


def test_a_site_that_does_not_allow_it_is_not_described(federation, tmp_path):
    kit = make_kit(tmp_path / "new", recipe=str(federation.with_name("tiny.toml")))
    told = call("client", "describe", "--kit", kit.folder, "--out", tmp_path / "new.json")
    assert told.code != 0
    assert "share_descriptor in site.toml must be true" in told.err
    assert not (tmp_path / "new.json").exists()
