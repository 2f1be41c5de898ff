"""What the Mend tab asks of the server: why judged queries fail, what another rationale would change, and keeping it.

The judged queries are encoded a few at a time, at the page's request, so that leaving the page ends it; what was
encoded is in the cache. A mend is tried on the documents as they are stored, and kept as ``grace mend keep`` does it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import LRUCache

from grace_app.evaluate.view import splits_of
from grace_app.explore.results import render_empty
from grace_app.gate import runs_model
from grace_app.mending.render import (
    render_document,
    render_failing,
    render_failure,
    render_history,
    render_replay,
    render_sound,
)
from grace_app.mending.view import MAX_NOTE, MAX_RATIONALE, MAX_SEED, MendView, read_mend
from grace_app.page.html import join, tag
from grace_app.workspace.answers import server_functions
from grace_app.workspace.state import Workspace
from grace_app.workspace.writing_models import models_of
from grace_core.errors import GraceError

if TYPE_CHECKING:
    from grace_core.index import GraceIndex
    from grace_core.mend_layer import Content
    from grace_core.mending import Mender

OPEN = 3  # menders that are kept in memory
TRIED = 64  # tries that can still be kept
AT_ONCE = 8  # queries that are encoded together
BEAT = 1.0  # seconds that one request encodes for
STALE = "the collection was changed since that was tried; try it again"


@dataclass(frozen=True)
class Tried:
    """Another content of a document of ``index``, ready to be kept."""

    index: GraceIndex
    document: str
    kind: str
    content: Content


class MendServer:
    """The functions that the page calls.

    Each takes one object and gives one back, ``{"error": sentence}`` if it cannot.
    """

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._menders: LRUCache[tuple, tuple[GraceIndex, Mender]] = LRUCache(OPEN)
        self._tried: LRUCache[str, Tried] = LRUCache(TRIED)
        self._lock = threading.Lock()

    def functions(self) -> list[Callable]:
        return server_functions(
            {
                "mend_open": self.open,
                "mend_read": self.read,
                "mend_failing": self.failing,
                "mend_query": self.query,
                "mend_document": self.document,
                "mend_try": self.try_,
                "mend_keep": self.keep,
                "mend_revert": self.revert,
            }
        )

    def refusal(self, view: MendView) -> str:
        """Why nothing may be tried here; "" if it may."""
        from grace_core.mending import check_mendable

        if not view.model:
            return f"{view.corpus} has no rationales, so there is none to mend: build it with a model and its rationales in the Corpus tab."
        index = self.workspace.index(view.corpus, view.model)
        try:
            check_mendable(index)
        except GraceError as error:
            return str(error)
        if not splits_of(index.collection):
            return (
                f"{view.corpus} has no judged queries, and a mend is judged by replaying them: lay queries.jsonl and qrels beside the "
                "corpus and build it again. grace mend keep changes a rationale without them."
            )
        if self.workspace.open_to_all:
            return (
                "Others reach this explorer without a password, so nothing can be changed here: start it with --auth-file, or on this "
                "machine alone."
            )
        return ""

    def asked(self, data: dict) -> tuple[MendView, GraceIndex]:
        """The view that a question is about, where mending is allowed."""
        view, _ = read_mend(self.workspace, data.get("view"), strict=True)
        if refusal := self.refusal(view):
            raise GraceError(refusal)
        return view, self.workspace.index(view.corpus, view.model)

    def mender(self, view: MendView, index: GraceIndex) -> Mender:
        """The judged queries of a view with their scores, made once for what stands on the disk; its queries were encoded
        before (:meth:`read`), else they are now.
        """
        from grace_core.mending import Mender

        key = (view.corpus, view.model, view.split, view.every)
        with self._lock:
            known = self._menders.get(key)
        if known is None or known[0] is not index:
            mender = Mender(index, self.workspace.model_of(index), split=view.split or None, most=view.most)
            with self._lock:
                known = self._menders[key] = (index, mender)
        return known[1]

    def open(self, data: dict) -> dict:
        try:
            view, problems = read_mend(self.workspace, data.get("view"))
        except GraceError as error:
            nothing = str(render_empty(message="" if not self.workspace.collections() else str(error)))
            return {"html": nothing, "view": {}, "problems": [], "history": "", "refusal": True}
        refusal = self.refusal(view)
        answer = {
            "view": view.params(),
            "problems": problems,
            "corpora": self.workspace.collections(),
            "models": models_of(self.workspace, view.corpus),
            "splits": splits_of(self.workspace.collection(view.corpus)),
            "refusal": refusal,
            "history": "",
            "html": "",
        }
        if view.model:
            index = self.workspace.index(view.corpus, view.model)
            unkept = "" if refusal else refusal_to_keep(index)
            history = render_history(index, may_revert=not refusal and not unkept)
            answer["history"] = str(join(tag("p", unkept, class_="g-note") if unkept else None, history))
        return answer

    @runs_model
    def read(self, data: dict) -> dict:
        """Encode the next few judged queries, from number ``done`` on: ``{"done", "total"}``, equal at the end."""
        from grace_core.evaluation.faithfulness import choose_queries
        from grace_core.evaluation.retrieval import judged_queries

        view, index = self.asked(data)
        done = data.get("done")
        done = done if type(done) is int and done >= 0 else 0
        texts = list(
            choose_queries(judged_queries(index.collection.judgements, view.split or None), view.most).values()
        )
        model, until = self.workspace.model_of(index), time.monotonic() + BEAT
        while done < len(texts):
            model.represent(texts[done : done + AT_ONCE])
            done += AT_ONCE
            if time.monotonic() >= until:
                break
        return {"done": min(done, len(texts)), "total": len(texts)}

    @runs_model
    def failing(self, data: dict) -> dict:
        view, index = self.asked(data)
        return {"html": str(render_failing(self.mender(view, index), view.query))}

    @runs_model
    def query(self, data: dict) -> dict:
        """Why the view's query fails, and the two documents that decide it."""
        view, index = self.asked(data)
        mender = self.mender(view, index)
        if view.query not in mender.texts:
            raise GraceError(
                f"the query {view.query[:60]!r} is none of the {len(mender.queries)} that are replayed: choose all of them"
            )
        failure = mender.diagnose(mender.number(view.query))
        if failure is None:
            return {"html": str(render_sound(mender.texts[view.query]))}
        return {"html": str(render_failure(failure, mender.sentence_pair(failure), index))}

    def document(self, data: dict) -> dict:
        view, index = self.asked(data)
        if view.doc not in index.row:
            raise GraceError(f"{view.corpus} has no document {view.doc[:60]!r} with a rationale of {view.model}")
        return {"html": str(render_document(index, view.doc))}

    @runs_model
    def try_(self, data: dict) -> dict:
        """``{"view", "kind": edit, remove or regenerate, "rationale" or "seed"}`` of the view's document: what all judged
        queries would change by, and a ``token`` to keep it, "" where it cannot be kept.
        """
        view, index = self.asked(data)
        mender = self.mender(view, index)
        kind, row = data.get("kind"), mender.row(view.doc)
        if kind == "remove":
            content = mender.with_rationale(row, "")
        elif kind == "edit":
            content = mender.with_rationale(row, _text(data.get("rationale"), "rationale", MAX_RATIONALE))
        elif kind == "regenerate":
            seed = data.get("seed")
            if type(seed) is not int or not 0 <= seed <= MAX_SEED:
                raise GraceError(f"the seed is {str(seed)[:40]}, expected a whole number from 0 to {MAX_SEED:,}")
            content = mender.regenerated(row, seed=seed)
        else:
            raise GraceError("the page sent an event that does not fit; reload the page")
        kind = "remove" if not content.ids else kind
        changed, unkept = not content.equals(mender.content(row)), refusal_to_keep(index)
        token = secrets.token_urlsafe(12) if changed and not unkept else ""
        if token:
            with self._lock:
                self._tried[token] = Tried(index, view.doc, kind, content)
        context = {"changed": changed, "query": view.query, "refusal": unkept}
        html = str(render_replay(mender.replay(row, content), mender.texts, content, **context))
        return {"html": html, "token": token}

    def keep(self, data: dict) -> dict:
        """Make what was tried part of the collection: ``{"view", "token", "note"}``."""
        from grace_core import mends

        _, index = self.asked(data)
        token = data.get("token")
        with self._lock:
            tried = self._tried.get(token) if isinstance(token, str) else None
        if tried is None or tried.index is not index:
            raise GraceError(STALE)
        note = _text(data.get("note"), "note", MAX_NOTE)
        (mend,) = mends.keep(index, [mends.Change(tried.document, tried.kind, tried.content, note)])
        return {"mend": mend.id, "document": mend.document}

    def revert(self, data: dict) -> dict:
        """Take back a kept mend: ``{"view", "mend": id}``."""
        from grace_core import mends

        _, index = self.asked(data)
        if not isinstance(data.get("mend"), str):
            raise GraceError("the page sent an event that does not fit; reload the page")
        mend = mends.revert(index, data["mend"])
        return {"mend": mend.id, "document": mend.document}


def refusal_to_keep(index: GraceIndex) -> str:
    """Why a mend can be tried, and not kept or reverted; "" if it can."""
    from grace_core.mends import check_keepable

    try:
        check_keepable(index)
    except GraceError as error:
        return f"Nothing can be kept or reverted here, only tried: {error}."
    return ""


def _text(value: object, name: str, most: int) -> str:
    if not isinstance(value, str):
        raise GraceError("the page sent an event that does not fit; reload the page")
    if len(value) > most:
        raise GraceError(f"the {name} has {len(value):,} characters, at most {most:,} are taken: shorten it")
    return value.replace("\x00", "").strip()
