"""BM25: bm25s' scores, an independent double loop, and odd texts."""

from __future__ import annotations

import logging
import math
import re

import bm25s
import numpy as np
import pytest
from columns_world import ODD, QUERIES
from hypothesis import given
from hypothesis import strategies as st

from grace_core.columns.bm25 import Bm25
from grace_core.ranking import order

STOPS = set(bm25s.stopwords.STOPWORDS_EN)


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"\b\w\w+\b", text.lower()) if word not in STOPS]


def by_loops(texts: list[str], query: str) -> list[float]:
    """The formula of docs/columns.md, in plain Python."""
    documents = [words(text) for text in texts]
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for term in words(query):
            holding = sum(term in other for other in documents)
            if holding:
                idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
                frequency = document.count(term)
                score += idf * frequency / (frequency + 1.5 * (1 - 0.75 + 0.75 * len(document) / average))
        scores.append(score)
    return scores


@pytest.fixture(scope="module")
def texts(sentences) -> list[str]:
    made = [" ".join(sentences[2 * i : 2 * i + 1 + i % 3]) for i in range(80)] + list(ODD)
    made[30] = made[3]
    return made


def test_scores_are_those_of_bm25s_alone_and_those_of_a_double_loop(texts, sentences):
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    alone = bm25s.BM25()
    alone.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    index = Bm25(texts)
    for query in (*QUERIES, *sentences[200:240], "river river RIVER snow", " ".join(sentences[:40])):
        mine = index.scores(query)
        np.testing.assert_allclose(mine, by_loops(texts, query), atol=1e-5)
        if terms := bm25s.tokenize([query], return_ids=False, show_progress=False)[0]:
            theirs = alone.get_scores(terms)
            np.testing.assert_allclose(
                mine, theirs, atol=1e-5, rtol=1e-6
            )  # which it sums in fp32: 300 terms leave 4e-5 of 58
            if len(terms) < 12:
                rows, _ = alone.retrieve([terms], k=10, show_progress=False)
                np.testing.assert_allclose(mine[order(mine, 10)], theirs[rows[0]], atol=1e-5)


def test_a_thousand_random_pairs_split_by_terms(texts, sentences):
    index, rng = Bm25(texts), np.random.default_rng(0)
    largest, known = 0.0, 0
    for a, b, row in zip(*rng.integers(0, 300, (2, 1000)), rng.integers(0, len(texts), 1000), strict=True):
        query = f"{sentences[a]} {sentences[b]}"
        terms = index.explain(query, texts[row])
        largest = max(largest, abs(index.scores(query)[row] - sum(term.value for term in terms)))
        known += sum(term.frequency > 0 for term in terms)
    assert largest < 1e-9
    assert known > 2000


def test_a_term_comes_with_what_the_index_knows_of_it(texts):
    index, text = Bm25(texts), "the river, the RIVER and the sea"
    river, sea, zebra = index.explain("river sea of river zebra", text)
    assert (river.term, river.times, river.frequency, sea.frequency, zebra.frequency) == ("river", 2, 2, 1, 0)
    assert river.documents == sum("river" in words(other) for other in texts)
    assert (river.length, river.corpus) == (3, len(texts))
    assert river.average == pytest.approx(sum(len(words(other)) for other in texts) / len(texts))
    assert river.value == pytest.approx(2 * river.idf * 2 / (2 + 1.5 * (0.25 + 0.75 * 3 / river.average)), rel=1e-6)
    assert (zebra.documents, zebra.value) == (0, 0.0)
    assert index.left_out("and the river of the north") == ["and", "the", "of"]


@pytest.mark.parametrize("query", ["zebra", "the and of", "!?", "我"])
def test_a_query_without_a_known_term_gives_every_document_nothing(texts, query):
    scores = Bm25(texts).scores(query)
    assert scores.shape == (len(texts),)
    assert not scores.any()


def test_equal_documents_have_equal_scores(texts):
    scores = Bm25(texts).scores(texts[3])
    assert scores[30] == scores[3] == scores.max() > 0


@pytest.mark.parametrize(
    "texts", [["a", "I"], ["the", "of"], ["。", "！"], ["word"], ["钢铁是怎样炼成的。", "钢铁"], []]
)
def test_corpora_that_hardly_have_a_term(texts):
    index = Bm25(texts)
    assert index.scores("word 钢铁").shape == (len(texts),)
    assert [term.value > 0 for term in index.explain("word", "word")] == ["word" in texts]
    if "钢铁" in texts:
        assert index.scores("钢铁")[1] > 0 == index.scores("钢铁")[0]  # signs in a row are one word


@given(st.lists(st.text(max_size=30), min_size=1, max_size=6), st.text(max_size=30))
def test_whatever_the_texts_are(texts, query):
    index = Bm25(texts)
    np.testing.assert_allclose(index.scores(query), by_loops(texts, query) if any(map(words, texts)) else 0, atol=1e-5)
