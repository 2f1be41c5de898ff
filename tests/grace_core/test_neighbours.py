"""Exact neighbours, what changed between two columns, and how many neighbours a map keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_core.errors import GraceError
from grace_core.neighbours import JUDGED, change, map_quality, nearest, neighbours


def drawn(n: int, d: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_hand(vectors: np.ndarray, k: int) -> list[list[int]]:
    """The definition: others by cosine, ties by row."""
    exact = vectors.astype(np.float64)
    cosines = np.round(1 - ((exact[:, None] - exact) ** 2).sum(axis=2) / 2, 8)
    return [
        sorted((row for row in range(len(vectors)) if row != own), key=lambda row, own=own: (-cosines[own, row], row))[
            :k
        ]
        for own in range(len(vectors))
    ]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(1, 20), copies=st.integers(0, 40), seed=st.integers(0, 99))
def test_neighbours_are_those_of_the_definition_with_copies_and_few_documents(n, k, copies, seed):
    random = np.random.default_rng(seed)
    vectors = drawn(n, seed=seed)
    vectors = vectors[random.permutation(np.concatenate([np.arange(n), random.integers(n, size=copies)]))]
    rows, cosines = nearest(vectors, k)
    assert rows.tolist() == by_hand(vectors, min(k, len(vectors) - 1))
    assert rows.shape == cosines.shape == (len(vectors), min(k, len(vectors) - 1))
    np.testing.assert_allclose(cosines, np.take_along_axis(vectors @ vectors.T, rows, axis=1), atol=1e-6)
    some = random.integers(len(vectors), size=3)
    for one, other in zip(nearest(vectors, k, of=some), (rows, cosines), strict=True):
        np.testing.assert_array_equal(one, other[some])


def test_many_copies_stand_in_the_order_of_their_rows():
    vectors = drawn(3)[np.arange(120) % 3]
    found = neighbours(vectors, 5)
    assert found[0].tolist() == [3, 6, 9, 12, 15]
    assert found[6].tolist() == [0, 3, 9, 12, 15]
    assert neighbours(np.ones((50, 4)), 3)[:2].tolist() == [[1, 2, 3], [0, 2, 3]]


def test_cosines_that_hardly_differ_are_still_told_apart():
    """Hidden states of a language model share a large direction: all cosines are near 1."""
    vectors = drawn(200, 16) * 1e-2
    vectors[:, 0] += 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (vectors @ vectors.T).min() > 0.999
    assert (
        neighbours(vectors, 10).tolist()
        == by_hand(vectors.astype(np.float32), 10)
        == neighbours(vectors, 10, of=range(200)).tolist()
    )


def test_the_length_of_vectors_does_not_matter_and_progress_is_told():
    vectors, seen = drawn(50), []
    longer = vectors * np.random.default_rng(1).uniform(0.5, 2, size=(50, 1)).astype(np.float32)
    assert (nearest(longer, 5, progress=lambda *told: seen.append(told))[0] == neighbours(vectors, 5)).mean() > 0.99
    assert seen == [(50, 50)]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.array([[1, 0], [np.nan, 1], [np.inf, 0]]), r"row 1 holds NaN or infinity \(2 such rows\)"),
        (np.ones(4), r"shape \(4,\), expected \(documents, dimensions\)"),
        (np.ones((0, 4)), r"shape \(0, 4\)"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(vectors, message):
    with pytest.raises(GraceError, match=message):
        neighbours(vectors)
    with pytest.raises(GraceError, match="k must be at least 1"):
        neighbours(drawn(3), 0)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 40), k=st.integers(1, 12), seed=st.integers(0, 99))
def test_overlap_is_the_share_of_neighbours_kept(n, k, seed):
    a, b = drawn(n, 6, seed), drawn(n, 9, seed + 1)
    found = change(a, b, k)
    first, second = by_hand(a, min(k, n - 1)), by_hand(b, min(k, n - 1))
    expected = [len(set(x) & set(y)) / len(x) for x, y in zip(first, second, strict=True)]
    np.testing.assert_allclose(found.overlap, expected, atol=1e-6)
    assert found.mean == pytest.approx(np.mean(expected), abs=1e-6)
    assert found.moved.tolist() == sorted(range(n), key=lambda row: (found.overlap[row], row))
    for row in range(n):
        kept, lost, won = found.of(row)
        assert kept + won == [r for r in second[row] if r in kept] + [r for r in second[row] if r not in first[row]]
        assert lost == [r for r in first[row] if r not in second[row]]
        assert len(kept) == round(found.overlap[row] * found.k)


def test_the_same_vectors_turned_change_nothing():
    vectors = drawn(80)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0].astype(np.float32)
    assert change(vectors, vectors).overlap.tolist() == [1] * 80
    assert change(vectors, vectors @ turn).mean == 1


def test_a_document_alone_has_changed_nothing_and_other_documents_are_refused():
    assert change(drawn(1), drawn(1)).overlap.tolist() == [1]
    with pytest.raises(GraceError, match="3 and 4 documents"):
        change(drawn(3), drawn(4))


def test_quality_is_scikit_learn_s_trustworthiness_and_the_share_of_neighbours_kept():
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    vectors = drawn(150, 10)
    points = vectors[:, :2] + np.random.default_rng(1).normal(scale=0.1, size=(150, 2)).astype(np.float32)
    found = map_quality(vectors, points, neighbours(vectors))
    near = NearestNeighbors(n_neighbors=15).fit(points).kneighbors(return_distance=False)
    shared = [len(set(a) & set(b)) for a, b in zip(near.tolist(), neighbours(vectors).tolist(), strict=True)]
    assert found["trustworthiness"] == pytest.approx(
        trustworthiness(vectors, points, n_neighbors=15, metric="cosine"), abs=1e-6
    )
    assert found["knn_preservation"] == pytest.approx(np.mean(shared) / 15)
    assert (found["k"], found["judged"]) == (15, 150)


def test_a_map_that_is_the_space_itself_is_perfect_and_one_of_a_single_place_is_judged_too():
    angles = np.sort(np.random.default_rng(0).uniform(0, 6, size=60))
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = map_quality(circle, circle, neighbours(circle))
    assert (found["trustworthiness"], found["knn_preservation"]) == (1, 1)
    assert map_quality(circle, np.zeros((60, 2)), neighbours(circle))["trustworthiness"] < 0.9


def test_a_large_map_is_judged_by_a_sample_and_a_tiny_one_by_fewer_neighbours():
    vectors = drawn(JUDGED + 200, 3)
    found = map_quality(vectors, vectors[:, :2], neighbours(vectors))
    assert (found["judged"], found["k"]) == (JUDGED, 15)
    assert found == map_quality(vectors, vectors[:, :2], neighbours(vectors))
    assert map_quality(vectors[:5], vectors[:5, :2], neighbours(vectors[:5]))["k"] == 2
    assert map_quality(vectors[:2], vectors[:2, :2], neighbours(vectors[:2])) == {
        "trustworthiness": None,
        "knn_preservation": None,
        "k": 0,
        "judged": 0,
    }
