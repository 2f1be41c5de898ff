"""The weights of a fusion of two columns: chosen on one split of the queries, measured on another.

For a share w in steps of a tenth

    F_w(q, d) = w z_1(q, d) + (1 - w) z_2(q, d)

with z the standardised scores of :mod:`grace_core.columns.fusion`; w = 1 and w = 0 are either column alone. The
share with the best nDCG@10 on the first split is chosen, of equal ones the nearest to one half. With several
collections it is one share for all, by the mean of their means. On the second split the fusion that was chosen
stands beside either column, the sum without weights and reciprocal ranks, with its difference to either, paired
by query. Intervals: 95 %, percentile bootstrap over the queries of each collection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from grace_core.columns.column import Column
from grace_core.columns.fusion import reciprocal, standard, weighted
from grace_core.columns.names import Ranks, Single, Sum
from grace_core.errors import GraceError
from grace_core.evaluation.bootstrap import ci95, of_groups
from grace_core.evaluation.retrieval import CUTOFF, METRICS, per_query
from grace_core.passages import group
from grace_core.ranking import order

SHARES = tuple(round(step / 10, 1) for step in range(11))
RANKS = "ranks"  # among the ways to fuse, beside the shares

Values = dict[float | str, dict[str, np.ndarray]]  # of each way to fuse the metrics of every query


def named(way: float | str, first: Single, second: Single) -> Single | Sum | Ranks:
    """The column that a way to fuse is."""
    if way == RANKS:
        return Ranks((first, second))
    if way in (0.0, 1.0):
        return first if way else second
    return Sum(tuple(zip(_weights(way), (first, second), strict=True)))


def measure(
    first: Column,
    second: Column,
    queries: dict[str, str],
    qrels: dict[str, dict[str, int]],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Values:
    """The metrics of ``queries`` by every share and by reciprocal ranks. ``progress`` gets (done, all).

    Raises GraceError for columns over different documents."""
    if first.ids != second.ids:
        raise GraceError(
            f"{first.id} has {len(first):,} documents and {second.id} {len(second):,}, so their scores cannot be added; bring their "
            "indexes up to the corpus first"
        )
    ids = first.collection.documents_of(first.ids)
    rankings: dict[float | str, dict[str, list[str]]] = {way: {} for way in (*SHARES, RANKS)}
    texts = list(queries.values())
    scores = zip(queries, first.scores_of(texts), second.scores_of(texts), strict=True)
    for done, (query_id, one, other) in enumerate(scores, 1):
        for way, fused in _fused(one, other).items():
            rankings[way][query_id] = [ids[row] for row in _first(first, fused)]
        progress(done, len(queries))
    return {way: per_query(ranking, qrels) for way, ranking in rankings.items()}


def _fused(first: np.ndarray, second: np.ndarray) -> dict[float | str, np.ndarray]:
    """The scores ``(n,)`` of one query by every way to fuse."""
    scores, standards = (first, second), (standard(first), standard(second))
    sums = {share: weighted(_weights(share), scores, standards) for share in SHARES[1:-1]}
    return {0.0: second, **sums, 1.0: first, RANKS: reciprocal(scores)}


def _weights(share: float) -> tuple[float, float]:
    return (1.0, 1.0) if share == 0.5 else (share, round(1 - share, 1))


def _first(column: Column, scores: np.ndarray) -> Sequence[int]:
    """Rows of the first documents, by their best passages where they are split."""
    if column.collection.chunk is None:
        return order(scores, CUTOFF).tolist()
    return [one.rows[0] for one in group(scores, np.arange(len(scores)), column.document_numbers, CUTOFF)]


def choose(measured: Sequence[Values]) -> tuple[float, dict[float, float]]:
    """The best share, and the mean nDCG@10 of each, over collections."""
    means = {share: float(np.mean([one[share]["ndcg@10"].mean() for one in measured])) for share in SHARES}
    return max(SHARES, key=lambda share: (round(means[share], 9), -abs(share - 0.5), share)), means


def summary(groups: Sequence[dict[str, np.ndarray]]) -> dict:
    """The mean over collections of each metric, with its interval."""
    return {
        **{metric: round(float(np.mean([one[metric].mean() for one in groups])), 4) for metric in METRICS},
        "ci95": {
            metric: [round(bound, 4) for bound in ci95(of_groups([one[metric] for one in groups]))]
            for metric in METRICS
        },
        "queries": sum(len(one[METRICS[0]]) for one in groups),
    }


def difference(measured: Sequence[Values], way: float | str, other: float | str) -> dict:
    """As :func:`summary`, of one way to fuse less another, paired by query."""
    return summary([{metric: one[way][metric] - one[other][metric] for metric in METRICS} for one in measured])
