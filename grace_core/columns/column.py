"""One way to search, explain and edit, whatever ranks: the base of all columns.

All columns of a collection have the same rows: its documents with a text, in the order of the corpus. Equal
scores stand in that order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from grace_core.collection import Collection
from grace_core.columns.bm25 import Bm25
from grace_core.columns.ledger import Ledger, block_lines
from grace_core.columns.names import Name
from grace_core.errors import GraceError
from grace_core.explain import Explanation
from grace_core.hits import Hit, hit_of
from grace_core.notebook import Hits
from grace_core.passages import Group, found_documents, numbered
from grace_core.ranking import order, rank
from grace_core.selection import Selection, Selections
from grace_core.texts import is_blank
from grace_core.token_states import SENTENCE_END
from grace_core.what_if import WhatIf


class Rows:
    """The documents of a collection that have a text, in the order of the corpus; or those of an index that
    lacks some of them.
    """

    def __init__(self, collection: Collection, ids: Sequence[str] | None = None):
        self.collection = collection
        self.ids = (
            [document.id for document in collection.corpus.documents if document.content] if ids is None else list(ids)
        )
        self.row = {document_id: row for row, document_id in enumerate(self.ids)}
        self.selections = Selections(self)

    def __len__(self) -> int:
        return len(self.ids)

    def text(self, row: int) -> str:
        return self.collection.documents[self.ids[row]].content

    @cached_property
    def bm25(self) -> Bm25:
        return Bm25([self.text(row) for row in range(len(self))])


@dataclass(frozen=True)
class Edit:
    """Another text or rationale of a document; None leaves it as it is."""

    text: str | None = None
    rationale: str | Sequence[int] | None = None


@dataclass(frozen=True)
class Removed:
    """A sentence of a document's text, the score without it, and what the score loses."""

    text: str
    score: float
    effect: float


