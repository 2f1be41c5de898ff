"""Clusters at nested sizes: found again, seeded, joined as scipy joins, and awkward inputs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from grace_core.reasons.clusters import SIZES, agreement, by_size, choose_size, cluster, spherical_kmeans, ward


def blobs(
    groups: int, number: int, *, dim: int = 24, spread: float = 0.25, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors about random middles, and which middle each is about."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(number) % groups
    vectors = rng.normal(size=(groups, dim))[kinds] + spread * rng.normal(size=(number, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), kinds


def test_the_groups_are_found_again_and_their_number_too():
    vectors, kinds = blobs(30, 1500)
    hierarchy = cluster(vectors)
    size, silhouettes = choose_size(vectors, hierarchy)
    assert size == 30
    assert silhouettes[30] == max(silhouettes.values()) > 0.5
    assert agreement(hierarchy.cut(30), kinds) > 0.99


def test_a_seed_gives_the_same_clusters_and_another_nearly_the_same():
    vectors, _ = blobs(20, 1000)
    one, again, other = cluster(vectors, seed=3), cluster(vectors, seed=3), cluster(vectors, seed=4)
    np.testing.assert_array_equal(one.fine, again.fine)
    np.testing.assert_array_equal(one.merges, again.merges)
    assert (one.fine != other.fine).any()
    assert agreement(one.cut(20), other.cut(20)) > 0.95


def test_each_cluster_lies_within_one_of_every_smaller_size():
    vectors, _ = blobs(12, 900, spread=1.0)
    hierarchy = cluster(vectors)
    labels = [hierarchy.cut(size) for size in hierarchy.sizes]
    assert [label.max() + 1 for label in labels] == hierarchy.sizes
    for coarse, fine in pairwise(labels):
        assert all(len(set(coarse[fine == label])) == 1 for label in range(fine.max() + 1))
    assert hierarchy.sizes[:2] == list(SIZES[:2])


def test_larger_clusters_come_first():
    vectors, _ = blobs(9, 500, spread=0.8)
    sizes = np.bincount(cluster(vectors).cut(10))
    assert (np.diff(sizes) <= 0).all()
    assert by_size(np.array([5, 2, 2, 5, 9])).tolist() == [0, 1, 1, 0, 2]


def test_joining_is_ward_s():
    """Of single vectors, scipy's linkage; of clusters, what it does once they are joined."""
    from scipy.cluster.hierarchy import fcluster, linkage

    vectors, _ = blobs(8, 60, spread=0.7)
    merges = ward(vectors.astype(np.float64), np.ones(60))
    expected = linkage(vectors.astype(np.float64), "ward")
    np.testing.assert_array_equal(merges, np.sort(expected[:, :2].astype(int), axis=1))
    first = fcluster(expected, 20, "maxclust") - 1
    means = np.stack([vectors[first == label].mean(axis=0, dtype=np.float64) for label in range(20)])
    from grace_core.reasons.clusters import Hierarchy

    joined = Hierarchy(first, ward(means, np.bincount(first)))
    for size in (2, 5, 11):
        assert agreement(joined.cut(size), fcluster(expected, size, "maxclust")) == 1


@pytest.mark.parametrize("number", [1, 2, 3, 7, 15])
def test_few_vectors(number):
    vectors, _ = blobs(3, number)
    hierarchy = cluster(vectors)
    size, _ = choose_size(vectors, hierarchy)
    assert size in hierarchy.sizes
    assert len(hierarchy.cut(size)) == number
    assert hierarchy.sizes == [hierarchy.largest]


def test_vectors_that_are_all_the_same_are_one_cluster():
    vectors = np.repeat(blobs(1, 1)[0], 200, axis=0)
    hierarchy = cluster(vectors)
    assert hierarchy.largest == 1
    assert hierarchy.cut(1).tolist() == [0] * 200
    assert choose_size(vectors, hierarchy) == (1, {})


def test_a_zero_vector_and_copies_do_no_harm():
    vectors, _ = blobs(5, 100)
    vectors[10:60] = vectors[10]
    vectors[3] = 0
    labels = cluster(vectors).cut(cluster(vectors).largest)
    assert len(set(labels[10:60])) == 1


def test_no_more_clusters_than_asked_for():
    vectors, _ = blobs(40, 800)
    assert cluster(vectors, most=4).largest <= 4
    assert spherical_kmeans(vectors, 13).max() < 13
