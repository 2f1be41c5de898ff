"""The state of the explorer in the address of the page:
``?collection=&a=&b=&k=&q=&where=&by=&doc=&why=&vs=&whatif=`` for the Explore tab,
``?tab=training&run=&of=&probe=&from=&step=`` for the Training tab.

Whatever comes back from a browser (an address, an event) is read here and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from grace_app.page.address import LONGEST, PARAMETERS
from grace_core.errors import GraceError
from grace_core.passages import BY
from grace_core.pooling import Pooling
from grace_core.sources import PACKAGES, shipped_adapters

SIZES = (5, 10, 20)
SIDES = ("a", "b")
PANELS = ("why", "whatif")  # of an opened document; each is about one column
MAX_QUERY = 20_000  # characters
MAX_ID = 524  # of a passage: the id of its document, and its number
COMPARED = 6  # training runs in the same curves, each with its own colour
_UNPAIRED = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Column:
    """A column of a model with an index, with or without its rationale."""

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
class OtherColumn:
    """A column that is no model with an index: BM25, a sentence encoder, a fusion (:mod:`grace_core.columns`).

    ``rationale``: whether it reads one, in one of its parts.
    """

    id: str
    label: str
    rationale: bool = False

    @property
    def model(self) -> str:
        return self.label


AnyColumn = Column | OtherColumn


@dataclass(frozen=True)
class View:
    """A collection, two columns, the number of hits, the query, and the opened document.

    ``where`` is a filter (:mod:`grace_core.filters`) of the documents, or "". ``by`` is what a document that is split
    ranks by, its "best" passage or the "sum" of its passages. ``panel`` ("why" or "whatif") is the open panel of the
    document, about the column ``side``; ``against`` is the document that "why" compares it with.
    """

    collection: str
    a: AnyColumn
    b: AnyColumn
    k: int = 10
    query: str = ""
    doc: str = ""
    panel: str = ""
    side: str = "a"
    against: str = ""
    where: str = ""
    by: str = "best"

    def asked(self) -> dict[str, str]:
        """The parameters of everything but the opened document, for :func:`read_view`."""
        params = {"collection": self.collection, "a": self.a.id, "b": self.b.id, "k": str(self.k), "q": self.query}
        params |= {"where": self.where} if self.where else {}
        return params | ({"by": self.by} if self.by != "best" else {})

    def opened(self) -> dict[str, str]:
        """The parameters of the opened document and its open panel, for :func:`read_view`."""
        if not self.doc:
            return {}
        panel = {self.panel: self.side} if self.panel else {}
        return {"doc": self.doc} | panel | ({"vs": self.against} if self.panel == "why" and self.against else {})

    def params(self) -> dict[str, str]:
        """The parameters of the address; without a query, or with one too long for an address, there are none."""
        if not self.query or len(self.query) + len(self.where) > LONGEST:
            return {}
        return self.asked() | self.opened()

    def json(self) -> str:
        """The parameters as JSON, for the page's events, in which a query may be long."""
        return json.dumps(self.asked())


def check_query(query: object) -> str:
    """The query without surrounding space and without characters that tokenizers reject.

    Raises GraceError if it is empty or too long.
    """
    if not isinstance(query, str):
        raise GraceError(f"the query must be text, got {type(query).__name__}")
    query = _UNPAIRED.sub("\ufffd", query.replace("\x00", ""))
    if not query.strip():
        raise GraceError("the query is empty: type a few words, or pick an example")
    if len(query) > MAX_QUERY:
        raise GraceError(f"the query has {len(query):,} characters, at most {MAX_QUERY:,} are taken: shorten it")
    return query.strip()


def check_by(collection, by: object) -> str:
    """``by`` if it is valid. Raises GraceError if it is neither "best" nor "sum", and for a sum without passages."""
    if not isinstance(by, str) or by not in BY:
        raise GraceError(
            f"by is {short(str(by))}, expected {' or '.join(BY)}: what of its passages a document ranks by"
        )
    if by == "sum" and collection.chunk is None:
        raise GraceError(f"{collection.name} is not split into passages, so there is no sum over them: leave by out")
    return by


