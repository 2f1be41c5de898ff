"""The FAISS index of an embedding matrix: exact, or one of two that trade a little recall for speed or memory.

``flat``    every vector compared: exact. Reads n·4d bytes for a query, so its time grows with n.
``hnsw``    a graph of neighbours beside the vectors: a query visits some thousand of them. Memory n·(4d + 260) bytes.
``ivfpq``   vectors in √n-many cells, d/4 bytes each; a query looks into some cells and the best candidates are compared
            again by their exact vectors, which stay on disk. Memory n·(d/4 + 8) bytes: for what does not fit otherwise.

All give inner products of L2-normalised vectors, which are cosines: flat and hnsw store the vectors, ivfpq is re-ranked.
Parameters follow FAISS's own guidelines ("Guidelines to choose an index", "Clustering"); how hard a query searches (``effort``:
efSearch or nprobe) is measured, not guessed: the least of a ladder with which recall@10 on a sample reaches TARGET.

Seeds are FAISS's fixed ones. flat does not depend on the number of threads; hnsw inserts in parallel, and gives the same bytes
again with one thread only (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grace_core.errors import GraceError
from grace_core.tensors import BLOCK

KINDS = ("flat", "hnsw", "ivfpq")
TARGET = 0.95  # recall@10 on the sample, at which a higher effort is not tried
SAMPLE = 200
LINKS, CONSTRUCTION = 32, 40  # HNSW: links a node, and the width of the search that finds them. FAISS's own; on 50,000 vectors of 256
# dimensions 16 links needed four times the effort for the same recall, and a width of 80 a third more time for half a point of it
LADDERS = {"hnsw": (16, 32, 64, 128, 256, 512), "ivfpq": (4, 8, 16, 32, 64, 128, 256, 512)}
EFFORTS = {"hnsw": "efSearch", "ivfpq": "nprobe"}
PER_CENTROID = 39  # training vectors a centroid; FAISS warns below
CANDIDATES = 10  # an ivfpq query re-ranks so many times k vectors, and at least LEAST
LEAST = 100
GROUP = 64


@dataclass(frozen=True)
class Quality:
    """How a query searches, and the recall@10 that this reached on so many ``queries``."""

    effort: int
    recall: float
    queries: int


def check_kind(kind: str) -> str:
    """``kind``; raises GraceError if it is none."""
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
        raise GraceError(f"ivfpq needs at least {least:,} documents to be trained on, got {count:,}; use flat, which is exact, or hnsw")
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

    Not FAISS's older IO_FLAG_MMAP for cells: it starts threads for every query that read ahead, which took 2 ms where the query took 0.1.
    """
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def search(index, kind: str, vectors, queries: np.ndarray, k: int, *, effort: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cosines ``(m, k)`` and rows ``(m, k)``, best first. A kind that is not exact gives row -1 where it found fewer than ``k``."""
    import faiss

    if kind == "flat":
        return index.search(queries, k)
    if kind == "hnsw":
        return index.search(queries, k, params=faiss.SearchParametersHNSW(efSearch=max(effort, 2 * k)))
    wanted = min(index.ntotal, max(CANDIDATES * k, LEAST))
    found = index.search(queries, wanted, params=faiss.SearchParametersIVF(nprobe=effort))[1]
    return _reranked(found, vectors, queries, k)


def _reranked(found: np.ndarray, vectors, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best ``k`` of each query's candidates by their vectors, which are read for GROUP queries at once."""
    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(queries), GROUP):
        wanted = np.unique(found[start : start + GROUP])  # sorted: in the order of the file
        wanted = wanted[wanted >= 0]
        known = vectors[wanted]
        for i in range(start, min(start + GROUP, len(queries))):
            candidates = np.sort(found[i][found[i] >= 0])
            exact = known[np.searchsorted(wanted, candidates)] @ queries[i]
            best = np.argsort(-exact, kind="stable")[:k]
            scores[i, : len(best)], rows[i, : len(best)] = exact[best], candidates[best]
    return scores, rows


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

    A query is the mean of two documents far from one another in the corpus. Documents themselves would be too easy: a graph has been
    built around them, so that on synthetic vectors efSearch 16 found 0.96 of their neighbours, and 0.79 of those of new vectors from
    the same distribution; of such means it found 0.78, and as many as of new ones with efSearch 32, 64 and 128 too.
    A document that scores as high as the ``k``-th counts as found, so that duplicates do no harm.
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
    scores, rows = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), BLOCK):
        new = queries @ np.asarray(vectors[start : start + BLOCK]).T
        scores = np.concatenate([scores, new], axis=1)
        rows = np.concatenate([rows, np.broadcast_to(np.arange(start, start + new.shape[1]), new.shape)], axis=1)
        if scores.shape[1] > k:
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    best = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)


def holds(index, vectors) -> bool:
    """Whether a flat or hnsw index holds exactly these vectors."""
    blocks = ((start, vectors[start : start + BLOCK]) for start in range(0, len(vectors), BLOCK))
    return all(np.allclose(index.reconstruct_n(start, len(block)), block, atol=1e-6) for start, block in blocks)
