"""Two models by reasons, or a model and its text alone: which reasons gained and lost weight over a set of queries, and
whether by words or by geometry.

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

:func:`compare_text` sets a model beside its own text column. Two ways to rank:

    text     queries and documents without their rationales: text and, but in the raw geometry, template
    own      with them

Both are vectors of one model in one geometry, so all that moves moves by words. Without rationales no reason has any
weight: the change of a reason is the weight that it has. What it does shows in the hits that come into the first ten.
Their scores with rationales, less those of the hits that they replace, split by reasons, too: the ``lift`` of a reason
is its part of that difference over all queries, as a share of it. Lifts add up to 1 as weights do.
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
from grace_core.pooling import PARTS, Pooling
from grace_core.ranking import dots, order
from grace_core.reasons.collection import OTHERS, Grouping, add_up, unit
from grace_core.reasons.sentences import Sentences, find_sentences, sum_sentences
from grace_core.reasons.split import shares_of_hits, split_scores

BLOCK = 128  # documents that are read at once
TELLING = 10  # queries that are told of
Way = tuple[Grouping, np.ndarray, np.ndarray]  # reasons of its documents, vectors of queries and of documents


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
    it may raise to end the comparison. ``by_query`` of the result has every query, with the documents that came into the
    first ten and those that left them; ``telling`` those that moved most, of equals those whose nDCG@10 did.
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
    steps = {"by_words": ("own", "words"), "by_geometry": ("words", "other")}
    result = _compare(grouping, ways, _first_hits(ways), steps, queries, qrels)
    return {"model": index.model_name, "against": other.model_name} | result


def compare_text(
    grouping: Grouping,
    model: GraceModel,
    queries: dict[str, str],
    qrels: dict[str, dict[str, int]] | None = None,
    *,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict:
    """A model's text alone against text and rationale: as :func:`compare_models`, with the ``lift`` of every reason, and
    ``other_lifts``.

    Nothing but the queries is encoded; ``progress`` is called with the stage "queries".
    """
    index, texts = grouping.sentences.index, list(queries.values())
    asked = model.represent(texts, progress=lambda done, _: progress("queries", done, len(texts)))
    alone = index.vectors(Pooling.TEXT)
    ways = {
        "text": (_without_rationales(grouping, alone), index.embed(asked, Pooling.TEXT), alone),
        "own": (grouping, index.embed(asked), index.vectors()),
    }
    hits = _first_hits(ways)
    result = _compare(grouping, ways, hits, {"by_words": ("text", "own")}, queries, qrels)
    lifts = _lifts(grouping, ways["own"][1], hits["text"], hits["own"])
    for row in result["reasons"]:
        row["lift"] = float(lifts[row["number"]])
    result["other_lifts"] = dict(zip(OTHERS, lifts[len(grouping) :].tolist(), strict=True))
    return {"model": index.model_name, "against": f"{index.model_name}:text"} | result


def _first_hits(ways: dict[str, Way]) -> dict[str, np.ndarray]:
    """The rows ``(m, k)`` of the first ten hits of every query, by way."""
    return {
        name: np.stack([order(dots(vectors, query), CUTOFF) for query in asked])
        for name, (_, asked, vectors) in ways.items()
    }


def _compare(
    grouping: Grouping,
    ways: dict[str, Way],
    hits: dict[str, np.ndarray],
    steps: dict[str, tuple[str, str]],
    queries: dict[str, str],
    qrels: dict[str, dict[str, int]] | None,
) -> dict:
    """Weights and hits from the first to the last way, and by ``steps``, the two ways that each of them is between."""
    first, *_, last = ways
    ids = grouping.sentences.index.ids
    weights = {}
    for name, (reasons_there, asked, _) in ways.items():
        shares, mean = shares_of_hits(reasons_there, asked, hits[name])
        weights[name] = shares / mean
    between = {"change": (first, last)} | steps
    reasons = [
        {"number": reason.number, "name": reason.name}
        | {name: float(weights[name][reason.number]) for name in ways}
        | {key: float((weights[after] - weights[before])[reason.number]) for key, (before, after) in between.items()}
        for reason in grouping.reasons
    ]
    moved = [_moved(query_id, text, i, hits, steps, ids) for i, (query_id, text) in enumerate(queries.items())]
    result: dict = {"queries": len(queries), "documents": len(ids)}
    result["others"] = {name: dict(zip(OTHERS, weights[name][len(grouping) :].tolist(), strict=True)) for name in ways}
    gains = dict.fromkeys(queries, 0.0)
    if qrels is not None:
        for name in ways:
            rankings = {query_id: [ids[row] for row in hits[name][i]] for i, query_id in enumerate(queries)}
            values = per_query(rankings, qrels)["ndcg@10"]
            result.setdefault("ndcg@10", {})[name] = round(float(values.mean()), 4)
            for row, value in zip(moved, values, strict=True):
                row.setdefault("ndcg@10", {})[name] = round(float(value), 4)
        gains = {row["id"]: abs(row["ndcg@10"][last] - row["ndcg@10"][first]) for row in moved}
    telling = sorted(moved, key=lambda row: (-sum(row[step] for step in steps), -gains[row["id"]], row["id"]))[:TELLING]
    return result | {
        "hits_moved": {step: round(float(np.mean([row[step] for row in moved])), 4) for step in steps},
        "reasons": sorted(reasons, key=lambda row: -abs(row["change"])),
        "telling": telling,
        "by_query": moved,
    }


def _moved(
    query_id: str, text: str, i: int, hits: dict[str, np.ndarray], steps: dict[str, tuple[str, str]], ids: list[str]
) -> dict:
    """How far the first ten hits of a query moved, as shares of them, by what ("" if not at all); the first hit of each
    way; and, in their order, what came into the first ten from the first way to the last, and what left them.
    """
    first, *_, last = hits
    width = hits[first].shape[1]
    shares = {
        step: round(1 - len(np.intersect1d(hits[before][i], hits[after][i])) / width, 4)
        for step, (before, after) in steps.items()
    }
    largest = [step.removeprefix("by_") for step, share in shares.items() if share and share == max(shares.values())]
    return {
        "id": query_id,
        "text": text,
        **shares,
        "moved": "both" if len(largest) > 1 else "".join(largest),
        "first": {name: ids[int(rows[i, 0])] for name, rows in hits.items()},
        "came": [ids[row] for row in _apart(hits[last][i], hits[first][i])],
        "left": [ids[row] for row in _apart(hits[first][i], hits[last][i])],
    }


def _apart(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Those of ``rows`` that ``others`` lacks, in their order."""
    return rows[~np.isin(rows, others)]


