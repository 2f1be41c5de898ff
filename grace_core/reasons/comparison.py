"""Two models by reasons: which gained and lost weight over a set of queries, and whether by words or by geometry.

The first model's reasons are the measure. The other model's sentences join them by being read: the first
model goes over every text with the other's rationale, and each sentence belongs to the reason whose direction
is nearest to its place. Three ways to rank:

    own      the first model with its own rationales, of queries and documents
    words    the first model with the other's rationales: what changes is what is said
    other    the other model with its own rationales: what changes now is what is made of it

The weight of a reason is its part of the first ten hits' scores above the corpus
(:func:`grace_core.reasons.split.shares_of_hits`) over all queries, as a share of these scores; weights add up
to 1 with those of text, template and sentences that say nothing. So the change of a reason is (words - own) +
(other - words), exactly. A query moved by words as far as its first ten hits differ between own and words,
and by geometry as far as they differ between words and other; ``moved`` names the larger of the two.

Both models must split a rationale into the same tokens: a base and what was trained of it do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import CUTOFF, per_query
from grace_core.geometry import Geometry, Role
from grace_core.index import GraceIndex
from grace_core.model import GraceModel, Representations
from grace_core.ranking import dots, order
from grace_core.reasons.collection import OTHERS, Grouping, add_up, unit
from grace_core.reasons.sentences import Sentences, find_sentences, sum_sentences
from grace_core.reasons.split import shares_of_hits

BLOCK = 128  # documents that are read at once
TELLING = 10  # queries that are told of


@dataclass(frozen=True)
class Reading:
    """What a split needs of an index, of documents that a model has read with rationales which need not be its own."""

    sums: np.ndarray
    counts: np.ndarray
    geometry: Geometry
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.sums)

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return dots(self.vectors[rows], query)


def compare_models(
    grouping: Grouping,
    model: GraceModel,
    other: GraceIndex,
    other_model: GraceModel,
    queries: dict[str, str],
    qrels: dict[str, dict[str, int]] | None = None,
    *,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict:
    """The measures of the module for ``queries`` by id; with ``qrels`` nDCG@10 of each of the three rankings, too.

    ``progress`` is called with a stage ("sentences", "reading" or "queries"), how much of it is done, and all of it;
    it may raise to end the comparison. ``by_query`` of the result has every query, ``telling`` those that moved most.
    Raises GraceError for indexes of other documents, for models of other tokenizers, or an index without rationales.
    """
    index = grouping.sentences.index
    if index.ids != other.ids:
        raise GraceError(f"{index.folder} and {other.folder} hold other documents; compare models over one collection")
    if model.tokenizer.get_vocab() != other_model.tokenizer.get_vocab():
        raise GraceError(
            f"{model.name} and {other_model.name} split texts into other tokens; compare a base and what was trained of it"
        )
    theirs = find_sentences(other, other_model, progress=lambda done, total: progress("sentences", done, total))
    read = _read(index, theirs, model, progress)
    labels = _nearest(grouping, read)
    words, others = _grouped(grouping, read, labels), _grouped(grouping, theirs, labels)
    texts = list(queries.values())

    def asked_of(asking: GraceModel, first: int) -> Representations:
        return asking.represent(texts, progress=lambda done, _: progress("queries", first + done, 2 * len(texts)))

    own_asked, other_asked = asked_of(model, 0), asked_of(other_model, len(texts))
    worded = model.represent_given(texts, other_asked.rationale_ids)
    ways = {
        "own": (grouping, index.embed(own_asked), index.vectors()),
        "words": (words, index.geometry.vectors(worded.sums, worded.counts, role=Role.QUERY), read.index.vectors),
        "other": (others, other.embed(other_asked), other.vectors()),
    }
    hits = {
        name: np.stack([order(dots(vectors, query), CUTOFF) for query in asked])
        for name, (_, asked, vectors) in ways.items()
    }
    weights = {}
    for name, (made, asked, _) in ways.items():
        shares, mean = shares_of_hits(made, asked, hits[name])
        weights[name] = shares / mean
    reasons = [
        {
            "number": reason.number,
            "name": reason.name,
            **{name: float(weights[name][reason.number]) for name in ways},
            "change": float(weights["other"][reason.number] - weights["own"][reason.number]),
            "by_words": float(weights["words"][reason.number] - weights["own"][reason.number]),
            "by_geometry": float(weights["other"][reason.number] - weights["words"][reason.number]),
        }
        for reason in grouping.reasons
    ]
    moved = [_moved(query_id, text, i, hits, index.ids) for i, (query_id, text) in enumerate(queries.items())]
    made = {"model": index.model_name, "against": other.model_name, "queries": len(queries)}
    made["others"] = {name: dict(zip(OTHERS, weights[name][len(grouping) :].tolist(), strict=True)) for name in ways}
    if qrels is not None:
        for name in ways:
            rankings = {query_id: [index.ids[row] for row in hits[name][i]] for i, query_id in enumerate(queries)}
            values = per_query(rankings, qrels)["ndcg@10"]
            made.setdefault("ndcg@10", {})[name] = round(float(values.mean()), 4)
            for row, value in zip(moved, values, strict=True):
                row.setdefault("ndcg@10", {})[name] = round(float(value), 4)
    telling = sorted(moved, key=lambda row: (-row["by_words"] - row["by_geometry"], row["id"]))[:TELLING]
    by = {name: round(float(np.mean([row[name] for row in moved])), 4) for name in ("by_words", "by_geometry")}
    return made | {
        "hits_moved": by,
        "reasons": sorted(reasons, key=lambda row: -abs(row["change"])),
        "telling": telling,
        "by_query": moved,
    }


def _moved(query_id: str, text: str, i: int, hits: dict[str, np.ndarray], ids: list[str]) -> dict:
    """How far the first ten hits of a query moved, as shares of them, by what ("" if not at all), and the first hit of
    each way.
    """

    def apart(a: str, b: str) -> float:
        return round(1 - len(np.intersect1d(hits[a][i], hits[b][i])) / hits[a].shape[1], 4)

    first = {name: ids[int(rows[i, 0])] for name, rows in hits.items()}
    by_words, by_geometry = apart("own", "words"), apart("words", "other")
    return {
        "id": query_id,
        "text": text,
        "by_words": by_words,
        "by_geometry": by_geometry,
        "moved": "words"
        if by_words > by_geometry
        else "geometry"
        if by_geometry > by_words
        else "both"
        if by_words
        else "",
        "first": first,
    }


def _read(index: GraceIndex, theirs: Sentences, model: GraceModel, progress) -> Sentences:
    """The other's sentences as the model of ``index`` reads them."""
    sums, whole, counts = (
        np.zeros_like(theirs.sums),
        np.zeros(index.sums.shape, np.float32),
        np.zeros(index.counts.shape, np.int64),
    )
    for begin in range(0, len(index), BLOCK):
        rows = np.arange(begin, min(begin + BLOCK, len(index)))
        texts = [index.collection.documents[index.ids[row]].content for row in rows]
        ids = [theirs.index.rationale_ids[row] for row in rows]
        starts = [theirs.starts[theirs.borders[row] : theirs.borders[row + 1]] for row in rows]
        sums[theirs.of_rows(rows)], whole[rows], counts[rows] = sum_sentences(model, texts, ids, starts)
        progress("reading", int(rows[-1]) + 1, len(index))
    reading = Reading(whole, counts, index.geometry, index.geometry.vectors(whole, counts))
    return replace(theirs, index=reading, sums=sums)


def _nearest(grouping: Grouping, read: Sentences) -> np.ndarray:
    """The reason of each sentence ``(s,)``, -1 for one that says nothing; places are taken from the mean of
    the reasons' own sentences.
    """
    labels = np.full(len(read), -1)
    for block in read.blocks():
        places = unit(unit(read.vectors(block)) - grouping.middle)
        labels[block] = np.where(read.speaking[block], (places @ grouping.directions.T).argmax(axis=1), -1)
    return labels


def _grouped(grouping: Grouping, sentences: Sentences, labels: np.ndarray) -> Grouping:
    """The same reasons over other sentences: what :func:`grace_core.reasons.split.split_scores` needs of them."""
    number = np.where(labels < 0, len(grouping) + OTHERS.index("no reason"), labels)
    totals, _ = add_up(sentences, number, len(grouping))
    return replace(grouping, sentences=sentences, labels=labels, totals=totals)
