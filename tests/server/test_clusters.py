"""Which sites are alike: stable groups, whatever the order, and a place for those who come later."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.cluster import AgglomerativeClustering

from server.clusters import Clusters, group

LENGTH = 12


def near(direction, number, spread=0.05):
    """Give a descriptor close to one of the axes."""
    values = (
        np.eye(LENGTH)[direction] + spread * np.random.default_rng(number).normal(size=LENGTH) / LENGTH**0.5
    )
    return tuple(values / np.linalg.norm(values))


ORGANS = {f"site-{number}": near(number % 3, number) for number in range(1, 8)}


def test_sites_of_one_organ_are_one_group():
    assert group(ORGANS, 0.08) == [
        ("site-1", "site-4", "site-7"),
        ("site-2", "site-5"),
        ("site-3", "site-6"),
    ]


@pytest.mark.parametrize(("distance", "count"), [(1e-9, 7), (1.9, 1)])
def test_a_threshold_of_nothing_parts_all_and_of_everything_none(distance, count):
    assert len(group(ORGANS, distance)) == count


directions = st.lists(st.integers(0, LENGTH - 1), min_size=2, max_size=9)


@settings(max_examples=50, deadline=None)
@given(directions, st.floats(0.02, 0.5), st.randoms())
def test_groups_are_those_of_scikit_learn_in_any_order(places, distance, random):
    descriptors = {f"s{n}": near(place, n, spread=0.6) for n, place in enumerate(places)}
    names = list(descriptors)
    reference = AgglomerativeClustering(None, distance_threshold=distance, metric="cosine", linkage="average")
    labels = reference.fit_predict(np.array([descriptors[name] for name in names]))
    wanted = {
        frozenset(n for n, found in zip(names, labels, strict=True) if found == label) for label in labels
    }
    random.shuffle(names)
    assert {frozenset(g) for g in group({n: descriptors[n] for n in names}, distance)} == wanted


def test_who_has_a_cluster_keeps_it_and_who_comes_later_joins_the_nearest_or_begins_one():
    clusters = Clusters(0.08)
    clusters.take_in(ORGANS)
    before = dict(clusters.members)
    clusters.take_in({"late": near(1, 99), "other": near(7, 98), "site-1": near(5, 97)})
    assert {name: clusters.members[name] for name in before} == before
    assert clusters.members["late"] == before["site-1"]
    assert clusters.members["other"] not in before.values()
    clusters.take_in({"another": near(7, 96)})
    assert clusters.members["another"] == clusters.members["other"]


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_late_sites_find_their_places_in_any_order(order):
    clusters, late = Clusters(0.08), {"a": near(0, 91), "b": near(5, 92), "c": near(5, 93)}
    clusters.take_in(ORGANS)
    clusters.take_in({name: late[name] for name in order})
    assert clusters.members["a"] == clusters.members["site-3"]
    assert clusters.members["b"] == clusters.members["c"] == 4


def test_the_nearest_cluster_of_a_stranger_is_none():
    clusters = Clusters(0.08)
    assert clusters.nearest(near(0, 1)) is None
    clusters.take_in(ORGANS)
    assert clusters.nearest(near(9, 1)) is None
    assert clusters.nearest(near(2, 77)) == clusters.members["site-2"]


def test_clusters_are_the_same_after_they_were_written_and_read():
    clusters = Clusters(0.08)
    clusters.take_in(ORGANS)
    again = Clusters.restore(0.08, clusters.facts())
    assert (again.members, again.descriptors, again.length) == (
        clusters.members,
        clusters.descriptors,
        LENGTH,
    )
    assert Clusters.restore(0.08, {}).sites() == {}
