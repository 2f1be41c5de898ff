"""UMAP's layout, of several graphs over the same documents at once.

UMAP (McInnes et al., arXiv 1802.03426, section 4) lowers the cross-entropy between a fuzzy graph with weights
w_ij and the similarities q_ij = 1 / (1 + a |y_i - y_j|^2b) of the places y on a map: it samples edges in
proportion to their weights, draws their ends together, and pushes them away from a few random documents. Here
every column (a model with a pooling) has a graph and a map, a document has a copy in each, and one more force
joins them: after each epoch, the copies of a document are drawn to their weighted mean,

    y_ic  <-  y_ic + s_ic (sum_c' l_icc' y_ic' / sum_c' l_icc' - y_ic),        s_ic = max_c' l_icc'

with l_icc' = LINK * (how much of its neighbourhood document i keeps between columns c and c')^2. A document
that keeps its neighbours is held in place, one that keeps none is free. All columns draw the same random
documents, so equal neighbourhoods take equal steps.

Against umap-learn: an epoch reads the places that the last one left, not those that are being written. Rows
can then be shared out to threads in any way without changing a bit of the result, where umap-learn's threads
race, and a seed makes it use one thread only. This module imports numba: import it where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np

# With 0.01 the unchanged documents of the demo collection moved a fifth as far as between independent maps,
# with 0.03 less than a tenth; with either, documents that really changed place moved as far as between
# independent maps (docs/map.md). With 0 they all drift apart.
LINK = 0.03
NEGATIVES = 5  # random documents for each sampled edge, as in UMAP
CLIP = np.float32(4)  # longest step along an axis, as in UMAP
NEAR = np.float32(0.001)  # keeps the push between documents in one place finite, as in UMAP
THREAD_ROWS = 500  # fewer rows are not worth a thread


@dataclass(frozen=True)
class Graphs:
    """Symmetric graphs of ``columns`` columns over the same documents as one block-diagonal matrix (CSR), a
    row for each copy.

    ``rates`` are the weights over the largest one of their column: how often an edge is sampled in an epoch.
    """

    indptr: np.ndarray
    indices: np.ndarray
    rates: np.ndarray
    columns: int

    @property
    def documents(self) -> int:
        return (len(self.indptr) - 1) // self.columns


def join(graphs: list, epochs: int) -> Graphs:
    """Sparse weight matrices ``(n, n)`` of the columns as one.

    Edges too light to be sampled once in all ``epochs`` are left out.
    """
    from scipy.sparse import block_diag, csr_array

    scaled = []
    for graph in graphs:
        graph = csr_array(graph, copy=True)
        graph.data /= graph.data.max()
        graph.data[graph.data < 1 / epochs] = 0
        graph.eliminate_zeros()
        graph.sort_indices()
        scaled.append(graph)
    joined = block_diag(scaled, format="csr")
    return Graphs(
        joined.indptr.astype(np.int64), joined.indices.astype(np.int64), joined.data.astype(np.float32), len(graphs)
    )


def optimise(
    places: np.ndarray,
    graphs: Graphs,
    kept: np.ndarray,
    *,
    a: float,
    b: float,
    epochs: int,
    seed: int = 0,
    after_epoch: Callable[[], None] | None = None,
) -> np.ndarray:
    """Places ``(columns * n, dims)`` fp32 after ``epochs`` epochs, from ``places``.

    ``kept`` ``(columns, columns, n)`` in [0, 1] says how much of its neighbourhood each document keeps
    between two columns. What ``after_epoch`` raises ends the optimisation.
    """
    old, new = places.astype(np.float32, order="C"), np.empty(places.shape, np.float32)
    links = (LINK * kept.astype(np.float64) ** 2).astype(np.float32)
    links[np.arange(graphs.columns), np.arange(graphs.columns)] = 0  # a copy is not drawn to itself
    curve, rows = (np.float32(a), np.float32(b)), len(old)
    threads = max(1, min(numba.get_num_threads(), rows // THREAD_ROWS))
    # more parts than threads, since they are not equally quick
    limits = np.linspace(0, rows, 4 * threads + 1).astype(np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for epoch in range(epochs):
            step = np.float32(1 - epoch / epochs)
            graph = (graphs.documents, graphs.indptr, graphs.indices, graphs.rates)
            parts = [
                pool.submit(_epoch, old, new, first, last, *graph, curve, step, epoch, seed)
                for first, last in pairwise(limits)
            ]
            for part in parts:
                part.result()
            if graphs.columns > 1:
                _draw_together(new.reshape(graphs.columns, graphs.documents, -1), links)
            old, new = new, old
            if after_epoch:
                after_epoch()
    return old


@numba.njit(nogil=True, fastmath=True)
def _epoch(old, new, first, last, documents, indptr, indices, rates, curve, step, epoch, seed):
    """One epoch of the rows from ``first`` to ``last``: reads ``old``, writes ``new``."""
    a, b = curve
    one, two = np.float32(1), np.float32(2)
    dims = old.shape[1]
    at = np.empty(dims, np.float32)
    for row in range(first, last):
        column = row // documents * documents  # its first row
        state = _stream(seed, epoch, row - column)
        at[:] = old[row]
        for edge in range(indptr[row], indptr[row + 1]):
            if np.floor((epoch + 1) * rates[edge]) == np.floor(epoch * rates[edge]):
                continue
            target = indices[edge]
            square = _square(at, old, target)
            if square > 0:
                # twice, since an edge stands in the rows of both its ends and either one moves both in UMAP
                pull = -two * two * a * b * square ** (b - one) / (one + a * square**b)
                for d in range(dims):
                    at[d] += step * min(max(pull * (at[d] - old[target, d]), -two * CLIP), two * CLIP)
            for _ in range(NEGATIVES):
                state ^= state << np.uint64(13)
                state ^= state >> np.uint64(7)
                state ^= state << np.uint64(17)
                random = column + np.int64((state >> np.uint64(33)) % np.uint64(documents))
                square = _square(at, old, random)
                if square > 0 and random != row:
                    push = two * b / ((NEAR + square) * (one + a * square**b))
                    for d in range(dims):
                        at[d] += step * min(max(push * (at[d] - old[random, d]), -CLIP), CLIP)
        new[row] = at


@numba.njit(nogil=True, fastmath=True, inline="always")
def _square(at, old, row):
    total = np.float32(0)
    for d in range(len(at)):
        total += (at[d] - old[row, d]) ** 2
    return total


@numba.njit(nogil=True)
def _stream(seed, epoch, document):
    """The first state of a document's random numbers (xorshift64) in an epoch, the same in all columns; never 0."""
    state = (
        np.uint64(seed)
        + np.uint64(epoch + 1) * np.uint64(0x9E3779B97F4A7C15)
        + np.uint64(document) * np.uint64(0xD1B54A32D192ED03)
    )
    state = (state ^ (state >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(32))) | np.uint64(1)


def _draw_together(places: np.ndarray, links: np.ndarray) -> None:
    """Draw the copies of each document to each other, by the formula above; ``places`` ``(columns, n, dims)``
    are changed.
    """
    total = links.sum(axis=1)[..., None]
    mean = np.einsum("con,ond->cnd", links, places) / np.where(total > 0, total, 1)
    places += links.max(axis=1)[..., None] * (mean - places)
