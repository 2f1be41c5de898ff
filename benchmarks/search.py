"""Searching a collection, compared with raw FAISS on the same index file; and time and recall of the kinds of index.

``<kind>_batch``   queries a second of ``GraceIndex.search`` over those of ``faiss.Index.search``, many queries at once
``<kind>_single``  the same, one query a call

``recall@10_of_queries`` is measured on new vectors of the same distribution against the exact search;
``recall@10`` is that of the manifest. The ivfpq peer returns distances to compressed vectors, ours cosines, for
which it reads the candidates' vectors again. Vectors are synthetic: 200 clusters in a subspace of 32 dimensions
and noise in all others, normalised, about as hard for FAISS as text embeddings; unstructured vectors have no near
neighbours. They go through a real build without a model. Both sides search with the same number of threads, in
turn.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np

from grace_benchmarks.rounds import seconds_by_round
from grace_core import ann
from grace_core.collection import Collection
from grace_core.index import GraceIndex, build
from grace_core.model import Representations, Settings
from grace_core.readers import Corpus, Document

CLUSTERS, RANK = 200, 32
BLOCK = 8_192


@dataclass
class SyntheticModel:
    """The part of a model's interface that a build uses, with random vectors instead of encoded texts."""

    dim: int
    name: str = "synthetic"
    source: str = "synthetic"
    fingerprint: str = "synthetic"
    dtype: str = "float32"
    engine_name: str = "synthetic"
    settings: Settings = field(default_factory=Settings)
    prompts: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(described={}))
    statistics: None = None

    def default_geometry(self, documents: int) -> str:
        return "raw"

    def decode(self, ids: list[list[int]]) -> list[str]:
        return [""] * len(ids)

    def vectors(self, count: int, seed: int) -> np.ndarray:
        """``(count, dim)`` fp32, L2-normalised."""
        world, rng = np.random.default_rng(0), np.random.default_rng([1, seed])
        centres = world.standard_normal((CLUSTERS, RANK)) * 0.7
        basis = world.standard_normal((RANK, self.dim)).astype(np.float32) / RANK**0.5
        inner = centres[rng.integers(0, CLUSTERS, count)] + rng.standard_normal((count, RANK))
        rows = inner.astype(np.float32) @ basis + 0.3 * rng.standard_normal((count, self.dim), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode(self, jobs, tick):
        """An encoder for builds: representations of shards, with the text part only."""
        for number, texts in jobs:
            sums = np.zeros((len(texts), 3, self.dim), np.float32)
            sums[:, 0] = self.vectors(len(texts), number)
            counts = np.zeros((len(texts), 3), np.int64)
            counts[:, 0] = 1
            not_cut = np.zeros(len(texts), bool)
            yield number, Representations([""] * len(texts), [[]] * len(texts), sums, counts, not_cut, not_cut)


class Numbered:
    """Documents whose text is their number."""

    def __init__(self, count: int):
        self.count = count

    def __iter__(self):
        return (Document(str(number), "", f"{number:09d}", {}) for number in range(self.count))


def run(
    *,
    documents: int = 100_000,
    dim: int = 256,
    kinds: tuple[str, ...] = ("flat",),
    queries: int = 256,
    k: int = 10,
    runs: int = 5,
    folder: str | Path | None = None,
) -> dict:
    """``{ratios, queries_per_second, kinds, runs, documents, dim, threads}``; medians of ``runs`` rounds, the
    contenders in turn.

    ``folder`` keeps the collection for later runs: a million documents take minutes and 5 GB of disk.
    """
    import faiss

    with tempfile.TemporaryDirectory() as scratch:
        place = Path(folder or scratch) / f"synthetic-{documents}x{dim}"
        model, query_vectors = SyntheticModel(dim), None
        result: dict = {"ratios": {}, "queries_per_second": {}, "kinds": {}}
        for kind in kinds:
            index, seconds = indexed(place, Corpus(Numbered(documents), None, "synthetic", []), model, kind)
            query_vectors = model.vectors(queries, seed=documents + 1) if query_vectors is None else query_vectors
            truth = ann.exact(index.stored(), query_vectors, k)[0][:, -1]
            rates, ratios = _race(index, kind, query_vectors, k, runs)
            result["ratios"] |= {f"{kind}_{way}": ratio for way, ratio in ratios.items()}
            result["queries_per_second"] |= {
                f"{name}_{kind}_{way}": round(rate, 1) for (name, way), rate in rates.items()
            }
            result["kinds"][kind] = {
                "faiss_seconds": seconds,
                "bytes": (index.folder / "index.faiss").stat().st_size,
                **index.manifest["faiss"],
                "recall@10_of_queries": round(
                    float((index.search(query_vectors, k)[0] >= truth[:, None] - 1e-6).mean()), 4
                ),
            }
    return result | {
        "runs": runs,
        "documents": documents,
        "dim": dim,
        "queries": queries,
        "threads": faiss.omp_get_max_threads(),
    }


def indexed(place: Path, corpus: Corpus, model: SyntheticModel, kind: str) -> tuple[GraceIndex, float | None]:
    """An index of ``kind``, and the seconds for building, tuning and writing FAISS; None if it existed before."""
    index = build(Collection.create(corpus, place), model, rationale=False, encode=model.encode)
    if index.faiss_kind == kind and kind != "flat":
        return index, None  # kept from an earlier run
    started = time.perf_counter()
    index.change_faiss(kind)
    return index, round(time.perf_counter() - started, 1)


def _race(index: GraceIndex, kind: str, queries: np.ndarray, k: int, runs: int) -> tuple[dict, dict]:
    """Queries a second by contender and way, medians of the rounds; and our speed over the peer's by way, the median of
    the rounds' ratios.

    The peer reads the file into memory, as FAISS does by default.
    """
    import faiss

    raw, few = faiss.read_index(str(index.folder / "index.faiss")), queries[:32]
    effort = index.manifest["faiss"].get(ann.EFFORTS.get(kind))
    classes = {
        "hnsw": lambda: faiss.SearchParametersHNSW(efSearch=effort),
        "ivfpq": lambda: faiss.SearchParametersIVF(nprobe=effort),
    }
    options = {"params": classes[kind]()} if kind in classes else {}
    contenders = {
        ("grace", "batch"): (len(queries), lambda: index.search(queries, k)),
        ("faiss", "batch"): (len(queries), lambda: raw.search(queries, k, **options)),
        ("grace", "single"): (len(few), lambda: [index.search(query, k) for query in few]),
        ("faiss", "single"): (len(few), lambda: [raw.search(query[None], k, **options) for query in few]),
    }
    seconds = seconds_by_round({name: work for name, (_, work) in contenders.items()}, runs)
    rates = {name: contenders[name][0] / median(values) for name, values in seconds.items()}
    ratios = {
        way: round(median(f / g for f, g in zip(seconds["faiss", way], seconds["grace", way], strict=True)), 3)
        for way in ("batch", "single")
    }
    return rates, ratios


if __name__ == "__main__":
    import json

    print(json.dumps(run(kinds=ann.KINDS), indent=2))
