"""Which hospitals a simulation has: their sets, their support images and nothing of how they train."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mediclip.data.manifest import open_dataset
from mediclip.data.policies import Choices, agreed
from mediclip.data.preprocess import Preprocess, load_images
from mediclip.data.samples import NORMAL, Dataset
from mediclip.errors import ManifestError, SettingsError
from mediclip.rng import generator
from simulation.partition import appearance_groups, assign_sets, split_dirichlet, split_iid

PartitionName = Literal["iid", "dirichlet"]
HELD_OUT: Final = 16
"""Normal images at most that a site keeps for comparing its models."""


@dataclass(frozen=True)
class SimulatedSite:
    """One hospital of a simulation.

    Attributes:
        name: ``site-1`` and so on.
        set_name: The set that its scans come from and that it is tested on.
        support: Indexes of its support images in the set's train split; no two sites share one.
        held_out: Indexes of further normal images of its own, on which its models are compared in the end;
            maybe none.
    """

    name: str
    set_name: str
    support: tuple[int, ...]
    held_out: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """The hospitals and their sets.

    Attributes:
        folders: Data folder of each set.
        datasets: The sets themselves.
        sites: The sites, in the order of their numbers.
        partition: How the sites of one set split its normals.
        alpha: Concentration of a Dirichlet split, None for any other.
    """

    folders: Mapping[str, Path]
    datasets: Mapping[str, Dataset]
    sites: tuple[SimulatedSite, ...]
    partition: PartitionName = "iid"
    alpha: float | None = None

    def sites_of(self, set_name: str) -> tuple[SimulatedSite, ...]:
        """Give the sites of one set."""
        return tuple(site for site in self.sites if site.set_name == set_name)


def make_scenario(
    folders: Mapping[str, Path],
    *,
    sites: int,
    shots: int,
    seed: int,
    partition: PartitionName = "iid",
    alpha: float = 0.5,
    image_size: int = 224,
    policies: Choices | None = None,
) -> Scenario:
    """Give each site a share of a set's normal images and draw its support set from the share.

    Sites are given to sets in turn; the sites of one set split its normal training images, those of a patient
    staying together where patients are known.

    Args:
        folders: Data folder of each set.
        sites: Number of sites, at least as many as sets.
        shots: Support images of each site, at least 1.
        seed: The run's seed.
        partition: ``iid``, or ``dirichlet`` over groups of like brightness, so that the sites' scans differ.
        alpha: Concentration of the Dirichlet distribution; small values make sites differ more.
        image_size: Side of the images that brightness is measured on.
        policies: Policies of DICOM that they are shown under, by modality, beside those that a set asks for.

    Returns:
        The scenario; the same arguments give the same.

    Raises:
        DataError: If a set cannot be read, has no test images or fewer normals than its sites need.
        SettingsError: If a number is out of its range.
    """
    if shots < 1:
        message = f"The 'shots' of a site must be at least 1, but it is {shots}; correct it."
        raise SettingsError(message)
    datasets = {name: open_dataset(folder, name) for name, folder in folders.items()}
    for name, dataset in datasets.items():
        if not dataset.test:
            message = f"The set {name!r} must have test images. It has none; add abnormal/ or a test list."
            raise ManifestError(message)
    owners = assign_sets(list(folders), sites)
    names = [f"site-{number}" for number in range(1, sites + 1)]
    chosen: dict[str, SimulatedSite] = {}
    for set_name, dataset in datasets.items():
        mine = [name for name, owner in zip(names, owners, strict=True) if owner == set_name]
        normal = [index for index, sample in enumerate(dataset.train) if sample.label == NORMAL]
        patients = [dataset.train[index].group for index in normal]
        if partition == "iid":
            shares = split_iid(len(normal), len(mine), seed, minimum=shots, patients=patients)
        else:
            chosen_policies = agreed(policies or {}, dataset.policies, name=set_name)
            preprocess = Preprocess(image_size, chosen_policies)
            images = load_images([dataset.train[i] for i in normal], preprocess)
            groups = appearance_groups(images, min(4, len(normal)))
            shares = split_dirichlet(groups, len(mine), alpha, seed, minimum=shots, patients=patients)
        for name, share in zip(mine, shares, strict=True):
            order = generator(seed, "shots", name).permutation(len(share))
            mine_in_order = [normal[int(share[int(position)])] for position in order]
            support, rest = tuple(mine_in_order[:shots]), tuple(mine_in_order[shots:])
            chosen[name] = SimulatedSite(name, set_name, support, rest[:HELD_OUT])
    return Scenario(
        dict(folders),
        datasets,
        tuple(chosen[name] for name in names),
        partition,
        alpha if partition == "dirichlet" else None,
    )
