"""The columns of a collection by their names: what can be named there, and each opened once."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock

from grace_core.collection import Collection
from grace_core.columns.column import Column, Rows
from grace_core.columns.encoded import EncodedIndex, encoder_name
from grace_core.columns.encoder import Encoder
from grace_core.columns.fusion import RanksColumn, SumColumn
from grace_core.columns.kinds import Bm25Column, EncoderColumn, GraceColumn
from grace_core.columns.listing import read_name, single_names
from grace_core.columns.names import Name, Ranks, Single, Sum, resolved
from grace_core.errors import GraceError
from grace_core.explain import Explainer
from grace_core.files import read_json
from grace_core.index import GraceIndex


class Columns:
    """Opens columns by name, each once.

    ``open_index``, ``explainer`` and ``encoder`` give what a caller keeps of its own; by default an index, a
    model and an encoder are loaded when first asked for, to ``device``, with a ``cache`` of representations.
    ``rows`` are those of another one over the same collection, with its BM25. Safe to share between threads."""

    def __init__(
        self,
        collection: Collection,
        *,
        open_index: Callable[[str], GraceIndex] | None = None,
        explainer: Callable[[GraceIndex], Explainer] | None = None,
        encoder: Callable[[EncodedIndex], Encoder] | None = None,
        device: str | None = None,
        cache=None,
        rows: Rows | None = None,
    ):
        self.collection = collection
        self._device, self._cache, self._lock = device, cache, RLock()
        self._rows = rows
        self._opened: dict[str, Column] = {}
        self._kept: dict[tuple[str, str], object] = {}
        self._open_index = open_index or (lambda name: GraceIndex(self.collection, name))
        self._explainer, self._encoder = explainer or self._load_explainer, encoder or self._load_encoder

    @property
    def rows(self) -> Rows:
        with self._lock:
            self._rows = self._rows or Rows(self.collection)
            return self._rows

    def canonical(self, text: str) -> Name:
        """The column that ``text`` names, each model by its name in the collection, with or without its rationale.

        Nothing is opened.

        Raises GraceError for what cannot be read or is not there.
        """
        return resolved(read_name(self.collection, text), self._resolve, text)

    def _resolve(self, single: Single) -> Single:
        if single.kind == "bm25":
            return single
        if single.kind == "encoder":
            return Single(
                "encoder",
                encoder_name(self.collection, single.model) or EncodedIndex(self.collection, single.model).name,
            )
        model = self._model(single)
        has = read_json(self.collection.folder / model / "manifest.json").get("rationale", True)
        if single.rationale and not has:
            raise GraceError(
                f"{self.collection.folder}/{model} was built without rationales; take {Single('grace', model, False).id}"
            )
        return Single("grace", model, bool(has if single.rationale is None else single.rationale))

    def _model(self, single: Single) -> str:
        if single.model in self.collection.models:
            return single.model
        try:
            return GraceIndex.of_model(self.collection, single.model).model_name
        except GraceError as error:
            there = ", ".join(name.id for name in single_names(self.collection))
            raise GraceError(
                f"{error}; columns of {self.collection.name} are {there}, and fusions such as bm25+A"
            ) from error

    def open(self, text: str | Name) -> Column:
        """The column that a name or its text names.

        Raises GraceError as :meth:`canonical`, and for files that do not hold.
        """
        name = self.canonical(text) if isinstance(text, str) else text
        with self._lock:
            if name.id not in self._opened:
                self._opened[name.id] = self._make(name)
            return self._opened[name.id]

    def _make(self, name: Name) -> Column:
        if isinstance(name, Sum):
            return SumColumn(self.rows, name, [self.open(part) for part in name.parts])
        if isinstance(name, Ranks):
            return RanksColumn(self.rows, name, [self.open(part) for part in name.parts])
        if name.kind == "bm25":
            return Bm25Column(self.rows, name)
        if name.kind == "encoder":
            index = self._once("encoded", name.model, lambda: EncodedIndex(self.collection, name.model))
            return EncoderColumn(self.rows, name, index, self._encoder)
        index = self._once("index", name.model, lambda: self._open_index(name.model))
        rows = (
            self.rows if index.ids == self.rows.ids else Rows(self.collection, index.ids)
        )  # one that lacks the newest documents
        return GraceColumn(rows, name, index, self._explainer)

    def _load_explainer(self, index: GraceIndex) -> Explainer:
        def load() -> Explainer:
            return Explainer(index, index.load_model(device=self._device, cache=self._cache))

        return self._once("explainer", index.model_name, load)

    def _load_encoder(self, index: EncodedIndex) -> Encoder:
        return self._once("encoder", index.name, lambda: index.load_encoder(device=self._device))

    def _once(self, kind: str, name: str, make: Callable[[], object]):
        with self._lock:
            if (kind, name) not in self._kept:
                self._kept[kind, name] = make()
            return self._kept[kind, name]
