"""Equal scores stand in the order of the corpus: whatever k, the kind of index, the number of queries, and who asks."""

from __future__ import annotations

import numpy as np
import pytest

from grace_core import ann
from grace_core.collection import Collection
from grace_core.evaluation.retrieval import bm25, evaluate_index
from grace_core.explain import Explainer
from grace_core.index import build
from grace_core.ranking import dots, dots_of_each, order, rank
from grace_core.readers import Corpus, Document

COPIES = 100


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def few():
    """Vectors of 40 documents, of which one stands there a hundred times, spread over 300 rows; and 50 queries."""
    rng = np.random.default_rng(0)
    different = unit(rng.standard_normal((200, 24)))
    rows = np.concatenate([np.zeros(COPIES, np.int64), np.arange(200)])
    return different[rng.permutation(rows)], unit(different[0] + 0.5 * rng.standard_normal((50, 24)))


def in_order(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Rows by a plain sort of plain sums."""
    scores = [
        [float(np.float32(sum(float(a) * float(b) for a, b in zip(v, q, strict=True)))) for v in vectors]
        for q in queries
    ]
    return np.array([sorted(range(len(vectors)), key=lambda row: (-mine[row], row))[:k] for mine in scores])


@pytest.mark.parametrize("dim", [1, 7, 24, 256, 333])
def test_a_score_does_not_depend_on_what_is_scored_along_with_it(dim, monkeypatch):
    rng = np.random.default_rng(dim)
    vectors, queries = (
        rng.standard_normal((70, dim)).astype(np.float32),
        rng.standard_normal((5, dim)).astype(np.float32),
    )
    alone = np.array([[dots(vector[None], query)[0] for vector in vectors] for query in queries])
    np.testing.assert_allclose(alone, queries.astype(np.float64) @ vectors.T.astype(np.float64), rtol=1e-6, atol=1e-6)
    places = rng.integers(0, 70, (5, 30))
    for room in (1, 5 * dim, 2**22):
        monkeypatch.setattr("grace_core.ranking.ROOM", room)
        monkeypatch.setattr("grace_core.ranking.CACHE", room)
        for made in (vectors, np.asfortranarray(vectors), vectors[::-1][::-1]):
            np.testing.assert_array_equal([dots(made, query) for query in queries], alone)
            np.testing.assert_array_equal(dots_of_each(made, places, queries), np.take_along_axis(alone, places, 1))


def test_an_order_and_a_rank_put_equal_scores_by_their_rows():
    scores = np.array([0.5, 0.9, 0.5, 0.1, 0.9, 0.5], np.float32)
    assert order(scores).tolist() == [1, 4, 0, 2, 5, 3]
    assert order(scores, 2).tolist() == [1, 4]
    assert [rank(scores, row) for row in (1, 4, 0, 2, 5, 3)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("block", [64, 16_384])
def test_copies_stand_in_their_order_whatever_is_asked(few, block, monkeypatch):
    monkeypatch.setattr(ann, "BLOCK", block)
    vectors, queries = few
    opened = ann.Opened(ann.make(vectors), vectors)
    right = in_order(vectors, queries[:3], 300)
    for k in (1, 5, 10, 99, 130):
        scores, rows = opened.search(queries, k)
        np.testing.assert_array_equal(rows[:3], right[:, :k])
        for many in (1, 25):  # FAISS multiplies matrices from 20 queries on
            again = opened.search(queries[:many], k)
            np.testing.assert_array_equal(again[0], scores[:many])
            np.testing.assert_array_equal(again[1], rows[:many])
        np.testing.assert_array_equal(ann.exact(vectors, queries, k)[1], rows)
    every = opened.scores(queries[0])
    assert [rank(every, row) for row in right[0]] == list(range(1, 301))
    np.testing.assert_array_equal(every[right[0, :130]], scores[0])


def test_hnsw_gives_the_first_of_the_copies_that_it_finds(few):
    vectors, queries = few
    opened = ann.Opened(ann.make(vectors, "hnsw"), vectors, {"kind": "hnsw", "efSearch": 64})
    copies = np.flatnonzero((vectors == vectors[opened.copies.rows[0]]).all(axis=1))
    assert len(copies) == COPIES + 1
    wide, found = opened.search(queries, 30)[1], 0
    for k in (1, 5, 10):
        scores, rows = opened.search(queries, k)
        np.testing.assert_array_equal(rows, wide[:, :k])
        np.testing.assert_array_equal(
            scores, [opened.scores(query, some) for query, some in zip(queries, rows, strict=True)]
        )
        for mine in rows:
            there = mine[np.isin(mine, copies)]
            np.testing.assert_array_equal(there, copies[: len(there)])
            found += len(there)
    assert found > 200


def test_all_of_one_document():
    vectors = np.repeat(unit(np.random.default_rng(1).standard_normal((1, 24))), COPIES, axis=0)
    for kind in ("flat", "hnsw"):
        opened = ann.Opened(ann.make(vectors, kind), vectors, {"kind": kind, "efSearch": 16})
        scores, rows = opened.search(vectors[:2], 10)
        assert rows.tolist() == [list(range(10))] * 2
        assert len(np.unique(scores)) == 1


def test_ivfpq_gives_the_first_of_equal_documents():
    """More copies than candidates, so that FAISS gives some of them only."""
    vectors = unit(np.random.default_rng(2).standard_normal((9_984, 8)))
    copies = np.arange(200, 8_200, 20)
    vectors[copies] = vectors[200]
    vectors[[150, 9_000]] = vectors[33]
    opened = ann.Opened(ann.make(vectors, "ivfpq"), vectors, {"kind": "ivfpq", "nprobe": 64})
    assert len(opened.copies) == len(copies) + 1
    for k in (1, 3, 10):
        assert opened.search(vectors[200:201], k)[1].tolist() == [copies[:k].tolist()]
        assert opened.search(vectors[33:34], k)[1][0, :3].tolist() == [33, 150, 9_000][:k]


def test_copies_are_found_among_rows_with_one_key(monkeypatch):
    rng = np.random.default_rng(3)
    vectors = unit(rng.standard_normal((9, 4)))
    vectors[[5, 8]] = vectors[2]
    vectors[7] = vectors[1]
    found = ann.Copies.of(vectors)
    assert found.first.tolist() == [0, 1, 2, 3, 4, 2, 6, 1, 2]
    assert found.rows.tolist() == [1, 7, 2, 5, 8]
    assert len(found) == 3
    assert found.beside(np.array([[8, 3, -1], [0, 6, 4]]), 2).tolist() == [[3, 2, 5], [0, 4, 6]]
    assert not ann.Copies.of(vectors[[0, 1, 2, 3]])


# --- in a collection
# --------------------------------------------------------------------------------------------------------

COPY = "The river rises in the mountains and flows."


@pytest.fixture(scope="module")
def explainer(tiny_models, sentences, tmp_path_factory):
    """Thirty copies of a document among twenty others, encoded in shards of eight, and nothing in a cache."""
    texts = [sentences[i] if i % 5 in (1, 3) else COPY for i in range(50)]
    corpus = Corpus([Document(f"d{i}", "", text, {}) for i, text in enumerate(texts)], None, "made here", [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grace_core.index.SHARD", 8)
        index = build(Collection.create(corpus, tmp_path_factory.mktemp("copies") / "c"), tiny_models["qwen2"])
    return Explainer(index, tiny_models["qwen2"])


def test_copies_that_were_encoded_apart_have_one_vector(explainer):
    index = explainer.index
    copies = [row for row, document_id in enumerate(index.ids) if index.collection.documents[document_id].text == COPY]
    assert len(copies) == 30
    assert len(np.unique(index.vectors()[copies], axis=0)) == 1
    assert len({tuple(index.rationale_ids[row]) for row in copies}) == 1


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_search_explanation_and_what_if_give_one_rank(explainer, kind):
    index = explainer.index
    index.change_faiss(kind)
    query = index.vectors()[0]
    rows = index.search(query, 50)[1][0].tolist()
    assert rows[:30] == [row for row in range(50) if row % 5 not in (1, 3)]
    assert [index.search(query, k)[1][0].tolist() for k in (1, 5, 30)] == [rows[:1], rows[:5], rows[:30]]
    scores = index.scores(query)
    for place in (0, 7, 29, 30, 49):
        row = rows[place]
        assert rank(scores, row) == place + 1
        same = explainer.what_if(query, row)
        assert (same.old_rank, same.rank, same.passed, same.passed_by) == (place + 1, place + 1, [], [])
    assert [why.score for why in explainer.why(COPY, rows[:3])] == explainer.index.scores(
        explainer.query_vector(COPY), rows[:3]
    ).tolist()
    lifted = explainer.what_if(query, rows[40], text=COPY, rationale=index.rationale_ids[rows[0]])
    assert lifted.score == pytest.approx(scores[rows[0]], abs=1e-6)


def test_metrics_count_the_first_of_equal_documents(explainer):
    index, model = explainer.index, explainer.model
    assert evaluate_index(index, model, {"q": COPY})["q"] == [
        index.ids[row] for row in index.search(explainer.query_vector(COPY))[1][0]
    ]
    for query in (COPY, "river mountains", "zebra"):
        ranking = bm25(index.collection.corpus, {"q": query})["q"]
        assert ranking == (
            index.ids[:10] if query == "zebra" else [f"d{row}" for row in range(50) if row % 5 not in (1, 3)][:10]
        )
