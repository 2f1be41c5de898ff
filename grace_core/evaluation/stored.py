"""Evaluations kept beside an index, so that nobody has to wait for what was evaluated once.

    <collection>/<model>/evaluation.parquet    a row for every query and pooling: _id, query, pooling, ranking, rationale, truncated

Metrics are not stored: they follow from the rankings and from the judgements as they stand now. A row counts
only while its query reads the same; the file counts only for the index that it was made with, by a hash over
whatever decides a ranking: weights, settings, the documents' vectors, and the FAISS index over them, which
may be an approximate one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import CUTOFF, Retrieved
from grace_core.files import only_writer, write_atomically
from grace_core.index import GraceIndex
from grace_core.pooling import Pooling

FILE = "evaluation.parquet"
SCHEMA = 1
KEY = b"grace"  # of the description in the Parquet file's own metadata

Evaluation = dict[Pooling, dict[str, Retrieved]]


def load(index: GraceIndex) -> Evaluation:
    """What is stored for ``index``: by pooling and query id; queries that the judgements do not know, or know
    otherwise, are left out.

    Empty if nothing is stored. Raises GraceError if the file is damaged or belongs to another index.
    """
    path, found = index.folder / FILE, {pooling: {} for pooling in Pooling}
    if not path.exists():
        return found
    queries = index.collection.judgements.queries if index.collection.judgements else {}
    for row in _rows(path, index):
        try:
            kept = Retrieved(row["query"], tuple(row["ranking"]), row["rationale"], row["truncated"])
            stored = found[Pooling(row["pooling"])]
            fits = len(kept.ranking) <= CUTOFF and all(document in index.row for document in kept.ranking)
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise GraceError(f"{path} was damaged or edited; remove it and evaluate again")
        if queries.get(row["_id"]) == kept.query:
            stored[row["_id"]] = kept
    return found


def save(index: GraceIndex, made: Evaluation) -> None:
    """Store ``made`` beside ``index``, together with what is stored there already; a file that does not fit
    is replaced.

    Raises GraceError if another process writes there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with only_writer(index.folder):
        try:
            there = load(index)
        except GraceError:
            there = {}
        rows = [
            {
                "_id": query_id,
                "query": row.query,
                "pooling": pooling.value,
                "ranking": list(row.ranking),
                "rationale": row.rationale,
                "truncated": row.truncated,
            }
            for pooling in Pooling
            for query_id, row in sorted((there.get(pooling, {}) | made.get(pooling, {})).items())
        ]
        types = {name: pa.string() for name in ("_id", "query", "pooling", "rationale")}
        schema = pa.schema(
            types | {"ranking": pa.list_(pa.string()), "truncated": pa.bool_()},
            metadata={KEY: json.dumps({"schema": SCHEMA, "index": fingerprint(index)})},
        )
        table = pa.Table.from_pylist(rows, schema=schema)
        write_atomically(
            index.folder / FILE, lambda path: pq.write_table(table, path, compression="zstd", compression_level=19)
        )


def fingerprint(index: GraceIndex) -> str:
    """SHA-256 over what decides the ranking of a query: the model's weights, its settings, the documents'
    vectors and their index.
    """
    manifest = index.manifest
    files = [manifest["files"][name] for name in ("vectors.safetensors", "index.faiss")]
    parts = [manifest["model"], manifest["settings"], manifest["corpus_sha256"], files]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _rows(path: Path, index: GraceIndex) -> list[dict]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[KEY])
        schema, made_with = about["schema"], about["index"]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise GraceError(f"{path} cannot be read ({type(error).__name__}); remove it and evaluate again") from error
    if schema != SCHEMA:
        raise GraceError(f"{path} has schema {schema!r}, this version reads {SCHEMA}; evaluate again")
    if made_with != fingerprint(index):
        raise GraceError(
            f"{path} was made with another index, or is older than this one, which has been built or updated since; "
            "evaluate again"
        )
    return table.to_pylist()
