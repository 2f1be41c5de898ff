"""What the Reasons tab asks of the server: reasons of a collection, one of them, and a query split and
steered by them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachetools import LRUCache

from grace_app.evaluate.view import splits_of
from grace_app.explore.results import render_empty
from grace_app.gate import runs_model
from grace_app.reasons.comparisons import Comparisons
from grace_app.reasons.jobs import ReasonsJob, find_reasons, refusal_to_write
from grace_app.reasons.render import Hits, render_hits, render_list, render_reason, render_summary, render_why_none
from grace_app.reasons.render_comparison import render_comparison, render_offer
from grace_app.reasons.view import ReasonsView, read_reasons
from grace_app.workspace.answers import server_functions
from grace_app.workspace.jobs import Jobs
from grace_app.workspace.state import Workspace
from grace_app.workspace.writing_models import models_of
from grace_core.errors import GraceError

if TYPE_CHECKING:
    import numpy as np

    from grace_core.index import GraceIndex
    from grace_core.reasons.collection import Grouping, Reasons

OPEN = 4  # reasons of models that are kept in memory
HITS = 100  # of a query, that are split by reasons
SHOWN = 20  # of these
DOCUMENTS = 20  # of a reason, that are shown at once


@dataclass(frozen=True)
class Opened:
    """The reasons of one model, and the documents' vectors ``(n, d)`` fp32."""

    reasons: Reasons
    vectors: np.ndarray

    @property
    def index(self) -> GraceIndex:
        return self.reasons.sentences.index


