"""Do reasons serve the queries that they are said to serve? Take one out of all documents, and see who loses.

A query is served by the reason that moves its first ten hits most: the largest sum over them of what it adds
above the corpus (:attr:`grace_core.reasons.split.Split.above`). For each reason that serves at least LEAST
queries, its sentences are taken out of every document, and all of these queries are ranked again:

    drop       nDCG@10 as it was less nDCG@10 without the reason, of a query that it serves
    matched    the same of another query, which it does not serve: one whose nDCG@10 was nearest, none twice for a reason if there
               are enough
    other      the drop of the served query if, of the same documents, as many other sentences are taken out, at random

    difference       drop less matched: the reason hurts its own queries more than others
    over_other       drop less other: and more than any sentences of the same documents would

with 95 % bootstrap intervals over the served queries; each query is served by one reason. ``stored``: the
sentences' states are taken out of the stored sums. That is exact for the pooled vector, but the sentences
behind a gap were written, and read, with it in place. ``encoded``: the rationale without the sentences goes
through the model again, as a reader would see it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.faithfulness import interval
from grace_core.evaluation.retrieval import CUTOFF, per_query, rankings_of
from grace_core.model import GraceModel
from grace_core.pooling import RATIONALE
from grace_core.reasons.collection import OTHERS, Grouping
from grace_core.reasons.split import split_scores

LEAST = 3  # queries that a reason serves


def evaluate_reasons(
    grouping: Grouping,
    model: GraceModel,
    queries: dict[str, str],
    qrels: dict[str, dict[str, int]],
    *,
    encode: bool = False,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> dict:
    """The measures of the module for judged ``queries`` by id, and those of every reason under ``reasons``;
    ``encode`` adds ``encoded``.

    Raises GraceError if no reason serves LEAST queries.
    """
    index = grouping.sentences.index
    report(f"{len(queries)} queries")
    asked = index.embed(model.represent(list(queries.values())))
    _, hits = index.search(asked, CUTOFF)
    serving = np.array([serving_reason(grouping, query, rows) for query, rows in zip(asked, hits, strict=True)])
    judge = _Judge(list(queries), asked, index.ids, qrels)
    vectors = index.vectors()
    before = judge.ndcg(vectors, np.arange(len(queries)))
    reasons = [r for r in range(len(grouping)) if (serving == r).sum() >= LEAST]
    if not reasons:
        raise GraceError(
            f"no reason serves {LEAST} of the {len(queries)} queries; give more queries, or a smaller number of reasons"
        )
    rng, rows = np.random.default_rng(seed), []
    for r in reasons:
        report(f"without {grouping.reasons[r].name}")
        served = np.flatnonzero(serving == r)
        matched = match(before, served, np.flatnonzero(serving != r), rng)
        mine = np.flatnonzero(grouping.labels == r)
        others = other_sentences(grouping, mine, rng)
        both = np.concatenate([served, matched])
        row = {
            "reason": r,
            "name": grouping.reasons[r].name,
            "documents": len(grouping.reasons[r].documents),
            "queries": len(served),
        }
        for kind in ("stored", "encoded") if encode else ("stored",):
            without = _without_encoded if kind == "encoded" else _without_stored
            after = judge.ndcg(_replaced(vectors, without(grouping, model, mine)), both)
            row[kind] = {
                "drop": (before[served] - after[: len(served)]).tolist(),
                "matched": (before[matched] - after[len(served) :]).tolist(),
                "other": (
                    before[served] - judge.ndcg(_replaced(vectors, without(grouping, model, others)), served)
                ).tolist(),
            }
        rows.append(row)
    result = {
        "queries": len(queries),
        "served": sum(row["queries"] for row in rows),
        "reasons": len(rows),
        "size": len(grouping),
        "seed": seed,
    }
    result["ndcg@10"] = interval(before)
    for kind in ("stored", "encoded") if encode else ("stored",):
        drop, matched, other = (
            np.concatenate([row[kind][name] for row in rows]) for name in ("drop", "matched", "other")
        )
        result[kind] = {
            "drop": interval(drop),
            "matched": interval(matched),
            "other": interval(other),
            "difference": interval(drop - matched),
            "over_other": interval(drop - other),
        }
        for row in rows:
            row[kind] = {name: round(float(np.mean(values)), 5) for name, values in row[kind].items()}
    return result | {"by_reason": rows}


def serving_reason(grouping: Grouping, query: np.ndarray, rows: np.ndarray) -> int:
    """The reason that moves these hits of a query most, above the corpus."""
    return int(split_scores(grouping, query, rows).above[:, : -len(OTHERS)].sum(axis=0).argmax())


def match(values: np.ndarray, served: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each of ``served`` one of ``others`` whose value is nearest, none twice unless there are too few;
    equal ones at random.
    """
    others, matched = rng.permutation(others), []
    if not len(others):
        raise GraceError(
            "one reason serves all queries, and there are no others to compare with; take a larger number of reasons"
        )
    free = np.ones(len(others), bool)
    for i in served:
        if not free.any():
            free[:] = True
        apart = np.where(free, np.abs(values[others] - values[i]), np.inf)
        place = int(apart.argmin())
        free[place] = False
        matched.append(others[place])
    return np.array(matched)


