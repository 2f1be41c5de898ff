"""Explanations of an index, differences between them, and what-ifs with awkward edits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.explain import Explainer, difference
from grace_core.index import build
from grace_core.pooling import RATIONALE, TEXT, Pooling
from grace_core.readers import read_corpus
from grace_core.what_if import leave_one_out, rationale_tokens

QUERY = "which river rises in the mountains"


@pytest.fixture(scope="module")
def explainer(tiny_models, sentences, tmp_path_factory):
    """The explanations of an index of thirty documents of two sentences each."""
    folder = tmp_path_factory.mktemp("explained")
    rows = [{"_id": f"d{i}", "text": f"{sentences[i]} {sentences[i + 50]}"} for i in range(30)]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = tiny_models["qwen2"]
    return Explainer(build(Collection.create(read_corpus(folder / "c.jsonl"), folder / "x"), model), model, keep=8)


def test_scores_are_those_that_rank(explainer):
    hits = explainer.index.hits(explainer.query_vector(QUERY), 10)
    found = explainer.why(QUERY, [hit.row for hit in hits])
    for hit, why in zip(hits, found, strict=True):
        assert why.score == pytest.approx(hit.score, abs=1e-6)
        assert abs(why.residual) < 1e-5
        assert (
            "".join(p for p, part in zip(why.document.pieces, why.document.parts, strict=True) if part == TEXT)
            == hit.document.content
        )


def test_ten_hits_are_one_forward_and_then_none(explainer, monkeypatch):
    calls, engine = [], explainer.model.engine
    states = engine.states
    monkeypatch.setattr(engine, "states", lambda prompts, forced: calls.append(len(prompts)) or states(prompts, forced))
    fresh = Explainer(explainer.index, explainer.model)
    first = fresh.why(QUERY, range(10))
    assert calls == [11]
    again = fresh.why(QUERY, range(10))
    assert calls == [11]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.sentences, b.sentences)
    fresh.why(QUERY, [3, 20])
    assert calls == [11, 1]


def test_only_so_many_states_are_kept(explainer):
    explainer.why(QUERY, range(20))
    assert len(explainer._kept) == 8


def test_a_above_b(explainer):
    a, b = explainer.why(QUERY, [2, 3])
    made = difference(a, b)
    assert made.score == pytest.approx(a.score - b.score)
    assert abs(made.residual) < 1e-5
    assert made.blocks == {name: pytest.approx(a.blocks()[name] - b.blocks()[name]) for name in a.blocks()}
    for i, (sentence, value) in enumerate(made.query_sentences):
        assert sentence == a.query.sentences[i]
        assert value == pytest.approx(a.sentences[i].sum() - b.sentences[i].sum(), abs=1e-12)
    assert sum(value for _, value in made.first) == pytest.approx(a.sum)
    assert sum(value for _, value in made.second) == pytest.approx(b.sum)
    told = json.loads(json.dumps(made.as_dict()))
    assert set(told) == {"score", "sum", "residual", "blocks", "query_sentences", "first", "second"}
    assert sum(row["contribution"] for row in told["query_sentences"]) == pytest.approx(told["sum"])


def test_two_poolings_share_no_query_sentences_but_all_blocks(explainer):
    (full,), (text,) = (explainer.why(QUERY, [4], pooling=pooling) for pooling in (Pooling.FULL, Pooling.TEXT))
    made = difference(full, text)
    assert made.query_sentences == []
    assert set(made.blocks) == set(full.blocks())
    assert made.blocks["text × text"] == pytest.approx(full.blocks()["text × text"] - text.score, abs=1e-6)
    assert made.sum == pytest.approx(full.score - text.score, abs=1e-5)


def test_an_explanation_as_json_has_tokens_on_demand(explainer):
    (why,) = explainer.why(QUERY, [5])
    assert "tokens" not in why.as_dict()
    told = json.loads(json.dumps(why.as_dict(tokens=True)))
    assert sum(row["contribution"] for row in told["tokens"]) == pytest.approx(why.score, abs=1e-5)
    assert "".join(row["token"] for row in told["query_tokens"] if row["part"] == "text") == QUERY
    contributions = [row["contribution"] for row in told["sentences"]]
    assert contributions == sorted(contributions, reverse=True)


def test_what_is_not_edited_stays_as_it_is(explainer):
    for edit in ({}, {"rationale": explainer.index.rationales[6]}, {"text": explainer.text(6)}):
        found = explainer.what_if(QUERY, 6, **edit)
        assert (found.score, found.rank, found.passed, found.passed_by) == (found.old_score, found.old_rank, [], [])
    again = explainer.model.represent_given([explainer.text(6)], [explainer.rationale_ids[6]]).embeddings()[0]
    assert float(again @ explainer.query_vector(QUERY)) == pytest.approx(
        found.old_score, abs=1e-6
    )  # encoding it would not move it either


def test_edits_of_text_and_rationale_move_the_score(explainer):
    vectors, query = explainer.vectors(Pooling.FULL), explainer.query_vector(QUERY)
    for edit in ({"rationale": "Wine is sold."}, {"text": "Wine is sold."}, {"rationale": ""}):
        found = explainer.what_if(QUERY, 6, **edit)
        given = {"text": explainer.text(6), "rationale": explainer.rationale_ids[6], **edit}
        expected = explainer.model.represent_given([given["text"]], [given["rationale"]]).embeddings()[0] @ query
        assert found.score == pytest.approx(float(expected), abs=1e-6)
        assert abs(found.score - found.old_score) > 1e-4
        assert found.rank == 1 + sum(float(v @ query) > found.score for i, v in enumerate(vectors) if i != 6)
        assert found.as_dict()["passed"] == found.passed
    alone = explainer.what_if(QUERY, 6, rationale="Wine is sold.", pooling=Pooling.TEXT)
    assert alone.score == pytest.approx(alone.old_score, abs=1e-6)  # no token of the text sees the rationale


def test_each_sentence_is_left_out_of_text_and_rationale(explainer):
    (document,) = explainer.states([explainer.text(7)], [explainer.rationale_ids[7]])
    query = explainer.query_vector(QUERY, Pooling.TEXT)
    found = explainer.leave_one_out(QUERY, 7, part=TEXT, pooling=Pooling.TEXT)
    first, second = explainer.text(7).split(". ")
    assert [sentence.text for sentence, _ in found] == [f"{first}.", second]
    for (_, score), rest in zip(found, (second, f"{first}."), strict=True):
        assert score == pytest.approx(float(explainer.model.encode([rest], rationale=False)[0] @ query), abs=1e-5)
    unchanged = explainer.leave_one_out(QUERY, 7, pooling=Pooling.TEXT)
    whole = float(explainer.vectors(Pooling.TEXT)[7] @ query)
    assert [sentence.part for sentence, _ in unchanged] == [RATIONALE] * sum(
        s.part == RATIONALE for s in document.sentences
    )
    assert all(score == pytest.approx(whole, abs=1e-5) for _, score in unchanged)


def test_the_only_sentence_of_a_text_is_not_left_out(explainer):
    (one,) = explainer.states([QUERY], [[]])
    assert leave_one_out(explainer.model, explainer.query_vector(QUERY), QUERY, one, [], part=TEXT) == []


def test_markup_in_an_edit_is_text(explainer):
    tokenizer = explainer.model.tokenizer
    edit = "a<|im_end|>\n<script>alert(1)</script> \ud800\x00"
    ids = rationale_tokens(explainer.model, edit)
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids) == "a<|im_end|>\n<script>alert(1)</script> ?"
    assert explainer.what_if(QUERY, 1, rationale=edit).rationale == edit
    plain = "Snow lies deep on roads."
    assert rationale_tokens(explainer.model, plain) == tokenizer(plain, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_emptied_text_is_refused(explainer, text):
    with pytest.raises(GraceError, match=r"edited text is empty.*leave at least a word"):
        explainer.what_if(QUERY, 1, text=text)


def test_a_rationale_of_ten_thousand_words_is_refused(explainer):
    with pytest.raises(
        GraceError, match=r"the edited rationale has \d{5} tokens, tiny-qwen2 takes at most 1024; shorten it"
    ):
        explainer.what_if(QUERY, 1, rationale="river " * 10_000)


def test_a_document_that_is_not_there(explainer):
    with pytest.raises(GraceError, match="no document 'd99'"):
        explainer.row("d99")
    assert explainer.row("d29") == 29
