"""Do the rationales matter, and do the explanations say where? Experiments on a collection, each by encoding again.

For a query q and a document d, with z(t, r) the embedding of text t with rationale r (forced, not generated)
and r_t a text's own:

Dependence, over all documents and queries that are evaluated:
    swap cosine       mean of cos(z(t, r_t), z(t, r_u)), u another text of the same role: a random cycle through all of them
    nDCG@10           own: as ranked; swapped: r_u for r_t; shuffled: the sentences of r_t in random order, where there are two or more;
                      words: the words of r_t in random order, so that they say nothing any more; empty: no rationale. On both sides,
                      and on one side while the other keeps its own. A model that ignores its rationales loses nothing, one that
                      reads them as a bag of words nothing by ``words``. ``drop``: own less each of these, the queries paired.

Deletion and insertion, for the document ranked first for each query, or its best passage: with sentences s_1 … s_m of its rationale,
remove them one after another in an order, and take the cosine with q after each, f(1) … f(m - 1); f(0) and f(m) are the same for all
orders, so left out.
    area              mean of f(j) over 0 < j < m
    deletion gap      area of random orders (mean of ORDERS) less area of the attributed order, largest contribution first; above 0
                      if what the explanation says matters most does
    insertion gap     area of the reverse order less area of random orders: after j removals in reverse order the m - j largest are left,
                      so that this is the curve of inserting the largest first
    over length       area of the order "longest sentence first" less area of the attributed order: contributions grow with the
                      number of tokens, and an explanation should know more than that
    agreement         Spearman's rank correlation of contribution and leave-one-out effect, score less score without the sentence (m >= 3)
Attributed by contributions relative to the corpus mean ("above_corpus", the headline), by raw ones ("raw"), and by length, as a control.
The same for the query's rationale while the document keeps its own; there the mean is that of the queries.

Additivity: the largest difference between a score and the sum of its parts, by blocks, sentences, and tokens
of either side.

What is encoded again: swapped, shuffled and word-shuffled rationales of all texts, and every set of sentences
left in an order above, each once. Not the empty ones: in a causal model no token of the text sees the
rationale, so that the stored sums of text and template are those of an empty rationale. Tags (<think>) and
punctuation without a letter or digit do not count as sentences, and stay. Intervals: 95 %, percentile
bootstrap over queries (documents for their swap cosine).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.bootstrap import ci95, of_items
from grace_core.evaluation.retrieval import CUTOFF, per_query, rankings_of
from grace_core.explain import Explainer, Explanation, explain, score_blocks
from grace_core.geometry import RAW, Geometry, Role
from grace_core.index import GraceIndex
from grace_core.model import GraceModel, Representations
from grace_core.pooling import RATIONALE, Pooling
from grace_core.text_stream import read_pieces
from grace_core.token_states import split_sentences, token_states

ORDERS = 3  # random orders for each rationale
CHUNK = 32  # pairs whose token states are in memory at a time
TREATMENTS = ("own", "swapped", "empty", "shuffled", "words")
ATTRIBUTIONS = ("above_corpus", "raw", "length")
GRID = np.linspace(0, 1, 11)  # share of the sentences removed, for the mean curves
TAGS = re.compile(r"</?think>")


def choose_queries(queries: dict[str, str], number: int | None, *, seed: int = 0) -> dict[str, str]:
    """``number`` of the queries at random, in their order; all of them if there are no more."""
    if number is None or number >= len(queries):
        return queries
    chosen = set(np.random.default_rng(seed).choice(len(queries), number, replace=False).tolist())
    return {query_id: text for i, (query_id, text) in enumerate(queries.items()) if i in chosen}


def evaluate(
    index: GraceIndex,
    model: GraceModel,
    queries: dict[str, str],
    qrels: dict[str, dict[str, int]],
    *,
    documents: int = 2000,
    seed: int = 0,
    batch_size: int = 64,
    report: Callable[[str], None] = lambda line: None,
) -> dict:
    """All measures of the module for one model and its index; ``queries`` by id, each with a relevant
    document in ``qrels``.

    Of an index with more than ``documents`` documents the relevant ones and a random choice of others are
    ranked. In a collection of passages ``documents`` counts these, documents rank by their best ones, and
    others are taken with all that they have. A model without rationales has its additivity measured and
    nothing else. ``report`` gets a line of progress for every stage.
    """
    explainer, rng = Explainer(index, model), np.random.default_rng(seed)
    pooling = index.default_pooling
    report(f"{model.name}: {len(queries)} queries")
    asked = model.represent(list(queries.values()), rationale=pooling is Pooling.FULL, batch_size=batch_size)
    scores, ranked = index.search(index.embed(asked, pooling), CUTOFF)
    result = {"queries": len(queries), "documents": len(index), "seed": seed, "rationales": pooling is Pooling.FULL}
    report(f"{model.name}: token states of the queries and of the document ranked first for each")
    pairs, residual = _pairs(explainer, list(queries.values()), asked, ranked, scores, pooling)
    result["max_residual"] = residual
    if pooling is Pooling.TEXT:
        return result

    rows = _pool(index, queries, qrels, documents, rng)
    result["documents"] = len({index.document_ids[row] for row in rows})
    if index.collection.chunk is not None:
        result["passages"] = len(rows)
    texts = {"query": list(queries.values()), "document": [explainer.text(row) for row in rows]}
    ids = {"query": asked.rationale_ids, "document": [explainer.rationale_ids[row] for row in rows]}
    own = {"query": (asked.sums, asked.counts), "document": (index.sums[rows], index.counts[rows])}
    vectors = {}
    for role in ("query", "document"):
        report(f"{model.name}: swapped and shuffled rationales of {len(texts[role])} texts, role {role}")
        vectors[role] = treated(
            model,
            texts[role],
            ids[role],
            *own[role],
            rng=rng,
            batch_size=batch_size,
            geometry=index.geometry,
            role=role,
        )
    dependence = _dependence(vectors, list(queries), [index.document_ids[row] for row in rows], qrels)

    first = [int(row) for row in ranked[:, 0]]
    sides = {
        "document": (
            [explainer.text(row) for row in first],
            [explainer.rationale_ids[row] for row in first],
            index.embed(asked),
        ),
        "query": (texts["query"], asked.rationale_ids, explainer.vectors(pooling)[first]),
    }
    for role, (side_texts, side_ids, others) in sides.items():
        report(f"{model.name}: deletion, role {role}")
        parts = [pair[role] for pair in pairs]
        dependence["roles"][role] |= deletion(
            model,
            side_texts,
            side_ids,
            others,
            parts,
            rng=rng,
            batch_size=batch_size,
            geometry=index.geometry,
            role=role,
        )
    headline = dependence["roles"]["document"]
    return result | {
        "swap_cosine": headline["swapped_cosine"]["mean"],
        "ndcg@10": {name: value["mean"] for name, value in dependence["ndcg@10"].items()},
        "ci95": {
            "swap_cosine": headline["swapped_cosine"]["ci95"],
            "ndcg@10": {name: value["ci95"] for name, value in dependence["ndcg@10"].items()},
        },
        "drop": dependence["drop"],
        "deletion_gap": headline["above_corpus"]["deletion_gap"],
        "insertion_gap": headline["above_corpus"]["insertion_gap"],
        "agreement": headline["above_corpus"]["agreement"],
        "roles": dependence["roles"],
    }


def interval(values: Sequence[float] | np.ndarray, *, seed: int = 0) -> dict | None:
    """``{"mean": …, "ci95": [low, high]}`` by percentile bootstrap; None of nothing."""
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return None
    return {
        "mean": round(float(values.mean()), 5),
        "ci95": [round(bound, 5) for bound in ci95(of_items(values, seed=seed))],
    }


# --- dependence
# -------------------------------------------------------------------------------------------------------------


def treated(
    model: GraceModel,
    texts: Sequence[str],
    ids: Sequence[Sequence[int]],
    sums: np.ndarray,
    counts: np.ndarray,
    *,
    rng: np.random.Generator,
    batch_size: int = 64,
    geometry: Geometry = RAW,
    role: str = Role.DOCUMENT,
) -> dict[str, np.ndarray]:
    """Embeddings ``(n, d)`` of texts under each of :data:`TREATMENTS`; ``sums`` and ``counts`` are those with
    their own rationales.
    """
    cycle = rng.permutation(len(texts))
    partner = np.empty_like(cycle)
    partner[cycle] = np.roll(cycle, -1)
    swapped = [list(ids[i]) for i in partner]
    shuffled = [shuffle_sentences(one, word_sentences(model.tokenizer, one), rng) for one in ids]
    (own_rng,) = rng.spawn(1)  # what else is drawn from rng does not depend on how many words there are
    words = [shuffle_words(text, own_rng) for text in model.decode(ids)]
    empty_sums, empty_counts = sums.copy(), counts.copy()
    empty_sums[:, RATIONALE] = 0
    empty_counts[:, RATIONALE] = 0

    def given(rationales: Sequence[str] | Sequence[list[int]]) -> np.ndarray:
        representations = model.represent_given(texts, rationales, batch_size=batch_size)
        return geometry.vectors(representations.sums, representations.counts, role=role)

    return {
        "own": geometry.vectors(sums, counts, role=role),
        "swapped": given(swapped),
        "empty": geometry.vectors(empty_sums, empty_counts, role=role),
        "shuffled": given(shuffled),
        "words": given(words),
    }


def word_sentences(tokenizer, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Token ranges of the sentences of a rationale in which something is said."""
    pieces = read_pieces(tokenizer, ids)
    return [(a, b) for a, b in split_sentences(pieces) if says_something("".join(pieces[a:b]))]


