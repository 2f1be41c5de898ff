"""Decides from a search by a query's text alone, which is cheap, whether to write a rationale for it.

    margin(q) = (s_1 - s_2) / (s_1 - s_k), with s the cosines of the first k = 10 documents for the text of q alone, in the same index
    a rationale is written where margin(q) < threshold

The margin is the lead of the first hit over the second, as a share of its lead over the tenth, so between 0 and
1 for any spread of a collection's cosines. If the first two hits are close, the ranking is uncertain, and a
rationale may help. The threshold is chosen on judged queries (:func:`choose`) and holds for one model only. All
functions but :func:`search` are pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grace_core.errors import GraceError
from grace_core.index import GraceIndex
from grace_core.model import GraceModel, Representations
from grace_core.pooling import Pooling

NEVER, ALWAYS = 0.0, 2.0  # thresholds: no margin is below 0, and none above 1
DEPTH = 10  # hits that a margin is computed from


@dataclass(frozen=True)
class Gate:
    """Queries whose margin is below ``threshold`` get a rationale."""

    threshold: float

    def writes(self, margins: np.ndarray) -> np.ndarray:
        """Whether each query gets a rationale: bool ``(n,)`` from margins ``(n,)``."""
        return np.asarray(margins) < self.threshold


@dataclass(frozen=True)
class Curve:
    """Every distinct gate, from never to always: ``thresholds``, the ``shares`` of queries with a rationale, and
    the mean ``values`` of a metric, each ``(t,)``."""

    thresholds: np.ndarray
    shares: np.ndarray
    values: np.ndarray


def margins(scores: np.ndarray) -> np.ndarray:
    """Margins ``(n,)`` of cosines ``(n, k)``, best first, of which the first DEPTH count.

    1 for fewer than three documents, whose order a rationale need not change; 0 where all cosines are equal.
    """
    scores = np.asarray(scores, dtype=np.float64)[:, :DEPTH]
    if scores.shape[1] < 3:
        return np.ones(len(scores))
    lead, reach = scores[:, 0] - scores[:, 1], scores[:, 0] - scores[:, -1]
    return np.where(reach > 0, lead / np.where(reach > 0, reach, 1), 0.0)


def curve(margin: np.ndarray, without: np.ndarray, written: np.ndarray) -> Curve:
    """The mean metric of each gate on judged queries, from their margins and a metric without and with a
    rationale, each ``(n,)``.

    Raises GraceError for no queries, or arrays of different lengths.
    """
    margin, without, written = (np.asarray(values, dtype=np.float64) for values in (margin, without, written))
    if not len(margin) or len(margin) != len(without) or len(margin) != len(written):
        raise GraceError(
            f"a gate is judged on at least one query, each with its margin and a value without and with a rationale; got {len(margin)}, "
            f"{len(without)} and {len(written)}"
        )
    distinct = np.unique(margin)
    thresholds = np.concatenate([[NEVER], (distinct[:-1] + distinct[1:]) / 2, [ALWAYS]])
    writes = margin[None] < thresholds[:, None]
    return Curve(thresholds, writes.mean(axis=1), np.where(writes, written[None], without[None]).mean(axis=1))


def choose(margin: np.ndarray, without: np.ndarray, written: np.ndarray, *, share: float = 0.5) -> Gate:
    """The gate with the best mean among those that give at most ``share`` of the queries a rationale; of equals
    the one with the fewest.
    """
    gates = curve(margin, without, written)
    allowed = np.flatnonzero(gates.shares <= share + 1e-9)
    return Gate(float(gates.thresholds[allowed[gates.values[allowed].argmax()]]))


def check_index(index: GraceIndex) -> None:
    """Raises GraceError for an index without rationales, which needs no gate."""
    if index.default_pooling is not Pooling.FULL:
        raise GraceError(f"{index.folder} was built without rationales, so that a query needs none; search it as it is")


@dataclass(frozen=True)
class Gated:
    """Cosines ``(n, k)`` and document rows ``(n, k)`` of queries, whether each ``wrote`` a rationale ``(n,)``, the
    ``margins`` ``(n,)``, and the representations of those that wrote, in their order."""

    scores: np.ndarray
    rows: np.ndarray
    wrote: np.ndarray
    margins: np.ndarray
    written: Representations


def search(
    index: GraceIndex,
    model: GraceModel,
    queries: Sequence[str],
    gate: Gate,
    k: int = 10,
    *,
    where: str | None = None,
    **options,
) -> Gated:
    """Searches an index with rationales, first for each query by its text, then again by text and rationale for
    those that the gate selects.

    ``options`` are those of :meth:`GraceModel.represent`. Raises GraceError for an index without rationales.
    """
    check_index(index)
    text_only = model.represent(queries, rationale=False, **options)
    scores, rows = index.search(index.embed(text_only, Pooling.TEXT), max(k, DEPTH), where=where)
    margin = margins(scores)
    wrote = gate.writes(margin)
    written = model.represent([query for query, writes in zip(queries, wrote, strict=True) if writes], **options)
    if wrote.any():
        scores[wrote], rows[wrote] = index.search(index.embed(written), max(k, DEPTH), where=where)
    return Gated(scores[:, :k], rows[:, :k], wrote, margin, written)