class Column:
    """What ranks the documents of a collection.

    ``name`` is its canonical name, ``id`` the same as text. Methods raise GraceError.
    """

    reads_rationale = False

    def __init__(self, rows: Rows, name: Name):
        self.rows, self.name, self.collection = rows, name, rows.collection

    @property
    def id(self) -> str:
        return self.name.id

    @property
    def label(self) -> str:
        """What people read."""
        return self.name.label

    @property
    def ids(self) -> list[str]:
        return self.rows.ids

    @property
    def vectors(self) -> np.ndarray | None:
        """L2-normalised vectors ``(n, d)`` fp32 of the documents, whose products with a query's are the
        scores; None if it has none.
        """
        return None

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, document_id: str) -> int:
        if document_id not in self.rows.row:
            held = f"has no document {document_id[:80]!r} with a text"
            raise GraceError(f"{self.collection.folder} {held}; {self.collection.unknown(document_id)}")
        return self.rows.row[document_id]

    def scores_of(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        """Scores ``(n,)`` of all documents for each query in turn."""
        raise NotImplementedError

    def scores(self, query: str) -> np.ndarray:
        """Scores ``(n,)`` of all documents for a query."""
        return next(iter(self.scores_of([checked(query)])))

    def search(self, queries: Sequence[str], k: int = 10, *, where: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores ``(m, k)`` and rows ``(m, k)`` of the best ``k``, or of all that there are if these are
        fewer; ``where`` is a filter (:mod:`grace_core.filters`) of the documents, which moves no score."""
        queries, among = self._asked(queries, k, where)
        best = [self._best(scores, k, among) for scores in self.scores_of(queries)]
        return stacked(best, min(k, len(self if among is None else among)))

    def _asked(self, queries: Sequence[str], k: int, where: str | None) -> tuple[list[str], Selection | None]:
        if k < 1:
            raise GraceError(f"k must be at least 1, got {k}")
        return [checked(query) for query in queries], None if where is None else self.rows.selections.of(where)

    @staticmethod
    def _best(scores: np.ndarray, k: int, among: Selection | None) -> tuple[np.ndarray, np.ndarray]:
        if among is None:
            rows = order(scores, k)
        else:
            rows = among.rows[order(scores[among.rows], k)]
        return scores[rows], rows

    def documents(
        self, queries: Sequence[str], k: int = 10, *, where: str | None = None, by: str = "best"
    ) -> Iterator[list[Group]]:
        """The best ``k`` documents of each query by their passages: the ``best`` of each, or their ``sum``."""
        queries, among = self._asked(queries, k, where)
        rows = np.arange(len(self)) if among is None else among.rows
        for scores in self.scores_of(queries):
            yield found_documents(
                self.document_numbers,
                k,
                by,
                among=rows,
                scores_at=partial(np.take, scores),
                search=lambda count, scores=scores: self._best(scores, count, among),
            )

    @cached_property
    def document_numbers(self) -> np.ndarray:
        """The number of each row's document ``(n,)``, from 0."""
        return numbered(self.collection.documents_of(self.ids))

    def hits(self, query: str, k: int = 10, *, where: str | None = None, by: str = "best") -> list[Hit]:
        """The best ``k`` documents of one query; ``by`` as in :meth:`documents`."""
        if self.collection.chunk is not None:
            (groups,) = self.documents([query], k, where=where, by=by)
            return Hits(hit_of(group, place, self.hit, self.ids) for place, group in enumerate(groups, 1))
        scores, rows = self.search([query], k, where=where)
        return Hits(
            self.hit(int(row), place, float(score))
            for place, (score, row) in enumerate(zip(scores[0], rows[0], strict=True), 1)
        )

    def hit(self, row: int, place: int, score: float) -> Hit:
        return Hit(place, score, self.collection.documents[self.ids[row]], "", False, row)

    def explain(self, query: str, document_id: str) -> Ledger:
        """Why the document has its score."""
        raise NotImplementedError

    def edited(self, query: str, row: int, edits: Sequence[Edit]) -> list[tuple[float, bool]]:
        """The score that the document would have with each edit, and whether its text had no room; all others
        stay as they are.
        """
        raise NotImplementedError

    def scores_edited(self, query: str, row: int, edits: Sequence[Edit]) -> Iterator[np.ndarray]:
        """Scores ``(n,)`` of all documents, were one of them edited, for each edit in turn."""
        scores = self.scores(query)
        for score, _ in self.edited(query, row, edits):
            new = scores.copy()
            new[row] = score
            yield new

    def what_if(
        self, query: str, document_id: str, *, text: str | None = None, rationale: str | Sequence[int] | None = None
    ) -> WhatIf:
        """The document's score and rank with another text, or where the column reads rationales with another one."""
        row, query = self.row(document_id), checked(query)
        self._check_edit(text, rationale)
        old = self.scores(query)
        edit = Edit(None if text == self.rows.text(row) else text, rationale)
        (new,) = self.scores_edited(query, row, [edit])
        cut = edit.text is not None and self.cuts(edit.text)
        return moved(old, new, self.ids, row, cut=cut, rationale=rationale if isinstance(rationale, str) else "")

    def cuts(self, text: str) -> bool:
        """Whether a text is longer than the column reads."""
        return False

    def left_out(self, queries: Sequence[str]) -> np.ndarray:
        """How many tokens of each query have no room, ``(m,)``."""
        return np.zeros(len(queries), np.int64)

    def leave_one_out(self, query: str, document_id: str) -> list[Removed]:
        """The score without each sentence of the document's text in turn; a text of one sentence has nothing
        to leave out.
        """
        row, query = self.row(document_id), checked(query)
        score, spans = float(self.scores(query)[row]), sentence_spans(self.rows.text(row))
        text = self.rows.text(row)
        left = [(text[a:b].strip(), (text[:a] + text[b:]).strip()) for a, b in spans]
        left = [(sentence, rest) for sentence, rest in left if not is_blank(rest)]
        new = (
            [float(scores[row]) for scores in self.scores_edited(query, row, [Edit(rest) for _, rest in left])]
            if left
            else []
        )
        return [Removed(sentence, value, score - value) for (sentence, _), value in zip(left, new, strict=True)]

    def _check_edit(self, text: str | None, rationale) -> None:
        if text is not None and is_blank(text):
            raise GraceError("the edited text is empty, and an empty text has no score; leave at least a word")
        if rationale is not None and not self.reads_rationale:
            raise GraceError(f"{self.id} reads no rationale: edit the text, or take a column with one")


class VectorColumn(Column):
    """A column whose scores are cosines of vectors."""

    def embed(self, queries: Sequence[str]) -> np.ndarray:
        """Vectors ``(m, d)`` fp32 of queries."""
        raise NotImplementedError

    def average(self, query: str) -> float:
        """The cosine of a query with a document, on average."""
        return float(self.embed([checked(query)])[0].astype(np.float64) @ self.mean)

    @cached_property
    def mean(self) -> np.ndarray:
        """The mean vector ``(d,)`` of the documents."""
        return self.vectors.mean(axis=0)

    def why(self, query: str, rows: Sequence[int]) -> list[Explanation]:
        """The scores of some documents by pairs of sentences and by tokens.

        Raises GraceError where they do not split.
        """
        raise NotImplementedError

    def _ledger(self, explanation: Explanation, query: str, document_id: str, scores: np.ndarray) -> Ledger:
        place = rank(scores, self.row(document_id))
        return Ledger(
            self.id, query, document_id, explanation.score, place, block_lines(explanation), explanation=explanation
        )


def checked(query: str) -> str:
    """Raises GraceError for a query that is empty, or no text."""
    if not isinstance(query, str):
        raise GraceError(f"a query must be text, got {type(query).__name__}")
    if is_blank(query):
        raise GraceError("the query is empty: give a few words")
    return query


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text begin and end; together they are the text."""
    starts = [0, *(match.end() for match in SENTENCE_END.finditer(text) if 0 < match.end() < len(text))]
    starts = sorted(set(starts))
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


def moved(old: np.ndarray, new: np.ndarray, ids: Sequence[str], row: int, *, cut: bool, rationale: str) -> WhatIf:
    """What became of document ``row`` when all scores ``(n,)`` went from ``old`` to ``new``; of equal ones
    the earlier row stands above.
    """
    earlier = np.arange(len(old)) < row
    above = [np.flatnonzero((scores > scores[row]) | (scores == scores[row]) & earlier) for scores in (old, new)]
    passed, passed_by = np.setdiff1d(above[0], above[1]), np.setdiff1d(above[1], above[0])
    return WhatIf(
        rationale,
        float(new[row]),
        len(above[1]) + 1,
        float(old[row]),
        len(above[0]) + 1,
        [ids[i] for i in passed],
        [ids[i] for i in passed_by],
        cut,
    )


def stacked(best: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    if not best:
        return np.zeros((0, k)), np.zeros((0, k), np.int64)
    return np.stack([scores for scores, _ in best]), np.stack([rows for _, rows in best])
