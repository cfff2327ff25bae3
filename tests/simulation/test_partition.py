from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mediclip.errors import SettingsError, SupportSetError
from simulation.partition import appearance_groups, assign_sets, split_dirichlet, split_iid

seeds = st.integers(-(2**63), 2**63)


def assert_partition(parts: Sequence[np.ndarray], n: int, sites: int, minimum: int) -> None:
    assert len(parts) == sites
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    assert min(map(len, parts)) >= minimum


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    sites, minimum = draw(st.integers(1, 12)), draw(st.integers(0, 6))
    return draw(st.integers(sites * minimum, sites * minimum + 60)), sites, minimum


@given(sizes(), seeds)
def test_an_iid_split_is_a_partition_into_even_shares(size: tuple[int, int, int], seed: int):
    n, sites, minimum = size
    parts = split_iid(n, sites, seed, minimum=minimum)
    assert_partition(parts, n, sites, minimum)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(sizes(), seeds, st.floats(0, 1e6, exclude_min=True), st.integers(1, 5))
def test_a_dirichlet_split_is_a_partition_with_the_minimum_at_any_concentration(
    size: tuple[int, int, int], seed: int, alpha: float, groups: int
):
    n, sites, minimum = size
    labels = np.random.default_rng(abs(seed)).integers(groups, size=n)
    assert_partition(split_dirichlet(labels, sites, alpha, seed, minimum=minimum), n, sites, minimum)


@st.composite
def patient_lists(draw: st.DrawFn) -> list[str | None]:
    """Up to 30 patients of up to 4 images, in any order, and images without a patient."""
    counts = draw(st.lists(st.integers(1, 4), max_size=30))
    listed: list[str | None] = [f"p{i}" for i, count in enumerate(counts) for _ in range(count)]
    return draw(st.permutations(listed + [None] * draw(st.integers(0, 5))))


def sites_of_patients(parts: Sequence[np.ndarray], patients: Sequence[str | None]) -> dict[str, set[int]]:
    sites: dict[str, set[int]] = {}
    for site, part in enumerate(parts):
        for i in part:
            if (patient := patients[i]) is not None:
                sites.setdefault(patient, set()).add(site)
    return sites


@given(patient_lists(), st.integers(1, 8), seeds)
def test_an_iid_split_keeps_patients_together_and_shares_within_one_patient_of_each_other(
    patients: list[str | None], sites: int, seed: int
):
    parts = split_iid(len(patients), sites, seed, minimum=0, patients=patients)
    assert_partition(parts, len(patients), sites, 0)
    assert all(len(where) == 1 for where in sites_of_patients(parts, patients).values())
    largest = max(map(patients.count, patients), default=0) if any(patients) else 1
    assert max(map(len, parts)) - min(map(len, parts)) <= max(largest, 1)


@given(patient_lists(), st.integers(1, 8), seeds, st.floats(1e-3, 1e6), st.integers(0, 3), st.integers(1, 5))
def test_a_dirichlet_split_keeps_patients_together_with_the_minimum_or_says_that_it_cannot(
    patients: list[str | None], sites: int, seed: int, alpha: float, minimum: int, groups: int
):
    labels = np.random.default_rng(abs(seed)).integers(groups, size=len(patients))
    try:
        parts = split_dirichlet(labels, sites, alpha, seed, minimum=minimum, patients=patients)
    except SupportSetError as error:
        message = str(error)
        assert ("images need patients" in message) or (len(patients) < sites * minimum)
        return
    assert_partition(parts, len(patients), sites, minimum)
    assert all(len(where) == 1 for where in sites_of_patients(parts, patients).values())


@given(sizes(), seeds, st.integers(1, 4))
def test_patients_of_one_image_each_are_split_as_if_nobody_knew_them(
    size: tuple[int, int, int], seed: int, groups: int
):
    n, sites, minimum = size
    labels = np.random.default_rng(abs(seed)).integers(groups, size=n)
    for known in ([f"p{i}" for i in range(n)], [None] * n):
        pairs = [
            (
                split_iid(n, sites, seed, minimum=minimum),
                split_iid(n, sites, seed, minimum=minimum, patients=known),
            ),
            (
                split_dirichlet(labels, sites, 0.5, seed, minimum=minimum),
                split_dirichlet(labels, sites, 0.5, seed, minimum=minimum, patients=known),
            ),
        ]
        for plain, grouped in pairs:
            assert all(np.array_equal(a, b) for a, b in zip(plain, grouped, strict=True))


def test_a_patient_counts_for_the_group_of_most_images():
    patients = ["a", "a", "a", "b", "b"]
    parts = split_dirichlet([1, 1, 0, 0, 0], 2, 1e-5, seed=1, minimum=0, patients=patients)
    assert sorted(part.tolist() for part in parts) in ([[], [0, 1, 2, 3, 4]], [[0, 1, 2], [3, 4]])


def test_patients_that_are_too_large_to_share_out_are_told():
    with pytest.raises(SupportSetError) as error:
        split_iid(6, 2, 0, minimum=2, patients=["a"] * 5 + ["b"])
    assert str(error.value) == (
        "2 sites of at least 2 images need patients that can be shared out so, but some have too many "
        "images; use fewer sites, a smaller minimum (fewer shots) or a set with more patients."
    )


