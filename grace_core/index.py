"""GraceIndex: the rationales, vectors and FAISS index of one model over one collection.

    <collection>/<model>/manifest.json         what it was made from and with, counts, hashes; written last
                        /rationales.parquet    _id, rationale, rationale_ids, token counts, truncated flags
                        /vectors.safetensors   sums (n, 3, d) fp32 and counts (n, 3) of the parts text, template, rationale
                        /geometry-*.safetensors  what makes vectors of the sums (grace_core.geometry), unless they are raw
                        /statistics.safetensors  the model's own statistics, /queries.safetensors the collection's, if there are any
                        /index.faiss           over the normalised embeddings (grace_core.ann); can be made again from the vectors

A build goes through the documents in shards of SHARD (grace_core.shards), each written when it is finished: a
killed build goes on after its last whole shard. Vectors and FAISS index are read through memory maps,
rationales and documents when first asked for.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np

from grace_core import ann
from grace_core import geometry as geometries
from grace_core.build import (
    EXACT,
    FILES,
    QUERIES,
    SCHEMA,
    SHARD,
    Encode,
    encoder,
    identity,
    pooling_of,
    seal,
    with_geometry,
    write_faiss,
    write_index,
)
from grace_core.collection import Collection
from grace_core.columns.names import BM25, ENCODER
from grace_core.errors import GraceError
from grace_core.files import only_writer, read_json, sha256, write_atomically
from grace_core.geometry import Geometry, Role
from grace_core.hits import Hit, hit_of
from grace_core.model import GraceModel, Settings
from grace_core.notebook import Hits
from grace_core.passages import Group, found_documents, numbered
from grace_core.pooling import TEXT, Pooling, Representations
from grace_core.selection import Selections, search_among
from grace_core.shards import Known, refuse_mixture
from grace_core.sources import checked_name, full_name, model_name
from grace_core.tensors import PooledVectors, map_tensors


def build(
    collection: Collection,
    model: GraceModel,
    *,
    rationale: bool = True,
    batch_size: int = 64,
    faiss: str | None = None,
    geometry: str | None = None,
    name: str | None = None,
    encode: Encode | None = None,
    engine: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    known: Known | None = None,
    happened: dict | None = None,
) -> GraceIndex:
    """Encode the collection with ``model``, or go on with a build that was stopped, or open the index if it
    is finished.

    ``faiss`` is one of :data:`grace_core.ann.KINDS`; None is flat, or what is there. ``geometry`` is one of
    :data:`grace_core.geometry.KINDS`; None is what is there, or the model's own choice. ``name`` is the
    model's folder in the collection, if not the last part of its id. ``encode`` takes shards and gives their
    representations, in any order, ``engine`` being what it does that with, if not the model's; by default
    they are made here, one after the other, in batches of ``batch_size``; :mod:`grace_core.cluster` has
    another. ``progress`` is called with (documents done, all). ``should_stop`` is asked between shards and
    raises BuildStopped. ``known`` and ``happened`` are for :mod:`grace_core.living`, which brings up an index
    whose corpus has changed: texts that are known are not encoded. Raises GraceError if the folder holds an
    index made with another model, prompt or settings, if another process builds in it, or if there is no room
    left on the disk; what is finished is kept.
    """
    if faiss is not None:
        ann.check_kind(faiss)
    if geometry is not None:
        geometries.check_kind(geometry)
    name = model.name if name is None else checked_name(name)
    folder = collection.folder / name
    if not any(collection.contents()):
        raise GraceError(
            f"{collection.folder}: none of the {collection.size} documents has any text; nothing to encode"
        )
    wanted = identity(model, collection, rationale)
    with only_writer(folder):
        if not (folder / "manifest.json").exists():
            encode = encode or encoder(model, rationale, batch_size)
            write_index(
                collection,
                folder,
                model,
                wanted,
                shard=SHARD,
                faiss=faiss,
                geometry=geometry,
                encode=encode,
                engine=engine or model.engine_name,
                progress=progress or (lambda done, total: None),
                should_stop=should_stop,
                known=known,
                happened=happened,
            )
        refuse_mixture(folder, read_json(folder / "manifest.json"), wanted)
        shutil.rmtree(folder / ".build", ignore_errors=True)  # also what a build left that was killed at its very end
    index = GraceIndex(collection, name)
    if geometry is not None and geometry != index.geometry.kind:
        index.change_geometry(geometry)
    if faiss is not None and faiss != index.faiss_kind:
        index.change_faiss(faiss)
    return index


def _no_index(collection: Collection, model: str, there: list[str]) -> GraceError:
    if model == BM25 or model.startswith(ENCODER):
        return GraceError(
            f"{model} has no rationales and no part sums, which are wanted here; name a model of {collection.folder}: "
            f"{', '.join(there) or 'there is none'}"
        )
    hint = (
        "its build was stopped: build again to go on"
        if model_name(model) in collection.unfinished
        else "name one, or build it"
    )
    return GraceError(
        f"{collection.folder} has no index of model {model!r}, there are: {', '.join(there) or 'none'}; {hint}"
    )


class GraceIndex:
    """A finished index, open for searching. Raises GraceError if the hashes of its files do not fit.

    A lost or damaged ``index.faiss`` is replaced in memory, with a warning; the vectors cannot be.
    """

    def __init__(self, collection: Collection | str | Path, model: str):
        self.collection = collection if isinstance(collection, Collection) else Collection(collection)
        if model not in self.collection.models:
            raise _no_index(self.collection, model, self.collection.models)
        self.model_name = model
        self.folder = self.collection.folder / model
        while True:
            self.manifest = read_json(self.folder / "manifest.json")
            try:
                self._check_manifest()
                self._open_files()
                break
            except GraceError:
                if read_json(self.folder / "manifest.json") == self.manifest:  # else it has just been replaced
                    raise
        if self.damaged:
            warnings.warn(
                f"{self.folder}/index.faiss is missing or damaged; using one made from the vectors", stacklevel=2
            )
        self._opened: dict[Pooling, ann.Opened] = {}
        self.selections = Selections(self)

    def _check_manifest(self) -> None:
        if self.manifest.get("schema") != SCHEMA:
            raise GraceError(
                f"{self.folder} has schema {self.manifest.get('schema')!r}, this version reads {SCHEMA}; build it again"
            )
        if self.manifest.get("sha256") != seal(self.manifest):
            raise GraceError(
                f"{self.folder}/manifest.json was edited (its hash does not fit); remove {self.folder} and build again"
            )
        if self.manifest["corpus_sha256"] != self.collection.hash:
            self.collection.check_current()
            raise GraceError(
                f"{self.collection.folder}/corpus.parquet changed after {self.model_name} was built; restore it, or build again"
            )

    def _open_files(self) -> None:
        """Open all files, also those that are read later: an update in between would have other rows in them."""
        self.damaged = [name for name in FILES if not self._holds(name)]
        if lost := [name for name in self.damaged if name != "index.faiss"]:
            raise GraceError(
                f"{self.folder}/{lost[0]} is missing or was changed (its hash is not the manifest's); remove {self.folder} and build again"
            )
        vectors = map_tensors(self.folder / "vectors.safetensors")
        self.sums, self.counts = vectors["sums"], vectors["counts"]
        self._rationales = np.memmap(self.folder / "rationales.parquet", np.uint8, "r")
        self.__dict__.pop("geometry", None)
        with suppress(GraceError):  # one that is damaged can be made again
            _ = self.geometry

    @classmethod
    def of_model(cls, collection: Collection | str | Path, model: str) -> GraceIndex:
        """The index that ``model`` names: by its folder in the collection, or by the id or path that it was built from.

        Another model whose path only ends alike is refused.
        """
        collection = collection if isinstance(collection, Collection) else Collection(collection)
        if model in collection.models:
            return cls(collection, model)
        source = full_name(model)
        ids = {name: read_json(collection.folder / name / "manifest.json")["model_id"] for name in collection.models}
        names = [name for name, model_id in ids.items() if model_id == source]
        if len(names) == 1:
            return cls(collection, names[0])
        if len(names) > 1:
            raise GraceError(
                f"{collection.folder} has several indexes of {model!r}: {', '.join(names)}; give one of these names"
            )
        raise _no_index(collection, model, [f"{name} (of {model_id})" for name, model_id in ids.items()])

    def _holds(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and sha256(path) == self.manifest["files"][name]

    def _column(self, name: str) -> list:
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pq.read_table(pa.BufferReader(pa.py_buffer(self._rationales)), columns=[name])[name].to_pylist()

    @cached_property
    def ids(self) -> list[str]:
        """The documents' ids, in the order of the index: that of the corpus, without its empty documents."""
        return self._column("_id")

    @cached_property
    def row(self) -> dict[str, int]:
        """The place of every id in the index."""
        return {document_id: row for row, document_id in enumerate(self.ids)}

    @cached_property
    def document_ids(self) -> list[str]:
        """The id of each row's document, which of a passage is another than its own."""
        return self.collection.documents_of(self.ids)

    @cached_property
    def document_numbers(self) -> np.ndarray:
        """The number of each row's document ``(n,)``, from 0."""
        return numbered(self.document_ids)

    @cached_property
    def rationales(self) -> list[str]:
        return self._column("rationale")

    @cached_property
    def rationale_ids(self) -> list[list[int]]:
        """The token ids of every document's rationale, in the order of the index; its decoded text may
        tokenise otherwise.
        """
        return self._column("rationale_ids")

    @cached_property
    def truncated(self) -> list[bool]:
        """Whether the rationale was cut off at the token limit."""
        return self._column("truncated")

    @cached_property
    def text_truncated(self) -> list[bool]:
        """Whether the text was cut to fit the prompt."""
        return self._column("text_truncated")

    @cached_property
    def settings(self) -> Settings:
        return Settings(**self.manifest["settings"])

    @property
    def default_pooling(self) -> Pooling:
        return pooling_of(self.manifest)

    @property
    def faiss_kind(self) -> str:
        """One of :data:`grace_core.ann.KINDS`."""
        return self.manifest.get("faiss", {"kind": "flat"})["kind"]

    @property
    def behind(self) -> int:
        """How many documents of the corpus it lacks: they were added or changed when another model was built."""
        return self.manifest.get("behind", {}).get("documents", 0)

    @property
    def history(self) -> list[dict]:
        """What updates did, oldest first: when, how many documents were added, changed, removed, kept, and encoded."""
        return self.manifest.get("history", [])

    def __len__(self) -> int:
        return len(self.sums)

    def vectors(self, pooling: Pooling | None = None) -> np.ndarray:
        """L2-normalised embeddings ``(n, d)`` fp32 of the documents, in the order of ``ids``."""
        return self.stored(pooling).all()

    def stored(self, pooling: Pooling | None = None) -> PooledVectors:
        """The same embeddings on disk; rows are computed when sliced."""
        return PooledVectors(self.sums, self.counts, self._check(pooling), self.geometry)

    @cached_property
    def geometry(self) -> Geometry:
        """What makes vectors of part sums; raw in indexes that were built before there were several."""
        return Geometry.load(self.folder, self.manifest.get("geometry", {}))

    def embed(self, batch: Representations, pooling: Pooling | None = None, *, role: str = Role.QUERY) -> np.ndarray:
        """Vectors ``(n, d)`` fp32 of representations by this index's model, to be searched with, or compared
        as documents.
        """
        pooling = self.default_pooling if pooling is None else Pooling(pooling)
        return self.geometry.vectors(batch.sums, batch.counts, pooling, role)

    def _check(self, pooling: Pooling | None) -> Pooling:
        pooling = self.default_pooling if pooling is None else Pooling(pooling)
        if pooling is Pooling.FULL and not self.manifest["rationale"]:
            raise GraceError(f"{self.folder} was built without rationales; search it with pooling 'text'")
        return pooling

    def faiss_index(self, pooling: Pooling | None = None):
        """The FAISS index: read from disk for the pooling it was built with; for the other a flat one, made
        in memory.
        """
        return self._open(pooling).index

    def _open(self, pooling: Pooling | None) -> ann.Opened:
        """The index of a pooling. A damaged one, one that was updated since, and one that is not on disk are
        replaced by a flat one, which is exact and quickest to make.
        """
        pooling = self._check(pooling)
        if pooling not in self._opened:
            vectors = self.stored(pooling)
            if pooling is self.default_pooling and "index.faiss" not in self.damaged and self._is_current():
                about = self.manifest.get("faiss", {})
                path = self.folder / EXACT
                if "exact" in about and path.is_file() and sha256(path) == about["exact"]:  # else they are computed
                    vectors = map_tensors(path)["vectors"]
                self._opened[pooling] = ann.Opened(ann.read(self.folder / "index.faiss"), vectors, about)
            else:
                self._opened[pooling] = ann.Opened(ann.make(vectors), vectors)
        return self._opened[pooling]

    def _is_current(self) -> bool:
        """Whether the files on the disk are still those of this index."""
        there = read_json(self.folder / "manifest.json")
        return there.get("files") == self.manifest["files"]

    def search(
        self, queries: np.ndarray, k: int = 10, *, pooling: Pooling | None = None, where: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosines ``(m, k)`` and document rows ``(m, k)`` of the ``k`` nearest, best first; k is cut to the
        number of documents. ``where`` is a filter (:mod:`grace_core.filters`): k is cut to the number of
        documents that satisfy it, which may be none.

        The cosines are those of the stored vectors whatever the FAISS kind, and equal ones stand in the order
        of the corpus; which documents are found is exact with flat only. Raises GraceError for queries of
        another width, or that are not finite.
        """
        opened = self._open(pooling)
        queries = np.ascontiguousarray(np.atleast_2d(queries), dtype=np.float32)
        if k < 1:
            raise GraceError(f"k must be at least 1, got {k}")
        got, dim = queries.shape[1], self.sums.shape[2]
        if got != dim:
            raise GraceError(
                f"the queries have {got} dimensions, {self.folder} has {dim}; encode them with {self.manifest['model_id']}"
            )
        if not np.isfinite(queries).all():
            raise GraceError("a query vector holds NaN or infinity; encode the query again, in dtype float32")
        if where is not None:
            return search_among(opened, self.selections.of(where), queries, k)
        return opened.search(queries, min(k, len(self)))

    def scores(
        self, query: np.ndarray, rows: Sequence[int] | None = None, *, pooling: Pooling | None = None
    ) -> np.ndarray:
        """Cosines of all documents, or of some ``rows``, with a query vector ``(d,)``: the same, to the bit,
        as :meth:`search` gives.
        """
        return self._open(pooling).scores(query, rows)

    def documents(
        self,
        query: np.ndarray,
        k: int = 10,
        *,
        pooling: Pooling | None = None,
        where: str | None = None,
        by: str = "best",
    ) -> list[Group]:
        """The ``k`` best documents of one query vector ``(d,)`` by their passages: the ``best`` of each, or
        their ``sum``.
        """

        def search(count: int) -> tuple[np.ndarray, np.ndarray]:
            scores, rows = self.search(query[None], count, pooling=pooling, where=where)
            return scores[0], rows[0]

        return found_documents(
            self.document_numbers,
            k,
            by,
            search=search,
            scores_at=lambda rows: self.scores(query, rows, pooling=pooling),
            among=None if where is None else self.selections.of(where).rows,
        )

    def hits(
        self,
        query: np.ndarray,
        k: int = 10,
        *,
        pooling: Pooling | None = None,
        where: str | None = None,
        by: str = "best",
    ) -> list[Hit]:
        """The ``k`` nearest documents of one query vector ``(d,)``, with their rationales; ``by`` as in
        :meth:`documents`.
        """
        if self.collection.chunk is not None:
            groups = self.documents(query, k, pooling=pooling, where=where, by=by)
            return Hits(hit_of(group, rank, self.hit, self.ids) for rank, group in enumerate(groups, start=1))
        scores, rows = self.search(query[None], k, pooling=pooling, where=where)
        pairs = zip(scores[0], rows[0], strict=True)
        return Hits(self.hit(int(row), rank, float(score)) for rank, (score, row) in enumerate(pairs, start=1))

    def hit(self, row: int, rank: int, score: float) -> Hit:
        document, tokens = self.collection.documents[self.ids[row]], int(self.counts[row, TEXT])
        return Hit(
            rank, score, document, self.rationales[row], self.truncated[row], row, self.text_truncated[row], tokens
        )

    def load_model(self, **options) -> GraceModel:
        """The model that built this index, with its settings.

        Raises GraceError if its weights are not the same any more.
        """
        own = asdict(self.settings) | {"dtype": self.manifest.get("dtype")}
        model = GraceModel.from_pretrained(
            self.manifest["model_id"], **own | {key: v for key, v in options.items() if v is not None}
        )
        if model.fingerprint != self.manifest["model"]["sha256"]:
            raise GraceError(
                f"{self.folder} was built with other weights of {self.manifest['model_id']} than are there now; "
                "restore them, or remove the folder and build again"
            )
        if self.manifest.get("prompt", model.prompts.described) != model.prompts.described:
            raise GraceError(
                f"{self.folder} was built with another rendering of the chat template of {self.manifest['model_id']} than it gives now; "
                "use the versions that it was built with, or remove the folder and build again"
            )
        return model

    def verify(self) -> dict:
        """Check what opening does not: the FAISS index against the vectors. Returns findings, ``ok`` among them.

        An index that keeps vectors must hold the same, as must the file of them beside an ivfpq index; one that is not
        exact must reach its manifest's recall, within a hundredth.
        """
        stored, vectors = self.faiss_index(), self.stored()
        same = not self.damaged and stored.ntotal == len(vectors) and stored.d == vectors.shape[1]
        if same and (self.faiss_kind != "ivfpq" or "exact" in self.manifest["faiss"]):
            kept = self._open(None).vectors
            same = isinstance(kept, np.ndarray) and ann.same(kept, vectors)
        if same and self.faiss_kind != "flat":
            same = (
                ann.recall(stored, self.faiss_kind, vectors, self._open(None).effort)
                >= self.manifest["faiss"]["recall@10"] - 0.01
            )
        return {
            "model": self.model_name,
            "ok": bool(same),
            "documents": len(self),
            "damaged": self.damaged,
            "faiss": self.manifest.get("faiss", {"kind": "flat"}),
            "faiss_matches_vectors": bool(same),
        }

    def repair(self) -> None:
        """Write ``index.faiss`` again from the vectors."""
        self.change_faiss(self.faiss_kind)

    def change_faiss(self, kind: str) -> None:
        """Write ``index.faiss`` as one of :data:`grace_core.ann.KINDS`, from the vectors.

        Raises GraceError for another kind, or too few documents; the index is left as it was."""
        with only_writer(self.folder):
            write_faiss(self.folder, self.manifest, ann.check_kind(kind))
        self._reopen()

    def change_geometry(
        self, kind: str, *, queries: Representations | None = None, weight: float | None = None
    ) -> None:
        """Make the vectors anew from the stored sums, in another geometry; no model is needed.

        ``queries`` are representations of unlabelled queries of the collection, whose mean is then known;
        they are kept for later changes. ``weight`` is the rationale's. Raises GraceError for another kind, or
        too few documents; the index is left as it was.
        """
        from safetensors.numpy import save_file

        with only_writer(self.folder):
            if queries is not None:
                tensors = {"sums": queries.sums, "counts": queries.counts}
                write_atomically(self.folder / QUERIES, lambda path: save_file(tensors, path))
            manifest = with_geometry(self.folder, self.manifest, geometries.check_kind(kind), weight)
            write_faiss(self.folder, manifest, self.faiss_kind)
            for leftover in self.folder.glob("geometry-*.safetensors"):
                if leftover.name != manifest["geometry"].get("file"):
                    leftover.unlink()
        self._reopen()

    def _reopen(self) -> None:
        self.manifest = read_json(self.folder / "manifest.json")
        self.damaged, self._opened = [], {}
        self.__dict__.pop("geometry", None)