class ReasonsServer:
    """The functions that the page calls.

    Each takes one object and gives one back, ``{"error": sentence}`` if it cannot.
    """

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.jobs: Jobs[ReasonsJob] = Jobs()
        self.comparisons = Comparisons(workspace)
        self._opened: LRUCache[tuple[str, str], Opened] = LRUCache(OPEN)
        self._lock = threading.Lock()

    def functions(self) -> list[Callable]:
        return server_functions(
            {
                "reasons_open": self.open,
                "reasons_reason": self.reason,
                "reasons_ask": self.ask,
                "reasons_compare": self.compare,
                "reasons_make": self.make,
                "reasons_make_comparison": self.make_comparison,
                "reasons_progress": self.progress,
                "reasons_stop": self.stop,
            }
        )

    def of(self, corpus: str, model: str) -> Opened:
        """Raises GraceError if there are no reasons, or not of the index as it is now."""
        from grace_core.reasons.collection import open_reasons

        index = self.workspace.index(corpus, model)
        with self._lock:
            known = self._opened.get((corpus, model))
            if known is None or known.index is not index:
                known = self._opened[corpus, model] = Opened(open_reasons(index), index.vectors())
            return known

    def _find(self, job: ReasonsJob) -> None:
        find_reasons(self.workspace, job)
        self.of(job.corpus, job.model).reasons.at()

    def asked(self, data: dict) -> tuple[ReasonsView, Opened, Grouping]:
        """The view that a question is about, and the reasons that it names."""
        view, _ = read_reasons(self.workspace, data.get("view"), strict=True)
        opened = self.of(view.corpus, view.model)
        grouping = opened.reasons.at(view.size)
        for reason in [*([] if view.reason is None else [view.reason]), *dict(view.steer)]:
            grouping.check(reason)
        return view, opened, grouping

    def open(self, data: dict) -> dict:
        from grace_core.reasons.collection import have_reasons

        try:
            view, problems = read_reasons(self.workspace, data.get("view"))
        except GraceError as error:
            nothing = str(render_empty(message="" if not self.workspace.collections() else str(error)))
            return {"empty": True, "html": nothing, "view": {}, "problems": []}
        answer = {
            "empty": True,
            "view": view.params(),
            "problems": problems,
            "corpora": self.workspace.collections(),
            "models": models_of(self.workspace, view.corpus),
            "splits": splits_of(self.workspace.collection(view.corpus)),
            "sizes": [],
            "job": self._job(view),
        }
        if not view.model:
            return answer | {"html": str(render_why_none(view.corpus)), "offer": False}
        index = self.workspace.index(view.corpus, view.model)
        if not have_reasons(index):
            refusal = refusal_to_write(index, "reasons")
            none = render_why_none(view.corpus, view.model, len(index), index.sums.shape[2], refusal=refusal)
            return answer | {"html": str(none), "offer": not refusal}
        opened = self.of(view.corpus, view.model)
        view, problems = self._fitting(view, opened, problems)
        grouping = opened.reasons.at(view.size)
        return answer | {
            "empty": False,
            "view": view.params(),
            "problems": problems,
            "sizes": opened.reasons.sizes,
            "size": len(grouping),
            "names": [reason.name for reason in grouping.reasons],
            "list": str(render_list(grouping)),
            "summary": str(render_summary(opened.reasons, grouping)),
        }

    def _fitting(self, view: ReasonsView, opened: Opened, problems: list[str]) -> tuple[ReasonsView, list[str]]:
        """The view without what these reasons do not have, and what is wrong with it."""
        sizes = opened.reasons.sizes
        if view.size is not None and view.size not in sizes:
            problems.append(f"there are no {view.size} reasons; sizes are {', '.join(map(str, sizes))}")
            view = replace(view, size=None, reason=None, only=False, steer=())
        view = replace(view, size=opened.reasons.default_size if view.size is None else view.size)
        lost = [reason for reason in [view.reason, *dict(view.steer)] if reason is not None and reason >= view.size]
        if lost:
            problems.append(f"there is no reason {lost[0]}, there are 0 to {view.size - 1}")
            view = replace(view, reason=None, only=False, steer=())
        return view, problems

    def reason(self, data: dict) -> dict:
        view, _, grouping = self.asked(data)
        begin = data.get("begin")
        begin = begin if type(begin) is int and 0 <= begin < 10**7 else 0
        if view.reason is None:
            raise GraceError("the page sent an event that does not fit; reload the page")
        return {"html": str(render_reason(grouping, view.reason, begin, DOCUMENTS))}

    @runs_model
    def ask(self, data: dict) -> dict:
        view, opened, grouping = self.asked(data)
        if not view.ask:
            raise GraceError("the query is empty: type a few words")
        model = self.workspace.model_of(opened.index)
        query = opened.index.embed(model.represent([view.ask]))[0]
        return {"html": str(render_hits(view, grouping, hits_of(view, opened, grouping, query, self.workspace)))}

    @runs_model
    def make(self, data: dict) -> dict:
        view, _ = read_reasons(self.workspace, data.get("view"), strict=True)
        if not view.model:
            raise GraceError(f"no model of {view.corpus} wrote rationales, so there are no reasons in them")
        return {"job": self.jobs.begin(ReasonsJob(view.corpus, view.model), self._find).as_dict()}

    def compare(self, data: dict) -> dict:
        """What is known of the comparison that the view names, or what would be done to compare; ``offer``: whether
        that can be done.
        """
        view, _, grouping = self.asked(data)
        if not view.against:
            return {"html": "", "offer": False}
        if result := self.comparisons.known(view, grouping):
            return {
                "html": str(render_comparison(view, result, grouping.sentences.index.collection.documents)),
                "offer": False,
            }
        queries = len(self.comparisons.queries(view)) if splits_of(self.workspace.collection(view.corpus)) else 0
        refusal = self.comparisons.refusal(view)
        return {"html": str(render_offer(view, queries, refusal)), "offer": queries > 0 and not refusal}

    @runs_model
    def make_comparison(self, data: dict) -> dict:
        view, _, grouping = self.asked(data)
        if not view.against:
            raise GraceError("choose what the model is to be compared with")
        self.comparisons.queries(view)  # refuses at once where there are none

        def work(job: ReasonsJob) -> None:
            self.comparisons.compare(view, grouping, job)

        return {"job": self.jobs.begin(ReasonsJob(view.corpus, view.model, view.against), work).as_dict()}

    def _job(self, view: ReasonsView) -> dict | None:
        job = self.jobs.job
        mine = job and (
            job.state == "working" or (job.state != "done" and (job.corpus, job.model) == (view.corpus, view.model))
        )
        return job.as_dict() if mine else None

    def progress(self, data: dict) -> dict:
        return self.jobs.progress()

    def stop(self, data: dict) -> dict:
        self.jobs.cancel()
        return self.progress(data)


def hits_of(view: ReasonsView, opened: Opened, grouping: Grouping, query: np.ndarray, workspace: Workspace) -> Hits:
    """The first hits of a query, as it is steered, split by reasons; with the ranks that they had before."""
    import numpy as np

    from grace_core.ranking import dots, order
    from grace_core.reasons.split import split_scores, steer

    before = dots(opened.vectors, query)
    steering = steer(grouping, query, dict(view.steer)) if view.steer else None
    after = before if steering is None else dots(opened.vectors, steering.vector)
    ranked, old = order(after), np.empty(len(before), np.int64)
    old[order(before)] = np.arange(1, len(before) + 1)
    rows = ranked[:HITS]
    split = split_scores(grouping, query if steering is None else steering.vector, rows)
    places = np.arange(len(rows))
    if view.only and view.reason is not None:
        places = places[np.isin(rows, grouping.reasons[view.reason].documents)]
    kept = places[:SHOWN]
    return Hits(
        split,
        kept,
        len(places),
        old[rows],
        None if steering is None else steering.parts(opened.vectors[rows]),
        workspace.grades(view.corpus, view.ask) or {},
    )
