"""What a geometry is worth: nDCG@10 of judged queries in each, with and without rationales, from the same part sums.

Three sources of the queries' mean are set side by side. *Model*: the model's own statistics of other
collections, as a fresh collection is searched. *Twenty*: these and twenty unlabelled queries of the
collection, which are left out of what is measured. *Own*: the measured queries themselves, the most that a
mean can give; it is known only after the queries have come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.bootstrap import ci95, of_groups
from grace_core.evaluation.retrieval import judged_queries, per_query, rankings_of
from grace_core.geometry import DEFAULT, KINDS, RAW, Geometry, Role, Statistics, Sums, fit
from grace_core.index import GraceIndex
from grace_core.model import GraceModel
from grace_core.pooling import Pooling

TWENTY = 20
DRAWS = 5  # of twenty queries


@dataclass(frozen=True)
class Sample:
    """A collection's documents, whose ids are ``ids``, and its judged queries, in the order of ``qrels``, as
    part sums and counts.
    """

    name: str
    documents: Sums
    queries: Sums
    ids: Sequence[str]
    qrels: dict[str, dict[str, float]]

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.qrels)


def sample(index: GraceIndex, model: GraceModel, *, split: str | None = None, limit: int | None = None) -> Sample:
    """The documents of an index with its judged queries, of one split or of all, the first ``limit`` of them."""
    judgements = index.collection.judgements
    queries = dict(list(judged_queries(judgements, split).items())[:limit])
    representations = model.represent(
        list(queries.values()), rationale=index.default_pooling is Pooling.FULL, progress=True
    )
    qrels = {query: judgements.qrels[query] for query in queries}
    return Sample(
        index.collection.name,
        (index.sums, index.counts),
        (representations.sums, representations.counts),
        index.document_ids,
        qrels,
    )


def score(judged: Sample, geometry: Geometry, pooling: Pooling, rows: np.ndarray | None = None) -> np.ndarray:
    """nDCG@10 of the sample's queries, or of some ``rows`` of them."""
    rows = np.arange(len(judged)) if rows is None else rows
    asked = geometry.vectors(judged.queries[0][rows], judged.queries[1][rows], pooling, Role.QUERY)
    names = list(judged.qrels)
    rankings = rankings_of(
        [names[row] for row in rows], asked, judged.ids, geometry.vectors(*judged.documents, pooling)
    )
    return per_query(rankings, judged.qrels)["ndcg@10"]


def columns_of(judged: Sample, model: Statistics | None, *, seed: int = 0) -> dict[str, np.ndarray]:
    """nDCG@10 ``(m,)`` of every query, by column: ``POOLING KIND SOURCE`` such as "text whitened model"; raw
    has no source.
    """
    columns = {}
    poolings = [pooling for pooling in Pooling if pooling is Pooling.TEXT or judged.documents[1][:, 2].any()]
    for pooling in poolings:
        columns[f"{pooling.value} raw"] = score(judged, RAW, pooling)
        for kind in KINDS[1:]:
            geometry = fit(kind, judged.documents, model=model)
            columns[f"{pooling.value} {kind} model"] = score(judged, geometry, pooling)
            columns[f"{pooling.value} {kind} own"] = score(judged, _with_mean_of(judged, geometry), pooling)
        if len(judged) >= 2 * TWENTY:
            columns[f"{pooling.value} {DEFAULT} twenty"] = _twenty(judged, model, pooling, seed)
    return columns


def _with_mean_of(judged: Sample, geometry: Geometry) -> Geometry:
    """The same geometry with the mean of the sample's own queries."""
    means = geometry.means.copy()
    means[0] = Statistics.of(judged.queries).means[1]
    return replace(geometry, means=means)


def _twenty(judged: Sample, model: Statistics | None, pooling: Pooling, seed: int) -> np.ndarray:
    """Each query's mean over the draws in which it is measured and not given; NaN for one that was given in all."""
    rng, count = np.random.default_rng(seed), len(judged)
    total, times = np.zeros(count), np.zeros(count)
    for _ in range(DRAWS):
        given = rng.choice(count, TWENTY, replace=False)
        rest = np.setdiff1d(np.arange(count), given)
        geometry = fit(
            DEFAULT, judged.documents, model=model, queries=(judged.queries[0][given], judged.queries[1][given])
        )
        total[rest] += score(judged, geometry, pooling, rest)
        times[rest] += 1
    return np.where(times > 0, total / np.maximum(times, 1), np.nan)


def interval(values: Sequence[np.ndarray], *, seed: int = 0) -> dict:
    """Mean over collections of the means over queries, with a 95 % interval that resamples queries within
    each collection.
    """
    values = [one[~np.isnan(one)] for one in values]
    if not all(len(one) for one in values):
        raise GraceError("a collection has no query to average over")
    mean = float(np.mean([one.mean() for one in values]))
    return {"mean": round(mean, 4), "ci95": [round(bound, 4) for bound in ci95(of_groups(values, seed=seed))]}


def compare(
    samples: Sequence[Sample],
    statistics: Callable[[str], Statistics | None],
    *,
    others: dict | None = None,
    seed: int = 0,
) -> dict:
    """The table: ``collections`` by name and column, ``mean`` over them, and ``differences`` of pairs of
    columns, paired by query.

    ``statistics`` gives the model's own statistics for a collection by name; ``others`` holds other
    retrievers' nDCG@10 by collection and name.
    """
    scores = {
        one.name: columns_of(one, statistics(one.name), seed=seed) | (others or {}).get(one.name, {}) for one in samples
    }
    columns = list(dict.fromkeys(name for by_column in scores.values() for name in by_column))
    pairs = [
        ("text calibrated model", "text raw"),
        ("text+rationale calibrated model", "text+rationale raw"),
        ("text+rationale calibrated model", "text calibrated model"),
        ("text+rationale whitened model", "text+rationale calibrated model"),
    ]
    result: dict = {"collections": {}, "mean": {}, "differences": {}}
    for one in samples:
        result["collections"][one.name] = {
            "queries": len(one),
            "documents": len(one.documents[0]),
            **{name: interval([values], seed=seed) for name, values in scores[one.name].items()},
        }
    for name in columns:
        if all(name in by_column for by_column in scores.values()):
            result["mean"][name] = interval([by_column[name] for by_column in scores.values()], seed=seed)
    for a, b in pairs:
        there = {
            name: by_column[a] - by_column[b] for name, by_column in scores.items() if a in by_column and b in by_column
        }
        if there:
            result["differences"][f"{a} - {b}"] = {
                "mean": interval(list(there.values()), seed=seed),
                **{name: interval([values], seed=seed) for name, values in there.items()},
            }
    return result
