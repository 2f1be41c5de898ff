"""Reasons taken out of all documents: what is taken out, who is compared, and what is told."""

from __future__ import annotations

import numpy as np
import pytest
from reasons_world import KINDS, build_given, kinds_of, numbered_texts

from grace_core.errors import GraceError
from grace_core.pooling import RATIONALE
from grace_core.reasons import faithfulness
from grace_core.reasons.collection import make_reasons
from grace_core.reasons.faithfulness import evaluate_reasons, match, other_sentences, serving_reason

NUMBER = 36


@pytest.fixture(scope="module")
def world(tiny_models, sentences, tmp_path_factory):
    model, texts = tiny_models["qwen2"], numbered_texts(sentences, NUMBER)
    rationales = [f"{KINDS[kind]} {sentences[11 * i % 300]}" for i, kind in enumerate(kinds_of(NUMBER))]
    index = build_given(tmp_path_factory.mktemp("faithful") / "c", model, texts, rationales, geometry="calibrated")
    return make_reasons(index, model).at(), model


@pytest.fixture(scope="module")
def judged(world):
    """Each document's beginning asks for it."""
    index = world[0].sentences.index
    queries = {f"q{i}": " ".join(index.collection.documents[f"d{i}"].text.split()[:4]) for i in range(0, NUMBER, 2)}
    return queries, {f"q{i}": {f"d{i}": 1} for i in range(0, NUMBER, 2)}


def test_a_last_sentence_is_taken_out_of_the_sums_as_by_another_forward(world):
    """Nothing in a causal model sees what stands behind it, so that both ways must agree there."""
    grouping, model = world
    last = np.array([grouping.sentences.of(row)[-1] for row in range(0, NUMBER, 3)])
    rows, stored = faithfulness._without_stored(grouping, model, last)
    again, encoded = faithfulness._without_encoded(grouping, model, last)
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_allclose(stored, encoded, atol=1e-5)
    assert np.abs(stored - grouping.sentences.index.vectors()[rows]).max() > 1e-3


def test_a_first_sentence_is_seen_by_those_behind_it(world):
    grouping, model = world
    first = np.array([grouping.sentences.of(row)[0] for row in range(6)])
    stored, encoded = (
        without(grouping, model, first)[1] for without in (faithfulness._without_stored, faithfulness._without_encoded)
    )
    assert np.abs(stored - encoded).max() > 1e-3


def test_without_all_its_sentences_a_document_has_an_empty_rationale(world):
    grouping, model = world
    index = grouping.sentences.index
    _, stored = faithfulness._without_stored(grouping, model, np.array(grouping.sentences.of(4)))
    sums, counts = np.array(index.sums[4:5]), np.array(index.counts[4:5])
    sums[:, RATIONALE], counts[:, RATIONALE] = 0, 0
    np.testing.assert_allclose(stored, index.geometry.vectors(sums, counts), atol=1e-6)


def test_other_sentences_are_as_many_of_the_same_documents(world):
    grouping, _ = world
    mine = np.flatnonzero(grouping.labels == 0)
    others = other_sentences(grouping, mine, np.random.default_rng(0))
    assert not set(others.tolist()) & set(mine.tolist())
    assert (grouping.labels[others] > 0).all()
    rows = grouping.sentences.rows
    assert set(rows[others].tolist()) <= set(rows[mine].tolist())
    assert len(others) <= len(mine)


def test_matches_are_the_nearest_and_none_twice():
    values = np.array([0.0, 0.5, 1.0, 0.05, 0.45, 0.9, 0.2])
    matched = match(values, np.array([0, 1, 2]), np.array([3, 4, 5, 6]), np.random.default_rng(0))
    assert matched.tolist() == [3, 4, 5]
    again = match(values, np.array([0, 1, 2, 0]), np.array([3, 5]), np.random.default_rng(0))
    assert sorted(again.tolist()) == [3, 3, 5, 5]
    with pytest.raises(GraceError, match="no others"):
        match(values, np.array([0]), np.array([], int), np.random.default_rng(0))


def test_the_measures(world, judged, monkeypatch):
    grouping, model = world
    found = evaluate_reasons(grouping, model, *judged, encode=True)
    assert found["queries"] == NUMBER // 2
    assert found["served"] == sum(row["queries"] for row in found["by_reason"])
    for kind in ("stored", "encoded"):
        told = found[kind]
        assert told["difference"]["mean"] == pytest.approx(told["drop"]["mean"] - told["matched"]["mean"], abs=2e-5)
        assert told["over_other"]["mean"] == pytest.approx(told["drop"]["mean"] - told["other"]["mean"], abs=2e-5)
        low, high = told["difference"]["ci95"]
        assert low <= told["difference"]["mean"] <= high
    assert found == evaluate_reasons(grouping, model, *judged, encode=True)
    monkeypatch.setattr(faithfulness, "LEAST", 1000)
    with pytest.raises(GraceError, match="no reason serves 1000"):
        evaluate_reasons(grouping, model, *judged)


def test_the_serving_reason_adds_most_above_the_corpus(world):
    grouping, _ = world
    index = grouping.sentences.index
    query, rows = index.vectors()[5], np.arange(10)
    contributions = np.zeros(len(grouping))
    for i in grouping.sentences.of_rows(rows):
        contributions[grouping.labels[i]] += float(grouping.sentences.vectors(np.array([i]))[0] @ query)
    usual = np.zeros(len(grouping))
    for i in range(len(grouping.sentences)):
        usual[grouping.labels[i]] += float(grouping.sentences.vectors(np.array([i]))[0] @ query) / NUMBER
    assert serving_reason(grouping, query, rows) == int((contributions - 10 * usual).argmax())