def says_something(text: str) -> bool:
    return any(character.isalnum() for character in TAGS.sub("", text))


def shuffle_sentences(ids: Sequence[int], sentences: Sequence[tuple[int, int]], rng: np.random.Generator) -> list[int]:
    """The sentences in another order, what stands between them in its place; unchanged where there are fewer
    than two.
    """
    if len(sentences) < 2:
        return list(ids)
    order = np.arange(len(sentences))
    while (order == np.arange(len(sentences))).all():
        order = rng.permutation(len(sentences))
    shuffled, last = [], 0
    for (a, b), source in zip(sentences, order, strict=True):
        begin, end = sentences[source]
        shuffled += [*ids[last:a], *ids[begin:end]]
        last = b
    return [*shuffled, *ids[last:]]


def shuffle_words(text: str, rng: np.random.Generator) -> str:
    """The words of a text in another order, tags where they were; as it is where all its words are the same."""
    words = text.split()
    places = [place for place, word in enumerate(words) if not TAGS.fullmatch(word)]
    moved = [words[place] for place in places]
    if len(set(moved)) < 2:
        return text
    while True:
        shuffled = list(words)
        for place, i in zip(places, rng.permutation(len(moved)), strict=True):
            shuffled[place] = moved[i]
        if shuffled != words:
            return " ".join(shuffled)


