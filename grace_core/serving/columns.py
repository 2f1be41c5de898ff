"""The columns of the collection that is served (:mod:`grace_core.columns`), for ``/search`` and ``/explain``.

Names are those of the command line, but never a path: a client names what the collection has, and of its
models those that are served. Their queries are read by the batchers, together with those of other requests;
all else (BM25, sentence encoders, sums, ledgers) is computed in a few threads of its own.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from fastapi import Request

from grace_core.columns.column import Column
from grace_core.columns.kinds import EncoderColumn, GraceColumn
from grace_core.columns.listing import PREFIX, encoders, read_manifest, single_names
from grace_core.columns.names import Name, Single, parse, resolved
from grace_core.columns.opened import Columns
from grace_core.errors import GraceError
from grace_core.explain import Explainer
from grace_core.model import GraceModel, Representations
from grace_core.pooling import RATIONALE, Pooling
from grace_core.serving.errors import ApiError
from grace_core.serving.served import Served, usage
from grace_core.texts import is_blank

T = TypeVar("T")
THREADS = 4
KEPT = 256  # queries of which it is remembered what a model made of them


class ReadModel:
    """A model as the columns know it: what its batcher made of a query is not made again. ``keep`` hands that in.

    All else is the model's own, whose engine lets one forward at a time through."""

    def __init__(self, model: GraceModel):
        self._model, self._lock = model, Lock()
        self._kept: OrderedDict[tuple[str, bool], Representations] = OrderedDict()

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def keep(self, query: str, rationale: bool, read: Representations) -> None:
        with self._lock:
            self._kept[query, rationale] = read
            self._kept.move_to_end((query, rationale))
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def represent(self, texts: Sequence[str], *, rationale: bool = True) -> Representations:
        with self._lock:
            kept = self._kept.get((texts[0], rationale)) if len(texts) == 1 else None
        return self._model.represent(texts, rationale=rationale) if kept is None else kept


@dataclass(frozen=True)
class QueryRead:
    """What the models of a column made of a query, ``text_truncated`` if it is longer than one of its parts reads."""

    by_models: tuple[Representations, ...]
    text_truncated: bool

    def as_dict(self) -> dict:
        """The first rationale, whether it was cut off, whether the query was, and the tokens of all models."""
        written = next((one for one in self.by_models if one.counts[0, RATIONALE]), None)
        return {
            "rationale": "" if written is None else written.rationales[0],
            "truncated": written is not None and bool(written.truncated[0]),
            "text_truncated": self.text_truncated,
            "usage": {
                name: sum(usage(one)[name] for one in self.by_models) for name in ("prompt_tokens", "total_tokens")
            },
        }


class ServedColumns:
    """The columns over the collection of ``served``; :meth:`add` adds those of a model that is served beside it."""

    def __init__(self, served: Served):
        self.limits = served.limits
        self._served: dict[str, Served] = {}
        self._explainers: dict[str, Explainer] = {}
        self.collection = served.index.collection
        self._columns = Columns(
            self.collection,
            open_index=lambda name: self._served[name].index,
            explainer=lambda index: self._explainers[index.model_name],
            device=str(served.model.engine.device),
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="grace-columns")
        self.add(served)

    def add(self, served: Served) -> None:
        self._served[served.index.model_name] = served
        self._explainers[served.index.model_name] = Explainer(served.index, ReadModel(served.model))

    def close(self) -> None:
        self._threads.shutdown()

    async def run(self, function: Callable[..., T], *arguments) -> T:
        """The function's result from one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def open(self, named: str | Single) -> Column:
        """The column that a client named. Raises ApiError for what is no name, not there, or not served."""
        try:
            return await self.run(self._columns.open, self._canonical(named) if isinstance(named, str) else named)
        except GraceError as error:
            raise ApiError(400, str(error), param="column", code="invalid_value") from None

    def _canonical(self, text: str) -> Name:
        """As :meth:`Columns.canonical`, without looking for a name among paths."""
        name = Single("grace", text) if text in self.collection.models else parse(text)
        return resolved(name, self._resolved, text)

    def _resolved(self, single: Single) -> Single:
        """A single column by its name in the collection."""
        if single.kind == "bm25":
            return single
        if single.kind == "encoder":
            return Single("encoder", self._encoder(single))
        for name, served in self._served.items():
            if single.model in (name, served.model.name, served.model.source):
                has = served.index.default_pooling is Pooling.FULL
                if single.rationale and not has:
                    text_only = Single("grace", name, False).id
                    raise GraceError(f"{self.collection.name} was built without rationales by {name}; take {text_only}")
                return Single("grace", name, has if single.rationale is None else single.rationale)
        if single.model in self.collection.models:
            message = f"the column {single.id!r:.200} needs the model {single.model!r}, which is not served here"
            message += f"; start the server with --model {single.model} too"
            raise ApiError(404, message, param="column", code="model_not_found")
        raise self._lacks(single)

    def _encoder(self, single: Single) -> str:
        """The name of an encoder given by that name, or by the id that it was built from."""
        there = encoders(self.collection)
        if single.model in there:
            return single.model
        sources = {name: read_manifest(self.collection.folder / f"{PREFIX}{name}")["model_id"] for name in there}
        matching = [name for name, source in sources.items() if source == single.model]
        if len(matching) != 1:
            raise self._lacks(single)
        return matching[0]

    def _lacks(self, single: Single) -> ApiError:
        there = [
            name.id for name in single_names(self.collection) if name.kind != "grace" or name.model in self._served
        ]
        return ApiError(
            404,
            f"{self.collection.name} has no column {single.id!r:.200}; there are {', '.join(there)}, and fusions such as bm25+A",
            param="column",
            code="column_not_found",
        )

    async def read(self, request: Request, column: Column, query: str, *, truncate: bool) -> QueryRead:
        """What the models of a column make of a query, which its scores are then computed from.

        Raises ApiError for a query that is empty or too long for one of the parts, unless it may ``truncate``."""
        if is_blank(query):
            raise ApiError(400, "query: the text is empty: give a few words", param="query", code="invalid_value")
        if len(query) > self.limits.max_characters:
            message = f"query: the text has {len(query):,} characters, at most {self.limits.max_characters:,} are taken"
            raise ApiError(400, message, param="query", code="invalid_value")
        parts: list[Column] = getattr(column, "parts", [column])
        cut = [await self._cut(part, query, truncate) for part in parts if isinstance(part, EncoderColumn)]
        models = [part for part in parts if isinstance(part, GraceColumn)]
        by_models = await asyncio.gather(*(self._represent(request, part, query, truncate) for part in models))
        return QueryRead(tuple(by_models), any(cut) or any(one.text_truncated[0] for one in by_models))

    async def _cut(self, part: EncoderColumn, query: str, truncate: bool) -> bool:
        """Whether a sentence encoder reads less than the whole query."""
        (left_out,) = (await self.run(part.left_out, [query])).tolist()
        if left_out and not truncate:
            message = f"query: the text is longer than what {part.id} reads, by {left_out} tokens"
            message += '; shorten it, or send "truncate": true'
            raise ApiError(400, message, param="query", code="invalid_value")
        return left_out > 0

    async def _represent(self, request: Request, part: GraceColumn, query: str, truncate: bool) -> Representations:
        served, rationale = self._served[part.index.model_name], part.reads_rationale
        read = await served.represent(request, [query], ["query"], rationale=rationale, truncate=truncate)
        part.explainer.model.keep(query, rationale, read)
        return read
