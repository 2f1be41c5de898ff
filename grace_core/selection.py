"""Search among the documents that satisfy a filter (:mod:`grace_core.filters`).

A search gives ``k`` hits, or all selected documents if these are fewer, for every kind of index; scores and
order are those of a search without a filter. flat compares every selected vector, and so do the other kinds
where few are selected: it is fast then, and exact. Otherwise the graph or the cells are searched as usual,
without the rows that are not selected; and with more effort where less than ENOUGH of the rows is selected,
since the nearest of them are farther away.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache

import numpy as np

from grace_core import ann
from grace_core.ranking import dots, order
from grace_core.tensors import BLOCK

KEPT = 16  # filters whose documents are cached, since people repeat and refine filters
HANDFUL = 400  # rows up to which all scores are computed at once, without candidates
MANY = 4  # queries from which a matrix product is worth its preparation
DENSE = 4  # if at least one in this many rows is selected, reading all is no slower than picking
# Measured on 100,000 vectors of 256 dimensions (grace bench filter): with a share of the rows below ENOUGH, the
# effort for the same recall grows by POWERS of ENOUGH / share; comparing ROWS rows takes as long as one more
# unit of effort.
ENOUGH = 0.4
POWERS = {"hnsw": 1.0, "ivfpq": 0.4}
ROWS = {"hnsw": 40, "ivfpq": 1}


class Selection:
    """Selected rows of an index of ``count`` rows, ascending."""

    def __init__(self, rows: np.ndarray, count: int):
        self.rows, self.count = rows, count

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def mask(self) -> np.ndarray:
        bits = np.zeros(self.count, bool)
        bits[self.rows] = True
        return bits

    @cached_property
    def selector(self):
        """The selection in FAISS's form."""
        import faiss

        return faiss.IDSelectorBitmap(np.packbits(self.mask, bitorder="little"))


class Selections:
    """The selections of an index by filter; the most recent are cached."""

    def __init__(self, index):
        self._index = index
        self.of: Callable[[str], Selection] = lru_cache(KEPT)(self._find)

    @cached_property
    def _places(self) -> np.ndarray | None:
        """The rows of the corpus that have a vector, which empty documents have not; None if all have."""
        index = self._index
        if len(index) == index.collection.size:
            return None
        ids = index.collection.columns(["_id"])["_id"].to_pylist()
        return np.array([row for row, document_id in enumerate(ids) if document_id in index.row], dtype=np.int64)

    def _find(self, where: str) -> Selection:
        """The rows that satisfy a filter. Raises GraceError if it cannot be read or does not fit the columns."""
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
    """efSearch or nprobe for the selected rows."""
    least = max(opened.effort, 2 * k) if opened.kind == "hnsw" else opened.effort
    return round(least * max(1.0, ENOUGH * among.count / len(among)) ** POWERS[opened.kind])


def _proposed(
    opened: ann.Opened, among: Selection, queries: np.ndarray, k: int, effort: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and rows of FAISS's candidates among the selected rows; row -1 where it found fewer than ``k``."""
    import faiss

    if opened.kind == "hnsw":
        parameters = faiss.SearchParametersHNSW(efSearch=effort, sel=among.selector)
        count = min(len(among), k + ann.SLACK, effort)
    else:
        parameters = faiss.SearchParametersIVF(nprobe=effort, sel=among.selector)
        count = min(len(among), max(ann.CANDIDATES * k, ann.LEAST))
    rows = opened.index.search(queries, count, params=parameters)[1]
    if opened.copies is not None:
        copies = ann.Copies(opened.copies.first, opened.copies.rows[among.mask[opened.copies.rows]])
        rows = copies.beside(rows, k)
    return ann.ranked(opened.vectors, rows, queries, k)


class _Subset:
    """The vectors at some rows, read on access."""

    def __init__(self, vectors, rows: np.ndarray):
        self.vectors, self.rows, self.shape = vectors, rows, (len(rows), vectors.shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places) -> np.ndarray:
        return self.vectors[self.rows[places]]


def nearest(vectors, rows: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and rows ``(m, k)`` by comparison with every vector at ``rows``, which are ascending."""
    if len(rows) <= HANDFUL:
        subset = vectors[rows]
        scores = [dots(subset, query) for query in queries]
        best = [order(values, k) for values in scores]
        return np.array([values[picked] for values, picked in zip(scores, best, strict=True)]), rows[np.array(best)]
    count, in_memory = min(len(rows), k + ann.SLACK), isinstance(vectors, np.ndarray)
    step = len(rows) if in_memory and len(queries) < MANY else BLOCK
    products, places = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(rows), step):
        new = _products(vectors, rows[start : start + step], queries)
        best = (
            np.argpartition(-new, count - 1, axis=1)[:, :count]
            if new.shape[1] > count
            else np.arange(new.shape[1])[None]
        )
        best = np.broadcast_to(best, (len(queries), best.shape[1]))
        products = np.concatenate([products, np.take_along_axis(new, best, 1)], axis=1)
        places = np.concatenate([places, start + best], axis=1)
    if products.shape[1] > count:
        best = np.argpartition(-products, count - 1, axis=1)[:, :count]
        products, places = np.take_along_axis(products, best, 1), np.take_along_axis(places, best, 1)
    subset = _Subset(vectors, rows)
    scores, best_rows = ann.ranked(vectors if in_memory else subset, rows[places] if in_memory else places, queries, k)
    if count == len(rows):
        return scores, best_rows if in_memory else rows[best_rows]
    best_rows = np.searchsorted(rows, best_rows) if in_memory else best_rows
    scores, best_rows = ann.completed(subset, queries, products.min(axis=1), scores, best_rows)
    return scores, rows[best_rows]


def _products(vectors, rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Products ``(m, len(rows))`` in fp32.

    For few queries FAISS is faster than BLAS, since it reads vectors in memory without a copy.
    """
    import faiss

    first, end = int(rows[0]), int(rows[-1]) + 1
    if not isinstance(vectors, np.ndarray):
        return queries @ np.asarray(vectors[rows]).T
    if end - first > DENSE * len(rows):
        if len(queries) >= MANY:
            return queries @ vectors[rows].T
        products = np.empty((len(queries), len(rows)), np.float32)
        for product, query in zip(products, queries, strict=True):
            pointers = map(faiss.swig_ptr, (product, query, vectors, rows))
            faiss.fvec_inner_products_by_idx(*pointers, vectors.shape[1], 1, len(rows))
        return products
    if len(queries) >= MANY:
        products = queries @ vectors[first:end].T
    else:
        products = np.empty((len(queries), end - first), np.float32)
        for product, query in zip(products, queries, strict=True):
            pointers = map(faiss.swig_ptr, (product, query, vectors[first:end]))
            faiss.fvec_inner_products_ny(*pointers, vectors.shape[1], end - first)
    return products if len(rows) == end - first else products[:, rows - first]
