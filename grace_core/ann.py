"""The FAISS index of an embedding matrix: exact, or one of two that trade a little recall for speed or memory.

``flat``    every vector compared: exact. Reads n·4d bytes for a query, so its time grows with n.
``hnsw``    a graph of neighbours beside the vectors: a query visits some thousand of them. Memory n·(4d + 260) bytes.
``ivfpq``   vectors in √n-many cells, d/4 bytes each; a query looks into some cells and the best candidates are compared
            again by their exact vectors, which stay on disk. Memory n·(d/4 + 8) bytes: for what does not fit otherwise.

All give inner products of L2-normalised vectors, which are cosines, summed and ordered as
:mod:`grace_core.ranking` says: equal scores stand in the order of the corpus, whatever the kind and however
many are asked for. Parameters follow FAISS's own guidelines ("Guidelines to choose an index", "Clustering");
how hard a query searches (``effort``: efSearch or nprobe) is measured, not guessed: the least of a ladder
with which recall@10 on a sample reaches TARGET.

Seeds are FAISS's fixed ones. flat does not depend on the number of threads; hnsw inserts in parallel, and
gives the same bytes again with one thread only (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from grace_core.errors import GraceError
from grace_core.ranking import dots, dots_of_each
from grace_core.tensors import BLOCK

KINDS = ("flat", "hnsw", "ivfpq")
TARGET = 0.95  # recall@10 on the sample, at which a higher effort is not tried
SAMPLE = 200
LINKS, CONSTRUCTION = (
    32,
    40,
)  # HNSW: links a node, and the width of the search that finds them. FAISS's own; on 50,000 vectors of 256
# dimensions 16 links needed four times the effort for the same recall, and a width of 80 a third more time
# for half a point of it
LADDERS = {"hnsw": (16, 32, 64, 128, 256, 512), "ivfpq": (4, 8, 16, 32, 64, 128, 256, 512)}
EFFORTS = {"hnsw": "efSearch", "ivfpq": "nprobe"}
PER_CENTROID = 39  # training vectors a centroid; FAISS warns below
CANDIDATES = 10  # an ivfpq query re-ranks so many times k vectors, and at least LEAST
LEAST = 100
SLACK = 16  # candidates of an exact search beyond k, so that the order in which fp32 has nearly equal scores decides nothing
GROUP = 64
_ROUNDING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Quality:
    """How a query searches, and the recall@10 that this reached on so many ``queries``."""

    effort: int
    recall: float
    queries: int


def check_kind(kind: str) -> str:
    """``kind``; raises GraceError for any other name."""
    if kind not in KINDS:
        raise GraceError(f"the FAISS kind is {kind!r}, expected one of {', '.join(KINDS)}")
    return kind


def make(vectors, kind: str = "flat"):
    """An index of ``kind`` over ``vectors`` ``(n, d)`` fp32, L2-normalised: an array, or what gives one when sliced.

    Raises GraceError for a kind that is unknown, or that needs more vectors.
    """
    import faiss

    count, dim = vectors.shape
    check_kind(kind)
    if kind == "flat":
        index = faiss.IndexFlatIP(dim)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = CONSTRUCTION
    else:
        index = _trained(vectors)
    for start in range(0, count, BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + BLOCK], dtype=np.float32))
    return index


def _trained(vectors):
    """An empty IVF-PQ index, trained on an even sample."""
    import faiss

    count, dim = vectors.shape
    least = 256 * PER_CENTROID  # a product quantizer of 8 bits has 256 centroids in each sub-space
    if count < least:
        raise GraceError(
            f"ivfpq needs at least {least:,} documents to be trained on, got {count:,}; use flat, which is exact, or hnsw"
        )
    cells = min(max(int(4 * count**0.5), 16), count // PER_CENTROID, 65_536)
    pieces = max(m for m in range(1, max(dim // 4, 1) + 1) if dim % m == 0)  # at least 4 dimensions a byte
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, cells, pieces, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True
    step = max(1, count // (48 * max(cells, 256)))
    index.train(np.ascontiguousarray(_rows(vectors, np.arange(0, count, step))))
    return index


def _rows(vectors, rows: np.ndarray) -> np.ndarray:
    out = np.empty((len(rows), vectors.shape[1]), np.float32)
    for start in range(0, len(rows), BLOCK):
        out[start : start + BLOCK] = vectors[rows[start : start + BLOCK]]
    return out


def write(index, path: Path) -> None:
    """Write the index to ``path``, as it is; for :func:`grace_core.files.write_atomically`."""
    import faiss

    faiss.write_index(index, str(path))


def read(path: Path):
    """Open a written index through a memory map: nothing is loaded that no query needs, and processes share what is.

    Not FAISS's older IO_FLAG_MMAP for cells: it starts threads for every query that read ahead, which took 2
    ms where the query took 0.1.
    """
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def search(
    index, kind: str, vectors, queries: np.ndarray, k: int, *, effort: int | None = None, copies: Copies | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines ``(m, k)`` and rows ``(m, k)``, best first.

    A kind that is not exact gives row -1 where it found fewer than ``k``.

    FAISS proposes some more than ``k``; their scores, which are taken from ``vectors``, and their order are
    those of :mod:`grace_core.ranking`. With ``copies`` a kind that is not exact, which may have found any of
    equal vectors, gives the first.
    """
    import faiss

    wanted = min(index.ntotal, k + SLACK)
    if kind == "flat":
        near, rows = index.search(queries, wanted)
    elif kind == "hnsw":
        effort = max(effort, 2 * k)
        rows = index.search(queries, min(wanted, effort), params=faiss.SearchParametersHNSW(efSearch=effort))[1]
    else:
        wanted = min(index.ntotal, max(CANDIDATES * k, LEAST))
        rows = index.search(queries, wanted, params=faiss.SearchParametersIVF(nprobe=effort))[1]
    if copies is not None:
        rows = copies.beside(rows, k)
    scores, best = ranked(vectors, rows, queries, k)
    return (
        completed(vectors, queries, near[:, -1], scores, best)
        if kind == "flat" and wanted < index.ntotal
        else (scores, best)
    )


