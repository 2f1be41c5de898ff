"""Additivity at every level, on a thousand random pairs, on a real corpus, and what bfloat16 leaves over."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from grace_core.explain import Explainer, Explanation, difference, explain, relative_to_corpus
from grace_core.index import GraceIndex
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_core.readers import read_corpus
from grace_core.token_states import token_states

PAIRS = 1000
CRANFIELD = Path(__file__).resolve().parents[3] / "shared" / "data" / "cranfield"


def residuals(found: Explanation, mean: np.ndarray) -> list[float]:
    """What is left of the score at each level: blocks, sentences, tokens of both sides, and relative to the corpus."""
    query = found.query.unit.sum(axis=0)
    above = found.score - float(query @ mean)
    return [
        found.score - sum(found.blocks().values()),
        found.residual,
        found.score - float(found.tokens.sum()),
        found.score - float(found.query_tokens.sum()),
        found.score - sum(value for _, value in found.document_sentences()),
        above - float(found.above_corpus(mean).sum()),
        above - float(relative_to_corpus(query, found.document, mean).sum()),
    ]


def difference_residuals(first: Explanation, second: Explanation) -> list[float]:
    """What is left of the difference of two scores by each of its three splits."""
    made = difference(first, second)
    own = sum(value for _, value in made.first) - sum(value for _, value in made.second)
    found = [made.residual, made.score - own]
    if made.query_sentences:
        found.append(made.score - sum(value for _, value in made.query_sentences))
    return found


@pytest.mark.parametrize("pooling", list(Pooling))
def test_a_thousand_random_pairs_at_all_levels(tiny_models, new_model, sentences, pooling):
    models = [tiny_models["qwen2"], new_model("qwen2", seed=1)]
    texts = [f"{a} {b}" for a, b in zip(sentences[:40], sentences[100:140], strict=True)]
    made = [model.represent(texts) for model in models]
    states = [token_states(model, texts, one.rationale_ids) for model, one in zip(models, made, strict=True)]
    vectors = [one.embeddings(pooling) for one in made]
    means = [one.mean(axis=0) for one in vectors]
    rng, left, with_query = np.random.default_rng(0), [], 0
    for query, a, b in rng.integers(0, len(texts), (PAIRS, 3)):
        one, other = (
            explain(states[0][query], states[0][row], float(vectors[0][query] @ vectors[0][row]), pooling=pooling)
            for row in (a, b)
        )
        elsewhere = explain(states[1][query], states[1][a], float(vectors[1][query] @ vectors[1][a]), pooling=pooling)
        left += residuals(one, means[0]) + residuals(elsewhere, means[1])
        left += difference_residuals(one, other) + difference_residuals(one, elsewhere)
        with_query += bool(difference(one, other).query_sentences)
    assert np.abs(left).max() <= 1e-5
    assert with_query == PAIRS


@pytest.mark.slow
def test_a_thousand_pairs_of_the_shipped_collection(demo_base, demo_collection):
    explainer = Explainer(GraceIndex(demo_collection, "demo-base"), demo_base, keep=100)
    index, mean = explainer.index, explainer.vectors(Pooling.FULL).mean(axis=0)
    rng = np.random.default_rng(0)
    rows = rng.choice(len(index), 50, replace=False).tolist()
    queries = rng.choice(list(demo_collection.judgements.queries.values()), 20, replace=False).tolist()
    demo_base.represent(queries)
    found = [explainer.why(query, rows) for query in queries]
    assert sum(map(len, found)) == PAIRS
    left = [value for why in found for one in why for value in residuals(one, mean)]
    left += [value for why in found for a, b in pairwise(why) for value in difference_residuals(a, b)]
    assert np.abs(left).max() <= 1e-5
    scores, ranked = index.search(np.stack([explainer.query_vector(query) for query in queries]), len(index))
    for why, order, ordered in zip(found, ranked, scores, strict=True):
        by_row = dict(zip(order.tolist(), ordered.tolist(), strict=True))
        assert max(abs(one.score - by_row[row]) for one, row in zip(why, rows, strict=True)) < 1e-6


@pytest.mark.slow
@pytest.mark.skipif(not (CRANFIELD / "corpus.jsonl").exists(), reason=f"no Cranfield corpus in {CRANFIELD}")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_hundred_abstracts(tiny_folder, dtype):
    model = GraceModel.from_pretrained(tiny_folder, device="cpu", dtype=dtype)
    texts = [document.content for document in read_corpus(CRANFIELD, limit=202).documents if document.content][:200]
    texts.insert(0, "heat transfer in the boundary layer of a wing")
    made = model.represent(texts)
    query, *documents = token_states(model, texts, made.rationale_ids)
    vectors = made.embeddings()
    mean = vectors[1:].mean(axis=0)
    found = [
        explain(query, one, float(vector @ vectors[0])) for one, vector in zip(documents, vectors[1:], strict=True)
    ]
    left = np.abs([residuals(one, mean) for one in found]).max()
    print(f"{dtype}: {len(found)} documents, largest residual {left:.1e}")
    if dtype == "float32":
        assert left <= 1e-5
    else:  # generation and the second forward round apart, which the residual shows; the parts still add up to one sum
        assert 1e-6 < left < 0.02
        assert max(abs(one.sum - float(one.tokens.sum())) for one in found) < 1e-9
