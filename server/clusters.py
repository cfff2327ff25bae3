"""Which sites are alike, by their descriptors, and which model each of them trains.

Sites of one cluster train a model of their own once the first rounds, which all train together, are over.
A cluster with fewer sites than the floor has none: in a mean of so few each could read the others' updates.
Its sites, and those that give no descriptor, train the model of all sites, which is the mean of all updates
throughout. Who is in which cluster never changes in a run; a site that comes later joins the nearest, or
begins one.

Source: agglomerative clustering by the mean distance (Sokal and Michener 1958); clustered federated learning
    in Sattler et al. (arXiv 1910.01991) and Briggs et al. (2004.11791), there by updates in place of scans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

Descriptor = tuple[float, ...]
FEWEST: Final = 2
"""Sites of a cluster that has a model, whatever ``min_sites`` is: one site alone is no federation."""


def group(descriptors: Mapping[str, Descriptor], distance: float) -> list[tuple[str, ...]]:
    """Group sites that are alike.

    Args:
        descriptors: Of at least one site, all of one length and not zero.
        distance: Largest mean cosine distance between the sites of two groups that are joined, in (0, 2).

    Returns:
        Groups of names, each sorted, in the order of their first names; the same whatever the order given.
    """
    from scipy.cluster.hierarchy import fcluster, linkage  # noqa: PLC0415 - other strategies need no SciPy
    from scipy.spatial.distance import pdist  # noqa: PLC0415

    names = sorted(descriptors)
    if len(names) == 1:
        return [(names[0],)]
    points = np.array([descriptors[name] for name in names], np.float64)
    numbers = fcluster(linkage(pdist(points, "cosine"), "average"), distance, "distance")
    found: dict[int, list[str]] = {}
    for name, number in zip(names, numbers.tolist(), strict=True):
        found.setdefault(number, []).append(name)
    return sorted(tuple(group) for group in found.values())


@dataclass
class Clusters:
    """Who is in which cluster.

    Attributes:
        distance: See :func:`group`.
        members: Number of each site's cluster, from 1.
        descriptors: Of the same sites.
    """

    distance: float
    members: dict[str, int] = field(default_factory=dict)
    descriptors: dict[str, Descriptor] = field(default_factory=dict)

    def take_in(self, descriptors: Mapping[str, Descriptor]) -> None:
        """Give sites their clusters; those that have one keep it.

        Args:
            descriptors: Of sites, all of one length; the first that are ever taken in are grouped, later ones
                join one by one.
        """
        new = {name: values for name, values in descriptors.items() if name not in self.members}
        if new and not self.members:
            for place, names in enumerate(group(new, self.distance), start=1):
                self.members |= dict.fromkeys(names, place)
            self.descriptors |= new
            return
        for name in sorted(new):
            number = self.nearest(new[name])
            self.members[name] = max(self.members.values()) + 1 if number is None else number
            self.descriptors[name] = new[name]

    def nearest(self, descriptor: Descriptor) -> int | None:
        """Find the cluster that a site would join.

        Args:
            descriptor: The site's, as long as the others.

        Returns:
            The number of the cluster with the smallest mean distance; None if that is too large.
        """
        means = {
            number: float(np.mean([_cosine_distance(descriptor, self.descriptors[n]) for n in names]))
            for number, names in self.sites().items()
        }
        best = min(means, key=lambda number: (means[number], number), default=None)
        return best if best is not None and means[best] <= self.distance else None

    @property
    def length(self) -> int | None:
        """Numbers of a descriptor; None while there is none."""
        return len(next(iter(self.descriptors.values()))) if self.descriptors else None

    def sites(self) -> dict[int, tuple[str, ...]]:
        """Give the sites of each cluster, sorted."""
        numbers = sorted(set(self.members.values()))
        return {n: tuple(sorted(s for s, m in self.members.items() if m == n)) for n in numbers}

    def facts(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {"members": self.members, "descriptors": {n: list(v) for n, v in self.descriptors.items()}}

    @classmethod
    def restore(cls, distance: float, facts: Mapping[str, Any]) -> "Clusters":
        """Read what :meth:`facts` wrote; none where there is nothing."""
        descriptors = {name: tuple(values) for name, values in facts.get("descriptors", {}).items()}
        return cls(distance, dict(facts.get("members", {})), descriptors)


def _cosine_distance(first: Sequence[float], second: Sequence[float]) -> float:
    one, other = np.asarray(first), np.asarray(second)
    return 1.0 - float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
