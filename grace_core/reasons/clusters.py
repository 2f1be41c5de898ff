"""Clusters of sentences at several sizes, one within the other.

1. Fine clusters by spherical k-means: for unit vectors x and unit centres c, each x belongs to the c with the largest x · c, and
   c = sum of its x, normalised; steps are taken until nothing moves, at most STEPS. It starts from vectors that are
   drawn far from each other (k-means++), and an empty cluster takes the vector that fits worst.
2. These are joined by Ward's criterion, two at a time: those i, j with the smallest

       n_i n_j / (n_i + n_j) · |m_i - m_j|²                  (n sizes, m means)

   the sum of squares that joining them adds. A size of the hierarchy is the state where so many clusters are left, so that each cluster of
   a larger size lies within one of a smaller.

The number of clusters to begin with is that of SIZES, up to READABLE, with the largest mean silhouette
(cosine, over at most JUDGED sentences): more names than that nobody reads. Joining by Ward repairs most of
what another start does to k-means: the adjusted Rand index between two seeds tells how much is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

SIZES = (10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000)
READABLE = 100
FINE = 2_000  # clusters that k-means makes, at most
PER_FINE = 6  # sentences a fine cluster has on average, at least
STEPS = 12
LEARNED = 100  # sentences for each centre that k-means learns from, at most
START, START_PER_CENTRE, START_DIMS = (
    2_000,
    5,
    48,
)  # the sample that the first centres are drawn from, and its dimensions
JUDGED = 3_000
BLOCK = 4_096


@dataclass(frozen=True)
class Hierarchy:
    """``fine`` ``(s,)`` is the fine cluster of each vector, ``merges`` ``(f - 1, 2)`` which two are joined at
    each step; the one that step i makes has the number f + i."""

    fine: np.ndarray
    merges: np.ndarray

    @property
    def largest(self) -> int:
        """The number of fine clusters f."""
        return len(self.merges) + 1

    @cached_property
    def sizes(self) -> list[int]:
        """The sizes at which it can be cut."""
        return [size for size in SIZES if size < self.largest] + [self.largest]

    def cut(self, size: int) -> np.ndarray:
        """Labels ``(s,)`` int64 of the vectors in ``size`` clusters, the largest one first; ties by the first
        vector.
        """
        parent = np.arange(2 * self.largest - 1)
        for step, (a, b) in enumerate(self.merges[: self.largest - size]):
            parent[[a, b]] = self.largest + step
        for node in range(len(parent) - 1, -1, -1):  # a parent has a larger number
            parent[node] = parent[parent[node]]
        return by_size(parent[self.fine])


def by_size(labels: np.ndarray) -> np.ndarray:
    """The labels renumbered from the largest group to the smallest; ties by the first member."""
    _, first, inverse, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    new = np.empty(len(sizes), np.int64)
    new[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return new[inverse]


def cluster(vectors: np.ndarray, *, seed: int = 0, most: int | None = None) -> Hierarchy:
    """Clusters of unit vectors ``(s, d)``.

    ``most`` bounds the number of fine ones. The same seed gives the same clusters.
    """
    number = max(1, min(FINE, len(vectors) // PER_FINE, len(vectors) if most is None else most))
    fine = spherical_kmeans(np.ascontiguousarray(vectors, np.float32), number, seed=seed)
    used, fine = np.unique(fine, return_inverse=True)
    return Hierarchy(fine, ward(_means(vectors, fine, len(used)), np.bincount(fine)))


def spherical_kmeans(vectors: np.ndarray, number: int, *, seed: int = 0) -> np.ndarray:
    """Labels ``(s,)`` of unit vectors ``(s, d)`` fp32 in at most ``number`` clusters; some may be left empty."""
    rng = np.random.default_rng(seed)
    most = LEARNED * number
    learned = vectors if len(vectors) <= most else vectors[np.sort(rng.choice(len(vectors), most, replace=False))]
    centres = _spread(learned, number, rng)
    labels = np.full(len(learned), -1)
    for _ in range(STEPS):
        new, fit = _nearest(learned, centres)
        if (new == labels).all():
            break
        labels = new
        sums = _means(learned, labels, number)
        if len(empty := np.flatnonzero(np.bincount(labels, minlength=number) == 0)):
            sums[empty] = learned[np.argsort(fit, kind="stable")[: len(empty)]]
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = (sums / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return _nearest(vectors, centres)[0]


def _spread(vectors: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """``number`` of the vectors, each drawn with a chance that grows with its squared distance from those
    before; from a sample, and with distances in a random projection to START_DIMS dimensions, which are near
    enough to draw by."""
    most = max(START, START_PER_CENTRE * number)
    sample = np.arange(len(vectors)) if len(vectors) <= most else np.sort(rng.choice(len(vectors), most, replace=False))
    some = vectors[sample]
    if some.shape[1] > START_DIMS:
        some = some @ rng.normal(size=(some.shape[1], START_DIMS)).astype(np.float32)
    squares = np.einsum("sd,sd->s", some, some)

    def distances(place: int) -> np.ndarray:
        return (squares + squares[place] - 2 * some @ some[place]).clip(0)

    chosen = [int(rng.integers(len(some)))]
    apart = distances(chosen[0])
    for _ in range(number - 1):
        total = np.cumsum(apart, dtype=np.float64)
        # where all that is left is a copy of one before, any will do: its cluster stays empty
        chosen.append(min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(some) - 1))
        np.minimum(apart, distances(chosen[-1]), out=apart)
    return vectors[sample[chosen]].copy()


def _nearest(vectors: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each vector the number of the nearest centre and their cosine, ``(s,)`` each."""
    labels, fit = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    for begin in range(0, len(vectors), BLOCK):
        cosines = vectors[begin : begin + BLOCK] @ centres.T
        labels[begin : begin + BLOCK] = cosines.argmax(axis=1)
        fit[begin : begin + BLOCK] = cosines.max(axis=1)
    return labels, fit