def _pool(
    index: GraceIndex,
    queries: dict[str, str],
    qrels: dict[str, dict[str, int]],
    documents: int,
    rng: np.random.Generator,
) -> list[int]:
    """Rows of the documents to rank: all, or the relevant ones and a random choice of others; of passages
    those of whole documents.
    """
    if len(index) <= documents:
        return list(range(len(index)))
    needed = {d for query_id in queries for d, grade in qrels[query_id].items() if grade > 0}
    relevant = {row for row, document in enumerate(index.document_ids) if document in needed}
    if len(relevant) > documents:
        what = "relevant documents" if index.collection.chunk is None else "passages of relevant documents"
        raise GraceError(
            f"the queries have {len(relevant)} {what}, and {documents} are to be ranked; raise --documents"
        )
    others = np.setdiff1d(np.arange(len(index)), sorted(relevant))
    if index.collection.chunk is None:
        return sorted(relevant | set(rng.choice(others, documents - len(relevant), replace=False).tolist()))
    chosen, numbers = set(relevant), index.document_numbers
    for number in rng.permutation(np.unique(numbers[others])):
        rows = np.flatnonzero(numbers == number).tolist()
        if len(chosen) + len(rows) <= documents:
            chosen |= set(rows)
    return sorted(chosen)


def _dependence(
    vectors: dict[str, dict[str, np.ndarray]], query_ids: list[str], document_ids: list[str], qrels: dict
) -> dict:
    """Swap cosines and nDCG@10, from the vectors of both roles under every treatment."""

    def ndcg(queries: str, documents: str) -> np.ndarray:
        rankings = rankings_of(query_ids, vectors["query"][queries], document_ids, vectors["document"][documents])
        return per_query(rankings, qrels)["ndcg@10"]

    own = ndcg("own", "own")

    def side(scores: dict[str, np.ndarray]) -> dict:
        return {
            "ndcg@10": {name: interval(values) for name, values in scores.items()},
            "drop": {name: interval(own - values) for name, values in scores.items() if name != "own"},
        }

    result = side({name: ndcg(name, name) for name in TREATMENTS})
    roles = {
        "document": side({name: ndcg("own", name) for name in TREATMENTS}),
        "query": side({name: ndcg(name, "own") for name in TREATMENTS}),
    }
    for role, measures in roles.items():
        for name in TREATMENTS[1:]:
            measures[f"{name}_cosine"] = interval(np.einsum("nd,nd->n", vectors[role]["own"], vectors[role][name]))
    return result | {"roles": roles}


