"""The FAISS index of an embedding matrix: exact, or one of two that trade some recall for speed or memory.

``flat``    compares every vector: exact. Reads n·4d bytes for a query, so its time grows with n.
``hnsw``    a graph of neighbours beside the vectors: a query visits some thousand of them. Memory n·(4d + 260) bytes.
``ivfpq``   vectors in about √n cells, d/4 bytes each; a query searches some cells, and the best candidates are compared
            again by their exact vectors, which stay on disk (n·4d bytes). Memory n·(d/4 + 8) bytes: for vectors that do not
            fit otherwise.

All give inner products of L2-normalised vectors, which are cosines, summed and ordered as in
:mod:`grace_core.ranking`: equal scores are in the order of the corpus, for every kind and every k. Parameters
follow FAISS's guidelines ("Guidelines to choose an index", "Clustering"); the ``effort`` of a query (efSearch
or nprobe) is measured: the least of LADDERS with which recall@10 on a sample reaches TARGET.

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
TARGET = 0.95  # recall@10 on the sample; no higher effort is tried
SAMPLE = 200
# HNSW: links of a node, and the width of the search for them: FAISS's defaults. On 50,000 vectors of 256 dimensions
# 16 links needed four times the effort for the same recall, and a width of 80 a third more time for 0.005 of recall
LINKS, CONSTRUCTION = 32, 40
LADDERS = {"hnsw": (16, 32, 64, 128, 256, 512), "ivfpq": (4, 8, 16, 32, 64, 128, 256, 512)}
EFFORTS = {"hnsw": "efSearch", "ivfpq": "nprobe"}
PER_CENTROID = 39  # training vectors a centroid; FAISS warns below
CANDIDATES = 4  # an ivfpq query re-ranks this many times k vectors, and at least LEAST
LEAST = 40
SLACK = 16  # candidates beyond k, so that fp32 rounding of nearly equal scores does not decide the result
GROUP = 8  # queries for which vectors are computed at once: few enough to stay in the cache
_ROUNDING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Quality:
    """The effort of a query, and the recall@10 that it reached on a number of ``queries``."""

    effort: int
    recall: float
    queries: int


def check_kind(kind: str, count: int | None = None) -> str:
    """``kind``; raises GraceError for any other name, and for too few documents if their ``count`` is given."""
    if kind not in KINDS:
        raise GraceError(f"the FAISS kind is {kind!r}, expected one of {', '.join(KINDS)}")
    least = 256 * PER_CENTROID  # a product quantizer of 8 bits has 256 centroids in each sub-space
    if kind == "ivfpq" and count is not None and count < least:
        raise GraceError(
            f"ivfpq needs at least {least:,} documents to be trained on, got {count:,}; use flat, which is exact, or hnsw"
        )
    return kind


def make(vectors, kind: str = "flat"):
    """An index of ``kind`` over L2-normalised ``vectors`` ``(n, d)`` fp32: an array, or an object that is sliced like one.

    Raises GraceError for an unknown kind, and for too few vectors.
    """
    import faiss

    count, dim = vectors.shape
    check_kind(kind, count)
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
    """Writes the index to ``path``; for :func:`grace_core.files.write_atomically`."""
    import faiss

    faiss.write_index(index, str(path))


def read(path: Path):
    """Opens a written index through a memory map: only pages that queries need are loaded, and processes share them.

    FAISS's older IO_FLAG_MMAP would start threads that read ahead for every ivfpq query, 2 ms for one of 0.1 ms.
    """
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def search(
    index, kind: str, vectors, queries: np.ndarray, k: int, *, effort: int | None = None, copies: Copies | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines ``(m, k)`` and rows ``(m, k)``, best first; row -1 where a kind that is not exact found fewer than ``k``.

    FAISS proposes more than ``k`` candidates; their scores, computed from ``vectors``, and their order are those
    of :mod:`grace_core.ranking`. FAISS may find any of several equal vectors; with ``copies`` the first is given.
    """
    import faiss

    count = min(index.ntotal, k + SLACK)
    if kind == "flat":
        products, rows = index.search(queries, count)
    elif kind == "hnsw":
        effort = max(effort, 2 * k)
        rows = index.search(queries, min(count, effort), params=faiss.SearchParametersHNSW(efSearch=effort))[1]
    else:
        count = min(index.ntotal, max(CANDIDATES * k, LEAST))
        rows = index.search(queries, count, params=faiss.SearchParametersIVF(nprobe=effort))[1]
    if copies is not None:
        rows = copies.beside(rows, k)
    scores, best = ranked(vectors, rows, queries, k)
    if kind == "flat" and count < index.ntotal:
        return completed(vectors, queries, products[:, -1], scores, best)
    return scores, best


