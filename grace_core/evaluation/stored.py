"""Evaluations kept in a collection, so that nothing is evaluated twice.

    <collection>/<model>/evaluation.parquet       of a model, with its rationale and by the text alone
                /st-<name>/evaluation.parquet     of a sentence encoder
                /evaluations/<hash>.parquet       of a column without a folder of its own, BM25 or a fusion, by its name

with a row for every query, and of a model for every pooling: _id, query, pooling, ranking, rationale, truncated.

Metrics are not stored: they follow from the rankings and from the judgements as they stand now. A row counts
only while its query reads the same; the file counts only for what it was made with, by a hash over
whatever decides a ranking. Of a model these are weights, settings, geometry, the documents' vectors, and the FAISS
index over them, which may be an approximate one; of a sentence encoder its files and vectors; of BM25 the corpus;
of a fusion its weights, and all of this of each part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from grace_core.columns import bm25
from grace_core.columns.column import Column
from grace_core.columns.fusion import CONSTANT, FusionColumn
from grace_core.columns.kinds import EncoderColumn, GraceColumn
from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import CUTOFF, Retrieved
from grace_core.files import only_writer, write_atomically
from grace_core.index import GraceIndex
from grace_core.pooling import Pooling

FILE, FOLDER = "evaluation.parquet", "evaluations"
SCHEMA = 1
KEY = b"grace"  # of the description in the Parquet file's own metadata
WHOLE = ""  # in the place of a pooling, of a column that is no model

Evaluation = dict[Pooling, dict[str, Retrieved]]


def load(index: GraceIndex) -> Evaluation:
    """What is stored for ``index``: by pooling and query id; queries that the judgements do not know, or know
    otherwise, are left out.

    Empty if nothing is stored. Raises GraceError if the file is damaged or belongs to another index.
    """
    return _load(index)


def save(index: GraceIndex, evaluation: Evaluation) -> None:
    """Store ``evaluation`` beside ``index``, together with what is stored there already; a file that does not fit
    is replaced.

    Raises GraceError if another process writes there.
    """
    _save(index, evaluation)


def load_column(column: Column) -> dict[str, Retrieved]:
    """As :func:`load`, of a column that is no model: by query id."""
    return _load(column)[WHOLE]


def save_column(column: Column, retrieved: Mapping[str, Retrieved]) -> None:
    """As :func:`save`, of a column that is no model."""
    _save(column, {WHOLE: dict(retrieved)})


def path_of(source: GraceIndex | Column) -> Path:
    """The file in which evaluations of an index, or of a column that is no model, are kept."""
    if isinstance(source, GraceIndex):
        return source.folder / FILE
    if isinstance(source, EncoderColumn):
        return source.index.folder / FILE
    return source.collection.folder / FOLDER / f"{hashlib.sha256(source.id.encode()).hexdigest()[:16]}.parquet"


def fingerprint(source: GraceIndex | Column) -> str:
    """SHA-256 over what decides the ranking of a query."""
    parts = _index_parts(source) if isinstance(source, GraceIndex) else [source.collection.hash, _parts(source)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _index_parts(index: GraceIndex) -> list:
    """Model, settings, the documents' vectors and their index; and the geometry where queries have a share in it, as their
    mean moves no vector of a document.
    """
    manifest = index.manifest
    geometry = manifest.get("geometry", {})
    files = [manifest["files"][name] for name in ("vectors.safetensors", "index.faiss")]
    parts = [manifest["model"], manifest["settings"], manifest["corpus_sha256"], files]
    return [*parts, geometry["sha256"]] if geometry.get("queries") else parts


def _parts(column: Column) -> list:
    """What decides the scores of a column besides the corpus."""
    if isinstance(column, FusionColumn):
        return [column.id, CONSTANT, *map(_parts, column.parts)]
    if isinstance(column, GraceColumn):
        return [column.id, _index_parts(column.index)]
    if isinstance(column, EncoderColumn):
        return [column.id, *(column.index.manifest[name] for name in ("model", "prompts", "max_tokens", "file_sha256"))]
    return [column.id, bm25.K1, bm25.B]


def _load(source: GraceIndex | Column) -> dict:
    path, collection = path_of(source), source.collection
    kept = {pooling: {} for pooling in (Pooling if isinstance(source, GraceIndex) else (WHOLE,))}
    if not path.exists():
        return kept
    queries = collection.judgements.queries if collection.judgements else {}
    documents = set(collection.documents_of(source.ids))
    for row in _rows(path, source):
        try:
            retrieved = Retrieved(row["query"], tuple(row["ranking"]), row["rationale"], row["truncated"])
            stored = kept[row["pooling"]]
            fits = len(retrieved.ranking) <= CUTOFF and documents.issuperset(retrieved.ranking)
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise GraceError(f"{path} was damaged or edited; remove it and evaluate again")
        if queries.get(row["_id"]) == retrieved.query:
            stored[row["_id"]] = retrieved
    return kept


def _save(source: GraceIndex | Column, evaluation: Mapping[str, Mapping[str, Retrieved]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = path_of(source)
    with only_writer(path.parent):
        try:
            there = _load(source)
        except GraceError:
            there = {}
        rows = [
            {
                "_id": query_id,
                "query": row.query,
                "pooling": str(pooling),
                "ranking": list(row.ranking),
                "rationale": row.rationale,
                "truncated": row.truncated,
            }
            for pooling in sorted(there.keys() | evaluation.keys())
            for query_id, row in sorted((there.get(pooling, {}) | evaluation.get(pooling, {})).items())
        ]
        types = {name: pa.string() for name in ("_id", "query", "pooling", "rationale")}
        about = {"schema": SCHEMA, "index": fingerprint(source)}
        about |= {} if isinstance(source, GraceIndex) else {"column": source.id}
        schema = pa.schema(
            types | {"ranking": pa.list_(pa.string()), "truncated": pa.bool_()}, metadata={KEY: json.dumps(about)}
        )
        table = pa.Table.from_pylist(rows, schema=schema)
        write_atomically(path, lambda path: pq.write_table(table, path, compression="zstd", compression_level=19))


def _rows(path: Path, source: GraceIndex | Column) -> list[dict]:
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
    if made_with != fingerprint(source):
        if isinstance(source, GraceIndex):
            why = "was made with another index, or is older than this one, which has been built or updated since"
        else:
            why = (
                f"is older than what {source.id} ranks by, which has been built or updated since, or was made elsewhere"
            )
        raise GraceError(f"{path} {why}; evaluate again")
    return table.to_pylist()
