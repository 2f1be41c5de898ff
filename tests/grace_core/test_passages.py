"""Texts split into passages, and documents ranked by theirs."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace_core.errors import GraceError
from grace_core.passages import Chunk, Passage, best_documents, count_words, group, headings, numbered, split


def pieces(text: str, words: int, overlap: int = 0) -> list[str]:
    return [text[one.begin : one.end] for one in split(text, Chunk(words, overlap))]


# Where a text is split


def test_at_sentences_and_whole_ones():
    text = 'One two three. Four five! "Six seven?" Eight (nine ten.) Eleven'
    assert pieces(text, 5) == ["One two three. Four five! ", '"Six seven?" Eight (nine ten.) ', "Eleven"]
    assert pieces(text, 100) == [text]


def test_a_number_and_a_name_with_dots_are_no_ends():
    assert pieces("It is 3.5 km to example.org and back. Then rest.", 9) == [
        "It is 3.5 km to example.org and back. ",
        "Then rest.",
    ]


def test_at_blank_lines_where_there_are_no_stops():
    assert pieces("one two\nthree\n\nfour five six\n \nseven", 4) == ["one two\nthree\n\n", "four five six\n \nseven"]


def test_long_sentences_at_lines_then_at_words():
    assert pieces("a b c\nd e\nf g h i j", 3) == ["a b c\n", "d e\nf ", "g h i ", "j"]
    assert pieces("a b c d e f g", 3) == ["a b c ", "d e f ", "g"]


def test_a_long_sentence_fills_the_passage_that_has_begun():
    assert pieces("One two. a b c d e f", 4) == ["One two. a b ", "c d e f"]


def test_one_word_passages():
    assert pieces("  One two.\n\nthree ", 1) == ["  One ", "two.\n\n", "three "]


def test_a_word_of_many_letters_is_cut():
    assert [len(one) for one in pieces("x" * 100, 1)] == [40, 40, 20]
    assert pieces("x" * 100, 3) == ["x" * 100]


OVERLAPS = {
    "whole sentences": (
        "One two. Three four. Five six. Seven eight.",
        4,
        2,
        ["One two. Three four. ", "Three four. Five six. ", "Five six. Seven eight."],
    ),
    "none that is too long": (
        "One two three. Four five six. Seven.",
        4,
        2,
        ["One two three. ", "Four five six. Seven."],
    ),
    "none that leaves no room": (
        "One. Two three. Four five six seven.",
        4,
        3,
        ["One. Two three. ", "Four five six seven."],
    ),
    "words of a text without sentences": ("a b c d e f g h", 4, 1, ["a b c d ", "d e f g ", "g h"]),
    "not the whole passage before": ("One. Two. Three.", 1, 0, ["One. ", "Two. ", "Three."]),
    "not over a page": ("One two. Three.\fFour. Five.", 3, 2, ["One two. Three.\f", "Four. Five."]),
    "not over a heading": (
        "# A\n\none two. three.\n\n# B\n\nfour five.",
        5,
        3,
        ["# A\n\none two. three.\n\n", "# B\n\nfour five."],
    ),
}


@pytest.mark.parametrize("kind", OVERLAPS)
def test_overlap(kind):
    text, words, overlap, expected = OVERLAPS[kind]
    assert pieces(text, words, overlap) == expected


def test_chinese_counts_two_characters_a_word_and_ends_at_its_full_stop():
    text = "黄河是中国的一条大河。它流经九个省区。水量很大！"
    assert [count_words(one) for one in ("黄河是中国的一条大河。", "它流经九个省区。", "水量很大！")] == [5, 4, 2]
    assert pieces(text, 6) == ["黄河是中国的一条大河。", "它流经九个省区。水量很大！"]
    assert pieces("黄河是中国的一条大河", 2) == ["黄河是中", "国的一条", "大河"]


def test_thai_counts_five_characters_a_word_and_keeps_its_vowels():
    text = "แม่น้ำเจ้าพระยาไหลผ่านกรุงเทพมหานคร"
    made = pieces(text, 1)
    assert "".join(made) == text
    assert len(made) > 4
    assert not {one[0] for one in made} & set(
        "\u0e30\u0e31\u0e32\u0e33\u0e34\u0e35\u0e36\u0e37\u0e38\u0e39\u0e47\u0e48\u0e49\u0e4a\u0e4c"
    )


def test_marks_that_combine_and_joined_emoji_are_not_cut_off():
    assert all(one[0] != "\u0301" for one in pieces("e\u0301" * 100, 1))
    family = "👨\u200d👩\u200d👧"
    assert "".join(pieces(family * 30, 1)) == family * 30
    assert all(one[0] != "\u200d" and one[-1] != "\u200d" for one in pieces(family * 30, 1))


def test_pages_end_a_passage_and_have_numbers():
    text = "First page\fsecond. page\f\f fourth\f"
    assert split(text, Chunk(100)) == [Passage(0, 11, 1), Passage(11, 26, 2), Passage(26, 33, 4)]
    assert [one.page for one in split("\f\fthird", Chunk(5))] == [3]
    assert [one.page for one in split("no pages", Chunk(5))] == [None]


def test_headings_are_told_and_begin_a_passage_where_enough_stands_before():
    text = "Before.\n\n# A\n\na b c d e f.\n\n## B ##\ng h.\n\nSetext\n======\ni j k l."
    assert [one.title for one in headings(text)] == ["A", "B", "Setext"]
    assert [(text[one.begin : one.end].split()[0], one.heading) for one in split(text, Chunk(12))] == [
        ("Before.", ""),
        ("##", "B"),
        ("Setext", "Setext"),
    ]


def test_sections_of_few_words_stay_together():
    text = "# A\n\none.\n\n# B\n\ntwo.\n\n# C\n\nthree."
    assert pieces(text, 100) == [text]
    assert pieces(text, 12) == ["# A\n\none.\n\n", "# B\n\ntwo.\n\n", "# C\n\nthree."]
    assert [one.heading for one in split(text, Chunk(12))] == ["A", "B", "C"]


def test_a_heading_is_not_left_at_the_end_of_a_passage():
    assert pieces("one two three.\n## B\nfour five.", 6) == ["one two three.\n", "## B\nfour five."]


def test_code_and_front_matter_hold_no_headings():
    text = "---\ntitle: x\n---\n# A\n\n```\n# no\n```\n\n- item\n---\n| a |\n---\ntext\n---\nend"
    assert [one.title for one in headings(text)] == ["A", "text"]


def test_nothing_is_one_passage():
    assert split("", Chunk(5)) == [Passage(0, 0)]
    assert split(" \n ", Chunk(5)) == [Passage(0, 3)]
    assert split("\f\f", Chunk(5)) == [Passage(0, 2, 1)]


REFUSED = {
    "no word": ((0, 0), "--chunk is 0, expected 1 to 100,000 words"),
    "too many": ((100_001, 0), "--chunk is 100001"),
    "negative overlap": ((5, -1), "--overlap is -1"),
    "as much overlap": ((5, 5), "--overlap is 5, expected fewer words than the 5 of --chunk"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_settings_that_make_no_sense(kind):
    given_, part = REFUSED[kind]
    with pytest.raises(GraceError) as caught:
        Chunk(*given_)
    assert part in str(caught.value)


ALPHABET = "ab .!?\n\f\"')#=-`~国。，กำ\u0301\u200d\u200b…\t|x"
TEXTS = st.one_of(st.text(alphabet=ALPHABET, max_size=300), st.text(max_size=200))


@given(text=TEXTS, words=st.integers(1, 12))
def test_without_overlap_passages_tile_the_text(text, words):
    passages = split(text, Chunk(words))
    assert "".join(text[one.begin : one.end] for one in passages) == text
    if text.strip():
        assert all(text[one.begin : one.end].strip() for one in passages)


@given(text=TEXTS, words=st.integers(2, 12), data=st.data())
def test_with_overlap_every_character_is_in_a_passage_and_none_is_too_long(text, words, data):
    chunk = Chunk(words, data.draw(st.integers(0, words - 1)))
    passages = split(text, chunk)
    assert passages[0].begin == 0
    assert passages[-1].end == len(text)
    for before, after in pairwise(passages):
        assert before.begin < after.begin <= before.end < after.end
        if after.begin < before.end:
            assert (
                count_words(text[after.begin : before.end]) <= chunk.overlap + 1
            )  # a word may begin before a mark of its own
    if text.strip():
        assert max(count_words(text[one.begin : one.end]) for one in passages) <= words + 1


@given(text=TEXTS, words=st.integers(1, 12))
def test_pages_are_counted_by_form_feeds(text, words):
    for one in split(text, Chunk(words)):
        piece = text[one.begin : one.end]
        seen = one.begin + len(piece) - len(piece.lstrip())
        if piece.strip():
            assert one.page == (text[:seen].count("\f") + 1 if "\f" in text else None)
            assert "\f" not in piece.strip() or not piece.strip()


def test_long_texts_take_time_in_proportion():
    def seconds(text: str) -> float:
        started = time.perf_counter()
        split(text, Chunk(100, 20))
        return time.perf_counter() - started

    for unit in ("word ", "Word and word. ", "\n", "#", "国", "## A\n", "'", " .", "```\n", "\f", "x"):
        assert seconds(unit * 100_000) < 20, unit


# Documents by their passages


def test_a_document_has_the_score_of_its_best_passage():
    documents = numbered(["a", "a", "b", "c", "c"])
    groups = group(np.array([0.1, 0.9, 0.5, 0.9, 0.2], np.float32), np.arange(5), documents, 3)
    assert [(one.document, round(one.score, 3), one.rows) for one in groups] == [
        (0, 0.9, (1, 0)),
        (2, 0.9, (3, 4)),
        (1, 0.5, (2,)),
    ]


def test_or_the_sum_of_all():
    documents = numbered(["a", "a", "b", "c", "c"])
    groups = group(np.array([0.125, 0.25, 0.5, 0.375, 0.125], np.float32), np.arange(5), documents, 2, "sum")
    assert [(one.document, round(one.score, 3), one.rows) for one in groups] == [(1, 0.5, (2,)), (2, 0.5, (3, 4))]


def test_any_other_way_is_refused():
    with pytest.raises(GraceError, match="ranked by best or sum of their passages, got 'mean'"):
        group(np.ones(1), np.zeros(1, int), np.zeros(1, int), 1, "mean")


def plain(scores: np.ndarray, parents: list[int], k: int, by: str) -> list[tuple[int, float]]:
    """By a loop over all passages."""
    totals: dict[int, list[float]] = {}
    for row, parent in enumerate(parents):
        totals.setdefault(parent, []).append(float(scores[row]))
    value = {parent: max(all_) if by == "best" else sum(all_) for parent, all_ in totals.items()}
    rows = range(len(parents))
    best = {
        parent: min(row for row in rows if parents[row] == parent and scores[row] == max(totals[parent]))
        for parent in value
    }
    first = best if by == "best" else {parent: parents.index(parent) for parent in value}
    return [(parent, value[parent]) for parent in sorted(value, key=lambda parent: (-value[parent], first[parent]))][:k]


@given(
    rows=st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, -0.5, 1.0]), st.integers(0, 6)), min_size=1, max_size=40),
    k=st.integers(1, 9),
    by=st.sampled_from(["best", "sum"]),
    seed=st.integers(0, 99),
)
def test_k_documents_are_the_k_best_whatever_the_order_of_the_rows(rows, k, by, seed):
    parents = sorted(parent for _, parent in rows)
    documents = numbered([str(parent) for parent in parents])
    scores = np.array([score for score, _ in rows], np.float32)
    shuffled = np.array(random.Random(seed).sample(range(len(rows)), len(rows)))
    found = group(scores[shuffled], shuffled, documents, k, by)
    assert [(one.document, one.score) for one in found] == plain(scores, documents.tolist(), k, by)
    assert all(list(one.scores) == sorted(one.scores, reverse=True) for one in found)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=300), st.integers(1, 12), st.integers(0, 99))
def test_more_passages_are_asked_for_until_there_are_enough_documents(parents, k, seed):
    documents = numbered(list(map(str, sorted(parents))))
    scores = np.random.default_rng(seed).choice([0.0, 0.5, 1.0], len(documents)).astype(np.float32)
    asked = []

    def search(wanted: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(wanted)
        rows = np.argsort(-scores, kind="stable")[:wanted]
        return scores[rows], rows

    found = best_documents(search, documents, k, len(documents))
    assert [one.document for one in found] == [
        one.document for one in group(scores, np.arange(len(scores)), documents, k)
    ]
    assert len(found) == min(k, len(set(parents)))
    assert max(asked) <= len(documents)
