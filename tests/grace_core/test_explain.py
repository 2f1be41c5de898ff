"""Scores as parts that add up: against plain double loops, and against the scores that rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_core.errors import GraceError
from grace_core.explain import explain, relative_to_corpus, score_blocks
from grace_core.geometry import RAW
from grace_core.pooling import PARTS, TEMPLATE, Pooling
from grace_core.token_states import split_sentences, token_states
from grace_core.what_if import leave_one_out, what_if

QUERY = "which river rises in the mountains"


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def world(request, tiny_models, sentences):
    """A model, a query and documents with their rationales, and the states of all their tokens."""
    model = tiny_models[request.param]
    texts = [QUERY, *(f"{a} {b}" for a, b in zip(sentences[:20], sentences[20:40], strict=True))]
    made = model.represent(texts)
    return model, texts, made, token_states(model, texts, made.rationale_ids, batch_size=7)


def test_token_states_add_up_to_the_part_sums(world):
    _, _, made, states = world
    for i, one in enumerate(states):
        for part in range(3):
            np.testing.assert_allclose(one.states[one.parts == part].sum(axis=0), made.sums[i, part], atol=1e-3)
            assert (one.parts == part).sum() == made.counts[i, part]
        assert len(one.pieces) == len(one.states)


@pytest.mark.parametrize("pooling", list(Pooling))
def test_all_levels_add_up_to_the_score(world, pooling):
    _, _, made, states = world
    vectors = made.embeddings(pooling)
    scores = vectors[1:] @ vectors[0]
    blocks = score_blocks((made.sums[:1], made.counts[:1]), (made.sums[1:], made.counts[1:]), pooling)
    np.testing.assert_allclose(blocks.sum(axis=(1, 2)), scores, atol=1e-5)
    for i, score in enumerate(scores, start=1):
        found = explain(states[0], states[i], float(score), pooling=pooling)
        assert abs(found.residual) < 1e-5
        assert found.tokens.sum() == pytest.approx(score, abs=1e-5)
        assert found.query_tokens.sum() == pytest.approx(score, abs=1e-5)
        for name, value in found.blocks().items():
            p, q = (PARTS.index(part) for part in name.split(" × "))
            assert value == pytest.approx(blocks[i - 1, p, q], abs=1e-5)
    assert set(found.blocks()) == (
        {"text × text"} if pooling is Pooling.TEXT else {f"{a} × {b}" for a in PARTS for b in PARTS}
    )


def test_the_parts_against_a_plain_double_loop(world):
    _, _, made, states = world
    query, document = states[0], states[5]
    score = float(made.embeddings()[5] @ made.embeddings()[0])
    found = explain(query, document, score)
    total = {"query": np.zeros(query.states.shape[1]), "document": np.zeros(query.states.shape[1])}
    for name, side in (("query", query), ("document", document)):
        for state in side.states:
            total[name] += state
    scale = np.sqrt((total["query"] ** 2).sum()) * np.sqrt((total["document"] ** 2).sum())
    for i, a in enumerate(query.sentences):
        for j, b in enumerate(document.sentences):
            plain = 0.0
            for t in range(a.begin, a.end):
                for u in range(b.begin, b.end):
                    plain += float(query.states[t].astype(np.float64) @ document.states[u].astype(np.float64)) / scale
            assert found.sentences[i, j] == pytest.approx(plain, abs=1e-6)


def test_differences_split_too(world):
    _, _, made, states = world
    vectors = made.embeddings()
    mean = vectors[1:].mean(axis=0)
    shares = relative_to_corpus(vectors[0], states[3].within(RAW, Pooling.FULL, "document"), mean)
    assert shares.sum() == pytest.approx(float(vectors[3] @ vectors[0] - mean @ vectors[0]), abs=1e-5)
    above = score_blocks((made.sums[:1], made.counts[:1]), (made.sums[[3, 4]], made.counts[[3, 4]]))
    assert (above[0] - above[1]).sum() == pytest.approx(float((vectors[3] - vectors[4]) @ vectors[0]), abs=1e-5)


def test_sentences_cover_every_token_once_and_read_as_the_text(world):
    model, texts, made, states = world
    for text, ids, one in zip(texts, made.rationale_ids, states, strict=True):
        assert [s.begin for s in one.sentences] == [0, *(s.end for s in one.sentences)][:-1]
        assert one.sentences[-1].end == len(one.states)
        assert sum(s.part == TEMPLATE for s in one.sentences) == 1
        read = "".join(piece for piece, part in zip(one.pieces, one.parts, strict=True) if part == 0)
        assert text in read
        written = "".join(piece for piece, part in zip(one.pieces, one.parts, strict=True) if part == 2)
        assert model.tokenizer.decode(ids) == written
    assert len([s for s in states[1].sentences if s.part == 0]) == 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet='ab.?!\n <>/thinkT"', max_size=6), max_size=30))
def test_any_pieces_are_split_without_loss(pieces):
    found = split_sentences(pieces)
    assert [i for a, b in found for i in range(a, b)] == list(range(len(pieces)))


def test_sentences_of_a_rationale():
    pieces = ["<think>", "It is a river.", "</think>", " The Danube", " flows", " east.", " It", " is long."]
    read = ["".join(pieces[a:b]).strip() for a, b in split_sentences(pieces)]
    assert read == ["<think>", "It is a river.", "</think>", "The Danube flows east.", "It is long."]


def test_an_unchanged_rationale_changes_nothing_and_another_one_does(world):
    model, texts, made, _ = world
    vectors, ids = made.embeddings()[1:], [f"d{i}" for i in range(20)]
    query = made.embeddings()[0]
    scores = vectors @ query
    for row in (0, 7):
        same = what_if(model, query, vectors, ids, row, text=texts[row + 1], rationale=made.rationale_ids[row + 1])
        assert same.score == pytest.approx(same.old_score, abs=1e-6)
        assert (same.rank, same.passed, same.passed_by) == (same.old_rank, [], [])
        other = what_if(model, query, vectors, ids, row, text=texts[row + 1], rationale="wine")
        expected = float(model.represent_given([texts[row + 1]], ["wine"]).embeddings()[0] @ query)
        assert other.score == pytest.approx(expected, abs=1e-6)
        assert other.rank == 1 + sum(score > other.score for i, score in enumerate(scores) if i != row)
        assert len(other.passed) - len(other.passed_by) == other.old_rank - other.rank


def test_leaving_one_sentence_out_at_a_time(world):
    model, texts, made, states = world
    query = made.embeddings()[0]
    found = leave_one_out(model, query, texts[2], states[2], made.rationale_ids[2])
    assert [s.text for s, _ in found] == [s.text for s in states[2].sentences if s.part == 2]
    first = int(made.counts[2, :2].sum())
    for sentence, score in found:
        ids = list(made.rationale_ids[2])
        del ids[sentence.begin - first : sentence.end - first]
        expected = float(model.represent_given([texts[2]], [ids]).embeddings()[0] @ query)
        assert score == pytest.approx(expected, abs=1e-5)
    empty = token_states(model, [QUERY], [[]])[0]
    assert leave_one_out(model, query, QUERY, empty, []) == []


def test_bad_input(world):
    model, *_ = world
    with pytest.raises(GraceError, match="2 texts and 1 rationales"):
        token_states(model, ["a", "b"], [[1]])
    with pytest.raises(GraceError, match="empty"):
        token_states(model, [" "], [[1]])


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("河は流れる。橋は長い！本当か？はい。", ["河は流れる。", "橋は長い！", "本当か？", "はい。"]),
        ("他说：“水在流。”然后走了。", ["他说：“水在流。”", "然后走了。"]),
        ("नदी बहती है। पुल लंबा है। क्या?", ["नदी बहती है।", "पुल लंबा है।", "क्या?"]),
        ("هل يجري النهر؟ نعم. الجسر طويل.", ["هل يجري النهر؟", "نعم.", "الجسر طويل."]),
        ("It costs 3.5 euros. Really?! Yes.", ["It costs 3.5 euros.", "Really?!", "Yes."]),
        ("本当か！？はい。", ["本当か！？", "はい。"]),
    ],
)
def test_sentences_end_in_every_script(text, sentences):
    pieces = list(text)
    assert ["".join(pieces[a:b]).strip() for a, b in split_sentences(pieces)] == sentences
