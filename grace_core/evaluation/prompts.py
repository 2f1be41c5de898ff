"""What a system prompt is worth: nDCG@10 of judged queries under each of several, with rationales and without,
all of them with the same limit of tokens.

A prompt shifts the states of every text, so each gets statistics of its own. As in a search of a fresh
collection they come from elsewhere: the mean over the *other* collections, from their sampled documents and
from unlabelled queries of another split than the one that is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.geometry import Sample, interval, score
from grace_core.evaluation.retrieval import Judged
from grace_core.geometry import Statistics, fit
from grace_core.model import GraceModel
from grace_core.pooling import RATIONALE, Pooling, Representations

POOLINGS = (Pooling.TEXT, Pooling.FULL)


@dataclass(frozen=True)
class Prompts:
    """The system prompts of documents and of queries."""

    documents: str
    queries: str


@dataclass(frozen=True)
class Sampled:
    """The judged queries and documents of a collection, and other queries of it, whose relevant documents are not used."""

    name: str
    judged: Judged
    unlabelled: Sequence[str]


def measure(
    model: GraceModel,
    collections: Sequence[Sampled],
    prompts: Sequence[Prompts],
    *,
    kind: str = "calibrated",
    batch_size: int = 64,
    progress: bool = False,
) -> dict:
    """A row for each of ``prompts``, ``{"prompts": [{"documents", "queries", "collections", "mean", "against_first",
    "tokens", "cut"}], "queries": {collection: n}}``.

    ``mean`` and, by collection, ``collections`` have the nDCG@10 by pooling ("text", "text+rationale"), and
    ``against_first`` the difference to the first row, paired by query; each with a 95 % interval that draws
    queries anew within each collection. ``tokens`` and ``cut`` are the mean length of a rationale and the share
    of those that ran into the limit, of queries and of documents.

    Raises GraceError for fewer than two collections, since each one's statistics come from the others.
    """
    if len(collections) < 2:
        raise GraceError(
            f"got {len(collections)} collection, expected at least 2: the statistics of each come from the others"
        )
    rows, first = [], {}
    for one in prompts:
        read = [_read(model, collection, one, batch_size=batch_size, progress=progress) for collection in collections]
        scores = _scores(collections, read, one, kind)
        first = first or scores
        apart = {name: {p: values - first[name][p] for p, values in by.items()} for name, by in scores.items()}
        row = {"documents": one.documents, "queries": one.queries, "mean": _over(scores), "against_first": _over(apart)}
        row["collections"] = {
            name: {pooling: interval([values]) for pooling, values in by.items()} for name, by in scores.items()
        }
        batches = {role: [by_role[role] for by_role in read] for role in ("queries", "documents")}
        row["tokens"] = {role: _mean([batch.counts[:, RATIONALE] for batch in some]) for role, some in batches.items()}
        row["cut"] = {role: _mean([batch.truncated for batch in some]) for role, some in batches.items()}
        rows.append(row)
    return {"prompts": rows, "queries": {one.name: len(one.judged.queries) for one in collections}}


def _read(model: GraceModel, collection: Sampled, prompts: Prompts, **options) -> dict[str, Representations]:
    """A collection's documents, queries and unlabelled queries under their prompts."""
    judged = collection.judged
    return {
        "documents": model.represent(list(judged.documents.values()), system=prompts.documents, **options),
        "queries": model.represent(list(judged.queries.values()), system=prompts.queries, **options),
        "unlabelled": model.represent(list(collection.unlabelled), system=prompts.queries, **options),
    }


def _scores(
    collections: Sequence[Sampled], read: Sequence[dict[str, Representations]], prompts: Prompts, kind: str
) -> dict[str, dict[str, np.ndarray]]:
    """nDCG@10 of every query, by collection and pooling."""
    sums = [{role: (batch.sums, batch.counts) for role, batch in by_role.items()} for by_role in read]
    statistics = [Statistics.of(one["documents"], one["unlabelled"], system=prompts.documents) for one in sums]
    scores = {}
    for i, (collection, one) in enumerate(zip(collections, sums, strict=True)):
        others = Statistics.average(statistics[:i] + statistics[i + 1 :])
        geometry = fit(kind, one["documents"], model=others)
        ids, qrels = list(collection.judged.documents), collection.judged.qrels
        sample = Sample(collection.name, one["documents"], one["queries"], ids, qrels)
        scores[collection.name] = {pooling.value: score(sample, geometry, pooling) for pooling in POOLINGS}
    return scores


def _over(scores: dict[str, dict[str, np.ndarray]]) -> dict[str, dict]:
    """The mean over collections, by pooling."""
    return {p.value: interval([by_pooling[p.value] for by_pooling in scores.values()]) for p in POOLINGS}


def _mean(values: Sequence[np.ndarray]) -> float:
    """The mean over collections of their means."""
    return round(float(np.mean([one.mean() for one in values])), 4)