def default_view(workspace, collection: str | None = None) -> View:
    """The view of a collection when it is first opened. Raises GraceError if nothing is built.

    It compares, with rationales, a real language model with its GRACE-trained adapter; if there is only the former,
    its text alone with text and rationale; else the first two models that write rationales; for a single model its
    text alone with text and rationale.
    """
    names = workspace.collections()
    if not names:
        raise GraceError("there is no finished collection yet: build one in the Corpus tab")
    name = collection if collection in names else workspace.preferred if workspace.preferred in names else names[0]
    columns = workspace.columns(name)
    writing = [column for column in columns if column.rationale]
    if real := [column for column in columns if column.model in PACKAGES]:
        trained = [column for column in writing if column.model in shipped_adapters()]
        return View(name, real[-1], trained[0]) if trained else View(name, real[0], real[-1])
    if len(writing) > 1:
        return View(name, writing[0], writing[1])
    first = [column for column in columns if column.model == (writing or columns)[0].model]
    return View(name, first[0], first[-1])


def read_view(workspace, params: Mapping[str, object], *, strict: bool = False) -> tuple[View, list[str]]:
    """The view of ``params``, and messages about invalid ones, which get their default.

    ``strict`` raises the first problem instead. Raises GraceError if nothing is built.
    """
    problems: list[str] = []
    asked = {key: _plain(params.get(key)) for key in PARAMETERS["explore"]}
    name = asked["collection"]
    view = default_view(workspace, name)
    if name and name != view.collection:
        problems.append(f"there is no collection {short(name)} here; there are: {', '.join(workspace.collections())}")
    else:
        for side in ("a", "b"):
            try:
                view = replace(view, **({side: workspace.column(view.collection, asked[side])} if asked[side] else {}))
            except GraceError as error:
                problems.append(str(error))
    if asked["k"] in map(str, SIZES):
        view = replace(view, k=int(asked["k"]))
    elif asked["k"]:
        problems.append(f"k is {short(asked['k'])}, expected one of {', '.join(map(str, SIZES))}")
    if asked["q"]:
        try:
            view = replace(view, query=check_query(asked["q"]))
        except GraceError as error:
            problems.append(str(error))
    if asked["where"].strip():
        try:
            workspace.collection(view.collection).mask(asked["where"].strip())
            view = replace(view, where=asked["where"].strip())
        except GraceError as error:
            problems.append(str(error))
    if asked["by"]:
        try:
            view = replace(view, by=check_by(workspace.collection(view.collection), asked["by"]))
        except GraceError as error:
            problems.append(str(error))
    if view.query and asked["doc"]:
        view = replace(view, doc=asked["doc"][:MAX_ID])
    for panel in PANELS:
        if asked[panel] and asked[panel] not in SIDES:
            problems.append(f"{panel} is {short(asked[panel])}, expected a or b, the column to explain")
        elif asked[panel] and view.doc and not view.panel:
            view = replace(view, panel=panel, side=asked[panel], against=asked["vs"][:MAX_ID] if panel == "why" else "")
    if strict and problems:
        raise GraceError(problems[0])
    return view, problems


def read_hit(workspace, data: object) -> tuple[View, dict]:
    """The view with the opened document of an event of the page, ``{"view": JSON, "doc": …}``, and the event.

    Raises GraceError for an invalid event.
    """
    data = data if isinstance(data, dict) else {}
    try:
        asked = json.loads(data.get("view") or "")
    except (ValueError, TypeError):
        asked = None
    if not isinstance(asked, dict) or not isinstance(data.get("doc"), str):
        raise GraceError("the page sent an event that does not fit; reload the page")
    return read_view(workspace, asked | {"doc": data["doc"]}, strict=True)[0], data


