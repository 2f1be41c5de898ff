"""Retrieval metrics against scikit-learn and plain loops, their intervals, and BM25."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import METRICS, bm25, evaluate_index, judged_queries, per_query, summary
from grace_core.index import build
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_core.readers import Corpus, Document, Judgements

IDS = [f"d{i}" for i in range(40)]


@pytest.fixture(scope="module")
def random_case():
    """Two hundred queries with graded judgements, and random rankings of ten or fewer."""
    rng = np.random.default_rng(1)
    rankings, qrels = {}, {}
    for q in range(200):
        judged = rng.choice(IDS, rng.integers(1, 15), replace=False)
        qrels[f"q{q}"] = {d: int(g) for d, g in zip(judged, rng.integers(0, 4, len(judged)), strict=True)} | {
            IDS[q % 40]: 1
        }
        rankings[f"q{q}"] = rng.permutation(IDS)[: rng.integers(3, 11)].tolist()
    return rankings, qrels


def test_ndcg_equals_that_of_scikit_learn(random_case):
    rankings, qrels = random_case
    values = per_query(rankings, qrels)["ndcg@10"]
    for value, (query, ranking) in zip(values, rankings.items(), strict=True):
        grades = np.array([[qrels[query].get(document, 0) for document in IDS]])
        # documents that were not retrieved come behind, the worst first, so that they add nothing to the first ten
        behind = sorted((d for d in IDS if d not in ranking), key=lambda d: qrels[query].get(d, 0))
        order = ranking + behind
        scores = np.array([[-order.index(document) for document in IDS]], dtype=float)
        if len(ranking) == 10 or all(qrels[query].get(document, 0) == 0 for document in behind[: 10 - len(ranking)]):
            assert value == pytest.approx(ndcg_score(grades, scores, k=10), abs=1e-9)


def test_metrics_equal_those_of_plain_loops(random_case):
    rankings, qrels = random_case
    values = per_query(rankings, qrels)
    for i, (query, ranking) in enumerate(rankings.items()):
        gain = best = found = 0.0
        first = 0
        for rank, document in enumerate(ranking[:10], start=1):
            grade = qrels[query].get(document, 0)
            gain += grade / math.log2(rank + 1)
            found += grade > 0
            first = first or (rank if grade > 0 else 0)
        relevant = sorted((grade for grade in qrels[query].values() if grade > 0), reverse=True)
        for rank, grade in enumerate(relevant[:10], start=1):
            best += grade / math.log2(rank + 1)
        assert values["ndcg@10"][i] == pytest.approx(gain / best)
        assert values["recall@10"][i] == pytest.approx(found / len(relevant))
        assert values["mrr@10"][i] == pytest.approx(1 / first if first else 0)


def test_only_the_first_ten_count():
    ranking = [f"x{i}" for i in range(10)] + ["d1"]
    assert [float(value[0]) for value in per_query({"q": ranking}, {"q": {"d1": 1}}).values()] == [0, 0, 0]


def test_an_ideal_ranking_scores_one_and_grades_below_one_do_not_count():
    qrels = {"q": {"a": 3, "b": 1, "c": 0, "d": -1}}
    values = per_query({"q": ["a", "b", "c", "d"]}, qrels)
    assert [float(value[0]) for value in values.values()] == [1, 1, 1]
    assert per_query({"q": ["c", "d", "b"]}, qrels)["mrr@10"][0] == pytest.approx(1 / 3)


def test_a_query_without_a_relevant_document_is_refused():
    with pytest.raises(GraceError, match="query 'q' has no relevant document"):
        per_query({"q": ["a"]}, {"q": {"a": 0}})


def test_intervals_hold_the_mean_and_shrink_with_more_queries(random_case):
    values = per_query(*random_case)
    whole = summary(values)
    few = summary({metric: array[:20] for metric, array in values.items()})
    assert whole["queries"] == 200
    for metric in METRICS:
        low, high = whole["ci95"][metric]
        assert low <= whole[metric] <= high
        assert high - low < few["ci95"][metric][1] - few["ci95"][metric][0]
        standard_error = values[metric].std() / 200**0.5
        assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)
    assert summary(values) == whole
    assert summary(values, seed=1)["ci95"] != whole["ci95"]


def test_an_interval_of_equal_values_is_a_point():
    assert summary({"ndcg@10": np.full(5, 0.5)}) == {"ndcg@10": 0.5, "ci95": {"ndcg@10": [0.5, 0.5]}, "queries": 5}


@pytest.fixture(scope="module")
def corpus(sentences):
    documents = [Document(f"d{i}", f"Number {i}", sentences[i], {}) for i in range(30)] + [
        Document("empty", "", "", {})
    ]
    queries = {"a": f"Number 3 {sentences[3]}", "b": sentences[7], "c": "nothing judged", "d": "only irrelevant"}
    qrels = {"a": {"d3": 2, "gone": 1}, "b": {"d7": 1}, "d": {"d1": 0}}
    return Corpus(documents, Judgements(queries, qrels, {"a": "dev", "b": "test", "d": "test"}), "made here", [])


def test_judged_queries_are_those_with_a_relevant_document(corpus):
    assert list(judged_queries(corpus.judgements)) == ["a", "b"]
    assert list(judged_queries(corpus.judgements, "test")) == ["b"]


def test_an_unknown_split_is_refused_with_those_there_are(corpus):
    with pytest.raises(GraceError, match="no split 'train'; it has dev, test"):
        judged_queries(corpus.judgements, "train")
    with pytest.raises(GraceError, match="has no split 'test'; it has no splits"):
        judged_queries(Judgements({"a": "x"}, {"a": {"d": 1}}, {}), "test")


def test_a_dataset_without_judgements_is_refused(corpus):
    with pytest.raises(GraceError, match=r"no queries\.jsonl"):
        judged_queries(None)
    with pytest.raises(GraceError, match="no query has a relevant document"):
        judged_queries(Judgements({"a": "x"}, {}, {}))


def test_bm25_finds_documents_by_their_own_words(corpus):
    rankings = bm25(corpus, judged_queries(corpus.judgements))
    assert rankings["a"][0] == "d3"
    assert rankings["b"][0] == "d7"
    assert all(len(ranking) == 10 and "empty" not in ranking for ranking in rankings.values())


def test_bm25_of_a_small_corpus_ranks_all_of_it(corpus):
    small = Corpus(corpus.documents[:4], corpus.judgements, "", [])
    assert sorted(bm25(small, {"a": "number"})["a"]) == ["d0", "d1", "d2", "d3"]


@pytest.mark.parametrize("pooling", [None, Pooling.TEXT, Pooling.FULL])
def test_rankings_of_an_index_are_those_of_its_search(corpus, tiny_folder, tmp_path, pooling):
    model = GraceModel.from_pretrained(tiny_folder, max_new_tokens=4)
    index = build(Collection.create(corpus, tmp_path / "c"), model)
    queries = judged_queries(corpus.judgements)
    rankings = evaluate_index(index, model, queries, pooling)
    used = pooling or Pooling.FULL
    for query_id, query in queries.items():
        (vector,) = index.embed(model.represent([query], rationale=used is Pooling.FULL), used)
        assert rankings[query_id] == [hit.document.id for hit in index.hits(vector, 10, pooling=used)]
    assert per_query(rankings, corpus.judgements.qrels)["recall@10"].shape == (2,)
