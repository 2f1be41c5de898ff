"""Nearest neighbours in the full space, how they differ between two models, and how many of them a map keeps.

Cosines are compared, not places on a map: a projection moves documents whose neighbours are the same, and the
other way round. For a document with the k nearest others A under one model and B under the other, the overlap
is |A ∩ B| / k, in [0, 1]. Exact: every pair of documents is compared (FAISS, flat; for single documents a
matrix product), and the cosines of the best are computed again in fp64. Documents at equal distance, to
DIGITS digits, stand in the order of their rows, copies of a document among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from grace_core.errors import GraceError

K = 15
DIGITS = 8
SLACK = 16  # candidates beyond k, so that fp32's order of nearly equal cosines decides nothing
BLOCK = 4096  # documents searched at once
JUDGED = 2000  # documents that a map's quality is taken over


def check_vectors(vectors: np.ndarray, what: str = "vectors") -> np.ndarray:
    """``vectors`` as fp32 ``(n, d)``, contiguous.

    Raises GraceError for another shape, no row, or a value that is not finite.
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise GraceError(
            f"{what}: got an array of shape {np.shape(vectors)}, expected (documents, dimensions), at least one of each"
        )
    if bad := np.flatnonzero(~np.isfinite(array).all(axis=1)).tolist():
        raise GraceError(
            f"{what}: row {bad[0]} holds NaN or infinity ({len(bad)} such rows); encode again in dtype float32"
        )
    return array


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, fp32; a row of zeros stays."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))[:, None]
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def nearest(
    vectors: np.ndarray,
    k: int = K,
    *,
    of: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``(n, k)`` int64 of the nearest other documents by cosine, nearest first, and the cosines ``(n, k)`` fp64.

    ``k`` is cut to ``n - 1``. The document itself is never among them, a copy of it may be. With ``of`` only
    those of some documents are searched for, without an index. ``progress`` is called with (documents done,
    all); what it raises ends the search.
    """
    vectors = check_vectors(vectors)
    if k < 1:
        raise GraceError(f"k must be at least 1, got {k}")
    wanted = np.arange(len(vectors)) if of is None else np.asarray(of, np.int64)
    rows = np.empty((len(wanted), min(k, len(vectors) - 1)), np.int64)
    cosines = np.empty(rows.shape)
    if rows.shape[1] and of is None:
        _fill(unit(vectors), rows, cosines, progress)
    elif rows.shape[1]:
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        for i, row in enumerate(wanted):
            rows[i], cosines[i] = _nearest_to(vectors, lengths, row, rows.shape[1])
    return rows, cosines


def _nearest_to(vectors: np.ndarray, lengths: np.ndarray, row: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for one document, of vectors with these lengths ``(n,)``."""
    (own,) = unit(vectors[row : row + 1])
    near = vectors @ own / np.where(lengths > 0, lengths, 1)
    near[row] = -np.inf
    least = np.partition(near, len(near) - k)[len(near) - k] - 2e-6 * vectors.shape[1] ** 0.5  # more than fp32 errs by
    candidates = np.flatnonzero(near >= least)
    parts = np.array_split(candidates, -(-len(candidates) // BLOCK))
    cosines = np.concatenate([_cosines(own[None], unit(vectors[part])[None])[0] for part in parts])
    best = np.lexsort((candidates, -cosines))[:k]
    return candidates[best], cosines[best]


def _fill(
    vectors: np.ndarray, rows: np.ndarray, cosines: np.ndarray, progress: Callable[[int, int], None] | None
) -> None:
    """The same for all documents, into ``rows`` and ``cosines`` ``(n, k)``."""
    import faiss

    n, k = rows.shape
    first, copies = _copies(vectors, k + 1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors[first])
    for begin in range(0, n, BLOCK):
        block = np.arange(begin, min(begin + BLOCK, n))
        near = index.search(vectors[block], min(len(first), k + 1 + SLACK))[1]
        for part in np.array_split(
            np.arange(len(block)), -(-len(block) // 512)
        ):  # so that what is gathered stays small
            rows[block[part]], cosines[block[part]] = _rank(vectors, first, copies, block[part], near[part], k)
        if progress:
            progress(int(block[-1]) + 1, n)


def _copies(vectors: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each different vector ``(u,)``, and its first ``most`` rows ``(u, at most most)``,
    filled up with -1.

    FAISS would give some of many copies, those that it came by first; so it sees one of each.
    """
    keys = vectors.view(np.dtype((np.void, vectors.dtype.itemsize * vectors.shape[1]))).ravel()
    _, first, group, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    position = np.arange(len(group)) - np.repeat(
        np.cumsum(sizes) - sizes, sizes
    )  # of a row among the copies of its vector
    copies = np.full((len(first), min(most, int(sizes.max()))), -1, np.int64)
    kept = position < copies.shape[1]
    copies[group[order][kept], position[kept]] = order[kept]
    return first, copies


def _rank(vectors: np.ndarray, first: np.ndarray, copies: np.ndarray, rows: np.ndarray, near: np.ndarray, k: int):
    """The ``k`` best of the vectors ``near`` ``(b, f)`` for each of ``rows`` ``(b,)``, with all their copies."""
    candidates = copies[near].reshape(len(rows), -1)
    cosines = np.repeat(_cosines(vectors[rows], vectors[first[near]]), copies.shape[1], axis=1)
    cosines[(candidates < 0) | (candidates == rows[:, None])] = -np.inf
    best = np.lexsort((candidates, -cosines), axis=1)[:, :k]
    return np.take_along_axis(candidates, best, axis=1), np.take_along_axis(cosines, best, axis=1)


def _cosines(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosines ``(b, f)`` fp64, to DIGITS digits, of unit vectors ``(b, d)`` with some others for each ``(b, f, d)``."""
    # 1 - |x - y|² / 2 is the cosine too, and keeps its digits where all cosines are near 1, as those of
    # hidden states can be
    apart = vectors.astype(np.float64)[:, None] - others
    return (1 - np.einsum("bfd,bfd->bf", apart, apart) / 2).round(DIGITS)


def neighbours(vectors: np.ndarray, k: int = K, *, of: Sequence[int] | None = None) -> np.ndarray:
    """Rows ``(n, k)`` of the nearest other documents by cosine, nearest first; see :func:`nearest`."""
    return nearest(vectors, k, of=of)[0]


@dataclass(frozen=True)
class Change:
    """What became of each document's ``k`` nearest from column a to column b: ``overlap`` ``(n,)`` in [0, 1],
    and both lists of rows.
    """

    k: int
    overlap: np.ndarray
    neighbours_a: np.ndarray
    neighbours_b: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.overlap.mean())

    @property
    def moved(self) -> np.ndarray:
        """All rows, those that kept the fewest neighbours first; ties by row."""
        return np.argsort(self.overlap, kind="stable")

    def of(self, row: int) -> tuple[list[int], list[int], list[int]]:
        """Rows of the neighbours that ``row`` kept, lost and won, each nearest first: in b, in a, in b."""
        a, b = self.neighbours_a[row].tolist(), self.neighbours_b[row].tolist()
        return [r for r in b if r in a], [r for r in a if r not in b], [r for r in b if r not in a]


def change(vectors_a: np.ndarray, vectors_b: np.ndarray, k: int = K) -> Change:
    """Compare the ``k`` nearest neighbours of the same documents in two columns, ``(n, d)`` and ``(n, d')``."""
    if len(vectors_a) != len(vectors_b):
        raise GraceError(
            f"the columns have {len(vectors_a)} and {len(vectors_b)} documents; give the same documents in the same order"
        )
    return change_of(neighbours(vectors_a, k), neighbours(vectors_b, k))


def change_of(neighbours_a: np.ndarray, neighbours_b: np.ndarray) -> Change:
    """The same from neighbours ``(n, k)`` that are known already."""
    n, k = neighbours_a.shape
    overlap = shared(neighbours_a, neighbours_b) / k if k else np.ones(n)  # a document alone has kept all that it had
    return Change(k, overlap.astype(np.float32), neighbours_a, neighbours_b)


def shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many entries of each row of ``a`` stand in that row of ``b``, ``(n,)``; no row holds an entry twice."""
    together = np.sort(np.concatenate([a, b], axis=1), axis=1)
    return (together[:, 1:] == together[:, :-1]).sum(axis=1)


def map_quality(vectors: np.ndarray, points: np.ndarray, rows: np.ndarray, *, seed: int = 0) -> dict:
    """How well ``points`` ``(n, dims)`` keep the neighbours ``rows`` ``(n, k)`` of ``vectors``, as a dict.

    Trustworthiness (Venna and Kaski, 2001): 1 less a penalty for each document that is near on the map and
    not in the full space, by its rank there; 1 is best. ``knn_preservation`` is the share of the k nearest
    that the map keeps. k is at most (n - 1) / 2, as trustworthiness asks. Both are means over all documents,
    or over a sample of JUDGED. None for fewer than 3 documents.
    """
    import faiss

    n, k = len(vectors), min(rows.shape[1], (len(vectors) - 1) // 2)
    if k < 1:
        return {"trustworthiness": None, "knn_preservation": None, "k": 0, "judged": 0}
    judged = np.sort(np.random.default_rng(seed).choice(n, JUDGED, replace=False)) if n > JUDGED else np.arange(n)
    points = np.ascontiguousarray(points, dtype=np.float32)
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    near = index.search(points[judged], k + 1)[1]
    alien = near == judged[:, None]
    alien[~alien.any(axis=1), -1] = (
        True  # many documents in one place, itself not among those found: the last makes room
    )
    near = near[~alien].reshape(len(judged), k)
    vectors = unit(vectors)
    penalty = 0
    for part in np.array_split(np.arange(len(judged)), -(-len(judged) // 256)):
        cosines = vectors[judged[part]] @ vectors.T
        cosines[np.arange(len(part)), judged[part]] = -2  # itself has no rank
        for column in near[part].T:
            ranks = 1 + (cosines > np.take_along_axis(cosines, column[:, None], axis=1)).sum(axis=1)
            penalty += int((ranks - k).clip(0).sum())
    return {
        "trustworthiness": float(1 - 2 * penalty / (len(judged) * k * (2 * n - 3 * k - 1))),
        "knn_preservation": float(shared(rows[judged, :k], near).mean() / k),
        "k": k,
        "judged": len(judged),
    }
