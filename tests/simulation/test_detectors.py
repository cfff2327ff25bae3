"""Each site's memory is of its own scans, the pooled model's of all, and none where the recipe has none."""

import numpy as np
import pytest
import torch

from mediclip.config import MemorySettings
from mediclip.data.preprocess import Preprocess, load_images
from mediclip.model.network import MediClip
from simulation.detectors import detectors_to_test
from simulation.methods import METHODS
from simulation.phantom import write_phantom_set
from simulation.scenario import make_scenario
from tests.tiny import SIZE, tiny_backbone, tiny_recipe


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for organ in ("brain", "chest"):
        write_phantom_set(
            folder / organ, organ=organ, seed=0, train_normal=8, test_normal=1, test_abnormal=1, size=SIZE
        )
    folders = {organ: folder / organ for organ in ("brain", "chest")}
    return make_scenario(folders, sites=4, shots=3, seed=0, partition="iid", alpha=1.0, image_size=SIZE)


def networks(scenario, memory):
    recipe = tiny_recipe().model_copy(update={"memory": memory})
    names = ["untrained", "federated", "centralised"]
    names += [f"{method}/{site.name}" for method in ("local", "kept") for site in scenario.sites]
    return {name: MediClip(tiny_backbone(), recipe).initialise(i) for i, name in enumerate(names)}


def detectors(scenario, trained, plain):
    return detectors_to_test(scenario, "brain", trained, METHODS, plain=plain, seed=0)


def test_without_a_memory_the_networks_are_tested_as_they_are(scenario):
    trained = networks(scenario, None)
    found = detectors(scenario, trained, MediClip(tiny_backbone(), tiny_recipe()))
    own = {
        method: [f"{method}/{site.name}" for site in scenario.sites_of("brain")]
        for method in ("patchcore", "local", "kept")
    }
    assert list(found) == [
        "untrained", "winclip", *own["patchcore"], *own["local"], "federated", *own["kept"], "centralised",
    ]  # fmt: skip
    assert all(found[name] is trained[name] for name in found.keys() & trained.keys())
    first, second = (found[name] for name in own["patchcore"])
    images = torch.rand((1, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = first.tokens(images)
        assert first.judge(tokens).scores != second.judge(tokens).scores  # each has its own site's bank


def test_with_one_every_site_judges_by_its_own_scans_and_shares_none(scenario):
    trained = networks(scenario, MemorySettings(views=0))
    found = detectors(scenario, trained, MediClip(tiny_backbone(), tiny_recipe()))
    assert found["untrained"].memory is None
    assert all(network.memory is None for network in trained.values())
    sites = scenario.sites_of("brain")
    assert len(sites) == 2
    for site in sites:
        train = scenario.datasets["brain"].train
        images = torch.from_numpy(load_images([train[i] for i in site.support], Preprocess(SIZE)))
        for method in ("local", "federated", "kept"):
            network = found[f"{method}/{site.name}"]
            with torch.no_grad():
                own = network.judge(network.tokens(images)).maps.mean()
                other = next(s for s in sites if s is not site)
                stranger = found[f"{method}/{other.name}"]
                assert own < stranger.judge(stranger.tokens(images)).maps.mean()
        name = f"local/{site.name}"
        for tensor, value in found[name].trainables().items():
            np.testing.assert_array_equal(value, trained[name].trainables()[tensor])
    assert len(found["centralised"].memory.focal) == sum(len(site.support) for site in scenario.sites)
