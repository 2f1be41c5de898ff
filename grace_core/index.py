"""GraceIndex: the rationales, vectors and FAISS index of one model over one collection.

    <collection>/<model>/manifest.json         what it was made from and with, counts, hashes; written last
                        /rationales.parquet    _id, rationale, rationale_ids, token counts, truncated flags
                        /vectors.safetensors   sums (n, 3, d) fp32 and counts (n, 3) of the parts text, template, rationale
                        /index.faiss           flat inner product over the normalised embeddings; can be made again from the vectors

A build goes through the documents in order of length, in shards of SHARD documents, each written atomically under ``.build``.
A killed build goes on after its last whole shard. The shards' content depends on the documents and settings only, so that a
resumed build gives the same files as one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.files import only_writer, read_json, sha256, write_atomically, write_json
from grace_core.model import GraceModel, Representations, Settings
from grace_core.pooling import PARTS, Pooling, embeddings
from grace_core.readers import Document

SCHEMA = 1
SHARD = 128
FILES = ("rationales.parquet", "vectors.safetensors", "index.faiss")


@dataclass(frozen=True)
class Hit:
    """A retrieved document: its 1-based rank, the cosine that ranked it, and what the model wrote about it."""

    rank: int
    score: float
    document: Document
    rationale: str
    truncated: bool
    row: int

    def as_dict(self) -> dict:
        return {
            "rank": self.rank, "id": self.document.id, "score": self.score, "title": self.document.title, "text": self.document.text,
            "rationale": self.rationale, "truncated": self.truncated, "metadata": self.document.metadata,
        }  # fmt: skip


class BuildStopped(Exception):
    """A build was asked to stop; what is finished is kept, and the next build goes on from there."""


def identity(model: GraceModel, collection: Collection, rationale: bool) -> dict:
    """What two runs must share so that their vectors may stand in one index."""
    return {
        "schema": SCHEMA,
        "model": {"sha256": model.fingerprint, "dim": model.dim},
        "settings": asdict(model.settings),
        "rationale": rationale,
        "corpus_sha256": collection.hash,
    }


def build(
    collection: Collection,
    model: GraceModel,
    *,
    rationale: bool = True,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> GraceIndex:
    """Encode the collection with ``model``, or go on with a build that was stopped, or open the index if it is finished.

    ``progress`` is called with (documents done, all). ``should_stop`` is asked between shards and raises BuildStopped. Raises
    GraceError if the folder holds an index made with another model, prompt or settings, or if another process builds in it.
    """
    filled = [row for row, document in enumerate(collection.corpus.documents) if document.content]
    if not filled:
        raise GraceError(f"{collection.folder}: none of the {len(collection.corpus.documents)} documents has any text; nothing to encode")
    folder = collection.folder / model.name
    wanted = identity(model, collection, rationale)
    with only_writer(folder):
        if (folder / "manifest.json").exists():
            _refuse_mixture(folder, read_json(folder / "manifest.json"), wanted)
            shutil.rmtree(folder / ".build", ignore_errors=True)  # left by a build that was killed at its very end
            return GraceIndex(collection, model.name)
        work = folder / ".build"
        work.mkdir(exist_ok=True)
        for leftover in [*folder.glob(".*.tmp"), *work.glob(".*.tmp")]:
            leftover.unlink()
        if (work / "plan.json").exists():
            _refuse_mixture(work, read_json(work / "plan.json"), wanted)
        else:
            write_json(work / "plan.json", wanted)
        order = sorted(filled, key=lambda row: (-len(collection.corpus.documents[row].content), row))
        started, fresh = time.time(), 0
        for number, begin in enumerate(range(0, len(order), SHARD)):
            rows = order[begin : begin + SHARD]
            path = work / f"{number:06d}.safetensors"
            if not path.exists():
                if should_stop():
                    raise BuildStopped(f"stopped after {begin} of {len(order)} documents; build again to go on")
                texts = [collection.corpus.documents[row].content for row in rows]

                def done(count: int, _all: int, begin: int = begin) -> None:
                    if progress:
                        progress(begin + count, len(order))

                made = model.represent(texts, rationale=rationale, batch_size=batch_size, progress=done)
                made.embeddings(Pooling.FULL if rationale else Pooling.TEXT)  # a vector that is not finite is found here, not at the end
                write_atomically(path, lambda target, rows=rows, made=made: _write_shard(target, rows, made))
                fresh += len(rows)
            if progress:
                progress(begin + len(rows), len(order))
        _finish(folder, collection, model, wanted, seconds=time.time() - started, fresh=fresh)
        shutil.rmtree(work)
    return GraceIndex(collection, model.name)


def _refuse_mixture(folder: Path, there: dict, wanted: dict) -> None:
    for key, value in wanted.items():
        if there.get(key) != value:
            old, new = there.get(key), value
            if isinstance(old, dict) and isinstance(new, dict):
                key = next(k for k in new if old.get(k) != new[k])
                old, new = old.get(key), new[key]
            raise GraceError(
                f"{folder} was made with {key} = {str(old)[:80]!r}, got {str(new)[:80]!r}; vectors of different models or settings cannot "
                "be mixed: use the same ones, give another --out, or remove that folder"
            )


def _write_shard(path: Path, rows: list[int], made: Representations) -> None:
    from safetensors.numpy import save_file

    flat = np.array([token for ids in made.rationale_ids for token in ids], dtype=np.int32)
    lengths = np.array([len(ids) for ids in made.rationale_ids], dtype=np.int64)
    save_file({
        "rows": np.array(rows, dtype=np.int64), "sums": made.sums.astype(np.float32), "counts": made.counts.astype(np.int64),
        "ids": flat, "lengths": lengths, "truncated": made.truncated, "text_truncated": made.text_truncated,
    }, path)  # fmt: skip


def _finish(folder: Path, collection: Collection, model: GraceModel, wanted: dict, *, seconds: float, fresh: int) -> None:
    """Put the shards together in corpus order, and write the manifest last."""
    import faiss
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file, save_file

    shards = [load_file(path) for path in sorted((folder / ".build").glob("*.safetensors"))]
    rows = np.concatenate([shard["rows"] for shard in shards])
    back = np.argsort(rows)
    rows = rows[back]
    ids = [part for shard in shards for part in np.split(shard["ids"], np.cumsum(shard["lengths"])[:-1])]
    ids = [ids[i].tolist() for i in back]
    joined = {key: np.concatenate([shard[key] for shard in shards])[back] for key in ("sums", "counts", "truncated", "text_truncated")}
    counts = joined["counts"]
    table = pa.table({
        "_id": [collection.corpus.documents[row].id for row in rows],
        "rationale": model.decode(ids),
        "rationale_ids": pa.array(ids, pa.list_(pa.int32())),
        **{f"{part}_tokens": counts[:, i] for i, part in enumerate(PARTS)},
        "truncated": joined["truncated"],
        "text_truncated": joined["text_truncated"],
    })  # fmt: skip
    write_atomically(folder / "rationales.parquet", lambda path: pq.write_table(table, path, compression="zstd"))
    write_atomically(folder / "vectors.safetensors", lambda path: save_file({"sums": joined["sums"], "counts": counts}, path))
    pooling = Pooling.FULL if wanted["rationale"] else Pooling.TEXT
    flat = _flat_index(embeddings(joined["sums"], counts, pooling))
    write_atomically(folder / "index.faiss", lambda path: faiss.write_index(flat, str(path)))
    _write_manifest(folder, wanted | {
        "model_id": model.source,
        "dtype": model.dtype,
        "counts": {
            "documents": len(collection.corpus.documents), "encoded": len(rows), "empty": len(collection.corpus.documents) - len(rows),
            "truncated_rationales": int(joined["truncated"].sum()), "truncated_texts": int(joined["text_truncated"].sum()),
            "empty_rationales": int((counts[:, 2] == 0).sum()) if wanted["rationale"] else 0,
            **{f"{part}_tokens": int(counts[:, i].sum()) for i, part in enumerate(PARTS)},
        },
        "seconds": round(seconds, 1) if fresh == len(rows) else None,  # a resumed or cached build measures nothing
        "files": {name: sha256(folder / name) for name in FILES},
    })  # fmt: skip


def _seal(manifest: dict) -> str:
    """SHA-256 over the manifest without the hash itself."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _write_manifest(folder: Path, manifest: dict) -> None:
    write_json(folder / "manifest.json", manifest | {"sha256": _seal(manifest)})


