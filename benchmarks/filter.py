"""A search with a filter against the same without, and against comparing every vector that is left.

``<kind>_<share>``  time of ``GraceIndex.search(…, where=…)`` over the lesser of those two, one query a call

The brute force has the rows that are left at hand, and the vectors where the index has them (ivfpq on disk).
It takes their scores as every search here gives them (summed in fp64: :mod:`grace_core.ranking`), and orders
them. ``recall@10`` is against it; ``exact`` says that scores and rows are the same to the bit. What satisfies
the filter lies scattered over the corpus. A filter is evaluated when it is first met (``filter_ms``), and its
rows are kept.
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

STEP = 48_271  # a prime: multiples of it, modulo another number, are that number's remainders in a scattered order
ASKED = 32  # queries a round


class Scattered(Numbered):
    """Documents whose field "place" has every number below their count once."""

    def __iter__(self) -> Iterator[Document]:
        return (
            Document(one.id, "", one.text, {"place": int(one.id) * STEP % self.count}) for one in super().__iter__()
        )


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
    asked = model.vectors(queries, seed=documents + 1)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(folder or scratch) / f"scattered-{documents}x{dim}"
        for kind in kinds:
            index, _ = indexed(place, Corpus(Scattered(documents), None, "synthetic", ["place"]), model, kind)
            vectors = ann.compared(index.faiss_index(), kind, index.stored())
            for share in shares:
                row = _race(index, vectors, f"place < {round(share * documents)}", asked, k, runs)
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
    first, some = time.perf_counter() - started, queries[:ASKED]
    seconds = median_seconds(
        {
            "filtered_ms": lambda: [index.search(query, k, where=where) for query in some],
            "unfiltered_ms": lambda: [index.search(query, k) for query in some],
            "brute_ms": lambda: [brute_force(vectors, rows, query, k) for query in some],
        },
        runs,
    )
    scores, found = index.search(queries, k, where=where)
    best = [brute_force(vectors, rows, query, k) for query in queries]
    return {name: round(1000 * value / len(some), 4) for name, value in seconds.items()} | {
        "filter_ms": round(1000 * first, 2),
        "documents": len(rows),
        "recall@10": round(float(np.mean([mine >= truth[0][-1] for mine, truth in zip(scores, best, strict=True)])), 4),
        "exact": all(
            np.array_equal(*pair)
            for mine, theirs in zip(zip(scores, found, strict=True), best, strict=True)
            for pair in zip(mine, theirs, strict=True)
        ),
    }


def brute_force(vectors, rows: np.ndarray, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the ``k`` nearest of ``rows``."""
    scores = dots(vectors[rows], query)
    best = order(scores, k)
    return scores[best], rows[best]
