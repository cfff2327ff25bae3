"""Names the detectors that are tested, each with what its site remembers, as the site would build it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mediclip.data.preprocess import Preprocess, load_images
from mediclip.evaluation.predict import Detector
from mediclip.model.memory import build_memory
from mediclip.model.network import MediClip
from simulation.baselines.patchcore import PatchCore
from simulation.baselines.winclip import WinClip
from simulation.methods import MethodName
from simulation.scenario import Scenario, SimulatedSite


def detectors_to_test(
    scenario: Scenario,
    set_name: str,
    networks: Mapping[str, MediClip],
    methods: Sequence[MethodName],
    *,
    plain: MediClip,
    seed: int,
) -> dict[str, Detector]:
    """Name the detectors that are tested on a set, each with its memory where the recipe has one.

    A site's model and the shared one get the memory of that site alone, the centralised one that of all sites
    of all sets. ``untrained`` gets none: it is the backbone as it is. ``winclip`` and ``patchcore`` are made
    here: one for all, and one of each site's support images.

    Args:
        scenario: Sites and sets.
        set_name: The set.
        networks: ``untrained``, ``federated``, ``centralised``, ``local/SITE`` and ``kept/SITE``, those that
            were wanted; ``federated/SITE`` in place of ``federated`` where sites end with different ones.
        methods: What is compared, in the order of the rows.
        plain: A network whose backbone, taps and recipe the rivals take; its trained tensors do not matter.
        seed: The run's seed.

    Returns:
        Detectors by ``METHOD`` or ``METHOD/SITE``.
    """
    remembers = any(network.recipe.memory is not None for network in networks.values())
    per_site = {"patchcore", "local", "kept"}
    if remembers or "federated" not in networks:
        per_site.add("federated")
    found: dict[str, Detector] = {}
    for method in methods:
        if method == "winclip":
            found[method] = WinClip(plain.backbone, plain.recipe)
            continue
        if method not in per_site:
            sites = scenario.sites if method == "centralised" else ()
            found[method] = _remembering(networks[method], scenario, sites, seed)
            continue
        for site in scenario.sites_of(set_name):
            name = f"{method}/{site.name}"
            if method == "patchcore":
                images = _support_of(site, scenario, plain)
                found[name] = PatchCore.of(plain, images, seed=seed, stream=("site", site.name))
                continue
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
    images = np.concatenate([_support_of(site, scenario, network) for site in sites])
    stream = ("site", sites[0].name) if len(sites) == 1 else ("centralised",)
    own.memory = build_memory(own, images, seed=seed, stream=stream)
    return own


def _support_of(site: SimulatedSite, scenario: Scenario, network: MediClip) -> NDArray[np.float32]:
    preprocess = Preprocess(network.recipe.image_size, network.recipe.policies)
    train = scenario.datasets[site.set_name].train
    return load_images([train[i] for i in site.support], preprocess)
