"""Gives the models of a comparison their memories before they are tested, as each site would for itself."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mediclip.data.preprocess import Preprocess, load_images
from mediclip.model.memory import build_memory
from mediclip.model.network import MediClip
from simulation.methods import MethodName
from simulation.scenario import Scenario, SimulatedSite


def networks_to_test(
    scenario: Scenario,
    set_name: str,
    networks: Mapping[str, MediClip],
    methods: Sequence[MethodName],
    *,
    seed: int,
) -> dict[str, MediClip]:
    """Name the detectors that are tested on a set, each with its memory where the recipe has one.

    A site's model and the shared one get the memory of that site alone, the centralised one that of all sites
    of all sets. ``untrained`` gets none: it is the backbone as it is.

    Args:
        scenario: Sites and sets.
        set_name: The set.
        networks: ``untrained``, ``federated``, ``centralised``, ``local/SITE`` and ``kept/SITE``, those that
            were wanted; ``federated/SITE`` in place of ``federated`` where sites end with different ones.
        methods: What is compared, in the order of the rows.
        seed: The run's seed.

    Returns:
        Detectors by ``METHOD`` or ``METHOD/SITE``.
    """
    remembers = any(network.recipe.memory is not None for network in networks.values())
    per_site = {"local", "kept"} | ({"federated"} if remembers or "federated" not in networks else set())
    found: dict[str, MediClip] = {}
    for method in methods:
        if method not in per_site:
            sites = scenario.sites if method == "centralised" else ()
            found[method] = _remembering(networks[method], scenario, sites, seed)
            continue
        for site in scenario.sites_of(set_name):
            name = f"{method}/{site.name}"
            trained = networks[name] if name in networks else networks[method]
            found[name] = _remembering(trained, scenario, (site,), seed)
    return found


def _remembering(
    network: MediClip, scenario: Scenario, sites: Sequence[SimulatedSite], seed: int
) -> MediClip:
    if network.recipe.memory is None or not sites:
        return network
    own = MediClip(network.backbone, network.recipe, network.taps)
    own.load(network.trainables())
    preprocess = Preprocess(network.recipe.image_size, network.recipe.policies)
    images = np.concatenate([_support_of(site, scenario, preprocess) for site in sites])
    stream = ("site", sites[0].name) if len(sites) == 1 else ("centralised",)
    own.memory = build_memory(own, images, seed=seed, stream=stream)
    return own


def _support_of(site: SimulatedSite, scenario: Scenario, preprocess: Preprocess) -> NDArray[np.float32]:
    train = scenario.datasets[site.set_name].train
    return load_images([train[i] for i in site.support], preprocess)