def ranked(vectors, rows: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best ``k`` of each query's candidates ``rows`` ``(m, c)``, -1 for none; vectors on disk are read
    for GROUP queries at once.
    """
    if len(queries) > GROUP:
        groups = [slice(start, start + GROUP) for start in range(0, len(queries), GROUP)]
        scores, best = zip(*(ranked(vectors, rows[group], queries[group], k) for group in groups), strict=True)
        return np.concatenate(scores), np.concatenate(best)
    known, places = vectors, rows
    if not isinstance(vectors, np.ndarray):
        wanted, places = np.unique(rows, return_inverse=True)  # sorted: in the order of the file
        known, places = vectors[wanted], places.reshape(rows.shape)
    found = dots_of_each(known, places, queries)
    if rows.min(initial=0) < 0:
        found[rows < 0] = -np.inf
    best = np.arange(len(found))[:, None], np.lexsort((rows, -found), axis=1)[:, :k]
    return found[best], rows[best]


def completed(
    vectors, queries: np.ndarray, near: np.ndarray, scores: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``scores`` and ``rows`` ``(m, k)``, completed where a row that was no candidate may score as high as
    the last of them.

    ``near`` ``(m,)`` are the last candidates' scores as a matrix product in fp32 gives them; all other rows
    have lower ones or the same.
    """
    # two ways to sum the same products differ by less than this
    room = 8 * _ROUNDING * queries.shape[1] ** 0.5 * np.sqrt(np.einsum("md,md->m", queries, queries))
    unsure = near >= scores[:, -1] - room
    if not unsure.any():
        return scores, rows
    unsure = np.flatnonzero(unsure)
    least = (scores[:, -1] - room)[unsure, None]
    for start in range(0, len(vectors), BLOCK):
        block = np.asarray(vectors[start : start + BLOCK])
        close = queries[unsure] @ block.T >= least
        for i, mine in zip(unsure, close, strict=True):
            new = np.setdiff1d(start + np.flatnonzero(mine), rows[i])
            values, places = np.append(scores[i], dots(block[new - start], queries[i])), np.append(rows[i], new)
            best = np.lexsort((places, -values))[: len(rows[i])]
            scores[i], rows[i] = values[best], places[best]
    return scores, rows


@dataclass(frozen=True)
class Copies:
    """Which rows have equal vectors: ``first`` ``(n,)`` is the first row with the vector of each, ``rows``
    those of which there are several, by their first one and ascending."""

    first: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, vectors) -> Copies:
        """Found by a score for a random query, which equal vectors share, and compared."""
        count, dim = vectors.shape
        keys = dots(
            vectors, np.random.default_rng(0).standard_normal(dim), np.float64
        )  # in fp32 others would share it too
        rows = np.argsort(keys, kind="stable")
        begins = np.concatenate([[True], np.diff(keys[rows]) != 0])
        first = np.empty(count, np.int64)
        first[rows] = rows[begins][np.cumsum(begins) - 1]
        later = np.flatnonzero(first != np.arange(count))
        for start in range(0, len(later), BLOCK):
            some = later[start : start + BLOCK]
            alike = (vectors[some] == vectors[first[some]]).all(axis=1)
            first[some[~alike]] = some[~alike]
        several = np.flatnonzero(np.bincount(first, minlength=count)[first] > 1)
        return cls(first, several[np.argsort(first[several], kind="stable")])

    def __len__(self) -> int:
        """How many rows are copies of an earlier one."""
        return len(self.rows) - len(np.unique(self.first[self.rows]))

    def beside(self, rows: np.ndarray, k: int) -> np.ndarray:
        """``rows`` ``(m, c)`` with the first ``k`` copies of each, filled up with -1."""
        firsts = self.first[self.rows]
        wide = []
        for found in rows:
            groups = np.unique(self.first[found[found >= 0]])
            begin, end = np.searchsorted(firsts, groups, "left"), np.searchsorted(firsts, groups, "right")
            parts = [self.rows[a : min(a + k, b)] for a, b in zip(begin, end, strict=True) if b > a]
            wide.append(np.concatenate([groups[begin == end], *parts]))
        made = np.full((len(rows), max(rows.shape[1], *map(len, wide))), -1, np.int64)
        for row, found in zip(made, wide, strict=True):
            row[: len(found)] = found
        return made


