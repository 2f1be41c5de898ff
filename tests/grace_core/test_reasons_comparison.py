"""Two models by reasons, and a model beside its text alone: changes that add up, and what moved by words or by geometry."""

from __future__ import annotations

import numpy as np
import pytest
from reasons_world import KINDS, build_given, kinds_of, numbered_texts

from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import per_query, retrieve
from grace_core.index import build
from grace_core.pooling import Pooling
from grace_core.reasons.collection import OTHERS, make_reasons
from grace_core.reasons.comparison import compare_models, compare_text
from grace_core.reasons.split import split_scores

NUMBER = 36


@pytest.fixture(scope="module")
def world(tiny_models, new_model, sentences, tmp_path_factory):
    """A model with its reasons, another with the same tokenizer, and one with another; queries and judgements."""
    folder, texts = tmp_path_factory.mktemp("compared") / "c", numbered_texts(sentences, NUMBER)
    model, other = tiny_models["qwen2"], new_model("qwen2", seed=1)
    rationales = [f"{KINDS[kind]} {sentences[11 * i % 300]}" for i, kind in enumerate(kinds_of(NUMBER))]
    index = build_given(folder, model, texts, rationales, geometry="calibrated")
    others = {
        name: build(index.collection, one, name=name)
        for name, one in (("other", other), ("llama", tiny_models["llama"]))
    }
    queries = {f"q{i}": " ".join(texts[i].split()[:4]) for i in range(0, NUMBER, 4)}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(0, NUMBER, 4)}
    return make_reasons(index, model).at(), model, others, other, queries, qrels


def test_weights_add_up_to_one_and_changes_to_words_and_geometry(world):
    grouping, model, others, other, queries, qrels = world
    found = compare_models(grouping, model, others["other"], other, queries, qrels)
    assert len(found["reasons"]) == len(grouping)
    for way in ("own", "words", "other"):
        assert sum(one[way] for one in found["reasons"]) + sum(found["others"][way].values()) == pytest.approx(
            1, abs=1e-5
        )
        assert 0 <= found["ndcg@10"][way] <= 1
    for one in found["reasons"]:
        assert one["change"] == pytest.approx(one["by_words"] + one["by_geometry"], abs=1e-9)
        assert one["change"] == pytest.approx(one["other"] - one["own"], abs=1e-9)
    changes = [abs(one["change"]) for one in found["reasons"]]
    assert changes == sorted(changes, reverse=True)
    assert 0 < found["hits_moved"]["by_geometry"] <= 1
    assert len(found["telling"]) == len(queries)


def test_a_model_against_itself_moves_nothing(world, sentences):
    """What it wrote is read again by itself: the same hits, and the same weight of text, template and
    sentences of no reason.
    """
    grouping, model, _, _, queries, qrels = world
    found = compare_models(grouping, model, grouping.sentences.index, model, queries, qrels)
    assert found["hits_moved"] == {"by_words": 0, "by_geometry": 0}
    assert len(set(found["ndcg@10"].values())) == 1
    for name in ("text", "template", "no reason"):
        assert np.ptp([found["others"][way][name] for way in ("own", "words", "other")]) < 1e-4


def test_models_of_other_tokenizers_are_refused(world, tiny_models):
    grouping, model, others, _, queries, _ = world
    with pytest.raises(GraceError, match="other tokens"):
        compare_models(grouping, model, others["llama"], tiny_models["llama"], queries)


def test_another_collection_is_refused(world, tiny_models, sentences, tmp_path):
    grouping, model, _, other, queries, _ = world
    elsewhere = build_given(tmp_path / "c", other, numbered_texts(sentences, 5), [KINDS[0]] * 5)
    with pytest.raises(GraceError, match="other documents"):
        compare_models(grouping, model, elsewhere, other, queries)


@pytest.fixture(scope="module", params=["raw", "calibrated"])
def alone(request, tiny_models, sentences, tmp_path_factory):
    """A model's reasons, the model, judged queries, and its text alone compared over these."""
    texts, model = numbered_texts(sentences, NUMBER), tiny_models["qwen2"]
    rationales = [f"{KINDS[kind]} {sentences[11 * i % 300]}" for i, kind in enumerate(kinds_of(NUMBER))]
    index = build_given(tmp_path_factory.mktemp("alone") / "c", model, texts, rationales, geometry=request.param)
    queries = {f"q{i}": " ".join(texts[i].split()[:4]) for i in range(0, NUMBER, 4)}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(0, NUMBER, 4)}
    grouping = make_reasons(index, model).at()
    return grouping, model, queries, qrels, compare_text(grouping, model, queries, qrels)


def test_text_alone_has_no_reason_and_weights_add_up_to_one(alone):
    grouping, _, _, _, found = alone
    for way in ("text", "own"):
        total = sum(one[way] for one in found["reasons"]) + sum(found["others"][way].values())
        assert total == pytest.approx(1, abs=1e-5)
    for one in found["reasons"]:
        assert one["text"] == 0
        assert one["change"] == one["by_words"] == one["own"]
    assert any(one["own"] for one in found["reasons"])
    without = found["others"]["text"]
    assert without["no reason"] == 0
    assert (without["template"] == 0) == grouping.sentences.index.geometry.is_raw
    assert list(found["hits_moved"]) == ["by_words"]


def test_rankings_and_moved_hits_are_those_of_both_columns(alone):
    grouping, model, queries, qrels, found = alone
    rankings = {}
    for way, pooling in (("text", Pooling.TEXT), ("own", Pooling.FULL)):
        rows = retrieve(grouping.sentences.index, model, queries, pooling)
        rankings[way] = {name: list(row.ranking) for name, row in rows.items()}
        values = per_query(rankings[way], qrels)["ndcg@10"]
        assert found["ndcg@10"][way] == pytest.approx(values.mean(), abs=1e-4)
    assert [row["id"] for row in found["by_query"]] == list(queries)
    for row in found["by_query"]:
        text, own = (rankings[way][row["id"]] for way in ("text", "own"))
        assert row["first"] == {"text": text[0], "own": own[0]}
        assert row["came"] == [one for one in own if one not in text]
        assert row["left"] == [one for one in text if one not in own]
        assert row["by_words"] == pytest.approx(len(row["came"]) / 10)
        assert row["moved"] == ("words" if row["came"] else "")
    assert any(row["came"] for row in found["by_query"])


def test_lifts_are_parts_of_what_sets_hits_that_came_above_those_that_left(alone):
    """Score by score, against plain cosines."""
    grouping, model, queries, _, found = alone
    index, parts, total = grouping.sentences.index, np.zeros(len(grouping) + len(OTHERS)), 0.0
    for row in found["by_query"]:
        query = index.embed(model.represent([queries[row["id"]]]))[0]
        for document, sign in [*((one, 1) for one in row["came"]), *((one, -1) for one in row["left"])]:
            at = index.row[document]
            parts += sign * split_scores(grouping, query, [at]).parts[0]
            total += sign * float(index.vectors()[at] @ query)
    lifts = {one["number"]: one["lift"] for one in found["reasons"]}
    assert total > 0
    for number, value in lifts.items():
        assert value * total == pytest.approx(parts[number], abs=1e-5)
    for place, name in enumerate(OTHERS):
        assert found["other_lifts"][name] * total == pytest.approx(parts[len(grouping) + place], abs=1e-5)
    assert sum(lifts.values()) + sum(found["other_lifts"].values()) == pytest.approx(1, abs=1e-5)