def _lifts(grouping: Grouping, asked: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The lift ``(r + 3,)`` of each reason, and of OTHERS, between first hits ``(m, k)``; zeros if none moved."""
    parts = np.zeros(len(grouping) + len(OTHERS))
    for query, old, new in zip(asked, before, after, strict=True):
        came, left = _apart(new, old), _apart(old, new)
        if len(came):
            parts += split_scores(grouping, query, came).parts.sum(axis=0)
            parts -= split_scores(grouping, query, left).parts.sum(axis=0)
    total = parts.sum()
    return parts / total if total > 1e-9 else np.zeros_like(parts)


def _without_rationales(grouping: Grouping, vectors: np.ndarray) -> Grouping:
    """The same reasons over the documents' ``vectors`` ``(n, d)`` without rationales: no sentence is in any."""
    sentences = grouping.sentences
    pooled = np.isin(np.arange(len(PARTS)), sentences.index.geometry.pooled_parts(Pooling.TEXT))
    reading = Reading(
        sentences.index.sums * pooled[:, None], sentences.index.counts * pooled, sentences.index.geometry, vectors
    )
    none = slice(0, 0)
    arrays = {name: getattr(sentences, name)[none] for name in ("sums", "counts", "rows", "starts", "texts")}
    return _grouped(grouping, replace(sentences, index=reading, **arrays), grouping.labels[none])


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