@dataclass(frozen=True)
class TrainingView:
    """The ticked runs, each at the place of its colour ("" is a free one), and the two evaluations of the run ``of``
    that are compared.

    Without ``start`` the left one is the first; without ``step`` the right one is the best so far, or the last
    if the first is the best.
    """

    runs: tuple[str, ...] = ()
    of: str = ""
    probe: int = 0
    start: int | None = None
    step: int | None = None

    @property
    def ticked(self) -> list[str]:
        return [name for name in self.runs if name]

    def params(self) -> dict[str, str]:
        """The parameters of the address. Runs are joined by slashes, which names of folders cannot contain."""
        params = {"tab": "training", "run": "/".join(self.runs)}
        params |= {"of": self.of} if self.of != next(iter(self.ticked), "") else {}
        params |= {"probe": str(self.probe + 1)} if self.probe else {}
        params |= {key: str(value) for key, value in (("from", self.start), ("step", self.step)) if value is not None}
        return params


def read_training(names: list[str], params: Mapping[str, object]) -> tuple[TrainingView, list[str]]:
    """The training view of an address among the runs ``names``, of which the first is the default; and messages
    about invalid parameters.
    """
    asked = {key: _plain(params.get(key)) for key in PARAMETERS["training"]}
    run_names = asked["run"].split("/")[:COMPARED] if asked["run"] else []
    problems = [f"there is no run {short(name)} here" for name in run_names if name and name not in names]
    runs = tuple(name if name in names and name not in run_names[:i] else "" for i, name in enumerate(run_names))
    numbers = {}
    for key in ("probe", "from", "step"):
        if asked[key].isascii() and asked[key].isdigit() and len(asked[key]) < 10:
            numbers[key] = int(asked[key])
        elif asked[key]:
            problems.append(f"{key} is {short(asked[key])}, expected a whole number")
    view = TrainingView(
        runs, asked["of"], max(0, numbers.get("probe", 1) - 1), numbers.get("from"), numbers.get("step")
    )
    return revalidated(view if view.ticked else replace(view, runs=tuple(names[:1])), names), problems


def change_training(view: TrainingView, names: list[str], data: object) -> TrainingView:
    """The view after an event of the page, ``{"set": …, "value": …}``. Raises GraceError for an invalid event."""
    data = data if isinstance(data, dict) else {}
    what, value = data.get("set"), data.get("value")
    if not isinstance(value, str) or what not in PARAMETERS["training"]:
        raise GraceError("the page sent an event that does not fit; reload the page")
    if what in ("run", "of"):
        if value not in names:
            raise GraceError(f"there is no run {short(value)} here any more")
        return revalidated(
            _tick(view, value) if what == "run" else replace(view, of=value, probe=0, start=None, step=None), names
        )
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise GraceError(f"{what} is {short(value)}, expected a whole number")
    return replace(view, **{{"from": "start"}.get(what, what): int(value)})


def _tick(view: TrainingView, name: str) -> TrainingView:
    """The view with ``name`` ticked or unticked; the other runs keep their places, and so their colours."""
    if name in view.runs:
        return replace(view, runs=tuple("" if run == name else run for run in view.runs))
    if len(view.ticked) == COMPARED:
        raise GraceError(f"at most {COMPARED} runs are compared: untick one first")
    places = list(view.runs) + [""] * (len(view.runs) < COMPARED)
    places[places.index("")] = name
    return replace(view, runs=tuple(places))


def revalidated(view: TrainingView, names: list[str]) -> TrainingView:
    """The view without runs that no longer exist; if ``of`` changes, probe and evaluations are reset."""
    runs = [name if name in names else "" for name in view.runs]
    while runs and not runs[-1]:
        runs.pop()
    ticked = [name for name in runs if name]
    if view.of in ticked:
        return replace(view, runs=tuple(runs))
    changed = {"probe": 0, "start": None, "step": None} if view.of else {}
    return replace(view, runs=tuple(runs), of=ticked[0] if ticked else "", **changed)


def _plain(value: object) -> str:
    return value.replace("\x00", "") if isinstance(value, str) else str(value) if isinstance(value, int) else ""


def texts_of(params: object, keys: Iterable[str]) -> dict[str, str]:
    """What ``params`` give for each of ``keys``; "" where that is no text."""
    given = params if isinstance(params, Mapping) else {}
    return {key: given[key].replace("\x00", "") if isinstance(given.get(key), str) else "" for key in keys}


def short(value: str) -> str:
    """A value quoted for a message, cut to 60 characters."""
    return repr(value if len(value) <= 60 else value[:60] + "…")