def _flat_index(vectors: np.ndarray):
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return index


class GraceIndex:
    """A finished index, open for searching. Checks the hashes of its files; raises GraceError if they do not hold.

    A lost or damaged ``index.faiss`` is made again in memory, with a warning; the vectors cannot be.
    """

    def __init__(self, collection: Collection | str | Path, model: str):
        self.collection = collection if isinstance(collection, Collection) else Collection(collection)
        if model not in self.collection.models:
            there = ", ".join(self.collection.models) or "none"
            hint = "; its build was stopped: build again to go on" if model in self.collection.unfinished else ""
            raise GraceError(f"{self.collection.folder} has no index of model {model!r}, there are: {there}{hint}")
        self.model_name = model
        self.folder = self.collection.folder / model
        self.manifest = read_json(self.folder / "manifest.json")
        if self.manifest.get("schema") != SCHEMA:
            raise GraceError(f"{self.folder} has schema {self.manifest.get('schema')!r}, this version reads {SCHEMA}; build it again")
        if self.manifest.get("sha256") != _seal(self.manifest):
            raise GraceError(f"{self.folder}/manifest.json was edited (its hash does not fit); remove {self.folder} and build again")
        if self.manifest["corpus_sha256"] != self.collection.hash:
            raise GraceError(f"{self.collection.folder}/corpus.parquet changed after {model} was built; restore it, or build again")
        self.damaged = [name for name in FILES if not self._holds(name)]
        if lost := [name for name in self.damaged if name != "index.faiss"]:
            raise GraceError(
                f"{self.folder}/{lost[0]} is missing or was changed (its hash is not the manifest's); remove {self.folder} and build again"
            )
        if self.damaged:
            warnings.warn(f"{self.folder}/index.faiss is missing or damaged; using one made from the vectors", stacklevel=2)
        import pyarrow.parquet as pq
        from safetensors.numpy import load_file

        table = pq.read_table(self.folder / "rationales.parquet")
        self.ids: list[str] = table["_id"].to_pylist()
        self.rationales: list[str] = table["rationale"].to_pylist()
        self.truncated: list[bool] = table["truncated"].to_pylist()
        self.text_truncated: list[bool] = table["text_truncated"].to_pylist()
        vectors = load_file(self.folder / "vectors.safetensors")
        self.sums, self.counts = vectors["sums"], vectors["counts"]
        self.row = {document_id: row for row, document_id in enumerate(self.ids)}
        if not len(self.ids) == len(self.sums) == len(self.counts) or any(i not in self.collection.documents for i in self.row):
            raise GraceError(f"{self.folder} does not fit its corpus; remove it and build again")
        self._flat: dict[Pooling, object] = {}

    def _holds(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and sha256(path) == self.manifest["files"][name]

    @cached_property
    def rationale_ids(self) -> list[list[int]]:
        """The token ids of every document's rationale, in the order of the index; its decoded text may tokenise otherwise."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "rationales.parquet", columns=["rationale_ids"])["rationale_ids"].to_pylist()

    @cached_property
    def settings(self) -> Settings:
        return Settings(**self.manifest["settings"])

    @property
    def default_pooling(self) -> Pooling:
        return Pooling.FULL if self.manifest["rationale"] else Pooling.TEXT

    def __len__(self) -> int:
        return len(self.ids)

    def vectors(self, pooling: Pooling | None = None) -> np.ndarray:
        """L2-normalised embeddings ``(n, d)`` fp32 of the documents, in the order of ``ids``."""
        return embeddings(self.sums, self.counts, self._check(pooling))

    def _check(self, pooling: Pooling | None) -> Pooling:
        pooling = self.default_pooling if pooling is None else Pooling(pooling)
        if pooling is Pooling.FULL and not self.manifest["rationale"]:
            raise GraceError(f"{self.folder} was built without rationales; search it with pooling 'text'")
        return pooling

    def faiss_index(self, pooling: Pooling | None = None):
        """The flat inner-product index: read from disk for the pooling it was built with, made in memory for the other."""
        import faiss

        pooling = self._check(pooling)
        if pooling not in self._flat:
            if pooling is self.default_pooling and "index.faiss" not in self.damaged:
                self._flat[pooling] = faiss.read_index(str(self.folder / "index.faiss"))
            else:
                self._flat[pooling] = _flat_index(self.vectors(pooling))
        return self._flat[pooling]

    def search(self, queries: np.ndarray, k: int = 10, *, pooling: Pooling | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Cosines ``(m, k)`` and document rows ``(m, k)`` of the ``k`` nearest, best first; k is cut to the number of documents.

        Raises GraceError for queries of another width, or that are not finite.
        """
        queries = np.ascontiguousarray(np.atleast_2d(queries), dtype=np.float32)
        if k < 1:
            raise GraceError(f"k must be at least 1, got {k}")
        if queries.shape[1] != self.sums.shape[2]:
            raise GraceError(
                f"the queries have {queries.shape[1]} dimensions, {self.folder} has {self.sums.shape[2]}; "
                f"encode them with {self.manifest['model_id']}"
            )
        if not np.isfinite(queries).all():
            raise GraceError("a query vector holds NaN or infinity")
        return self.faiss_index(pooling).search(queries, min(k, len(self)))

    def hits(self, query: np.ndarray, k: int = 10, *, pooling: Pooling | None = None) -> list[Hit]:
        """The ``k`` nearest documents of one query vector ``(d,)``, with their rationales."""
        scores, rows = self.search(query[None], k, pooling=pooling)
        return [self.hit(int(row), rank, float(score)) for rank, (score, row) in enumerate(zip(scores[0], rows[0], strict=True), start=1)]

    def hit(self, row: int, rank: int, score: float) -> Hit:
        return Hit(rank, score, self.collection.documents[self.ids[row]], self.rationales[row], self.truncated[row], row)

    def load_model(self, **options) -> GraceModel:
        """The model that built this index, with its settings. Raises GraceError if its weights are not the same any more."""
        model = GraceModel.from_pretrained(self.manifest["model_id"], **asdict(self.settings) | options)
        if model.fingerprint != self.manifest["model"]["sha256"]:
            raise GraceError(
                f"{self.folder} was built with other weights of {self.manifest['model_id']} than are there now; "
                "restore them, or remove the folder and build again"
            )
        return model

    def verify(self) -> dict:
        """Check what opening does not: the FAISS index against the vectors. Returns findings, ``ok`` among them."""
        vectors = self.vectors()
        stored = self.faiss_index()
        same = stored.ntotal == len(vectors) and np.allclose(stored.reconstruct_n(0, stored.ntotal), vectors, atol=1e-6)
        return {
            "model": self.model_name, "ok": bool(same and not self.damaged), "documents": len(self), "damaged": self.damaged,
            "faiss_matches_vectors": bool(same),
        }  # fmt: skip

    def repair(self) -> None:
        """Write ``index.faiss`` again from the vectors."""
        import faiss

        with only_writer(self.folder):
            flat = _flat_index(self.vectors())
            write_atomically(self.folder / "index.faiss", lambda path: faiss.write_index(flat, str(path)))
            self.manifest["files"]["index.faiss"] = sha256(self.folder / "index.faiss")
            _write_manifest(self.folder, self.manifest)
        self.damaged, self._flat = [], {}
