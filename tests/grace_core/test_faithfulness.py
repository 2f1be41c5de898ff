"""Dependence, deletion and agreement, against plain recomputation on a small collection."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.evaluation.faithfulness import (
    Attributed,
    choose_queries,
    deletion,
    evaluate,
    interval,
    shuffle_sentences,
    shuffle_words,
    spearman,
    treated,
    without,
    word_sentences,
)
from grace_core.evaluation.retrieval import per_query, retrieve
from grace_core.index import build
from grace_core.passages import Chunk
from grace_core.readers import Corpus, Document, Judgements, read_corpus
from grace_core.readers.chunked import chunked


@pytest.fixture(scope="module")
def world(new_model, sentences, tmp_path_factory):
    """A model, its index of twenty documents, and six queries with a relevant document each."""
    folder = tmp_path_factory.mktemp("faithful")
    rows = [{"_id": f"d{i}", "text": sentences[i]} for i in range(20)]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = new_model("qwen2", max_new_tokens=24)
    index = build(Collection.create(read_corpus(folder / "c.jsonl"), folder / "x"), model)
    queries = {f"q{i}": " ".join(sentences[i].split()[:3]) for i in range(6)}
    return model, index, queries, {f"q{i}": {f"d{i}": 1} for i in range(6)}


@pytest.fixture(scope="module")
def spoken(tiny_models, sentences):
    """Three texts with rationales of two to four sentences, as token ids, and the token range of every sentence."""
    model = tiny_models["qwen2"]
    rationales = [" ".join(sentences[i : i + 2 + i % 3]) for i in (30, 31, 32)]
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in rationales]
    return model, sentences[:3], ids, [word_sentences(model.tokenizer, one) for one in ids]


def test_the_whole_evaluation(world):
    model, index, queries, qrels = world
    lines = []
    found = evaluate(index, model, queries, qrels, report=lines.append)
    assert json.loads(json.dumps(found)) == found
    assert lines
    assert found["max_residual"] <= 1e-5
    assert set(found["ndcg@10"]) == {"own", "swapped", "empty", "shuffled", "words"}
    assert -1 <= found["swap_cosine"] < 0.9999
    for role in found["roles"].values():
        assert role["ndcg@10"]["own"]["mean"] == found["ndcg@10"]["own"]
        assert role["rationales"] + role["left_out"] == len(queries)
        for name, value in role["drop"].items():
            assert value["mean"] == pytest.approx(
                role["ndcg@10"]["own"]["mean"] - role["ndcg@10"][name]["mean"], abs=2e-5
            )
    assert evaluate(index, model, queries, qrels) == found  # the same seed, the same figures


def test_fewer_documents_are_ranked_where_there_are_many(world):
    model, index, queries, qrels = world
    found = evaluate(index, model, queries, qrels, documents=8)
    assert found["documents"] == 8
    assert found["ndcg@10"]["own"] > evaluate(index, model, queries, qrels)["ndcg@10"]["own"] - 1e-9
    with pytest.raises(GraceError, match="6 relevant documents, and 5 are to be ranked"):
        evaluate(index, model, queries, qrels, documents=5)


def test_a_model_without_rationales_has_its_residual_measured(world, tmp_path):
    model, index, queries, qrels = world
    bare = build(Collection.create(index.collection.corpus, tmp_path / "x"), model, rationale=False)
    found = evaluate(bare, model, queries, qrels)
    assert not found["rationales"]
    assert found["max_residual"] <= 1e-5
    assert "roles" not in found


def test_treatments_are_what_they_are_called(spoken):
    model, texts, ids, _ = spoken
    made = model.represent_given(texts, ids)
    found = treated(model, texts, ids, made.sums, made.counts, rng=np.random.default_rng(0))
    np.testing.assert_allclose(found["own"], made.embeddings(), atol=1e-6)
    np.testing.assert_allclose(found["empty"], model.represent_given(texts, [[], [], []]).embeddings(), atol=1e-5)
    others = [
        [model.represent_given([text], [ids[j]]).embeddings()[0] for j in range(3) if j != i]
        for i, text in enumerate(texts)
    ]
    for vector, candidates in zip(found["swapped"], others, strict=True):
        assert min(np.abs(vector - candidate).max() for candidate in candidates) < 1e-5
    for name in ("shuffled", "words"):
        assert np.abs(found[name] - found["own"]).max(axis=1).min() > 1e-4
    draws = np.random.default_rng(0)
    draws.permutation(3)
    for one in ids:  # the sentences' orders are drawn from the same stream
        shuffle_sentences(one, word_sentences(model.tokenizer, one), draws)
    (words,) = draws.spawn(1)
    given = model.represent_given(texts, [shuffle_words(text, words) for text in model.decode(ids)])
    np.testing.assert_allclose(found["words"], given.embeddings(), atol=1e-6)


@pytest.mark.parametrize("text", ["one two two three", "a b", "<think> snow lies deep </think> it ends"])
def test_words_are_shuffled_and_tags_stay(text):
    for seed in range(5):
        made = shuffle_words(text, np.random.default_rng(seed))
        assert made != text
        assert sorted(made.split()) == sorted(text.split())
        assert [(i, word) for i, word in enumerate(made.split()) if "think" in word] == [
            (i, word) for i, word in enumerate(text.split()) if "think" in word
        ]


@pytest.mark.parametrize("text", ["", "word", "word word", "<think> </think>"])
def test_where_there_is_one_order_the_words_stay(text):
    assert shuffle_words(text, np.random.default_rng(0)) == text


def test_sentences_are_shuffled_whole_and_tags_stay(tiny_models):
    tokenizer = tiny_models["qwen2"].tokenizer
    ids = tokenizer(
        "<think>\nSnow lies deep. Bell rings at noon. It ends.\n</think>\nWine is sold.", add_special_tokens=False
    )["input_ids"]
    spans = word_sentences(tokenizer, ids)
    assert [tokenizer.decode(ids[a:b]).strip() for a, b in spans] == [
        "Snow lies deep.",
        "Bell rings at noon.",
        "It ends.",
        "Wine is sold.",
    ]
    rng = np.random.default_rng(0)
    for _ in range(5):
        made = shuffle_sentences(ids, spans, rng)
        assert made != ids
        assert sorted(made) == sorted(ids)
        read = tokenizer.decode(made)
        assert read.startswith("<think>")
        assert all(
            sentence in read for sentence in ("Snow lies deep.", "Bell rings at noon.", "It ends.", "Wine is sold.")
        )
    assert shuffle_sentences(ids, spans[:1], rng) == ids
    assert (
        tokenizer.decode(without(ids, spans, frozenset({0, 3}))).split()
        == "<think> Bell rings at noon. It ends. </think>".split()
    )


def test_deletion_against_a_plain_loop(spoken):
    model, texts, ids, spans = spoken
    others = model.represent_given(["snow on old town roads"] * 3, [[]] * 3).embeddings()
    rng = np.random.default_rng(3)
    by = [{name: rng.normal(size=len(one)) for name in ("above_corpus", "raw", "length")} for one in spans]
    found = deletion(
        model,
        texts,
        ids,
        others,
        [Attributed(*one) for one in zip(spans, by, strict=True)],
        rng=np.random.default_rng(5),
    )

    def score(i: int, removed: list[int]) -> float:
        kept = [
            token for p, token in enumerate(ids[i]) if not any(spans[i][s][0] <= p < spans[i][s][1] for s in removed)
        ]
        return float(model.represent_given([texts[i]], [kept]).embeddings()[0] @ others[i])

    def area(i: int, order: list[int]) -> float:
        return float(np.mean([score(i, order[:j]) for j in range(1, len(order))]))

    again, gaps = np.random.default_rng(5), []
    for i, attributed in enumerate(by):
        random = np.mean([area(i, again.permutation(len(spans[i])).tolist()) for _ in range(3)])
        order = np.argsort(-attributed["raw"]).tolist()
        gaps.append((random - area(i, order), area(i, order[::-1]) - random))
    deleted, inserted = np.mean(gaps, axis=0)
    assert found["raw"]["deletion_gap"]["mean"] == pytest.approx(deleted, abs=1e-5)
    assert found["raw"]["insertion_gap"]["mean"] == pytest.approx(inserted, abs=1e-5)
    longest = max(range(3), key=lambda i: len(spans[i]))
    effects = [score(longest, []) - score(longest, [s]) for s in range(len(spans[longest]))]
    assert -1 <= spearman(by[longest]["raw"], effects) <= 1
    assert found["curves"]["attributed"][0] == pytest.approx(np.mean([score(i, []) for i in range(3)]), abs=2e-5)
    assert found["curves"]["reverse"][-1] == pytest.approx(
        np.mean([score(i, list(range(len(spans[i])))) for i in range(3)]), abs=2e-5
    )


def test_an_order_by_the_true_effects_is_found_to_be_one(spoken):
    """Contributions that are the leave-one-out effects themselves agree with them fully, and their negatives
    not at all.
    """
    model, texts, ids, spans = spoken
    others = model.represent_given(["snow on old town roads"] * 3, [[]] * 3).embeddings()
    parts, chosen = [], [i for i in range(3) if len(spans[i]) >= 3]
    for i in chosen:
        left = [without(ids[i], spans[i], frozenset(one)) for one in [(), *((s,) for s in range(len(spans[i])))]]
        scores = model.represent_given([texts[i]] * len(left), left).embeddings() @ others[i]
        effects = (scores[0] - scores[1:]).astype(float)
        parts.append(Attributed(spans[i], {"above_corpus": effects, "raw": -effects, "length": np.ones(len(effects))}))
    found = deletion(
        model, [texts[i] for i in chosen], [ids[i] for i in chosen], others[chosen], parts, rng=np.random.default_rng(0)
    )
    assert found["above_corpus"]["agreement"]["mean"] == 1
    assert found["raw"]["agreement"]["mean"] == -1
    assert found["length"]["agreement"]["mean"] == 0


def test_rationales_of_one_sentence_are_left_out_and_counted(spoken):
    model, texts, ids, spans = spoken
    others = model.represent_given(texts, ids).embeddings()
    one = [Attributed(span[:1], {name: np.ones(1) for name in ("above_corpus", "raw", "length")}) for span in spans]
    found = deletion(model, texts, ids, others, one, rng=np.random.default_rng(0))
    assert (found["rationales"], found["left_out"], found["encoded"]) == (0, 3, 0)
    assert found["raw"]["deletion_gap"] is None


def test_rank_correlation():
    assert spearman([1, 2, 3], [10, 20, 21]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)  # ties at their mean rank
    assert spearman([1, 1, 1], [1, 2, 3]) == 0


def test_intervals_hold_the_mean():
    found = interval(np.arange(100.0))
    assert found["mean"] == 49.5
    assert found["ci95"][0] < 49.5 < found["ci95"][1]
    assert interval([]) is None


def test_queries_are_chosen_by_seed_and_keep_their_order():
    queries = {f"q{i}": str(i) for i in range(50)}
    chosen = choose_queries(queries, 10, seed=1)
    assert len(chosen) == 10
    assert list(chosen) == [query for query in queries if query in chosen]
    assert choose_queries(queries, 10, seed=1) == chosen != choose_queries(queries, 10, seed=2)
    assert choose_queries(queries, 50) == choose_queries(queries, None) == queries


def test_documents_that_are_split_rank_by_their_best_passages(new_model, sentences, tmp_path):
    corpus = Corpus(
        [Document(f"d{i}", "", " ".join(sentences[3 * i : 3 * i + 1 + i % 3]), {}) for i in range(12)],
        Judgements({f"q{i}": sentences[3 * i][:30] for i in range(4)}, {f"q{i}": {f"d{i}": 1} for i in range(4)}, {}),
        "here",
        [],
    )
    model = new_model("qwen2", max_new_tokens=24)
    index = build(Collection.create(chunked(corpus, Chunk(10)), tmp_path / "x"), model)
    assert len(index) > 20
    queries, qrels = corpus.judgements.queries, corpus.judgements.qrels
    found = evaluate(index, model, queries, qrels)
    assert (found["documents"], found["passages"]) == (12, len(index))
    assert found["max_residual"] <= 1e-5
    rankings = {query: row.ranking for query, row in retrieve(index, model, queries).items()}
    assert found["ndcg@10"]["own"] == pytest.approx(per_query(rankings, qrels)["ndcg@10"].mean(), abs=1e-5)
    fewer = evaluate(index, model, queries, qrels, documents=18)
    assert fewer["passages"] <= 18
    assert 4 < fewer["documents"] < 12
    with pytest.raises(GraceError, match="passages of relevant documents, and 4 are to be ranked"):
        evaluate(index, model, queries, qrels, documents=4)
