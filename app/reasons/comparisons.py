"""Two models of a collection, or one and its text alone, compared by reasons as ``grace reasons --against`` does it, and
kept in memory once they are.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import LRUCache

from grace_app.evaluate.view import FIRST
from grace_app.reasons.jobs import ReasonsJob, refusal_to_write
from grace_app.reasons.view import ReasonsView
from grace_app.workspace.state import Workspace

if TYPE_CHECKING:
    from grace_core.index import GraceIndex
    from grace_core.reasons.collection import Grouping

KEPT = 8


@dataclass(frozen=True)
class Comparison:
    """What :mod:`grace_core.reasons.comparison` tells, of reasons of these and of this other index, which is the same one
    for a model and its text alone.
    """

    grouping: Grouping
    other: GraceIndex
    result: dict


class Comparisons:
    """The comparisons that were made, by what the view asks for; one of an index that has changed since is not known."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._kept: LRUCache[tuple, Comparison] = LRUCache(KEPT)
        self._lock = threading.Lock()

    def queries(self, view: ReasonsView) -> dict[str, str]:
        """The judged queries that a view compares over, by id. Raises GraceError if there are none."""
        from grace_core.evaluation.faithfulness import choose_queries
        from grace_core.evaluation.retrieval import judged_queries

        judged = judged_queries(self.workspace.collection(view.corpus).judgements, view.split or None)
        return choose_queries(judged, None if view.every else FIRST)

    def refusal(self, view: ReasonsView) -> str:
        """Why the view's columns cannot be compared here; "" if they can: the other's sentences are kept beside it."""
        from grace_core.reasons.sentences import have_sentences

        other = self._other(view)
        return "" if have_sentences(other) else refusal_to_write(other, "the sentences of its rationales")

    def known(self, view: ReasonsView, grouping: Grouping) -> dict | None:
        other = self._other(view)
        with self._lock:
            comparison = self._kept.get(_key(view, grouping))
        return (
            comparison.result if comparison and comparison.grouping is grouping and comparison.other is other else None
        )

    def compare(self, view: ReasonsView, grouping: Grouping, job: ReasonsJob) -> None:
        """Compare, and keep the outcome. Raises BuildStopped when the job is stopped, and GraceError."""
        from grace_core.reasons.comparison import compare_models, compare_text

        index, other = grouping.sentences.index, self._other(view)
        model, queries, qrels = self.workspace.model_of(index), self.queries(view), index.collection.judgements.qrels
        with model.engine.interrupted_by(job.check):
            if view.against_text:
                result = compare_text(grouping, model, queries, qrels, progress=job.mark_or_stop)
            else:
                other_model = self.workspace.model_of(other)
                with other_model.engine.interrupted_by(job.check):
                    result = compare_models(
                        grouping, model, other, other_model, queries, qrels, progress=job.mark_or_stop
                    )
        with self._lock:
            self._kept[_key(view, grouping)] = Comparison(grouping, other, result)

    def _other(self, view: ReasonsView) -> GraceIndex:
        return self.workspace.index(view.corpus, view.model if view.against_text else view.against)


def _key(view: ReasonsView, grouping: Grouping) -> tuple:
    return view.corpus, view.model, len(grouping), view.against, view.split, view.every
