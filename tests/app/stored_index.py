"""Collections with vectors that no model has made: of any size, and of shapes that a model would hardly give."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def store_index(
    folder: Path,
    vectors: np.ndarray,
    *,
    model: str = "made",
    documents: list | None = None,
    rationales: list[str] | None = None,
):
    """A collection of ``n`` documents in ``folder`` and an index of ``vectors`` ``(n, d)`` in it, as a build
    would leave them.
    """
    import faiss
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    from grace_core.build import FILES, SCHEMA, write_manifest
    from grace_core.collection import Collection
    from grace_core.files import sha256
    from grace_core.index import GraceIndex
    from grace_core.pooling import Pooling, embeddings
    from grace_core.readers import Corpus, Document

    n = len(vectors)
    if documents is None:
        documents = [
            Document(f"n{i}", f"Number {i}", f"The text of number {i}.", {"group": f"g{i % 7}"}) for i in range(n)
        ]
    fields = sorted({key for document in documents for key in document.metadata})
    collection = Collection.create(Corpus(documents, None, "made here", fields), folder)
    (folder / model).mkdir()
    sums = np.zeros((n, 3, vectors.shape[1]), np.float32)
    sums[:, 0], sums[:, 2] = vectors, vectors
    counts = np.tile(np.array([[1, 0, 1]], np.int64), (n, 1))
    table = pa.table(
        {
            "_id": [document.id for document in documents],
            "rationale": rationales or [f"It tells of number {i}." for i in range(n)],
            "rationale_ids": pa.array([[] for _ in range(n)], pa.list_(pa.int32())),
            "truncated": [i % 5 == 0 for i in range(n)],
            "text_truncated": [False] * n,
        }
    )
    pq.write_table(table, folder / model / "rationales.parquet")
    save_file({"sums": sums, "counts": counts}, folder / model / "vectors.safetensors")
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(embeddings(sums, counts, Pooling.FULL))
    faiss.write_index(flat, str(folder / model / "index.faiss"))
    write_manifest(
        folder / model,
        {
            "schema": SCHEMA,
            "rationale": True,
            "corpus_sha256": collection.hash,
            "settings": {},
            "model_id": model,
            "model": {"sha256": "", "dim": vectors.shape[1]},
            "files": {name: sha256(folder / model / name) for name in FILES},
        },
    )
    return GraceIndex(Collection(folder), model)
