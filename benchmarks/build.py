"""Building an index without encoding, against reading a Parquet file of embeddings and writing FAISS directly.

``cache``    ``grace index build`` of a new collection whose texts are all in the cache of rationales
``shards``   resuming a build that was stopped after its last shard: joining, hashing and checking
``vectors``  ``grace index faiss``: FAISS again from the stored vectors

The peer reads ids and embeddings with pyarrow and writes the same flat index, flushed to disk like ours; it
stores no rationales, no parts of the vectors and no hashes, and cannot be resumed. A second peer
(``cache_vs_same_files``) writes the same files as we do, hashed and flushed, from a Parquet file with all their
content, so it does not look texts up in a cache. Each ratio is our documents a second over the peer's.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from grace_benchmarks.memory import small_model
from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.files import flush_to_disk, sha256
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.pooling import Pooling, embeddings
from grace_core.readers import Corpus, Document, read_corpus


def run(corpus: str | Path, *, documents: int = 100_000, runs: int = 3) -> dict:
    """``{ratios, documents_per_second, runs, documents, distinct_texts, dim}``: medians of ``runs`` rounds,
    the contenders in turn.
    """
    texts = [document.content for document in read_corpus(corpus).documents if document.content]
    rows = [Document(f"d{number}", "", texts[number % len(texts)], {}) for number in range(documents)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = GraceModel.from_pretrained(
            small_model(folder / "small"), cache=RepresentationCache(folder / "cache.sqlite")
        )
        collection = Collection.create(Corpus(rows, None, str(corpus), []), folder / "collection")
        index = build(collection, model, rationale=False)
        _write_parquet(index, folder / "embeddings.parquet")
        _write_everything(index, folder / "everything.parquet")
        shards = _kept_shards(collection, model, folder / "shards")
        seconds: dict[str, list[float]] = {"cache": [], "shards": [], "vectors": [], "peer": [], "peer_same_files": []}
        for number in range(runs + 1):
            for name in seconds:
                duration = _timed(name, collection, model, shards, folder)
                if number:  # the first round warms up
                    seconds[name].append(duration)
        rates = {name: documents / statistics.median(values) for name, values in seconds.items()}
    ratios = {name: round(rates[name] / rates["peer"], 3) for name in ("cache", "shards", "vectors")}
    return {
        "ratios": ratios | {"cache_vs_same_files": round(rates["cache"] / rates["peer_same_files"], 3)},
        "documents_per_second": {name: round(rate) for name, rate in rates.items()},
        "runs": runs,
        "documents": documents,
        "distinct_texts": len(texts),
        "dim": model.dim,
    }


def _timed(name: str, collection: Collection, model: GraceModel, shards: Path, folder: Path) -> float:
    place = collection.folder / model.name
    if name in ("cache", "shards"):
        shutil.rmtree(place)
    if name == "shards":
        shutil.copytree(shards, place / ".build")
    os.sync()  # so that no contender waits for writes of the one before
    started = time.perf_counter()
    if name == "peer":
        _peer(folder / "embeddings.parquet", folder / "peer.faiss")
    elif name == "peer_same_files":
        _peer_same_files(folder / "everything.parquet", folder / "same")
    elif name == "vectors":
        GraceIndex(collection, model.name).change_faiss("flat")
    else:
        build(Collection(collection.folder), model, rationale=False)
    return time.perf_counter() - started


def _kept_shards(collection: Collection, model: GraceModel, to: Path) -> Path:
    """A copy of the shards of a build, which are removed when it finishes."""
    source = collection.folder / model.name
    shutil.rmtree(source)

    def keep(done: int, total: int) -> None:
        if done == total and not to.exists():
            shutil.copytree(source / ".build", to, ignore=shutil.ignore_patterns(".*"))
            for shard in to.glob(
                "*.quick.safetensors"
            ):  # renamed like shards that took long to encode, which resuming reuses
                shard.rename(to / shard.name.replace(".quick", ""))

    build(collection, model, rationale=False, progress=keep)
    return to


def _write_parquet(index: GraceIndex, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = index.vectors()
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
    pq.write_table(pa.table({"_id": index.ids, "embedding": embedding}), path, compression="zstd")


def _write_everything(index: GraceIndex, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = pq.read_table(index.folder / "rationales.parquet")
    for name, array, kind in (("sums", index.sums, pa.float32()), ("counts", index.counts, pa.int64())):
        column = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(array).ravel(), kind), array[0].size)
        columns = columns.append_column(name, column)
    pq.write_table(columns, path, compression="zstd")


def _peer_same_files(source: Path, target: Path) -> None:
    import faiss
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    table = pq.read_table(source)
    sums, counts = (
        table[name].combine_chunks().flatten().to_numpy().reshape(len(table), 3, -1) for name in ("sums", "counts")
    )
    target.mkdir(exist_ok=True)
    pq.write_table(table.drop_columns(["sums", "counts"]), target / "rationales.parquet", compression="zstd")
    save_file({"counts": counts[:, :, 0], "sums": sums}, target / "vectors.safetensors")
    index = faiss.IndexFlatIP(sums.shape[2])
    index.add(embeddings(sums[:, :1], counts[:, :, 0], Pooling.TEXT))
    faiss.write_index(index, str(target / "index.faiss"))
    for file in target.iterdir():
        sha256(file)
        flush_to_disk(file)
    flush_to_disk(target)


def _peer(source: Path, target: Path) -> None:
    import faiss
    import pyarrow.parquet as pq

    table = pq.read_table(source)
    column = table["embedding"].combine_chunks()
    vectors = np.ascontiguousarray(column.flatten().to_numpy().reshape(len(table), -1))
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(target))
    flush_to_disk(target)


if __name__ == "__main__":
    import sys

    print(json.dumps(run(sys.argv[1]), indent=2))
