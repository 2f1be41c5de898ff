"""Evaluating columns on the judged queries of a collection: what is known of them, evaluating what is
missing, comparing two.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachetools import LRUCache

from grace_app.evaluate.view import FIRST, EvaluateView
from grace_app.workspace.jobs import Job
from grace_app.workspace.view import AnyColumn, OtherColumn
from grace_core.columns.names import BM25
from grace_core.errors import GraceError, Stopped
from grace_core.ranking import order

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from grace_app.workspace.state import Workspace
    from grace_core.collection import Collection
    from grace_core.columns.column import Column as OpenedColumn
    from grace_core.evaluation.retrieval import Retrieved
    from grace_core.index import GraceIndex
    from grace_core.readers import Judgements

log = logging.getLogger("app")
KEPT = 500  # columns that are no models, or within filters, whose evaluations are kept in memory
SMALLEST, LARGEST = 4, 64  # queries that are encoded between two reports
BEAT = 2.0  # seconds that one report should take
BM25_DOCUMENTS = 200_000  # in larger corpora BM25 would take minutes and much memory
LISTED = 8  # wins, and losses


@dataclass(frozen=True)
class Among:
    """How many documents (of passages, passages) satisfy a filter, and the judgements of these documents."""

    documents: int
    judgements: Judgements | None


def among(collection: Collection, where: str) -> Among:
    """With a filter only queries that one of its documents is relevant to are judged. Raises GraceError."""
    from grace_core.evaluation.retrieval import narrowed

    if not where or collection.judgements is None:
        return Among(collection.size, collection.judgements)
    left = narrowed(collection.corpus, collection.mask(where))
    return Among(len(left.documents), left.judgements)


def queries_of(judgements: Judgements | None, view: EvaluateView) -> dict[str, str]:
    """Id and text of the queries in the order in which they are evaluated: shuffled, always in the same way.

    So the first of them stand for all, and a part that was evaluated before somebody cancelled does too.
    Raises GraceError without any.
    """
    import numpy as np

    from grace_core.evaluation.retrieval import judged_queries

    try:
        judged = judged_queries(judgements, view.split or None)
    except GraceError:
        if not view.where:
            raise
        raise GraceError(
            "no judged query has a relevant document that satisfies the filter: widen it, or take another split"
        ) from None
    names = list(judged)
    order = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    return {name: judged[name] for name in (order[:FIRST] if view.first else order)}


class Evaluations:
    """What is known of every column, shared by all who use the explorer: as stored in the collections, and
    made since.
    """

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._known: dict[tuple[str, str], _Known] = {}
        # what is not stored from here: of columns that are no models, and of all within a filter; by collection, column and filter
        self._unstored: LRUCache[tuple[str, str, str], _Unstored] = LRUCache(KEPT)
        self._among: LRUCache[tuple[str, str], tuple[Collection, Among]] = LRUCache(KEPT)
        self._lexical: dict[str, tuple[Collection, dict[str, list[str]]]] = {}
        self._lock, self._lexical_lock = threading.RLock(), threading.Lock()

    def among(self, view: EvaluateView) -> Among:
        """What satisfies the filter of a view."""
        collection, key = self.workspace.collection(view.collection), (view.collection, view.where)
        with self._lock:
            known = self._among.get(key)
            if known is None or known[0] is not collection:
                known = self._among[key] = (collection, among(collection, view.where))
            return known[1]

    def known(self, collection: str, column: AnyColumn, where: str = "") -> tuple[dict[str, Retrieved], str]:
        """By query id, whatever split it is of; and what is wrong with the file that is stored, "" if nothing."""
        if where or isinstance(column, OtherColumn):
            with self._lock:
                unstored = self._unstored_of(collection, column, where)
                queries = self.workspace.collection(collection).judgements.queries
                rows = {name: row for name, row in unstored.rows.items() if queries.get(name) == row.query}
                return rows, unstored.problem
        index = self.workspace.index(collection, column.model)
        with self._lock:
            known = self._opened(index)
            return dict(known.rows[column.pooling]), known.problem

    def _unstored_of(self, collection: str, column: AnyColumn, where: str) -> _Unstored:
        """What was evaluated since what the column searches is as it is; on all documents also what
        `grace eval retrieval --save` has kept.
        """
        from grace_core.evaluation import stored

        opened = self.workspace.opened(collection, column)
        known = self._unstored.get((collection, column.id, where))
        if known is None or known.column is not opened:
            known = self._unstored[collection, column.id, where] = _Unstored(opened)
        stamp = 0 if where else _stamp(stored.path_of(opened))
        if known.stamp != stamp:
            known.stamp, known.problem = stamp, ""
            try:
                known.rows = stored.load_column(opened) | known.rows
            except GraceError as error:
                known.problem = str(error)
        return known

    def add_unstored(self, collection: str, column: AnyColumn, where: str, rows: dict[str, Retrieved]) -> None:
        with self._lock:
            known = self._unstored_of(collection, column, where)
            known.rows |= rows
            known.problem = ""  # of a file that is not needed any more

    def _opened(self, index: GraceIndex) -> _Known:
        from grace_core.evaluation import stored

        key, stamp = (index.collection.name, index.model_name), _stamp(stored.path_of(index))
        known = self._known.get(key)
        if known is None or known.index is not index:
            known = self._known[key] = _Known(index)
        if known.stamp != stamp:
            known.stamp, known.problem = stamp, ""
            try:
                for pooling, rows in stored.load(index).items():
                    known.rows[pooling] = rows | known.rows[pooling]
            except GraceError as error:
                known.problem = str(error)
        return known

    def add(self, index: GraceIndex, column: AnyColumn, rows: dict[str, Retrieved]) -> None:
        with self._lock:
            self._opened(index).rows[column.pooling].update(rows)

    def keep(self, index: GraceIndex) -> str:
        """Store what is known of ``index`` beside it; if that cannot be, why. It is kept in memory all the same."""
        from grace_core.evaluation import stored

        with self._lock:
            known = self._opened(index)
            try:
                stored.save(index, known.rows)
            except (GraceError, OSError) as error:
                log.warning("the evaluation of %s is kept in memory only: %s", index.folder, error)
                return "kept in memory only, as its folder cannot be written now"
            known.stamp, known.problem = _stamp(stored.path_of(index)), ""
            return ""

    def lexical(self, view: EvaluateView, queries: dict[str, str]) -> dict[str, list[str]] | None:
        """BM25's rankings of ``queries``, by id; None for a corpus too large for that."""
        from grace_core.evaluation.retrieval import bm25, judged_queries, retrieve_by

        name = view.collection
        collection = self.workspace.collection(name)
        if collection.size > BM25_DOCUMENTS:
            return None
        column = self.workspace.column(name, BM25)
        known = self.known(name, column, view.where)[0]
        missing = {one: queries[one] for one in queries if one not in known}
        if view.where and missing:
            rows = retrieve_by(self.workspace.opened(name, column), missing, where=view.where)
            self.add_unstored(name, column, view.where, rows)
            known |= rows
        if view.where or not missing:
            return {one: list(row.ranking) for one, row in known.items()}
        with self._lexical_lock:
            if name not in self._lexical or self._lexical[name][0] is not collection:
                self._lexical[name] = (collection, bm25(collection.corpus, judged_queries(collection.judgements)))
            return self._lexical[name][1]