# --- deletion, insertion, agreement
# -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attributed:
    """The sentences of one rationale as token ranges of its ids, and what each is given by every way to
    attribute, ``(m,)`` arrays.
    """

    sentences: list[tuple[int, int]]
    by: dict[str, np.ndarray]


def attributed(explanation: Explanation, mean: np.ndarray) -> Attributed:
    """The sentences of the document's rationale; ``mean`` is the mean embedding of its role ``(d,)``."""
    document = explanation.document
    first = int((document.parts != RATIONALE).sum())
    chosen = [i for i, s in enumerate(document.sentences) if s.part == RATIONALE and says_something(s.text)]
    spans = [(document.sentences[i].begin - first, document.sentences[i].end - first) for i in chosen]
    return Attributed(
        spans,
        {
            "above_corpus": explanation.above_corpus(mean).sum(axis=0)[chosen],
            "raw": explanation.sentences.sum(axis=0)[chosen],
            "length": np.array([float(b - a) for a, b in spans]),
        },
    )


def _pairs(
    explainer: Explainer,
    texts: list[str],
    asked: Representations,
    ranked: np.ndarray,
    scores: np.ndarray,
    pooling: Pooling,
) -> tuple[list[dict[str, Attributed]], float]:
    """Query and first document of every query: their attributed sentences, and the largest residual of all
    scores at all levels.
    """
    index, pairs = explainer.index, []
    sums = [_blocks(asked, i, index, rows, pooling).sum(axis=(1, 2)) for i, rows in enumerate(ranked)]
    residual = float(np.abs(np.array(sums) - scores).max())
    means = {"document": explainer.vectors(pooling).mean(axis=0), "query": index.embed(asked, pooling).mean(axis=0)}
    for start in range(0, len(texts), CHUNK):
        some = range(start, min(start + CHUNK, len(texts)))
        rows = [int(ranked[i, 0]) for i in some]
        queries = token_states(explainer.model, [texts[i] for i in some], [asked.rationale_ids[i] for i in some])
        documents = token_states(
            explainer.model, [explainer.text(row) for row in rows], [explainer.rationale_ids[row] for row in rows]
        )
        for i, query, document in zip(some, queries, documents, strict=True):
            score = float(scores[i, 0])
            options = {"pooling": pooling, "geometry": index.geometry}
            there = explain(query, document, score, **options)
            back = explain(document, query, score, **options, roles=(Role.DOCUMENT, Role.QUERY))
            levels = (there.sum, there.tokens.sum(), there.query_tokens.sum())
            residual = max(residual, *(abs(float(level) - score) for level in levels))
            pairs.append({"document": attributed(there, means["document"]), "query": attributed(back, means["query"])})
    return pairs, residual


def _blocks(asked: Representations, i: int, index: GraceIndex, rows: np.ndarray, pooling: Pooling) -> np.ndarray:
    query = asked.sums[i : i + 1], asked.counts[i : i + 1]
    return score_blocks(query, (index.sums[rows], index.counts[rows]), pooling, geometry=index.geometry)


