"""What the explorer shows, as it stands in the address: ``?collection=&a=&b=&k=&q=&doc=``.

Whatever comes back from a browser (an address, an event) is read here and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from grace_core.errors import GraceError
from grace_core.pooling import Pooling

SIZES = (5, 10, 20)
MAX_QUERY = 20_000  # characters
MAX_QUERY_IN_ADDRESS = 2_000  # servers cut off longer addresses
MAX_ID = 512
_UNPAIRED = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Column:
    """A model with or without its rationale: one way to encode."""

    model: str
    rationale: bool

    @property
    def id(self) -> str:
        return f"{self.model}:{'rationale' if self.rationale else 'text'}"

    @property
    def label(self) -> str:
        return f"{self.model} · {'with rationale' if self.rationale else 'text only'}"

    @property
    def pooling(self) -> Pooling:
        return Pooling.FULL if self.rationale else Pooling.TEXT


@dataclass(frozen=True)
class View:
    """A collection, two columns, how many neighbours, and, once asked, the query and the opened document."""

    collection: str
    a: Column
    b: Column
    k: int = 10
    query: str = ""
    doc: str = ""

    def asked(self) -> dict[str, str]:
        """Everything but the opened document, as :func:`read_view` takes it."""
        return {"collection": self.collection, "a": self.a.id, "b": self.b.id, "k": str(self.k), "q": self.query}

    def params(self) -> dict[str, str]:
        """The parameters of the address; without a query, or with one too long for an address, there are none."""
        if not self.query or len(self.query) > MAX_QUERY_IN_ADDRESS:
            return {}
        return self.asked() | ({"doc": self.doc} if self.doc else {})

    def json(self) -> str:
        """For the page's own events, which may hold a long query."""
        return json.dumps(self.asked())


def check_query(query: object) -> str:
    """The query without surrounding space and without characters that no tokenizer takes. Raises GraceError if it is empty or too long."""
    if not isinstance(query, str):
        raise GraceError(f"the query must be text, got {type(query).__name__}")
    query = _UNPAIRED.sub("\ufffd", query.replace("\x00", ""))
    if not query.strip():
        raise GraceError("the query is empty: type a few words, or pick an example")
    if len(query) > MAX_QUERY:
        raise GraceError(f"the query has {len(query):,} characters, at most {MAX_QUERY:,} are taken: shorten it")
    return query.strip()


def default_view(workspace, collection: str | None = None) -> View:
    """Text alone against text with rationale, for the first model. Raises GraceError if nothing is built."""
    names = workspace.collections()
    if not names:
        raise GraceError("there is no finished collection yet: build one in the Corpus tab")
    name = collection if collection in names else workspace.preferred if workspace.preferred in names else names[0]
    columns = workspace.columns(name)
    first = [column for column in columns if column.model == columns[0].model]
    return View(name, first[0], first[-1])


def read_view(workspace, params: Mapping[str, object], *, strict: bool = False) -> tuple[View, list[str]]:
    """The view that ``params`` ask for, and what is wrong with them; wrong parts stand at their default.

    ``strict`` raises the first problem instead. Raises GraceError if nothing is built.
    """
    problems: list[str] = []
    asked = {key: _plain(params.get(key)) for key in ("collection", "a", "b", "k", "q", "doc")}
    name = asked["collection"]
    view = default_view(workspace, name)
    if name and name != view.collection:
        problems.append(f"there is no collection {_short(name)} here; there are: {', '.join(workspace.collections())}")
    else:
        columns = {column.id: column for column in workspace.columns(view.collection)}
        for side in ("a", "b"):
            if asked[side] in columns:
                view = replace(view, **{side: columns[asked[side]]})
            elif asked[side]:
                problems.append(f"{view.collection} has no column {_short(asked[side])}; there are: {', '.join(columns)}")
    if asked["k"] in map(str, SIZES):
        view = replace(view, k=int(asked["k"]))
    elif asked["k"]:
        problems.append(f"k is {_short(asked['k'])}, expected one of {', '.join(map(str, SIZES))}")
    if asked["q"]:
        try:
            view = replace(view, query=check_query(asked["q"]))
        except GraceError as error:
            problems.append(str(error))
    if view.query and asked["doc"]:
        view = replace(view, doc=asked["doc"][:MAX_ID])
    if strict and problems:
        raise GraceError(problems[0])
    return view, problems


def _plain(value: object) -> str:
    return value.replace("\x00", "") if isinstance(value, str) else str(value) if isinstance(value, int) else ""


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:60] + "…")
