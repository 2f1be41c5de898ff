"""A search with a filter, compared with the same search without one, and with brute force over the selected rows.

``<kind>_<share>``  time of ``GraceIndex.search(…, where=…)`` over the lesser of those two, one query a call

The brute force has the selected rows in memory, and the vectors where the index has them (for ivfpq on disk). It
computes scores as every search here does (summed in fp64: :mod:`grace_core.ranking`), and sorts them.
``recall@10`` is relative to it; ``exact`` is whether scores and rows are identical to the bit. The selected
documents are scattered over the corpus. A filter is evaluated at its first search (``filter_ms``), and its rows
are cached.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from grace_benchmarks.rounds import median_seconds
from grace_benchmarks.search import Numbered, SyntheticModel, indexed
from grace_core import ann
from grace_core.index import GraceIndex
from grace_core.ranking import dots, order
from grace_core.readers import Corpus, Document

STEP = 48_271  # a prime: its multiples modulo the count are all numbers below the count, in a scattered order
TIMED_QUERIES = 32  # of a round


class Scattered(Numbered):
    """Documents with a field "place": each number below their count once, in a scattered order."""

    def __iter__(self) -> Iterator[Document]:
        for document in super().__iter__():
            yield Document(document.id, "", document.text, {"place": int(document.id) * STEP % self.count})


def run(
    *,
    documents: int = 100_000,
    dim: int = 256,
    kinds: tuple[str, ...] = ("flat",),
    shares: tuple[float, ...] = (0.5, 0.01, 0.0001),
    queries: int = 200,
    k: int = 10,
    runs: int = 5,
    folder: str | Path | None = None,
) -> dict:
    """``{ratios, searches, runs, documents, dim, threads}``; medians of ``runs`` rounds, the contenders in turn."""
    import faiss

    model, result = SyntheticModel(dim), {"ratios": {}, "searches": {}}
    query_vectors = model.vectors(queries, seed=documents + 1)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(folder or scratch) / f"scattered-{documents}x{dim}"
        for kind in kinds:
            index, _ = indexed(place, Corpus(Scattered(documents), None, "synthetic", ["place"]), model, kind)
            vectors = ann.compared(index.faiss_index(), kind, index.stored())
            for share in shares:
                row = _race(index, vectors, f"place < {round(share * documents)}", query_vectors, k, runs)
                name = f"{kind}_{100 * share:g}%"
                result["searches"][name] = row
                result["ratios"][name] = round(row["filtered_ms"] / min(row["unfiltered_ms"], row["brute_ms"]), 3)
    return result | {
        "runs": runs,
        "documents": documents,
        "dim": dim,
        "queries": queries,
        "threads": faiss.omp_get_max_threads(),
    }


def _race(index: GraceIndex, vectors, where: str, queries: np.ndarray, k: int, runs: int) -> dict:
    started = time.perf_counter()
    rows = index.selections.of(where).rows
    first, few = time.perf_counter() - started, queries[:TIMED_QUERIES]
    seconds = median_seconds(
        {
            "filtered_ms": lambda: [index.search(query, k, where=where) for query in few],
            "unfiltered_ms": lambda: [index.search(query, k) for query in few],
            "brute_ms": lambda: [brute_force(vectors, rows, query, k) for query in few],
        },
        runs,
    )
    scores, hits = index.search(queries, k, where=where)
    best = [brute_force(vectors, rows, query, k) for query in queries]
    return {name: round(1000 * value / len(few), 4) for name, value in seconds.items()} | {
        "filter_ms": round(1000 * first, 2),
        "documents": len(rows),
        "recall@10": round(float(np.mean([ours >= truth[0][-1] for ours, truth in zip(scores, best, strict=True)])), 4),
        "exact": all(
            np.array_equal(*pair)
            for ours, exact in zip(zip(scores, hits, strict=True), best, strict=True)
            for pair in zip(ours, exact, strict=True)
        ),
    }


def brute_force(vectors, rows: np.ndarray, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the ``k`` nearest among ``rows``."""
    scores = dots(vectors[rows], query)
    best = order(scores, k)
    return scores[best], rows[best]
