"""What choosing among a model's own rationales could give: nDCG@10 of queries whose rationales are chosen,
exchanged or shuffled.

K rationales are sampled for every judged query; documents keep their greedy ones. By the symmetric reward
(:mod:`grace_core.rewards`),

    r(z) = log-softmax over the documents D of cos(z, z_D) / t, at the query's relevant documents (the mean over them)

the best and the worst of the K are picked. The reward sees the judgements, so *best* is what a policy could
reach that only chooses among what the model says anyway, and no retriever. Beside them stand the greedy
rationale, the mean over the K, the mean vector of the K, a rationale sampled for another query, the words of
an own one in random order, and the query without any.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.geometry import interval
from grace_core.evaluation.retrieval import Judged, per_query, rankings_of
from grace_core.geometry import Role, Sums, fit
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_core.rewards import SYMMETRIC_TEMPERATURE


def shuffled_words(text: str, rng: Random) -> str:
    """The words of a text in random order."""
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def measure(
    model: GraceModel,
    judged: Judged,
    *,
    kind: str = "calibrated",
    samples: int = 8,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> dict:
    """``{"columns": {name: {"mean", "ci95"}}, "tokens", "truncated", …}`` over the judged queries.

    Raises GraceError for fewer than two queries or samples.
    """
    queries, documents, qrels = judged.queries, judged.documents, judged.qrels
    if len(queries) < 2 or samples < 2:
        raise GraceError(
            f"got {len(queries)} queries and {samples} samples, expected at least 2 of each: headroom compares them"
        )
    place = {document: row for row, document in enumerate(documents)}
    relevant = [[place[document] for document in qrels[query]] for query in queries]
    texts, options = list(queries.values()), {"batch_size": batch_size, "progress": progress}
    read = model.represent(list(documents.values()), **options)
    greedy = model.represent(texts, **options)
    sampled = [model.represent(texts, temperature=1.0, seed=seed * 1_000 + k, **options) for k in range(samples)]
    rng = Random(seed)
    others = sampled[0].rationales[1:] + sampled[0].rationales[:1]
    shuffled = [shuffled_words(text, rng) for text in sampled[0].rationales]
    given = {
        name: model.represent_given(texts, words, batch_size=batch_size)
        for name, words in (("another's", others), ("shuffled", shuffled))
    }

    geometry = fit(kind, (read.sums, read.counts), model=model.statistics)
    targets = geometry.vectors(read.sums, read.counts)
    names, ids = list(queries), list(documents)

    def ndcg(vectors: np.ndarray) -> np.ndarray:
        return per_query(rankings_of(names, vectors, ids, targets), qrels)["ndcg@10"]

    def vectors(sums: Sums, pooling: Pooling = Pooling.FULL) -> np.ndarray:
        return geometry.vectors(*sums, pooling, Role.QUERY)

    own = np.stack([vectors((one.sums, one.counts)) for one in sampled])
    each = np.stack([ndcg(one) for one in own])
    rewards = reward(own, targets, relevant)
    pick = np.arange(len(names))
    middle = own.mean(axis=0)
    columns = {
        "none": ndcg(vectors((greedy.sums, greedy.counts), Pooling.TEXT)),
        "greedy": ndcg(vectors((greedy.sums, greedy.counts))),
        "mean": each.mean(axis=0),
        "best": each[rewards.argmax(axis=0), pick],
        "worst": each[rewards.argmin(axis=0), pick],
        "mean vector": ndcg(middle / np.linalg.norm(middle, axis=1, keepdims=True)),
        **{name: ndcg(vectors((one.sums, one.counts))) for name, one in given.items()},
        "own": each[0],  # of "another's" and "shuffled"
    }
    return {
        "queries": len(names),
        "documents": len(ids),
        "samples": samples,
        "tokens": float(np.mean([one.counts[:, 2].mean() for one in sampled])),
        "truncated": float(np.mean([one.truncated.mean() for one in sampled])),
        "reward_spread": float(rewards.std(axis=0).mean()),
        "columns": {name: interval([values]) for name, values in columns.items()},
        "per_query": columns,
    }


def reward(
    vectors: np.ndarray,
    documents: np.ndarray,
    relevant: Sequence[Sequence[int]],
    temperature: float = SYMMETRIC_TEMPERATURE,
):
    """The symmetric reward ``(k, n)`` of query vectors ``(k, n, d)`` among all documents ``(m, d)``."""
    scores = vectors @ documents.T / temperature
    top = scores.max(axis=-1, keepdims=True)
    logs = scores - top - np.log(np.exp(scores - top).sum(axis=-1, keepdims=True))
    return np.stack([logs[:, i, rows].mean(axis=1) for i, rows in enumerate(relevant)], axis=1)