def without(ids: Sequence[int], sentences: Sequence[tuple[int, int]], removed: frozenset[int]) -> list[int]:
    """The rationale's ids without some of its sentences."""
    gone = {position for i in removed for position in range(*sentences[i])}
    return [token for position, token in enumerate(ids) if position not in gone]


def deletion(
    model: GraceModel,
    texts: Sequence[str],
    ids: Sequence[Sequence[int]],
    others: np.ndarray,
    parts: Sequence[Attributed],
    *,
    rng: np.random.Generator,
    batch_size: int = 64,
    geometry: Geometry = RAW,
    role: str = Role.DOCUMENT,
) -> dict:
    """Deletion and insertion gaps and agreement for ``texts`` with their rationales, against the other side's
    embeddings ``(n, d)``.
    """
    usable = [i for i, part in enumerate(parts) if len(part.sentences) >= 2]
    orders: dict[tuple[int, str], list[np.ndarray]] = {}
    for i in usable:
        for name in ATTRIBUTIONS:
            largest_first = np.argsort(-parts[i].by[name], kind="stable")
            orders[i, name], orders[i, f"{name} reverse"] = [largest_first], [largest_first[::-1]]
        orders[i, "random"] = [rng.permutation(len(parts[i].sentences)) for _ in range(ORDERS)]

    wanted = {
        (i, frozenset(order[:j].tolist()))
        for (i, _), some in orders.items()
        for order in some
        for j in range(len(order) + 1)
    }
    wanted |= {(i, frozenset([s])) for i in usable for s in range(len(parts[i].sentences))}
    left = sorted(wanted, key=lambda one: (one[0], sorted(one[1])))
    representations = model.represent_given(
        [texts[i] for i, _ in left],
        [without(ids[i], parts[i].sentences, removed) for i, removed in left],
        batch_size=batch_size,
    )
    scores = (
        np.einsum(
            "nd,nd->n",
            geometry.vectors(representations.sums, representations.counts, role=role),
            others[[i for i, _ in left]],
        )
        if left
        else []
    )
    score = dict(zip(left, map(float, scores), strict=True))

    curves = {  # f(0) … f(m), the random ones as the mean of their orders
        key: np.mean(
            [[score[key[0], frozenset(order[:j].tolist())] for j in range(len(order) + 1)] for order in some], axis=0
        )
        for key, some in orders.items()
    }
    area = {key: curve[1:-1].mean() for key, curve in curves.items()}
    result = {
        "rationales": len(usable),
        "left_out": len(parts) - len(usable),  # none or one sentence: there is no order
        "sentences": round(float(np.mean([len(parts[i].sentences) for i in usable])), 2) if usable else 0.0,
        "encoded": len(left),
    }
    for name in ATTRIBUTIONS:
        result[name] = {
            "deletion_gap": interval([area[i, "random"] - area[i, name] for i in usable]),
            "insertion_gap": interval([area[i, f"{name} reverse"] - area[i, "random"] for i in usable]),
            "over_length": interval([area[i, "length"] - area[i, name] for i in usable]) if name != "length" else None,
            "agreement": interval(
                [
                    spearman(
                        parts[i].by[name],
                        [score[i, frozenset()] - score[i, frozenset([s])] for s in range(len(parts[i].sentences))],
                    )
                    for i in usable
                    if len(parts[i].sentences) >= 3
                ]
            ),
        }
    result["curves"] = {"removed": GRID.round(2).tolist()}
    for label, order in (("attributed", "above_corpus"), ("random", "random"), ("reverse", "above_corpus reverse")):
        on_grid = [np.interp(GRID, np.linspace(0, 1, len(curves[i, order])), curves[i, order]) for i in usable]
        result["curves"][label] = np.mean(on_grid, axis=0).round(5).tolist() if usable else []
    return result


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Rank correlation, ties at their mean rank; 0 where one side is constant."""
    from scipy.stats import spearmanr

    if np.ptp(a) == 0 or np.ptp(b) == 0:  # NaN to scipy
        return 0.0
    return float(spearmanr(a, b).statistic)
