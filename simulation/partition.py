"""Who gets which images: pure functions that split the indexes of a set among sites.

Where ``patients`` are given, a patient's images stay together: no two sites share a patient. Shares are then
as even as whole patients allow.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from mediclip.errors import SettingsError, SupportSetError
from mediclip.rng import generator

Indexes = NDArray[np.int64]
# Images that stay together, by their indexes: those of one patient.
_Units = list[list[int]]

_LARGEST_ALPHA = 1e6


def split_iid(
    n: int,
    sites: int,
    seed: int,
    *,
    minimum: int = 1,
    patients: Sequence[Hashable | None] | None = None,
) -> tuple[Indexes, ...]:
    """Split images among sites at random, in shares that differ by at most one image (or patient's images).

    Patients go to the site that has fewest images so far, those with most images first, and in random order
    where they have as many: with one image a patient this is a random split into even shares again.

    Args:
        n: Number of images, at least 0.
        sites: Number of sites, at least 1.
        seed: The run's seed.
        minimum: Fewest images a site may get, at least 0.
        patients: ``(n,)`` whose image each is, None for a patient of its own; all of them when omitted.

    Returns:
        Sorted indexes of each site; disjoint, and together 0 to n - 1.

    Raises:
        SettingsError: A number is negative, there is no site or ``patients`` has another length than n.
        SupportSetError: There are too few images, or too few patients to share them out.
    """
    _check(n, sites, minimum)
    rng = generator(seed, "partition", "iid")
    units = _units(n, patients)
    if len(units) == n:
        return tuple(np.sort(part).astype(np.int64) for part in np.array_split(rng.permutation(n), sites))
    owned: list[_Units] = [[] for _ in range(sites)]
    drawn = [units[int(i)] for i in rng.permutation(len(units))]
    for unit in sorted(drawn, key=len, reverse=True):
        min(owned, key=_size).append(unit)
    _share_out(owned, minimum, rng)
    return _indexes(owned)


def split_dirichlet(
    groups: Sequence[int] | NDArray[np.integer],
    sites: int,
    alpha: float,
    seed: int,
    *,
    minimum: int = 1,
    patients: Sequence[Hashable | None] | None = None,
) -> tuple[Indexes, ...]:
    """Split images among sites so that each site sees the groups in proportions of its own.

    For each group the sites' shares are drawn from a symmetric Dirichlet distribution. Sites left with fewer
    than ``minimum`` images then take single ones from the site that has most. The publication does not do
    this; it keeps any ``alpha`` usable, at the price of slightly more even shares. A patient counts for the
    group that most of the patient's images have, the lowest of several.

    Args:
        groups: ``(n,)`` group of each image: its class, or its appearance (``appearance_groups``).
        sites: Number of sites, at least 1.
        alpha: Concentration in (0, 1e6]: 100 is nearly iid, 0.1 gives most groups to single sites.
        seed: The run's seed.
        minimum: Fewest images a site may get, at least 0.
        patients: ``(n,)`` whose image each is, None for a patient of its own; all of them when omitted.

    Returns:
        Sorted indexes of each site; disjoint, and together 0 to n - 1.

    Raises:
        SettingsError: A number is out of its range, ``groups`` is not one-dimensional or ``patients`` has
            another length.
        SupportSetError: There are too few images, or too few patients to share them out.

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
    units = _units(len(labels), patients)
    unit_labels = np.array([_most_frequent(labels[unit]) for unit in units], labels.dtype)
    owned: list[_Units] = [[] for _ in range(sites)]
    for group in np.unique(unit_labels):
        members = rng.permutation(np.flatnonzero(unit_labels == group))
        shares = rng.dirichlet(np.full(sites, alpha))
        ends = np.cumsum([len(units[int(i)]) for i in members])
        cuts = np.searchsorted(ends, np.rint(np.cumsum(shares)[:-1] * ends[-1]), side="right")
        for site, part in zip(owned, np.split(members, cuts), strict=True):
            site.extend(units[int(i)] for i in part)
    _share_out(owned, minimum, rng)
    return _indexes(owned)


def _units(n: int, patients: Sequence[Hashable | None] | None) -> _Units:
    """Put together what has to stay together: the images of each patient, in the order of the first ones."""
    if patients is None:
        return [[i] for i in range(n)]
    if len(patients) != n:
        message = f"'patients' must have shape ({n},), one for each image. Got ({len(patients)},) instead."
        raise SettingsError(message)
    units: dict[Hashable, list[int]] = {}
    for i, patient in enumerate(patients):
        # A tuple of one is no patient's name, so an image without a patient shares its key with none.
        units.setdefault((i,) if patient is None else (patient, "patient"), []).append(i)
    return list(units.values())


def _most_frequent(labels: NDArray[np.generic]) -> np.generic:
    values, counts = np.unique(labels, return_counts=True)
    most: np.generic = values[int(np.argmax(counts))]
    return most


def _size(site: _Units) -> int:
    return sum(map(len, site))


def _indexes(owned: Sequence[_Units]) -> tuple[Indexes, ...]:
    return tuple(np.sort(np.array([i for unit in site for i in unit], np.int64)) for site in owned)


def _share_out(owned: list[_Units], minimum: int, rng: np.random.Generator) -> None:
    """Move single patients from the largest site to those below the minimum.

    A site gives only what leaves it the minimum, so that each move brings all of them nearer to it. With one
    image a patient that always ends well; otherwise there may be no patient small enough.
    """
    for site in owned:
        while _size(site) < minimum:
            donors = sorted((s for s in owned if s is not site), key=_size, reverse=True)
            for donor in donors:
                spare = _size(donor) - minimum
                fitting = [i for i, unit in enumerate(donor) if len(unit) <= spare]
                if fitting:
                    site.append(donor.pop(fitting[int(rng.integers(len(fitting)))]))
                    break
            else:
                message = (
                    f"{len(owned)} sites of at least {minimum} images need patients that can be shared out "
                    "so, but some have too many images; use fewer sites, a smaller minimum (fewer shots) or "
                    "a set with more patients."
                )
                raise SupportSetError(message)


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
