"""What the Mend tab shows, as it stands in the address: ``?tab=mend&corpus=&model=&judged=&queries=&query=&document=``.

Whatever comes from a browser is read here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from grace_app.evaluate.view import ALL, FIRST, read_judged, splits_of
from grace_app.page.address import PARAMETERS
from grace_app.workspace.view import MAX_ID, short, texts_of
from grace_app.workspace.writing_models import read_model
from grace_core.errors import GraceError

MAX_RATIONALE = 20_000  # characters
MAX_NOTE = 500
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class MendView:
    """A collection, a model of it that writes, the judged queries that are replayed (those of ``split``, "" for all of
    them; ``FIRST`` at random unless ``every``), the failing query and the document that stand open.
    """

    corpus: str
    model: str
    split: str = ""
    every: bool = False
    query: str = ""
    doc: str = ""

    @property
    def most(self) -> int | None:
        """How many judged queries are replayed; None is all."""
        return None if self.every else FIRST

    def params(self) -> dict[str, str]:
        """As :func:`read_mend` takes it, and, with ``tab=mend``, as the address holds it."""
        return {
            "corpus": self.corpus,
            "model": self.model,
            "judged": self.split or ALL,
            "queries": ALL if self.every else "",
            "query": self.query,
            "document": self.doc,
        }


def read_mend(workspace, params: object, *, strict: bool = False) -> tuple[MendView, list[str]]:
    """The view that ``params`` ask for, and what is wrong with them; wrong parts stand at their default.

    ``strict`` raises the first problem instead. Raises GraceError if nothing is built.
    """
    asked = texts_of(params, PARAMETERS["mend"])
    problems: list[str] = []
    corpus, model = read_model(workspace, asked["corpus"], asked["model"], problems)
    if asked["corpus"] not in ("", corpus):
        asked = dict.fromkeys(PARAMETERS["mend"], "")
    collection = workspace.collection(corpus)
    split, every = read_judged(corpus, list(splits_of(collection)), asked["judged"], asked["queries"], problems)
    view = MendView(corpus, model, split, every)
    if asked["query"] and collection.judgements and asked["query"] in collection.judgements.queries:
        view = replace(view, query=asked["query"])
    elif asked["query"]:
        problems.append(f"{corpus} has no judged query {short(asked['query'])}")
    if asked["document"] and asked["document"][:MAX_ID] in collection.documents:
        view = replace(view, doc=asked["document"][:MAX_ID])
    elif asked["document"]:
        problems.append(f"{corpus} has no document {short(asked['document'])}")
    if strict and problems:
        raise GraceError(problems[0])
    return view, problems