def _means(vectors: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray:
    """Mean vectors ``(number, d)`` fp64 of the groups; zeros for an empty one."""
    from scipy.sparse import csr_array

    sizes = np.bincount(labels, minlength=number)
    members = csr_array((np.ones(len(labels)), (labels, np.arange(len(labels)))), shape=(number, len(labels)))
    return np.asarray(members @ vectors.astype(np.float64)) / np.maximum(sizes, 1)[:, None]


def ward(means: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which two of f clusters to join at each step, ``(f - 1, 2)`` as in :class:`Hierarchy`, from their means
    ``(f, d)`` and sizes.
    """
    number = len(means)
    means, sizes, names = means.astype(np.float64).copy(), sizes.astype(np.float64).copy(), np.arange(number)
    squares = np.einsum("fd,fd->f", means, means)
    distances = (squares[:, None] + squares - 2 * means @ means.T).clip(0)
    costs = distances * (sizes[:, None] * sizes) / (sizes[:, None] + sizes)
    np.fill_diagonal(costs, np.inf)
    nearest = costs.argmin(axis=1)
    lowest = costs[np.arange(number), nearest]
    merges = np.empty((number - 1, 2), np.int64)
    for step in range(number - 1):
        i = int(lowest.argmin())
        j = int(nearest[i])
        i, j = min(i, j), max(i, j)
        merges[step] = sorted((names[i], names[j]))
        a, b = sizes[i], sizes[j]
        # Lance and Williams: what joining with the union would add, from what joining with its parts would
        new = ((a + sizes) * costs[i] + (b + sizes) * costs[j] - sizes * costs[i, j]) / (a + b + sizes)
        new[[i, j]] = np.inf
        costs[i], costs[:, i], costs[j], costs[:, j] = new, new, np.inf, np.inf
        sizes[i], names[i], lowest[j] = a + b, number + step, np.inf
        stale = np.flatnonzero(np.isin(nearest, (i, j)) & np.isfinite(lowest))
        stale = np.union1d(stale, [i])
        nearest[stale] = costs[stale].argmin(axis=1)
        lowest[stale] = costs[stale, nearest[stale]]
        nearer = np.flatnonzero(costs[:, i] < lowest)
        nearest[nearer], lowest[nearer] = i, costs[nearer, i]
    return merges


def choose_size(vectors: np.ndarray, hierarchy: Hierarchy, *, seed: int = 0) -> tuple[int, dict[int, float]]:
    """The size with the largest mean silhouette (cosine), and the silhouettes of all that were tried, to
    three digits.
    """
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(seed)
    judged = (
        np.arange(len(vectors)) if len(vectors) <= JUDGED else np.sort(rng.choice(len(vectors), JUDGED, replace=False))
    )
    distances = (1 - vectors[judged] @ vectors[judged].T).clip(0).astype(np.float64)
    np.fill_diagonal(distances, 0)
    scores = {}
    for size in hierarchy.sizes:
        labels = hierarchy.cut(size)[judged]
        if 1 < len(np.unique(labels)) < len(judged):
            scores[size] = round(float(silhouette_score(distances, labels, metric="precomputed")), 3)
    few = [size for size in scores if size <= READABLE] or [hierarchy.sizes[0]]
    return max(few, key=lambda size: (scores.get(size, 0.0), -size)), scores


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Adjusted Rand index of two ways to group the same things: 1 the same groups, 0 no more than by chance."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(a, b))