def test_the_same_seed_splits_the_same_way_and_another_does_not():
    labels = np.arange(100) % 4
    for split in (lambda seed: split_iid(100, 5, seed), lambda seed: split_dirichlet(labels, 5, 0.5, seed)):
        first, again, other = split(1), split(1), split(2)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def group_counts(parts: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    return np.array([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts])


def test_a_huge_concentration_gives_every_site_the_same_mixture():
    labels = np.arange(4000) % 4
    counts = group_counts(split_dirichlet(labels, 5, 1e6, seed=3), labels)
    assert np.abs(counts - 200).max() <= 2


def test_a_tiny_concentration_gives_each_group_to_one_site():
    labels = np.arange(400) % 4
    counts = group_counts(split_dirichlet(labels, 3, 1e-5, seed=3, minimum=0), labels)
    assert ((counts > 0).sum(axis=0) == 1).all()


def test_shares_have_the_spread_of_the_dirichlet_distribution():
    sites, alpha = 4, 0.7
    shares = np.array(
        [
            len(split_dirichlet(np.zeros(500, int), sites, alpha, seed, minimum=0)[0]) / 500
            for seed in range(800)
        ]
    )
    expected = (sites - 1) / (sites**2 * (sites * alpha + 1))  # variance of one share
    assert shares.mean() == pytest.approx(1 / sites, abs=0.03)
    assert shares.var() == pytest.approx(expected, rel=0.12)


def test_sites_take_only_what_they_lack_from_the_largest():
    labels = np.zeros(40, int)
    free = [len(p) for p in split_dirichlet(labels, 4, 1e-5, seed=1, minimum=0)]
    assert sorted(free) == [0, 0, 0, 40]
    assert sorted(len(p) for p in split_dirichlet(labels, 4, 1e-5, seed=1, minimum=6)) == [6, 6, 6, 22]


@pytest.mark.parametrize(
    "split", [split_iid, lambda n, *a, **k: split_dirichlet(np.zeros(n), a[0], 1.0, a[1], **k)]
)
def test_too_few_images_are_told_with_what_to_change(split):
    with pytest.raises(SupportSetError) as error:
        split(30, 4, 0, minimum=8)
    assert str(error.value) == (
        "4 sites of at least 8 images need 32 images. Got 30 instead: "
        "use fewer sites, a smaller minimum (fewer shots) or a larger set."
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_iid(5, 0, 0), "The number of sites of a split must be at least 1. Got 0 instead."),
        (lambda: split_iid(-1, 1, 0), "The number of images of a split must be at least 0. Got -1 instead."),
        (
            lambda: split_iid(5, 1, 0, minimum=-1),
            "The 'minimum' of a split must be at least 0. Got -1 instead.",
        ),
        (
            lambda: split_iid(3, 1, 0, patients=["a"]),
            "'patients' must have shape (3,), one for each image. Got (1,) instead.",
        ),
        (
            lambda: split_dirichlet([0, 1], 1, 0.0, 0),
            "The 'alpha' of a Dirichlet split must be in (0, 1e+06]. Got 0.0 instead.",
        ),
        (
            lambda: split_dirichlet([0, 1], 1, float("nan"), 0),
            "The 'alpha' of a Dirichlet split must be in (0, 1e+06]. Got nan instead.",
        ),
        (
            lambda: split_dirichlet(np.zeros((2, 2)), 1, 1.0, 0),
            "'groups' must have shape (n,). Got (2, 2) instead.",
        ),
        (
            lambda: appearance_groups(np.zeros((3, 4))),
            "'images' must have shape (N, S, S). Got (3, 4) instead.",
        ),
        (
            lambda: appearance_groups(np.zeros((3, 4, 4)), 4),
            "The number of groups must be in [1, 3], the number of images. Got 4 instead.",
        ),
        (lambda: assign_sets(["a", "b", "a"], 4), "The names of the sets must differ. Got a, b, a instead."),
        (
            lambda: assign_sets(["a", "b", "c"], 2),
            (
                "Every set needs a site and every site a set. Got 3 sets for 2 sites: "
                "use at least as many sites as sets."
            ),
        ),
        (
            lambda: assign_sets([], 2),
            (
                "Every set needs a site and every site a set. Got 0 sets for 2 sites: "
                "use at least as many sites as sets."
            ),
        ),
    ],
)
def test_settings_out_of_range_are_refused(call, message: str):
    with pytest.raises(SettingsError) as error:
        call()
    assert str(error.value) == message


@given(st.integers(1, 40), st.data(), seeds)
def test_appearance_groups_are_even_and_ordered_by_brightness(n: int, data: st.DataObject, seed: int):
    groups = data.draw(st.integers(1, n))
    means = np.random.default_rng(abs(seed)).random(n)
    result = appearance_groups(np.broadcast_to(means[:, None, None], (n, 3, 3)), groups)
    assert set(result.tolist()) == set(range(groups))
    assert np.ptp(np.bincount(result)) <= 1
    assert (np.diff(result[np.argsort(means)]) >= 0).all()


@given(st.lists(st.text(), min_size=1, max_size=6, unique=True), st.integers(0, 20))
def test_sites_go_round_the_sets(names: list[str], more: int):
    sites = len(names) + more
    assigned = assign_sets(names, sites)
    assert len(assigned) == sites
    assert assigned[: len(names)] == tuple(names)
    assert all(assigned[i] == assigned[i + len(names)] for i in range(sites - len(names)))
