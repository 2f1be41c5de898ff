"""Searching among some of the documents: those that satisfy a filter (:mod:`grace_core.filters`).

``k`` asked are ``k`` found, or all that are left if these are fewer, whatever the kind of index; scores and
order are those of a search without a filter. flat compares every vector that is left, and so do the other
kinds where few are left: it is fast then, and exact. Where many are left a graph or the cells are searched as
ever, with what is not left passed over; where less than ENOUGH is left, harder, since the nearest lie farther
away then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache

import numpy as np

from grace_core import ann
from grace_core.ranking import dots, order
from grace_core.tensors import BLOCK

KEPT = 16  # filters whose documents are remembered: a person narrows down, and asks again
HANDFUL = 400  # rows whose scores are computed at once, without candidates
MANY = 4  # queries for which a product of matrices is worth its preparation
DENSE = 4  # rows in a row of which one is left: reading all of them is no slower then than picking
# Measured on 100,000 vectors of 256 dimensions (grace bench filter): with less than ENOUGH of the rows left,
# the effort that keeps the recall grows with a power of the share; and comparing so many rows takes as long
# as one more unit of effort.
ENOUGH = 0.4
POWERS = {"hnsw": 1.0, "ivfpq": 0.4}
ROWS = {"hnsw": 40, "ivfpq": 1}


class Selection:
    """Rows of an index, ascending, out of ``count``."""

    def __init__(self, rows: np.ndarray, count: int):
        self.rows, self.count = rows, count

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def mask(self) -> np.ndarray:
        made = np.zeros(self.count, bool)
        made[self.rows] = True
        return made

    @cached_property
    def selector(self):
        """The same for FAISS."""
        import faiss

        return faiss.IDSelectorBitmap(np.packbits(self.mask, bitorder="little"))


class Selections:
    """The selections of an index by their filters; the newest are kept."""

    def __init__(self, index):
        self._index = index
        self.of: Callable[[str], Selection] = lru_cache(KEPT)(self._find)

    @cached_property
    def _places(self) -> np.ndarray | None:
        """The rows of the corpus that have a vector, None for all: empty documents have none."""
        index = self._index
        if len(index) == index.collection.size:
            return None
        ids = index.collection.columns(["_id"])["_id"].to_pylist()
        return np.array([row for row, document_id in enumerate(ids) if document_id in index.row], dtype=np.int64)

    def _find(self, where: str) -> Selection:
        """Raises GraceError for a filter that cannot be read, or does not fit the columns."""
        mask = self._index.collection.mask(where)
        mask = mask if self._places is None else mask[self._places]
        return Selection(np.flatnonzero(mask), len(self._index))


def search_among(opened: ann.Opened, among: Selection, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and rows ``(m, min(k, len(among)))``, best first."""
    k = min(k, len(among))
    if k == 0:
        return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    if len(among) == among.count:
        return opened.search(queries, k)
    effort = None if opened.kind == "flat" else _effort(opened, among, k)
    if effort is None or len(among) <= ROWS[opened.kind] * effort:
        return nearest(opened.vectors, among.rows, queries, k)
    scores, rows = _proposed(opened, among, queries, k, effort)
    if (short := np.flatnonzero(rows[:, -1] < 0)).size:
        scores[short], rows[short] = nearest(opened.vectors, among.rows, queries[short], k)
    return scores, rows


def _effort(opened: ann.Opened, among: Selection, k: int) -> int:
    """efSearch or nprobe for what is left."""
    least = max(opened.effort, 2 * k) if opened.kind == "hnsw" else opened.effort
    return round(least * max(1.0, ENOUGH * among.count / len(among)) ** POWERS[opened.kind])


def _proposed(
    opened: ann.Opened, among: Selection, queries: np.ndarray, k: int, effort: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of candidates that FAISS finds among what is left; row -1 where it found fewer than ``k``."""
    import faiss

    if opened.kind == "hnsw":
        parameters = faiss.SearchParametersHNSW(efSearch=effort, sel=among.selector)
        wanted = min(len(among), k + ann.SLACK, effort)
    else:
        parameters = faiss.SearchParametersIVF(nprobe=effort, sel=among.selector)
        wanted = min(len(among), max(ann.CANDIDATES * k, ann.LEAST))
    rows = opened.index.search(queries, wanted, params=parameters)[1]
    if opened.copies is not None:
        left = ann.Copies(opened.copies.first, opened.copies.rows[among.mask[opened.copies.rows]])
        rows = left.beside(rows, k)
    return ann.ranked(opened.vectors, rows, queries, k)


class _Some:
    """The vectors at some rows, read when they are asked for."""

    def __init__(self, vectors, rows: np.ndarray):
        self.vectors, self.rows, self.shape = vectors, rows, (len(rows), vectors.shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places) -> np.ndarray:
        return self.vectors[self.rows[places]]


def nearest(vectors, rows: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and rows ``(m, k)`` by comparing with every vector at ``rows``, which are ascending."""
    if len(rows) <= HANDFUL:
        left = vectors[rows]
        scores = [dots(left, query) for query in queries]
        best = [order(values, k) for values in scores]
        return np.array([values[some] for values, some in zip(scores, best, strict=True)]), rows[np.array(best)]
    wanted, here = min(len(rows), k + ann.SLACK), isinstance(vectors, np.ndarray)
    step = len(rows) if here and len(queries) < MANY else BLOCK
    near, places = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(rows), step):
        new = _products(vectors, rows[start : start + step], queries)
        best = (
            np.argpartition(-new, wanted - 1, axis=1)[:, :wanted]
            if new.shape[1] > wanted
            else np.arange(new.shape[1])[None]
        )
        best = np.broadcast_to(best, (len(queries), best.shape[1]))
        near = np.concatenate([near, np.take_along_axis(new, best, 1)], axis=1)
        places = np.concatenate([places, start + best], axis=1)
    if near.shape[1] > wanted:
        best = np.argpartition(-near, wanted - 1, axis=1)[:, :wanted]
        near, places = np.take_along_axis(near, best, 1), np.take_along_axis(places, best, 1)
    left = _Some(vectors, rows)
    scores, found = ann.ranked(vectors if here else left, rows[places] if here else places, queries, k)
    if wanted == len(rows):
        return scores, found if here else rows[found]
    found = np.searchsorted(rows, found) if here else found
    scores, found = ann.completed(left, queries, near.min(axis=1), scores, found)
    return scores, rows[found]


def _products(vectors, rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Products ``(m, len(rows))`` in fp32.

    For a few queries FAISS reads vectors in memory where they lie, faster than BLAS does.
    """
    import faiss

    first, end = int(rows[0]), int(rows[-1]) + 1
    if not isinstance(vectors, np.ndarray):
        return queries @ np.asarray(vectors[rows]).T
    if end - first > DENSE * len(rows):
        if len(queries) >= MANY:
            return queries @ vectors[rows].T
        made = np.empty((len(queries), len(rows)), np.float32)
        for product, query in zip(made, queries, strict=True):
            pointers = map(faiss.swig_ptr, (product, query, vectors, rows))
            faiss.fvec_inner_products_by_idx(*pointers, vectors.shape[1], 1, len(rows))
        return made
    if len(queries) >= MANY:
        made = queries @ vectors[first:end].T
    else:
        made = np.empty((len(queries), end - first), np.float32)
        for product, query in zip(made, queries, strict=True):
            pointers = map(faiss.swig_ptr, (product, query, vectors[first:end]))
            faiss.fvec_inner_products_ny(*pointers, vectors.shape[1], end - first)
    return made if len(rows) == end - first else made[:, rows - first]
