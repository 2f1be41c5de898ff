"""Names by class-based TF-IDF, in English, in Chinese, and where there is nothing to name by."""

from __future__ import annotations

import numpy as np
import pytest

from grace_core.reasons.names import best_terms, name_groups, terms_of


def names_of(groups: list[list[str]]) -> list[str]:
    sentences = [sentence for group in groups for sentence in group]
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    terms = best_terms([terms_of(sentence) for sentence in sentences], labels, len(groups))
    return name_groups(terms, [group[0] for group in groups])


def test_terms_are_words_and_pairs_without_stop_words_tags_and_numbers():
    assert terms_of("<think>The river of 1902 flows, deep water!</think>") == {
        "river",
        "flows",
        "deep",
        "water",
        "deep water",
    }
    assert terms_of("") == frozenset()


def test_terms_of_scripts_without_spaces_are_runs_of_letters():
    assert terms_of("高血压。病") == {"高血", "血压", "高血压"}
    assert terms_of("COVID疫苗") == {"covid", "疫苗"}


def test_a_name_is_what_sets_a_group_apart():
    names = names_of(
        [
            [
                "The text tells of high blood pressure.",
                "It lowers blood pressure.",
                "The text names blood pressure and salt.",
            ],
            ["The text tells of a broken bone.", "The text says how a bone heals.", "A bone is set."],
            ["The text tells of a rare fever.", "Fever and chills.", "The text is about fever."],
        ]
    )
    assert names[0].startswith("blood pressure")
    assert names[1].startswith("bone")
    assert names[2].startswith("fever")
    assert not any("text" in name for name in names)


def test_chinese_names_are_whole_words_that_recur():
    names = names_of(
        [
            ["这段文字讲的是高血压的治疗。", "高血压会损害心脏。", "它说明如何预防高血压。"],
            ["这段文字讲的是长江的源头。", "长江流经十一个省。", "它描述长江的水坝。"],
            ["这段文字讲的是京剧的历史。", "京剧在北京形成。", "它介绍京剧的服装。"],
        ]
    )
    assert [name.split(" · ")[0] for name in names] == ["高血压", "长江", "京剧"]


def test_one_sentence_for_all_is_named_by_its_words():
    assert names_of([["A river flows."] * 5]) == ["river flows"]


@pytest.mark.parametrize("sentence", ["It is.", "1902 …", "а б"], ids=["stop words", "numbers", "letters"])
def test_where_no_term_is_left_the_sentence_begins_the_name(sentence):
    assert names_of([[sentence], ["A river flows."]])[0] == sentence


def test_names_are_never_the_same():
    names = names_of([["It is."], ["It is."], ["It is."], ["A river."], ["A bone."]])
    assert len(set(names)) == 5
    assert names[:3] == ["It is.", "It is. (2)", "It is. (3)"]


def test_scores_are_those_of_the_formula():
    sentences = [frozenset({"a"}), frozenset({"a", "b"}), frozenset({"b"}), frozenset({"c"}), frozenset({"c", "d"})]
    labels = np.array([0, 0, 1, 1, 1])
    found = [dict(terms) for terms in best_terms(sentences, labels, 2)]
    average = 7 / 2
    assert found[0]["a"] == pytest.approx(2 / 2 * np.log(1 + average / 2))
    assert found[1]["c"] == pytest.approx(2 / 3 * np.log(1 + average / 2))
    assert found[0]["b"] == pytest.approx(1 / 2 * np.log(1 + average / 2))
    assert "b" not in found[1]  # a third of it holds b, two fifths of all do


def test_sentences_in_no_group_count_for_nothing():
    sentences = [frozenset({"a"}), frozenset({"b"}), frozenset({"a"})]
    assert best_terms(sentences, np.array([0, 1, -1]), 2) == best_terms(sentences[:2], np.array([0, 1]), 2)