def _stamp(path: Path) -> int:
    """When a file was written last; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


@dataclass
class _Unstored:
    column: OpenedColumn
    stamp: int = 0
    problem: str = ""
    rows: dict[str, Retrieved] = field(default_factory=dict)


@dataclass
class _Known:
    index: GraceIndex
    stamp: int = 0
    problem: str = ""
    rows: dict = field(init=False)

    def __post_init__(self):
        from grace_core.pooling import Pooling

        self.rows = {pooling: {} for pooling in Pooling}


@dataclass
class Comparison:
    """Both columns on the queries that all have been evaluated on, in one order.

    ``rows`` and ``values`` have one entry for each of ``view.columns``; summaries are None while there is no
    such query. ``table`` has the summary of every column by its id, ``pairs`` the paired difference of any
    two of these, the second less the first, where there are more than the two."""

    view: EvaluateView
    asked: int
    missing: int  # evaluations, of one query in one column, that are still to be made
    queries: dict[str, str]
    rows: list[dict[str, Retrieved]]
    values: list[dict[str, np.ndarray]]
    summaries: list[dict] | None
    difference: dict | None
    qrels: dict[str, dict[str, int]]
    documents: int = 0  # that are searched: those that satisfy the filter
    lexical: dict | None = None
    problems: list[str] = field(default_factory=list)
    table: dict[str, dict] = field(default_factory=dict)
    pairs: dict[tuple[str, str], dict] = field(default_factory=dict)

    @property
    def apart(self) -> np.ndarray:
        """B's nDCG@10 less A's, or of a single column its nDCG@10, by query."""
        own = self.values[0]["ndcg@10"]
        return self.values[1]["ndcg@10"] - own if len(self.values) > 1 else own


def compare(evaluations: Evaluations, view: EvaluateView, *, lexical: bool = True) -> Comparison:
    """What is known now; nothing is encoded.

    ``lexical`` adds BM25, which takes a while the first time. Raises GraceError.
    """
    from grace_core.evaluation.retrieval import difference, per_query, summary

    collection = evaluations.workspace.collection(view.collection)
    left = evaluations.among(view)
    asked, qrels = queries_of(left.judgements, view), (left.judgements or collection.judgements).qrels
    evaluated = [evaluations.known(view.collection, column, view.where) for column in view.every]
    missing = sum(name not in rows for rows, _ in evaluated for name in asked)
    queries = {  # in the order of the file, so that the resampling gives the same intervals as `grace eval retrieval`
        name: text
        for name, text in collection.judgements.queries.items()
        if name in asked and all(name in rows for rows, _ in evaluated)
    }
    rows = [{name: known[name] for name in queries} for known, _ in evaluated]
    values = [per_query({name: row.ranking for name, row in column.items()}, qrels) for column in rows]
    table = {column.id: summary(value) for column, value in zip(view.every, values, strict=True)} if queries else {}
    ids, pairs = list(table), {}
    if len(table) > 2:
        pairs = {
            (a, b): difference(values[ids.index(a)], values[ids.index(b)])
            for a in ids
            for b in ids
            if ids.index(a) < ids.index(b)
        }
    rows, values = rows[: len(view.columns)], values[: len(view.columns)]
    comparison = Comparison(
        view,
        len(asked),
        missing,
        queries,
        rows,
        values,
        summaries=[table[column.id] for column in view.columns] if queries else None,
        difference=difference(*values) if queries and len(values) > 1 else None,
        qrels=qrels,
        documents=left.documents,
        problems=list(dict.fromkeys(problem for _, problem in evaluated if problem)),
        table=table,
        pairs=pairs,
    )
    if lexical and (ranked := evaluations.lexical(view, queries or asked)) is not None:
        comparison.lexical = summary(per_query({name: ranked[name] for name in queries or asked}, qrels))
    return comparison


@dataclass
class Progress(Job):
    """How far an evaluation is, in queries times columns. ``state``: opening, evaluating, done or stopped.

    It is done while the page waits for it, and not in a thread of its own.
    """

    state: str = field(default="opening", kw_only=True)
    notes: tuple[str, ...] = ()


def evaluate(
    evaluations: Evaluations, view: EvaluateView, wanted: Callable[[], bool] = lambda: True
) -> Iterator[Progress]:
    """Evaluate what is missing, in all columns by turns, so that there is something to compare from the first
    report on.

    Stops between two decoding steps once it is not ``wanted`` any more. However it ends, what is done is
    kept. Raises GraceError.
    """
    from grace_core.evaluation.retrieval import retrieve, retrieve_by

    workspace = evaluations.workspace
    queries, where = queries_of(evaluations.among(view).judgements, view), view.where or None
    models = [column for column in view.every if not isinstance(column, OtherColumn)]
    indexes = {column: workspace.index(view.collection, column.model) for column in models}
    left = [
        [name for name in queries if name not in evaluations.known(view.collection, column, view.where)[0]]
        for column in view.every
    ]
    progress = Progress(total=sum(map(len, left)))
    yield progress

    def check() -> None:
        if not wanted():
            raise Stopped

    size, begun = SMALLEST, progress.total > 0
    try:
        while any(left):
            for column, names in zip(view.every, left, strict=True):
                some = names[:size]
                if not some:
                    continue
                started, asked = time.monotonic(), {name: queries[name] for name in some}
                if isinstance(column, OtherColumn):
                    check()
                    opened = workspace.opened(view.collection, column)
                    if progress.state == "opening":
                        progress.mark(0, progress.total)
                    rows = retrieve_by(opened, asked, where=where)
                    evaluations.add_unstored(view.collection, column, view.where, rows)
                else:
                    index, model = indexes[column], workspace.model_of(indexes[column])
                    if progress.state == "opening":
                        progress.mark(0, progress.total)
                    with model.engine.interrupted_by(check):
                        check()
                        rows = retrieve(index, model, asked, column.pooling, where=where, batch_size=LARGEST)
                    if where:
                        evaluations.add_unstored(view.collection, column, view.where, rows)
                    else:
                        evaluations.add(index, column, rows)
                del names[: len(some)]
                progress.state = "evaluating"
                progress.mark(progress.done + len(some), progress.total)
                if time.monotonic() - started < BEAT / 2:
                    size = min(LARGEST, 2 * size)
                elif time.monotonic() - started > BEAT * 2:
                    size = max(SMALLEST, size // 2)
            yield progress
        progress.state = "done"
    except Stopped:
        progress.state = "stopped"
    finally:
        if begun and progress.done and where:
            progress.notes = (
                "Evaluations within a filter are kept until the explorer ends; only those on all documents are stored.",
            )
        elif begun and progress.done:
            notes = {column.model: evaluations.keep(index) for column, index in indexes.items()}
            progress.notes = tuple(f"{model}: {note}" for model, note in notes.items() if note)
    yield progress


@dataclass(frozen=True)
class QueryRow:
    """One query as it stands in a list: nDCG@10, and both the best relevant document's rank among the first
    ten (None: not there) and the rationales, by column."""

    id: str
    query: str
    values: tuple[float, ...]
    written: tuple[str, ...]
    document: str
    title: str
    grade: int
    ranks: tuple[int | None, ...]
    rationales: tuple[str, ...]


def extremes(evaluations: Evaluations, comparison: Comparison) -> tuple[list[QueryRow], list[QueryRow]]:
    """The queries on which B gains most over A, and those on which it loses most; of a single column the
    worst ones, and none.
    """
    from grace_core.evaluation.retrieval import SAME

    if not comparison.queries:
        return [], []
    names, apart = list(comparison.queries), comparison.apart
    best, worst = order(apart).tolist(), order(-apart).tolist()
    if len(comparison.values) == 1:
        chosen = [i for i in worst if apart[i] < 1 - SAME][:LISTED], []
    else:
        chosen = [i for i in best if apart[i] > SAME][:LISTED], [i for i in worst if apart[i] < -SAME][:LISTED]
    wins, losses = ([_case(evaluations.workspace, comparison, names[i], i) for i in part] for part in chosen)
    return wins, losses


def _case(workspace: Workspace, comparison: Comparison, name: str, place: int) -> QueryRow:
    """The best relevant document is one of the highest grade: of these the one that either column ranks highest."""
    rankings = [rows[name].ranking for rows in comparison.rows]
    grades = {document: grade for document, grade in comparison.qrels[name].items() if grade > 0}
    document = min(
        grades, key=lambda d: (-grades[d], min((r.index(d) for r in rankings if d in r), default=len(grades) + 10))
    )
    there = workspace.collection(comparison.view.collection).documents.get(document)
    rationales = []
    for column in comparison.view.columns:
        if isinstance(column, OtherColumn):
            rationales.append("")
            continue
        index = workspace.index(comparison.view.collection, column.model)
        rationales.append(index.rationales[index.row[document]] if column.rationale and document in index.row else "")
    return QueryRow(
        name,
        comparison.queries[name],
        tuple(float(values["ndcg@10"][place]) for values in comparison.values),
        tuple(rows[name].rationale for rows in comparison.rows),
        document,
        (there.title or there.text[:80] if there else "") or document,
        grades[document],
        tuple(ranking.index(document) + 1 if document in ranking else None for ranking in rankings),
        tuple(rationales),
    )
