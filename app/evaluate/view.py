"""What the Evaluate tab shows, as it stands in the address: ``?tab=evaluate&on=&x=&y=&more=&split=&first=&among=``; the
events of its page; and the judged queries that the addresses of other tabs name.

Whatever comes from a browser is read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from grace_app.page.address import PARAMETERS
from grace_app.workspace.view import AnyColumn, View, check_query, default_view, short, texts_of
from grace_core.errors import GraceError

if TYPE_CHECKING:
    from grace_app.workspace.state import Workspace
    from grace_core.collection import Collection

BETWEEN, MORE = "|", 12  # columns in an address, and how many of them besides the two
FIRST = 100  # queries of the quick choice
ALL = "all"  # of the splits, and of the queries
SPLITS = ("test", "dev", "validation", "train")  # in the order in which they are offered, before others


@dataclass(frozen=True)
class EvaluateView:
    """A collection, two columns, which queries: of one split ("" for every one), the first ``FIRST`` of them or all.

    ``where`` is a filter (:mod:`grace_core.filters`) of the documents that are searched, or "".
    """

    collection: str
    a: AnyColumn
    b: AnyColumn
    split: str = ""
    first: bool = False
    more: tuple[AnyColumn, ...] = ()  # in the table only
    where: str = ""

    @property
    def columns(self) -> list[AnyColumn]:
        """The pair that is compared query by query."""
        return [self.a] if self.a == self.b else [self.a, self.b]

    @property
    def every(self) -> list[AnyColumn]:
        """The rows of the table."""
        return list(dict.fromkeys([*self.columns, *self.more]))

    def params(self) -> dict[str, str]:
        """The parameters of the address, as :func:`read_evaluate` takes them."""
        asked = {"tab": "evaluate", "on": self.collection, "x": self.a.id, "y": self.b.id, "split": self.split or ALL}
        asked |= {"more": BETWEEN.join(column.id for column in self.more)} if self.more else {}
        asked |= {"first": str(FIRST)} if self.first else {}
        return asked | ({"among": self.where} if self.where else {})


def read_evaluate(
    workspace: Workspace, params: Mapping[str, object], *, strict: bool = False
) -> tuple[EvaluateView, list[str]]:
    """The view that ``params`` ask for, and what is wrong with them; wrong parts stand at their default.

    ``strict`` raises the first problem instead. Raises GraceError if nothing is built.
    """
    asked = texts_of(params, PARAMETERS["evaluate"])
    problems = []
    start = default_view(workspace, asked["on"])
    if asked["on"] and asked["on"] != start.collection:
        problems.append(
            f"there is no collection {short(asked['on'])} here; there are: {', '.join(workspace.collections())}"
        )
        asked |= {"x": "", "y": "", "more": "", "split": "", "among": ""}
    splits = list(splits_of(workspace.collection(start.collection)))
    view = EvaluateView(start.collection, start.a, start.b, next((split for split in splits if split != ALL), ""))
    for name, key in (("a", "x"), ("b", "y")):
        try:
            view = replace(view, **({name: workspace.column(view.collection, asked[key])} if asked[key] else {}))
        except GraceError as error:
            problems.append(str(error))
    more = []
    for text in asked["more"].split(BETWEEN)[:MORE] if asked["more"] else []:
        try:
            more.append(workspace.column(view.collection, text))
        except GraceError as error:
            problems.append(str(error))
    view = replace(view, more=tuple(column for column in dict.fromkeys(more) if column not in view.columns))
    if asked["split"] in splits:
        view = replace(view, split="" if asked["split"] == ALL else asked["split"])
    elif asked["split"] and splits:
        problems.append(f"{view.collection} has no split {short(asked['split'])}; there are: {', '.join(splits)}")
    if asked["first"] in (str(FIRST), ALL, ""):
        view = replace(view, first=asked["first"] == str(FIRST))
    else:
        problems.append(f"first is {short(asked['first'])}, expected {FIRST}, or nothing for all queries")
    if where := asked["among"].strip():
        try:
            workspace.collection(view.collection).mask(where)
            view = replace(view, where=where)
        except GraceError as error:
            problems.append(str(error))
    if strict and problems:
        raise GraceError(problems[0])
    return view, problems


def read_judged(corpus: str, splits: Sequence[str], judged: str, queries: str, problems: list[str]) -> tuple[str, bool]:
    """The split that an address names ("" for all of them; the collection's first by default), and whether all its queries
    are meant. What does not fit is added to ``problems``.
    """
    split = next((name for name in splits if name != ALL), "")
    if judged in splits:
        split = "" if judged == ALL else judged
    elif judged and splits:
        problems.append(f"{corpus} has no split {short(judged)}; there are: {', '.join(splits)}")
    if queries not in ("", ALL, str(FIRST)):
        problems.append(f"queries is {short(queries)}, expected {FIRST} or {ALL}")
    return split, queries == ALL


def splits_of(collection: Collection) -> dict[str, int]:
    """How many judged queries every split has, and "all" of them; empty if there are none."""
    judgements = collection.judgements
    judged = (
        [name for name in judgements.queries if any(g > 0 for g in judgements.qrels.get(name, {}).values())]
        if judgements
        else []
    )
    if not judged:
        return {}
    counts: dict[str, int] = {}
    for name in judged:
        split = judgements.splits.get(name, "")
        counts[split] = counts.get(split, 0) + 1
    order = sorted(
        (split for split in counts if split),
        key=lambda split: (SPLITS.index(split) if split in SPLITS else len(SPLITS), split),
    )
    return {split: counts[split] for split in order} | {ALL: len(judged)}


def explore_view(workspace: Workspace, view: EvaluateView, data: object) -> View:
    """Explore's view of the query that an event of the page names, ``{"query": id}``.

    Raises GraceError if it does not fit.
    """
    name = data.get("query") if isinstance(data, dict) else None
    judgements = workspace.collection(view.collection).judgements
    if not isinstance(name, str) or not judgements or name not in judgements.queries:
        raise GraceError("the page sent an event that does not fit; reload the page")
    return View(view.collection, view.a, view.b, query=check_query(judgements.queries[name]), where=view.where)
