"""Several columns as one: a weighted sum of standardised scores, or of reciprocal ranks.

    sum     F(q, d) = sum over columns i of  w_i (s_i(q, d) - m_i) / v_i
    ranks   F(q, d) = sum over columns i of  1 / (60 + r_i(q, d))

with m_i and v_i the mean and the standard deviation of the scores s_i(q, ·) of this query over all documents
of the collection, also where a filter leaves some of them only, and r_i the rank among all documents, from 1
(Cormack, Clarke and Büttcher, SIGIR 2009). A column that gives all documents one score for a query, as BM25
does where none holds a word of it, has v_i = 0 and adds nothing.

For a given query the sum is affine in each s_i, so the parts of every s_i are parts of F, times w_i / v_i;
what is taken off, w_i m_i / v_i, is what an average document has in that column, and has a line of its own. A
reciprocal rank has no parts: its column's own ledger is opened beside it. Scores are fp64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from grace_core.columns.column import Column, Edit, Rows, checked
from grace_core.columns.ledger import AVERAGE, Ledger, Line
from grace_core.columns.names import Name, Ranks, Sum
from grace_core.errors import GraceError
from grace_core.hits import Hit
from grace_core.ranking import rank

CONSTANT = 60


class FusionColumn(Column):
    """What both fusions share. ``parts`` are the fused columns."""

    def __init__(self, rows: Rows, name: Name, parts: Sequence[Column]):
        super().__init__(rows, name)
        self.parts = list(parts)
        for part in self.parts:
            if part.ids != self.ids:
                remedy = f"`grace index update {self.collection.folder} --model {part.name.model}`"
                raise GraceError(
                    f"{part.id} has {len(part):,} of the {len(self):,} documents of {self.collection.name}, so its scores cannot be added "
                    f"to those of another column; bring up its index: {remedy}"
                )

    @property
    def reads_rationale(self) -> bool:
        return any(part.reads_rationale for part in self.parts)

    def hit(self, row: int, place: int, score: float) -> Hit:
        """With the rationale of the first part that reads one."""
        part = next((part for part in self.parts if part.reads_rationale), self.parts[0])
        return part.hit(row, place, score)

    def cuts(self, text: str) -> bool:
        return any(part.cuts(text) for part in self.parts)

    def left_out(self, queries: Sequence[str]) -> np.ndarray:
        """The most that one of the parts leaves out."""
        return np.max([part.left_out(queries) for part in self.parts], axis=0)

    def _own(self, part: Column, edits: Sequence[Edit]) -> list[Edit]:
        """The edits as far as a part reads them."""
        return [Edit(edit.text, edit.rationale if part.reads_rationale else None) for edit in edits]


class SumColumn(FusionColumn):
    """A weighted sum of standardised scores."""

    name: Sum

    @property
    def weights(self) -> list[float]:
        return [weight for weight, _ in self.name.terms]

    def scores_of(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        for scores in zip(*(part.scores_of(queries) for part in self.parts), strict=True):
            yield weighted(self.weights, scores, [standard(one) for one in scores])

    def scores_edited(self, query: str, row: int, edits: Sequence[Edit]) -> Iterator[np.ndarray]:
        """Means and deviations stay those of the documents as they are."""
        old = [part.scores(query) for part in self.parts]
        standards = [standard(one) for one in old]
        for new in zip(*(part.scores_edited(query, row, self._own(part, edits)) for part in self.parts), strict=True):
            yield weighted(self.weights, new, standards)

    def explain(self, query: str, document_id: str) -> Ledger:
        row, query = self.row(document_id), checked(query)
        scores = [part.scores(query) for part in self.parts]
        standards = [standard(one) for one in scores]
        fused, lines, notes, exact = weighted(self.weights, scores, standards), [], [], True
        for weight, part, own, (mean, deviation) in zip(self.weights, self.parts, scores, standards, strict=True):
            about = {
                "weight": weight,
                "score": float(own[row]),
                "rank": rank(own, row),
                "mean": mean,
                "standard deviation": deviation,
            }
            if not deviation:
                lines.append(Line(part.id, 0.0, "column", about=about))
                notes.append(f"{part.id} gives every document the same score, so it adds nothing")
                continue
            ledger, factor = part.explain(query, document_id), weight / deviation
            notes += [f"{part.id}: {note}" for note in ledger.notes]
            exact &= ledger.exact
            inside = (
                *(line.scaled(factor) for line in ledger.lines),
                Line("average document", -factor * mean, "average", AVERAGE),
            )
            lines.append(Line(part.id, factor * (float(own[row]) - mean), "column", about=about, parts=inside))
        return Ledger(
            self.id, query, document_id, float(fused[row]), rank(fused, row), tuple(lines), tuple(notes), exact
        )


class RanksColumn(FusionColumn):
    """A sum of reciprocal ranks."""

    name: Ranks

    def scores_of(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        return (reciprocal(scores) for scores in zip(*(part.scores_of(queries) for part in self.parts), strict=True))

    def scores_edited(self, query: str, row: int, edits: Sequence[Edit]) -> Iterator[np.ndarray]:
        """Those that the document passes in a part come one rank down there."""
        parts = (part.scores_edited(query, row, self._own(part, edits)) for part in self.parts)
        return (reciprocal(scores) for scores in zip(*parts, strict=True))

    def explain(self, query: str, document_id: str) -> Ledger:
        row, query = self.row(document_id), checked(query)
        scores = [part.scores(query) for part in self.parts]
        fused, lines = reciprocal(scores), []
        for part, own in zip(self.parts, scores, strict=True):
            ledger, place = part.explain(query, document_id), int(ranks(own)[row])
            about = {"rank": place, "score": ledger.score}
            lines.append(Line(part.id, 1 / (CONSTANT + place), "rank", about=about, opened=ledger))
        exact = all(line.opened.exact for line in lines)
        return Ledger(self.id, query, document_id, float(fused[row]), rank(fused, row), tuple(lines), exact=exact)


def standard(scores: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of one query's scores ``(n,)``; the deviation is 0 where they differ by
    rounding alone.
    """
    scores = scores.astype(np.float64)
    mean, deviation = float(scores.mean()), float(scores.std())
    return mean, deviation if deviation > 1e-7 * max(1.0, abs(mean)) else 0.0


def weighted(
    weights: Sequence[float], scores: Sequence[np.ndarray], standards: Sequence[tuple[float, float]]
) -> np.ndarray:
    """The weighted sum ``(n,)`` fp64 of several columns' scores ``(n,)`` for one query, by their means and deviations."""
    total = np.zeros(len(scores[0]))
    for weight, one, (mean, deviation) in zip(weights, scores, standards, strict=True):
        if deviation:
            total += weight * (one.astype(np.float64) - mean) / deviation
    return total


def reciprocal(scores: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of reciprocal ranks ``(n,)`` of several columns' scores ``(n,)`` for one query."""
    return sum(1 / (CONSTANT + ranks(one)) for one in scores)


def ranks(scores: np.ndarray) -> np.ndarray:
    """The rank of every document, from 1, by its score ``(n,)``; equal scores share the last of their ranks.

    So documents without any word of the query, which BM25 gives 0, are all at its end, and their order in the corpus moves nothing.
    """
    ascending = np.sort(scores)
    return len(scores) - np.searchsorted(ascending, scores, "left")
