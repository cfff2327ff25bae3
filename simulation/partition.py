"""Who gets which images: pure functions that split the indexes of a set among sites."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mediclip.errors import SettingsError, SupportSetError
from mediclip.rng import generator

Indexes = NDArray[np.int64]

_LARGEST_ALPHA = 1e6


def split_iid(n: int, sites: int, seed: int, *, minimum: int = 1) -> tuple[Indexes, ...]:
    """Split images among sites at random, in shares that differ by at most one.

    Args:
        n: Number of images, at least 0.
        sites: Number of sites, at least 1.
        seed: The run's seed.
        minimum: Fewest images a site may get, at least 0.

    Returns:
        Sorted indexes of each site; disjoint, and together 0 to n - 1.

    Raises:
        SettingsError: A number is negative or there is no site.
        SupportSetError: There are too few images.
    """
    _check(n, sites, minimum)
    order = generator(seed, "partition", "iid").permutation(n)
    return tuple(np.sort(part).astype(np.int64) for part in np.array_split(order, sites))


def split_dirichlet(
    groups: Sequence[int] | NDArray[np.integer], sites: int, alpha: float, seed: int, *, minimum: int = 1
) -> tuple[Indexes, ...]:
    """Split images among sites so that each site sees the groups in proportions of its own.

    For each group the sites' shares are drawn from a symmetric Dirichlet distribution. Sites left with fewer
    than ``minimum`` images then take single ones from the site that has most. The publication does not do
    this; it keeps any ``alpha`` usable, at the price of slightly more even shares.

    Args:
        groups: ``(n,)`` group of each image: its class, or its appearance (``appearance_groups``).
        sites: Number of sites, at least 1.
        alpha: Concentration in (0, 1e6]: 100 is nearly iid, 0.1 gives most groups to single sites.
        seed: The run's seed.
        minimum: Fewest images a site may get, at least 0.

    Returns:
        Sorted indexes of each site; disjoint, and together 0 to n - 1.

    Raises:
        SettingsError: A number is out of its range or ``groups`` is not one-dimensional.
        SupportSetError: There are too few images.

    Source:
        Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
        Classification", 2019, section 3.
    """
    labels = np.asarray(groups)
    if labels.ndim != 1:
        message = f"'groups' must have shape (n,). Got {labels.shape} instead."
        raise SettingsError(message)
    _check(len(labels), sites, minimum)
    if not 0 < alpha <= _LARGEST_ALPHA:
        message = (
            f"The 'alpha' of a Dirichlet split must be in (0, {_LARGEST_ALPHA:g}]. Got {alpha!r} instead."
        )
        raise SettingsError(message)
    rng = generator(seed, "partition", "dirichlet")
    owned: list[list[int]] = [[] for _ in range(sites)]
    for group in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == group))
        shares = rng.dirichlet(np.full(sites, alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.intp)
        for site, part in zip(owned, np.split(members, cuts), strict=True):
            site.extend(part.tolist())
    _share_out(owned, minimum, rng)
    return tuple(np.sort(np.array(site, np.int64)) for site in owned)


def _share_out(owned: list[list[int]], minimum: int, rng: np.random.Generator) -> None:
    """Move single images from the largest site to those below the minimum; the total must be large enough."""
    for site in owned:
        while len(site) < minimum:
            donor = max(owned, key=len)
            site.append(donor.pop(int(rng.integers(len(donor)))))


def appearance_groups(images: NDArray[np.floating], groups: int = 4) -> NDArray[np.int64]:
    """Group images by how bright they are, so that a set of one class can be split unevenly.

    Args:
        images: ``(N, S, S)`` grey images.
        groups: Number of groups, in [1, N].

    Returns:
        ``(N,)`` group of each image, 0 the darkest; the sizes of the groups differ by at most one.

    Raises:
        SettingsError: ``images`` is not three-dimensional or there are fewer images than groups.
    """
    if images.ndim != 3:
        message = f"'images' must have shape (N, S, S). Got {images.shape} instead."
        raise SettingsError(message)
    n = len(images)
    if not 1 <= groups <= n:
        message = f"The number of groups must be in [1, {n}], the number of images. Got {groups!r} instead."
        raise SettingsError(message)
    order = np.argsort(images.mean(axis=(1, 2), dtype=np.float64), kind="stable")
    result = np.empty(n, np.int64)
    result[order] = np.arange(n) * groups // n
    return result


def assign_sets(set_names: Sequence[str], sites: int) -> tuple[str, ...]:
    """Give sites to sets in turn: the first site to the first set, and round again.

    Args:
        set_names: Names of the sets, at least one, all different.
        sites: Number of sites, at least as many as sets.

    Returns:
        The set of each site.

    Raises:
        SettingsError: There is no set, a name twice, or a set that would have no site.
    """
    if len(set(set_names)) != len(set_names):
        message = f"The names of the sets must differ. Got {', '.join(set_names)} instead."
        raise SettingsError(message)
    if not 1 <= len(set_names) <= sites:
        message = (
            f"Every set needs a site and every site a set. Got {len(set_names)} sets for {sites} sites: "
            "use at least as many sites as sets."
        )
        raise SettingsError(message)
    return tuple(set_names[site % len(set_names)] for site in range(sites))


def _check(n: int, sites: int, minimum: int) -> None:
    for name, value, least in (
        ("number of images", n, 0),
        ("number of sites", sites, 1),
        ("'minimum'", minimum, 0),
    ):
        if value < least:
            message = f"The {name} of a split must be at least {least}. Got {value!r} instead."
            raise SettingsError(message)
    if n < sites * minimum:
        message = (
            f"{sites} sites of at least {minimum} images need {sites * minimum} images. Got {n} instead: "
            "use fewer sites, a smaller minimum (fewer shots) or a larger set."
        )
        raise SupportSetError(message)
