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
        samples, statistics, written = [], [], {"queries": [], "documents": []}
        for collection in collections:
            read = {
                role: model.represent(list(texts), system=system, batch_size=batch_size, progress=progress)
                for role, texts, system in (
                    ("documents", collection.judged.documents.values(), one.documents),
                    ("queries", collection.judged.queries.values(), one.queries),
                    ("unlabelled", collection.unlabelled, one.queries),
                )
            }
            sums = {role: (batch.sums, batch.counts) for role, batch in read.items()}
            ids, qrels = list(collection.judged.documents), collection.judged.qrels
            samples.append(Sample(collection.name, sums["documents"], sums["queries"], ids, qrels))
            statistics.append(Statistics.of(sums["documents"], sums["unlabelled"], system=one.documents))
            for role, batches in written.items():
                batches.append(read[role])
        scores = {}
        for i, sample in enumerate(samples):
            others = Statistics.average(statistics[:i] + statistics[i + 1 :])
            geometry = fit(kind, sample.documents, model=others)
            scores[sample.name] = {pooling.value: score(sample, geometry, pooling) for pooling in POOLINGS}
        first = first or scores
        rows.append(
            {
                "documents": one.documents,
                "queries": one.queries,
                "collections": {
                    name: {pooling: interval([values]) for pooling, values in by_pooling.items()}
                    for name, by_pooling in scores.items()
                },
                "mean": _over(scores),
                "against_first": _over(
                    {name: {p: scores[name][p] - first[name][p] for p in scores[name]} for name in scores}
                ),
                **{name: {role: of(batches) for role, batches in written.items()} for name, of in _LENGTHS.items()},
            }
        )
    return {"prompts": rows, "queries": {sample.name: len(sample) for sample in samples}}


def _over(scores: dict[str, dict[str, np.ndarray]]) -> dict[str, dict]:
    """The mean over collections, by pooling."""
    return {p.value: interval([by_pooling[p.value] for by_pooling in scores.values()]) for p in POOLINGS}


def _tokens(batches: Sequence[Representations]) -> float:
    return round(float(np.mean([batch.counts[:, RATIONALE].mean() for batch in batches])), 2)


def _cut(batches: Sequence[Representations]) -> float:
    return round(float(np.mean([batch.truncated.mean() for batch in batches])), 4)


_LENGTHS = {"tokens": _tokens, "cut": _cut}
