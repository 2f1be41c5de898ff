"""Two models by reasons: changes that add up, and what moved by words or by geometry."""

from __future__ import annotations

import numpy as np
import pytest
from reasons_world import KINDS, build_given, kinds_of, numbered_texts

from grace_core.errors import GraceError
from grace_core.index import build
from grace_core.reasons.collection import make_reasons
from grace_core.reasons.comparison import compare_models

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
