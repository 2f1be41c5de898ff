"""The one order of every ranking: by score, best first, and equal scores in the order of the rows.

    score(q, d) = sum over i of q_i d_i, in fp64, rounded to fp32

A matrix product sums in another order for another number of rows or queries. Copies of a document would then
get scores that differ in the last digit, and their order would depend on what is scored along with them. Here
the sum of a row depends on that row and on the query alone, so that copies have the same score to the bit,
and a score is the same in a search, in its explanation and in an evaluation.
"""

from __future__ import annotations

import numpy as np

ROOM = 2**22  # fp64 values that are held at once
CACHE = 2**16  # fp64 values that stay near the processor


def dots(vectors, query: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """Scores ``(n,)`` of ``vectors`` ``(n, d)`` for a query ``(d,)``; the vectors are an array, or what gives
    one when sliced.
    """
    scores, step = np.empty(len(vectors), dtype), max(1, ROOM // len(query))
    for start in range(0, len(vectors), step):
        scores[start : start + step] = _dots(vectors[start : start + step], query)
    return scores


def dots_of_each(vectors: np.ndarray, places: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Scores ``(m, c)`` fp32 of the rows ``places`` ``(m, c)`` of ``vectors``, those of its own for each of
    the queries ``(m, d)``.
    """
    (m, c), dim = places.shape, queries.shape[1]
    if m * c * dim <= CACHE:
        return _dots(vectors[places], queries).astype(np.float32)
    scores = np.empty(places.shape, np.float32)
    some, wide = max(1, CACHE // max(1, c * dim)), max(1, ROOM // dim)
    for start in range(0, m, some):
        for left in range(0, c, wide):
            block = slice(start, start + some), slice(left, left + wide)
            scores[block] = _dots(vectors[places[block]], queries[block[0]])
    return scores


def _dots(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    # converted first: einsum would convert in pieces of its own, and the borders of these would decide the
    # order of a sum
    vectors, queries = np.ascontiguousarray(vectors, np.float64), np.ascontiguousarray(queries, np.float64)
    return np.einsum("...nd,...d->...n", vectors, queries)


def order(scores: np.ndarray, k: int | None = None) -> np.ndarray:
    """Rows of the ``k`` best of ``scores`` ``(n,)``, or of all."""
    if k is None or k >= len(scores):
        return np.argsort(-scores, kind="stable")
    rows = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return rows[np.argsort(-scores[rows], kind="stable")[:k]]


def rank(scores: np.ndarray, row: int) -> int:
    """The place of ``row`` in :func:`order`, from 1."""
    return 1 + int((scores > scores[row]).sum()) + int((scores[:row] == scores[row]).sum())
