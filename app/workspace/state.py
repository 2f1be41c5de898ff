"""The workspace: open collections, indexes and models, shared by all users of the explorer.

It is not in Gradio's session state, which is deleted an hour after a tab is closed. Importing this module is
fast: torch and transformers are imported with the first index or model.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cachetools import LRUCache

from grace_app.explore.facets import Facets
from grace_app.workspace.view import AnyColumn, Column, OtherColumn, default_view, short
from grace_core.collection import Collection, collection_folder, find_collections
from grace_core.columns.listing import single_names
from grace_core.columns.names import Name, Single, Sum, parse, resolved
from grace_core.errors import GraceError
from grace_core.files import read_json
from grace_core.sources import find_model, named_here

if TYPE_CHECKING:
    import numpy as np

    from grace_core.columns.column import Column as OpenedColumn
    from grace_core.columns.encoded import EncodedIndex
    from grace_core.columns.encoder import Encoder
    from grace_core.explain import Explainer
    from grace_core.index import GraceIndex
    from grace_core.model import GraceModel

log = logging.getLogger("app")
MODELS_KEPT = 4
EXAMPLES = 6


class Workspace:
    """Access to everything under ``indexes_root``. All methods may be called from any thread and raise GraceError."""

    def __init__(
        self,
        indexes_root: str | Path,
        *,
        preferred: str | None = None,
        cache_path: str | Path | None = None,
        keep_queries: bool = False,
    ):
        self.root = Path(indexes_root)
        self.preferred = preferred
        self.keep_queries = keep_queries  # whether what Explore is asked is kept in the collection
        self.open_to_all = False  # whether other machines can reach the explorer without a password
        self._cache_path = cache_path
        self._cache = None
        self._collections: dict[str, tuple[int, Collection]] = {}
        self._facets: dict[str, Facets] = {}
        self._indexes: dict[tuple[str, str], tuple[int, GraceIndex]] = {}
        self._averages: dict[tuple[str, Column], tuple[GraceIndex, np.ndarray]] = {}
        self._columns: dict[str, tuple] = {}  # collection, stamp of its files, and its columns
        self._encoders: LRUCache[str, Encoder] = LRUCache(MODELS_KEPT)
        self._models: LRUCache[tuple[str, str, str], GraceModel] = LRUCache(MODELS_KEPT)
        self._explainers: LRUCache[tuple[str, str], Explainer] = LRUCache(MODELS_KEPT)
        self._sources: dict[str, tuple[tuple, tuple[str, str, str]]] = {}
        self._opening = threading.RLock()
        self._loading = threading.RLock()
        self._models_lock = threading.Lock()  # held only for a look-up, never while a model is loaded

    def collections(self) -> list[str]:
        """Names of the collections with at least one finished model."""
        return find_collections(self.root, finished=True)

    def collection(self, name: str) -> Collection:
        folder = collection_folder(self.root, name)
        path = folder / "corpus.parquet"
        with self._opening:
            stamp = path.stat().st_mtime_ns if path.exists() else 0
            known = self._collections.get(name)
            if known is None or known[0] != stamp:
                known = self._collections[name] = (stamp, Collection(folder))
            return known[1]

    def facets(self, name: str) -> Facets:
        collection = self.collection(name)
        with self._opening:
            if name not in self._facets or self._facets[name].collection is not collection:
                self._facets[name] = Facets(collection)
            return self._facets[name]

    def columns(self, name: str) -> list[Column]:
        """The columns of every finished model: text only and, if the index has rationales, with rationale.

        Raises GraceError if there is no finished model.
        """
        collection = self.collection(name)
        columns, damaged = [], None
        for model in collection.models:
            try:
                rationale = read_json(collection.folder / model / "manifest.json").get("rationale", True)
            except GraceError as error:  # the others can still be searched
                damaged = error
                continue
            columns += [Column(model, False), *([Column(model, True)] if rationale else [])]
        if damaged and not columns:
            raise damaged
        if not columns:
            raise GraceError(f"{name} has no finished model yet: finish its build in the Corpus tab")
        return columns

    def offered(self, name: str) -> list[AnyColumn]:
        """The columns in the lists of the page: all single ones of a collection, and BM25 fused with each other one."""
        singles = [single for single in single_names(self.collection(name)) if single.kind != "grace"]
        columns: list[AnyColumn] = [*self.columns(name), *(_other(single) for single in singles)]
        whole = [
            single for single in single_names(self.collection(name)) if single.kind == "encoder" or single.rationale
        ]
        return columns + [_other(Sum(((1.0, Single("bm25")), (1.0, single)))) for single in whole]

    def column(self, name: str, text: str) -> AnyColumn:
        """The column named in a link or a list. Raises GraceError for one that the collection does not have; never
        reads a path from ``text``.
        """
        columns = {column.id: column for column in self.columns(name)}
        if text in columns:
            return columns[text]
        names = [single.id for single in single_names(self.collection(name))]
        problem = f"{name} has no column {short(text)}"
        message = f"{problem}; there are: {', '.join(names)}, and fusions such as 0.7*bm25+0.3*{names[0]}"
        try:
            parsed = parse(text)
        except GraceError as error:
            raise GraceError(f"{problem}: {error}") from error

        def there(single: Single) -> Single:
            either = [Single(single.kind, single.model, rationale) for rationale in (True, False)]
            candidates = [single, *(either if single.rationale is None else [])]
            match = next((candidate for candidate in candidates if candidate.id in names), None)
            if match is None:
                raise GraceError(message if single is parsed else f"{message}; {single.id} is none of them")
            return match

        column = resolved(parsed, there, text)  # a model's name alone is its column with rationale
        return columns.get(column.id) or _other(column)

    def opened(self, collection: str, column: AnyColumn) -> OpenedColumn:
        """An opened column, which searches and explains; reopened only when its files change."""
        from grace_core.columns.opened import Columns

        current = self.collection(collection)
        with self._opening:
            stamp = tuple(sorted((str(path), path.stat().st_mtime_ns) for path in current.folder.glob("*/*.json")))
            known = self._columns.get(collection)
            if known is None or known[0] is not current or known[1] != stamp:
                columns = Columns(
                    current,
                    open_index=lambda model: self.index(collection, model),
                    explainer=self.explainer,
                    encoder=self.encoder_of,
                    rows=known[2].rows if known and known[0] is current else None,
                )
                known = self._columns[collection] = (current, stamp, columns)
            return known[2].open(column.id)

    def encoder_of(self, index: EncodedIndex) -> Encoder:
        """The sentence encoder of ``index``, loaded once."""
        key = index.manifest["model"]["sha256"]
        with self._loading:
            if key not in self._encoders:
                self._encoders[key] = index.load_encoder()
            return self._encoders[key]

    def index(self, collection: str, model: str) -> GraceIndex:
        from grace_core.index import GraceIndex

        opened = self.collection(collection)
        manifest = opened.folder / model / "manifest.json"
        with self._opening:
            if model not in opened.models:
                raise GraceError(
                    f"{collection} has no finished index of {model!r}; there are: {', '.join(opened.models) or 'none'}"
                )
            stamp = manifest.stat().st_mtime_ns
            known = self._indexes.get((collection, model))
            if known is None or known[0] != stamp or known[1].collection is not opened:
                known = self._indexes[collection, model] = (stamp, GraceIndex(opened, model))
            return known[1]

    def geometry(self, collection: str, model: str) -> str:
        """The kind of an index's geometry by its manifest; raw if that cannot be read."""
        try:
            return read_json(self.root / collection / model / "manifest.json").get("geometry", {}).get("kind", "raw")
        except GraceError:
            return "raw"

    def behind(self, collection: str) -> dict[str, int]:
        """The models that lack documents of a collection, and how many (:mod:`grace_core.living`)."""
        try:
            return self.collection(collection).behind
        except GraceError:  # opening the index will report it
            return {}

    def average(self, index: GraceIndex, column: Column) -> np.ndarray:
        """The mean document vector ``(d,)`` of a column; its product with a query is the mean score of a document."""
        with self._opening:
            key = (index.collection.name, column)
            if key not in self._averages or self._averages[key][0] is not index:
                self._averages[key] = (index, index.vectors(column.pooling).mean(axis=0))
            return self._averages[key][1]

    def model_of(self, index: GraceIndex) -> GraceModel:
        """The model that built ``index``, loaded once and ready for several threads."""
        from grace_app.workspace.shared import share

        key = (
            index.manifest["model"]["sha256"],
            index.manifest["dtype"],
            json.dumps(asdict(index.settings), sort_keys=True),
        )
        if loaded := self._cached(key):
            return loaded
        with self._loading:
            return self._cached(key) or self._store(key, share(index.load_model(cache=self.cache())))

    def explainer(self, index: GraceIndex) -> Explainer:
        """The explainer of ``index``, with its cached token states."""
        from grace_core.explain import Explainer

        model = self.model_of(index)
        with self._opening:
            key = (index.collection.name, index.model_name)
            known = self._explainers.get(key)
            if known is None or known.index is not index or known.model is not model:
                known = self._explainers[key] = Explainer(index, model)
            return known

    def load(self, source: str) -> GraceModel:
        """A model by its demo name, folder or Hugging Face id, with its own settings; one that is in memory
        is not loaded again.
        """
        from grace_app.workspace.shared import share
        from grace_core.model import GraceModel

        folder = find_model(source)  # may download, so before the lock
        with self._loading:
            stamp = tuple(
                (path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.*"))
            )
            if (
                source in self._sources
                and self._sources[source][0] == stamp
                and (loaded := self._cached(self._sources[source][1]))
            ):
                return loaded
            model = GraceModel.from_pretrained(source, cache=self.cache())
            key = (model.fingerprint, model.dtype, json.dumps(asdict(model.settings), sort_keys=True))
            self._sources[source] = (stamp, key)
            return self._cached(key) or self._store(key, share(model))

    def named_model(self, name: str) -> GraceModel:
        """A demo model or a model of a collection, by its short name; never downloads."""
        if name in named_here():
            return self.load(name)
        for collection in self.collections():
            if name in self.collection(collection).models:
                return self.model_of(self.index(collection, name))
        raise GraceError(f"there is no model {name[:100]!r} here; there are: {', '.join(self.model_names()) or 'none'}")

    def model_names(self) -> list[str]:
        built = {model for name in self.collections() for model in self.collection(name).models}
        return sorted(built | set(named_here()))

    def known_source(self, name: str) -> str | None:
        """The id or path of the model with this short name, if it is a demo model or has a finished index."""
        if name in named_here():
            return name
        for collection in self.collections():
            manifest = self.root / collection / name / "manifest.json"
            if manifest.exists():
                return read_json(manifest).get("model_id")
        return None

    def grades(self, collection: str, query: str) -> dict[str, int] | None:
        """Document id to grade for a query that the collection's judgements know, else None."""
        judgements = self.collection(collection).judgements
        if judgements is None:
            return None
        normalised = " ".join(query.split()).casefold()
        for query_id, text in judgements.queries.items():
            if " ".join(text.split()).casefold() == normalised and query_id in judgements.qrels:
                return {document: grade for document, grade in judgements.qrels[query_id].items() if grade > 0}
        return None

    def examples(self, collection: str) -> list[str]:
        """A few short queries, always the same: of the test split if there is one; without judgements, titles of
        documents.
        """
        opened = self.collection(collection)
        judgements = opened.judgements
        pool: list[str] = []
        if judgements:
            judged = [query for query in judgements.queries if judgements.qrels.get(query)]
            test = [query for query in judged if judgements.splits.get(query) == "test"]
            pool = [judgements.queries[query] for query in test or judged]
        if not pool:
            pool = [document.title or document.text[:60] for document in opened.corpus.documents]
        fitting = list(
            dict.fromkeys(" ".join(text.split()) for text in pool if 12 <= len(" ".join(text.split())) <= 64)
        )
        fitting = fitting or list(dict.fromkeys(" ".join(text.split())[:64] for text in pool if text.strip()))
        step = max(1, len(fitting) // EXAMPLES)
        return fitting[: step * EXAMPLES : step]

    def cache(self):
        """The cache of representations: in memory, and on disk if possible."""
        from grace_app.workspace.shared import QueryCache
        from grace_core.cache import RepresentationCache

        with self._loading:
            if self._cache is None:
                try:
                    disk = RepresentationCache(self._cache_path)
                except GraceError as error:
                    log.warning("%s; going on without it", error)
                    disk = None
                self._cache = QueryCache(disk)
            return self._cache

    def warm_up(self) -> None:
        """Imports large libraries and opens the first collection in advance, so that the first search is fast."""
        try:
            import grace_core.index  # noqa: F401 - for its imports

            if self.collections():
                view = default_view(self)  # what a search of the first page opens
                self.model_of(self.index(view.collection, view.b.model)).encode(["warm up"], rationale=False)
        except Exception as error:
            log.warning("warming up failed: %s", error)

    def _cached(self, key: tuple[str, str, str]) -> GraceModel | None:
        with self._models_lock:
            return self._models.get(key)

    def _store(self, key: tuple[str, str, str], model: GraceModel) -> GraceModel:
        with self._models_lock:
            self._models[key] = model
        return model


def _other(name: Name) -> OtherColumn:
    return OtherColumn(name.id, name.label, any(part.rationale for part in getattr(name, "parts", ())))
