"""Retrieval quality on judged queries, with bootstrap intervals, and BM25 beside it.

For a query with grades g, ranks r = 1, 2, … and cut-off 10 (linear gains, as trec_eval):

    DCG@10 = sum over r <= 10 of g(r) / log2(r + 1)        nDCG@10 = DCG@10 / the best possible DCG@10
    Recall@10 = relevant among the first 10 / relevant     MRR@10 = 1 / rank of the first relevant among the first 10, else 0

A document is relevant if its grade is above 0. Intervals: 95 %, percentile bootstrap over queries; of a
difference, over the differences of the same queries (paired), so that how hard a query is for both does not
widen them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from grace_core import ann
from grace_core.columns.bm25 import Bm25
from grace_core.errors import GraceError
from grace_core.evaluation.bootstrap import ci95, of_items
from grace_core.index import GraceIndex
from grace_core.model import GraceModel
from grace_core.passages import group, numbered
from grace_core.pooling import Pooling
from grace_core.ranking import dots, order
from grace_core.readers import Corpus, Judgements
from grace_core.readers.chunked import parent_of

CUTOFF = 10
METRICS = ("ndcg@10", "recall@10", "mrr@10")
SAME = 1e-9  # two values of a metric that differ by less are equal: sums of logarithms in another order


@dataclass(frozen=True)
class Retrieved:
    """What one way to encode made of a query: the ids of the first ten documents, best first, and the
    rationale, "" without one.
    """

    query: str
    ranking: tuple[str, ...]
    rationale: str = ""
    truncated: bool = False


def per_query(rankings: Mapping[str, Sequence[str]], qrels: dict[str, dict[str, int]]) -> dict[str, np.ndarray]:
    """The three metrics of every query in ``rankings`` (ids, best first), each as an array in the order of
    ``rankings``.
    """
    discounts = 1 / np.log2(np.arange(2, CUTOFF + 2))
    values = {metric: np.zeros(len(rankings)) for metric in METRICS}
    for i, (query_id, ranking) in enumerate(rankings.items()):
        grades = {document: grade for document, grade in qrels[query_id].items() if grade > 0}
        if not grades:
            raise GraceError(
                f"query {query_id!r} has no relevant document, so its metrics are not defined; leave it out"
            )
        gains = np.array([grades.get(document, 0) for document in ranking[:CUTOFF]], dtype=float)
        ideal = np.array(sorted(grades.values(), reverse=True)[:CUTOFF], dtype=float)
        values["ndcg@10"][i] = gains @ discounts[: len(gains)] / (ideal @ discounts[: len(ideal)])
        values["recall@10"][i] = (gains > 0).sum() / len(grades)
        values["mrr@10"][i] = 1 / (np.argmax(gains > 0) + 1) if gains.any() else 0.0
    return values


def summary(values: dict[str, np.ndarray], *, seed: int = 0) -> dict:
    """Means and their intervals: ``{metric: mean, …, "ci95": {metric: [low, high]}, "queries": n}``."""
    number = len(next(iter(values.values())))
    return {
        **{metric: round(float(array.mean()), 4) for metric, array in values.items()},
        "ci95": {
            metric: [round(bound, 4) for bound in ci95(of_items(array, seed=seed))] for metric, array in values.items()
        },
        "queries": number,
    }


def difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray], *, seed: int = 0) -> dict:
    """As :func:`summary`, of b − a on the same queries in the same order, and on how many of them b's nDCG@10
    is ``better``, ``equal`` and ``worse``. Raises GraceError if they are not equally many."""
    if len(a["ndcg@10"]) != len(b["ndcg@10"]):
        raise GraceError(f"a paired difference needs the same queries, got {len(a['ndcg@10'])} and {len(b['ndcg@10'])}")
    apart = b["ndcg@10"] - a["ndcg@10"]
    counts = {"better": apart > SAME, "equal": abs(apart) <= SAME, "worse": apart < -SAME}
    return summary({metric: b[metric] - a[metric] for metric in a}, seed=seed) | {
        name: int(mask.sum()) for name, mask in counts.items()
    }


def summary_of_shares(rows: list[dict[str, float]], *, seed: int = 0) -> dict:
    """As :func:`summary`, for marks that not every row has: each mean and interval is over the rows that have
    the mark.
    """
    values = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values |= {name: summary({name: np.array([row[name] for row in rows if name in row])}, seed=seed)}
    return {
        **{name: value[name] for name, value in values.items()},
        "ci95": {name: value["ci95"][name] for name, value in values.items()},
        "queries": len(rows),
    }


def judged_queries(judgements: Judgements | None, split: str | None = None) -> dict[str, str]:
    """Queries with at least one relevant document, of one split if given. Raises GraceError if there are none."""
    if judgements is None:
        raise GraceError(
            "the dataset has no queries.jsonl and qrels, which an evaluation needs: build it from a folder that has them"
        )
    splits = set(judgements.splits.values())
    if split and split not in splits:
        there = ", ".join(sorted(splits)) or "no splits"
        raise GraceError(f"the dataset has no split {split!r}; it has {there}: give one of these, or none")
    chosen = {
        query_id: text
        for query_id, text in judgements.queries.items()
        if any(grade > 0 for grade in judgements.qrels.get(query_id, {}).values())
        and (not split or judgements.splits.get(query_id) == split)
    }
    if not chosen:
        what = f"no query{f' of split {split}' if split else ''} has a relevant document"
        raise GraceError(f"{what}, one with a grade above 0: add judgements to the corpus's qrels")
    return chosen


def narrowed(corpus: Corpus, mask: np.ndarray) -> Corpus:
    """The documents where ``mask`` ``(n,)`` is true, with the judgements of these, and the queries that one
    of them is relevant to.
    """
    documents = [document for document, left in zip(corpus.documents, mask, strict=True) if left]
    ids, judged = {parent_of(document) if corpus.chunk else document.id for document in documents}, corpus.judgements
    qrels = {query: {d: g for d, g in grades.items() if d in ids} for query, grades in judged.qrels.items()}
    qrels = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    queries = {query: text for query, text in judged.queries.items() if query in qrels}
    return replace(corpus, documents=documents, judgements=replace(judged, queries=queries, qrels=qrels))


@dataclass(frozen=True)
class Judged:
    """Some queries and documents of a corpus by id, and the relevant ones among these documents."""

    queries: dict[str, str]
    documents: dict[str, str]
    qrels: dict[str, dict[str, float]]

    @classmethod
    def sample(cls, corpus: Corpus, *, split: str | None, queries: int, documents: int) -> Judged:
        """At most this many judged queries, their relevant documents, and others up to this many documents;
        always the same ones.

        Raises GraceError if no query has a relevant document with a text.
        """
        judged = judged_queries(corpus.judgements, split)
        rng = Random(0)
        chosen = sorted(rng.sample(sorted(judged), min(queries, len(judged))))
        texts = {document.id: document.content for document in corpus.documents if document.content}
        qrels = {
            query: {d: g for d, g in corpus.judgements.qrels[query].items() if g > 0 and d in texts} for query in chosen
        }
        qrels = {query: grades for query, grades in qrels.items() if grades}
        if not qrels:
            raise GraceError(
                f"no query of split {split!r} has a relevant document with a text: choose another split, or add judgements"
            )
        needed = {document for grades in qrels.values() for document in grades}
        others = sorted(set(texts) - needed)
        needed |= set(rng.sample(others, min(len(others), max(0, documents - len(needed)))))
        return cls({query: judged[query] for query in qrels}, {d: texts[d] for d in sorted(needed)}, qrels)


def retrieve(
    index: GraceIndex,
    model: GraceModel,
    queries: dict[str, str],
    pooling: Pooling | None = None,
    *,
    where: str | None = None,
    batch_size: int = 64,
    progress=False,
) -> dict[str, Retrieved]:
    """The first ten documents for every query, ``{query id: Retrieved}``, and what the model wrote about it.

    ``where`` is a filter (:mod:`grace_core.filters`) of the documents, ``progress`` as in :meth:`GraceModel.represent`.
    """
    pooling = index.default_pooling if pooling is None else pooling
    representations = model.represent(
        list(queries.values()), rationale=pooling is Pooling.FULL, batch_size=batch_size, progress=progress
    )
    vectors = index.embed(representations, pooling)
    if index.collection.chunk is None:
        _, rows = index.search(vectors, CUTOFF, pooling=pooling, where=where)
    else:  # judgements are of whole documents
        rows = [
            [one.rows[0] for one in index.documents(vector, CUTOFF, pooling=pooling, where=where)] for vector in vectors
        ]
    return {
        query_id: Retrieved(query, tuple(index.document_ids[row] for row in ranking), rationale, bool(truncated))
        for (query_id, query), ranking, rationale, truncated in zip(
            queries.items(), rows, representations.rationales, representations.truncated, strict=True
        )
    }


def retrieve_by(column, queries: dict[str, str], *, where: str | None = None) -> dict[str, Retrieved]:
    """As :func:`retrieve`, by any column (:mod:`grace_core.columns.column`)."""
    texts = list(queries.values())
    if column.collection.chunk is None:
        _, rows = column.search(texts, CUTOFF, where=where)
    else:
        rows = [[one.rows[0] for one in groups] for groups in column.documents(texts, CUTOFF, where=where)]
    ids = column.collection.documents_of(column.ids)
    pairs = zip(queries.items(), rows, strict=True)
    return {query_id: Retrieved(query, tuple(ids[row] for row in ranking)) for (query_id, query), ranking in pairs}


def rankings_of(
    names: Sequence[str], queries: np.ndarray, ids: Sequence[str], documents: np.ndarray
) -> dict[str, list[str]]:
    """Rankings of the first ten documents for every query, from the vectors ``(m, d)`` and ``(n, d)`` of both.

    An id that several rows have, as those of passages, stands where the best of them does."""
    if len(set(ids)) < len(ids):
        numbers = numbered(ids)
        each = (group(dots(documents, query), np.arange(len(ids)), numbers, CUTOFF) for query in queries)
        return {name: [ids[one.rows[0]] for one in groups] for name, groups in zip(names, each, strict=True)}
    best = ann.exact(documents, queries, CUTOFF)[1]
    return {name: [ids[row] for row in rows] for name, rows in zip(names, best, strict=True)}


def evaluate_index(
    index: GraceIndex, model: GraceModel, queries: dict[str, str], pooling: Pooling | None = None, *, progress=False
) -> dict[str, list[str]]:
    """Rankings of the first ten documents for every query: ``{query id: [document id, …]}``."""
    return {
        query_id: list(row.ranking)
        for query_id, row in retrieve(index, model, queries, pooling, progress=progress).items()
    }


def bm25(corpus: Corpus, queries: dict[str, str]) -> dict[str, list[str]]:
    """Rankings by BM25 (:mod:`grace_core.columns.bm25`), the lexical baseline; ties in the order of the corpus."""
    documents = [document for document in corpus.documents if document.content]
    index = Bm25([document.content for document in documents])
    if corpus.chunk:
        ids, rows = [parent_of(document) for document in documents], np.arange(len(documents))
        groups = {
            query_id: group(index.scores(query), rows, numbered(ids), CUTOFF) for query_id, query in queries.items()
        }
        return {query_id: [ids[one.rows[0]] for one in ranked] for query_id, ranked in groups.items()}
    return {
        query_id: [documents[row].id for row in order(index.scores(query), CUTOFF)]
        for query_id, query in queries.items()
    }