def other_sentences(grouping: Grouping, mine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many sentences as ``mine``, of the same documents at random, none of this reason; fewer where a
    document has no more.
    """
    sentences, chosen = grouping.sentences, []
    rows, numbers = np.unique(sentences.rows[mine], return_counts=True)
    own = set(mine.tolist())
    for row, number in zip(rows, numbers, strict=True):
        rest = [i for i in sentences.of(row) if i not in own and grouping.labels[i] >= 0]
        chosen += rng.permutation(rest)[:number].tolist()
    return np.array(sorted(chosen), np.int64)


class _Judge:
    """nDCG@10 of some of the queries, ranked among vectors of all documents."""

    def __init__(self, names: list[str], queries: np.ndarray, ids: list[str], qrels: dict[str, dict[str, int]]):
        self.names, self.queries, self.ids, self.qrels = names, queries, ids, qrels

    def ndcg(self, vectors: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        places, back = np.unique(chosen, return_inverse=True)
        rankings = rankings_of([self.names[i] for i in places], self.queries[places], self.ids, vectors)
        return per_query(rankings, self.qrels)["ndcg@10"][back]


def _replaced(vectors: np.ndarray, changed: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    replaced = vectors.copy()
    replaced[changed[0]] = changed[1]
    return replaced


def _without_stored(grouping: Grouping, model: GraceModel, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and new vectors of the documents that lose sentences, by subtraction from their sums."""
    sentences = grouping.sentences
    index, rows = sentences.index, np.unique(sentences.rows[gone])
    sums, counts = np.array(index.sums[rows], np.float64), np.array(index.counts[rows])
    owners = np.searchsorted(rows, sentences.rows[gone])
    np.subtract.at(sums[:, RATIONALE], owners, sentences.sums[gone])
    np.subtract.at(counts[:, RATIONALE], owners, sentences.counts[gone])
    sums[counts[:, RATIONALE] == 0, RATIONALE] = 0  # not what rounding leaves
    return rows, index.geometry.vectors(sums, counts)


def _without_encoded(grouping: Grouping, model: GraceModel, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same by another forward, over the tokens that are left."""
    sentences = grouping.sentences
    index, rows = sentences.index, np.unique(sentences.rows[gone])
    missing, texts, left = set(gone.tolist()), [], []
    for row in rows:
        ids = index.rationale_ids[row]
        kept = [i for i in sentences.of(row) if i not in missing]
        left.append(
            [token for i in kept for token in ids[sentences.starts[i] : sentences.starts[i] + sentences.counts[i]]]
        )
        texts.append(index.collection.documents[index.ids[row]].content)
    representations = model.represent_given(texts, left)
    return rows, index.geometry.vectors(representations.sums, representations.counts)