def compared(index, kind: str, vectors):
    """The vectors that scores are taken from: those that the index keeps, or where it keeps none ``vectors``."""
    import faiss

    if kind == "ivfpq":
        return vectors
    kept = faiss.downcast_index(index.storage) if kind == "hnsw" else index
    return faiss.rev_swig_ptr(kept.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)


class Opened:
    """A FAISS index with the ``vectors`` that it was made from; ``about`` is what the manifest knows of it,
    None if it is flat.
    """

    def __init__(self, index, vectors, about: dict | None = None):
        self.about = about or {"kind": "flat"}
        self.index, self.kind, self.stored = index, self.about["kind"], vectors
        self.vectors = compared(index, self.kind, vectors)

    @property
    def effort(self) -> int | None:
        return self.about.get(EFFORTS.get(self.kind))

    @cached_property
    def copies(self) -> Copies | None:
        """Rows with equal vectors, if there are any; of no use where the search is exact."""
        return None if self.kind == "flat" or self.about.get("copies") == 0 else Copies.of(self.vectors) or None

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As :func:`search`, with ``k`` rows of every query."""
        scores, rows = search(self.index, self.kind, self.vectors, queries, k, effort=self.effort, copies=self.copies)
        if (short := np.flatnonzero(rows[:, -1] < 0)).size:  # so large a k that the search came to an end before
            scores[short], rows[short] = exact(self.stored, queries[short], k)
        return scores, rows

    def scores(self, query: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray:
        """Cosines of all rows, or of some, with one query ``(d,)``: those that :meth:`search` gives."""
        return dots(self.vectors if rows is None else self.vectors[np.asarray(rows, np.int64)], query)


def tune(index, kind: str, vectors) -> Quality:
    """The least effort whose recall@10 reaches TARGET, or the most that is tried."""
    sample = _Sample(vectors)
    for effort in LADDERS[kind]:
        if (found := sample.recall(index, kind, effort)) >= TARGET:
            break
    return Quality(effort, round(found, 4), len(sample.queries))


def recall(index, kind: str, vectors, effort: int) -> float:
    """Recall@10 against the exact search, as :func:`tune` measures it."""
    return _Sample(vectors).recall(index, kind, effort)


class _Sample:
    """Queries that are no documents, and the exact ``k``-th best cosine of each.

    A query is the mean of two documents far from one another in the corpus. Documents themselves would be too
    easy: a graph has been built around them, so that on synthetic vectors efSearch 16 found 0.96 of their
    neighbours, and 0.79 of those of new vectors from the same distribution; of such means it found 0.78, and
    as many as of new ones with efSearch 32, 64 and 128 too. A document that scores as high as the ``k``-th
    counts as found, so that duplicates do no harm.
    """

    def __init__(self, vectors):
        self.vectors, self.k = vectors, min(10, len(vectors))
        rows = np.unique(np.linspace(0, len(vectors) - 1, min(SAMPLE, len(vectors))).astype(np.int64))
        sums = vectors[rows] + vectors[np.roll(rows, len(rows) // 2)]
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        self.queries = np.where(norms > 1e-3, sums / np.maximum(norms, 1e-3), vectors[rows]).astype(np.float32)
        self.least = exact(vectors, self.queries, self.k)[0][:, -1]

    def recall(self, index, kind: str, effort: int) -> float:
        scores, found = search(index, kind, self.vectors, self.queries, self.k, effort=effort)
        return float(((found >= 0) & (scores >= self.least[:, None] - 1e-6)).mean())


def exact(vectors, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and rows ``(m, k)`` by comparing with every vector, block by block: what flat gives, without an index."""
    k = min(k, len(vectors))
    near, rows = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), BLOCK):
        new = queries @ np.asarray(vectors[start : start + BLOCK]).T
        near = np.concatenate([near, new], axis=1)
        rows = np.concatenate([rows, np.broadcast_to(np.arange(start, start + new.shape[1]), new.shape)], axis=1)
        if near.shape[1] > k + SLACK:
            best = np.argpartition(-near, k + SLACK - 1, axis=1)[:, : k + SLACK]
            near, rows = np.take_along_axis(near, best, 1), np.take_along_axis(rows, best, 1)
    scores, best = ranked(vectors, rows, queries, k)
    return (
        completed(vectors, queries, near.min(axis=1), scores, best) if len(vectors) > rows.shape[1] else (scores, best)
    )


def holds(index, vectors) -> bool:
    """Whether a flat or hnsw index holds exactly these vectors."""
    blocks = ((start, vectors[start : start + BLOCK]) for start in range(0, len(vectors), BLOCK))
    return all(np.allclose(index.reconstruct_n(start, len(block)), block, atol=1e-6) for start, block in blocks)
