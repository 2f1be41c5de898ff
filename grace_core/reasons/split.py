"""A query by reasons: every score as a sum over reasons, and what more or less of a reason would do.

With q the query's vector, z the document's, c_s what sentence s adds to it (:mod:`grace_core.reasons.sentences`):

    score             q · z = sum over reasons r of q · (sum of c_s, s in r) + the same of text, template and sentences that say nothing
    above the corpus  q · z - q · m = sum over all of these of q · (what it adds to z - M_r), with M_r what it adds to the mean vector m
    steering          q' = (q + sum over i of a_i g_i) / L, with g_i a reason's direction, a_i the strength, L so that |q'| = 1
                      q' · z = q · z / L + sum over i of a_i g_i · z / L

All three are exact. Since q' is brought to length 1 a score stays a cosine; L is the same for all documents,
so it moves no rank. What is left between a sum and the score is rounding, and is returned as ``residual``. A
share is bookkeeping and no cause: what taking a reason out does is measured by
:mod:`grace_core.reasons.faithfulness`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grace_core.errors import GraceError
from grace_core.pooling import TEMPLATE, TEXT
from grace_core.ranking import dots
from grace_core.reasons.collection import OTHERS, Grouping

STRONGEST = 4.0  # of a steering, in lengths of the query


@dataclass(frozen=True)
class Split:
    """Scores ``(h,)`` of documents ``rows`` and their parts ``(h, r + 3)``: of each reason, then of OTHERS.
    ``usual`` ``(r + 3,)`` is what each part is on average over the collection."""

    rows: np.ndarray
    scores: np.ndarray
    parts: np.ndarray
    usual: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """What the parts leave of each score ``(h,)``."""
        return self.scores - self.parts.sum(axis=1)

    @property
    def above(self) -> np.ndarray:
        """The parts ``(h, r + 3)`` less what is usual: they add up to the score above that of the
        collection's mean vector.
        """
        return self.parts - self.usual

    def strongest(self, number: int = 10) -> list[int]:
        """The reasons, at most ``number``, that move these documents most, up or down: by the sum over them
        of ``|above|``.
        """
        moved = np.abs(self.above[:, : -len(OTHERS)]).sum(axis=0)
        return [int(r) for r in np.argsort(-moved, kind="stable")[:number] if moved[r] > 0]


def split_scores(grouping: Grouping, query: np.ndarray, rows: Sequence[int] | np.ndarray) -> Split:
    """The scores of documents ``rows`` for a query vector ``(d,)``, by reasons."""
    sentences, rows = grouping.sentences, np.asarray(rows, np.int64)
    index, asked, reasons = sentences.index, query.astype(np.float64), len(grouping)
    parts = np.zeros((len(rows), reasons + len(OTHERS)))
    whole = index.geometry.parts(index.sums[rows], index.counts[rows]) @ asked
    parts[:, reasons + OTHERS.index("text")], parts[:, reasons + OTHERS.index("template")] = (
        whole[:, TEXT],
        whole[:, TEMPLATE],
    )
    numbers = sentences.of_rows(rows)
    if len(numbers):
        label = grouping.labels[numbers]
        label = np.where(label < 0, reasons + OTHERS.index("no reason"), label)
        lengths = sentences.borders[rows + 1] - sentences.borders[rows]
        np.add.at(parts, (np.repeat(np.arange(len(rows)), lengths), label), sentences.vectors(numbers) @ asked)
    return Split(rows, index.scores(query, rows).astype(np.float64), parts, grouping.totals @ asked)


@dataclass(frozen=True)
class Steering:
    """A steered query: its ``vector`` ``(d,)`` fp32 of length 1, and ``length``, what it had before."""

    vector: np.ndarray
    length: float
    strengths: dict[int, float]
    query: np.ndarray
    directions: np.ndarray

    def parts(self, vectors) -> np.ndarray:
        """New scores of ``vectors`` ``(n, d)`` as parts ``(n, 1 + i)`` fp64: that of the query, then one of
        each steered reason.
        """
        parts = [dots(vectors, self.query, np.float64) / self.length]
        parts += [dots(vectors, self.directions[r], np.float64) * (a / self.length) for r, a in self.strengths.items()]
        return np.stack(parts, axis=1)


def steer(grouping: Grouping, query: np.ndarray, strengths: Mapping[int, float]) -> Steering:
    """The query vector ``(d,)`` with more (above 0) or less of some reasons; a strength is in lengths of the query.

    Raises GraceError for a reason that there is not, for a strength that is not finite or beyond STRONGEST,
    or if nothing of the query is left.
    """
    steered = query.astype(np.float64)
    for reason, strength in strengths.items():
        if not np.isfinite(strength) or abs(strength) > STRONGEST:
            raise GraceError(f"a strength is a number from -{STRONGEST:g} to {STRONGEST:g}, got {strength!r}")
        steered = steered + strength * grouping.directions[grouping.check(reason)]
    length = float(np.linalg.norm(steered))
    if length < 1e-6:
        raise GraceError("these strengths take away all of the query; choose weaker ones")
    vector = (steered / length).astype(np.float32)
    return Steering(vector, length, dict(strengths), query.astype(np.float64), grouping.directions)


def shares_of_hits(grouping: Grouping, queries: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, float]:
    """How much each reason, and each of OTHERS, adds to the scores of hits above the collection's mean: means
    ``(r + 3,)`` over ``queries`` ``(m, d)`` and their ``hits`` ``(m, k)``; and the mean of these scores,
    which they add up to."""
    total, scores = np.zeros(len(grouping) + len(OTHERS)), 0.0
    for query, rows in zip(queries, hits, strict=True):
        split = split_scores(grouping, query, rows)
        total += split.above.mean(axis=0)
        scores += float((split.scores - split.usual.sum()).mean())
    return total / len(queries), scores / len(queries)