def ranked(vectors, rows: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and rows ``(m, k)`` of the best of each query's candidates ``rows`` ``(m, c)``, -1 for none."""
    if isinstance(vectors, np.ndarray):
        cosines = dots_of_each(vectors, rows, queries)
    else:
        cosines = np.empty(rows.shape, np.float32)
        for start in range(0, len(queries), GROUP):
            some = slice(start, start + GROUP)
            distinct, places = np.unique(rows[some], return_inverse=True)  # sorted: in the order of the file
            cosines[some] = dots_of_each(vectors[distinct], places.reshape(rows[some].shape), queries[some])
    if rows.min(initial=0) < 0:
        cosines[rows < 0] = -np.inf
    best = np.arange(len(cosines))[:, None], np.lexsort((rows, -cosines), axis=1)[:, :k]
    return cosines[best], rows[best]


def completed(
    vectors, queries: np.ndarray, bounds: np.ndarray, scores: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``scores`` and ``rows`` ``(m, k)`` with any rows that were no candidates but score as high as the last.

    ``bounds`` ``(m,)`` are the last candidates' scores by a matrix product in fp32, which no other row exceeds.
    """
    # sums of the same products in another order differ by less than this
    room = 8 * _ROUNDING * queries.shape[1] ** 0.5 * np.sqrt(np.einsum("md,md->m", queries, queries))
    unsure = bounds >= scores[:, -1] - room
    if not unsure.any():
        return scores, rows
    unsure = np.flatnonzero(unsure)
    least = (scores[:, -1] - room)[unsure, None]
    for start in range(0, len(vectors), BLOCK):
        block = np.asarray(vectors[start : start + BLOCK])
        close = queries[unsure] @ block.T >= least
        for i, hits in zip(unsure, close, strict=True):
            new = np.setdiff1d(start + np.flatnonzero(hits), rows[i])
            values, places = np.append(scores[i], dots(block[new - start], queries[i])), np.append(rows[i], new)
            best = np.lexsort((places, -values))[: len(rows[i])]
            scores[i], rows[i] = values[best], places[best]
    return scores, rows


@dataclass(frozen=True)
class Copies:
    """Rows with equal vectors: ``first`` ``(n,)`` is for each row the first with the same vector; ``rows`` are
    those that share their vector, grouped by ``first``, ascending."""

    first: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, vectors) -> Copies:
        """The equal vectors among ``vectors``: grouped by their score for a random query, then compared."""
        count, dim = vectors.shape
        # in fp64, since in fp32 different vectors often have the same score
        keys = dots(vectors, np.random.default_rng(0).standard_normal(dim), np.float64)
        rows = np.argsort(keys, kind="stable")
        begins = np.concatenate([[True], np.diff(keys[rows]) != 0])
        first = np.empty(count, np.int64)
        first[rows] = rows[begins][np.cumsum(begins) - 1]
        later = np.flatnonzero(first != np.arange(count))
        for start in range(0, len(later), BLOCK):
            chunk = later[start : start + BLOCK]
            alike = (vectors[chunk] == vectors[first[chunk]]).all(axis=1)
            first[chunk[~alike]] = chunk[~alike]
        several = np.flatnonzero(np.bincount(first, minlength=count)[first] > 1)
        return cls(first, several[np.argsort(first[several], kind="stable")])

    def __len__(self) -> int:
        """The number of rows that repeat an earlier one."""
        return len(self.rows) - len(np.unique(self.first[self.rows]))

    def beside(self, rows: np.ndarray, k: int) -> np.ndarray:
        """``rows`` ``(m, c)`` with the first ``k`` rows of each one's group added, padded with -1."""
        firsts = self.first[self.rows]
        wide = []
        for candidates in rows:
            groups = np.unique(self.first[candidates[candidates >= 0]])
            begin, end = np.searchsorted(firsts, groups, "left"), np.searchsorted(firsts, groups, "right")
            parts = [self.rows[a : min(a + k, b)] for a, b in zip(begin, end, strict=True) if b > a]
            wide.append(np.concatenate([groups[begin == end], *parts]))
        filled = np.full((len(rows), max(rows.shape[1], *map(len, wide))), -1, np.int64)
        for row, candidates in zip(filled, wide, strict=True):
            row[: len(candidates)] = candidates
        return filled


def compared(index, kind: str, vectors):
    """The exact vectors in the index, which scores are computed from; for ivfpq, which has none, ``vectors``: a file's, or
    in indexes that were built before there was one, computed from the part sums.
    """
    import faiss

    if kind == "ivfpq":
        return vectors
    storage = faiss.downcast_index(index.storage) if kind == "hnsw" else index
    return faiss.rev_swig_ptr(storage.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)


class Opened:
    """An opened FAISS index with its ``vectors``; ``about`` is its entry in the manifest, None if it is flat."""

    def __init__(self, index, vectors, about: dict | None = None):
        self.about = about or {"kind": "flat"}
        self.index, self.kind, self.stored = index, self.about["kind"], vectors
        self.vectors = compared(index, self.kind, vectors)

    @property
    def effort(self) -> int | None:
        return self.about.get(EFFORTS.get(self.kind))

    @cached_property
    def copies(self) -> Copies | None:
        """Rows with equal vectors; None without any, and for an exact search, which does not need them."""
        return None if self.kind == "flat" or self.about.get("copies") == 0 else Copies.of(self.vectors) or None

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As :func:`search`, with ``k`` rows of every query."""
        scores, rows = search(self.index, self.kind, self.vectors, queries, k, effort=self.effort, copies=self.copies)
        if (short := np.flatnonzero(rows[:, -1] < 0)).size:  # k was too large for the approximate search
            scores[short], rows[short] = exact(self.stored, queries[short], k)
        return scores, rows

    def scores(self, query: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray:
        """Cosines of all rows, or of some, with one query ``(d,)``, equal to those of :meth:`search`."""
        return dots(self.vectors if rows is None else self.vectors[np.asarray(rows, np.int64)], query)


def tune(index, kind: str, vectors) -> Quality:
    """The least effort of the ladder whose recall@10 reaches TARGET, else the highest."""
    sample = _Sample(vectors)
    for effort in LADDERS[kind]:
        if (reached := sample.recall(index, kind, effort)) >= TARGET:
            break
    return Quality(effort, round(reached, 4), len(sample.queries))


def recall(index, kind: str, vectors, effort: int) -> float:
    """Recall@10 against the exact search, measured as in :func:`tune`."""
    return _Sample(vectors).recall(index, kind, effort)


class _Sample:
    """Queries that are no documents, and the exact ``k``-th best cosine of each.

    A query is the mean of two documents far apart in the corpus. Documents themselves would be too easy, since
    the graph was built around them: on synthetic vectors efSearch 16 found 0.96 of their neighbours, but 0.79
    for new vectors from the same distribution and 0.78 for such means; with efSearch 32, 64 and 128 means and
    new vectors agree too. A document that scores as high as the ``k``-th counts as found, so that duplicates do
    not lower the recall.
    """

    def __init__(self, vectors):
        self.vectors, self.k = vectors, min(10, len(vectors))
        rows = np.unique(np.linspace(0, len(vectors) - 1, min(SAMPLE, len(vectors))).astype(np.int64))
        sums = vectors[rows] + vectors[np.roll(rows, len(rows) // 2)]
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        self.queries = np.where(norms > 1e-3, sums / np.maximum(norms, 1e-3), vectors[rows]).astype(np.float32)
        self.least = exact(vectors, self.queries, self.k)[0][:, -1]

    def recall(self, index, kind: str, effort: int) -> float:
        scores, rows = search(index, kind, self.vectors, self.queries, self.k, effort=effort)
        return float(((rows >= 0) & (scores >= self.least[:, None] - 1e-6)).mean())


def exact(vectors, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and rows ``(m, k)`` by comparison with every vector, block by block: flat search without an index."""
    k = min(k, len(vectors))
    products, rows = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), BLOCK):
        new = queries @ np.asarray(vectors[start : start + BLOCK]).T
        products = np.concatenate([products, new], axis=1)
        rows = np.concatenate([rows, np.broadcast_to(np.arange(start, start + new.shape[1]), new.shape)], axis=1)
        if products.shape[1] > k + SLACK:
            best = np.argpartition(-products, k + SLACK - 1, axis=1)[:, : k + SLACK]
            products, rows = np.take_along_axis(products, best, 1), np.take_along_axis(rows, best, 1)
    scores, best = ranked(vectors, rows, queries, k)
    if len(vectors) > rows.shape[1]:
        return completed(vectors, queries, products.min(axis=1), scores, best)
    return scores, best


def same(kept: np.ndarray, vectors) -> bool:
    """Whether the vectors ``kept`` with an index are ``vectors``."""
    blocks = (slice(start, start + BLOCK) for start in range(0, len(vectors), BLOCK))
    return kept.shape == vectors.shape and all(np.allclose(kept[b], vectors[b], atol=1e-6) for b in blocks)
