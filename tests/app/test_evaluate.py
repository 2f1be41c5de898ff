"""The Evaluate tab's logic: what is asked for, evaluating what is missing, keeping it, and comparing two columns."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from explorer_world import IMAGE, SCRIPT
from judged_world import QUERIES, TEST, make_judged

from grace_app.api import evaluate_api
from grace_app.evaluate.evaluations import Evaluations, Progress, compare, evaluate, extremes, queries_of
from grace_app.evaluate.render import render_none, render_progress, render_scores
from grace_app.evaluate.render_queries import bars, bubbles, picture, render_cases
from grace_app.evaluate.view import EvaluateView, explore_view, read_evaluate, splits_of
from grace_app.workspace.state import Workspace
from grace_app.workspace.view import Column
from grace_core.errors import GraceError
from grace_core.evaluation import stored
from grace_core.evaluation.retrieval import Retrieved, evaluate_index, judged_queries, per_query, summary
from grace_core.files import only_writer

A, B = Column("tiny-a", True), Column("tiny-b", True)
VIEW = EvaluateView("judged", A, B, "test")
FILTERED = replace(VIEW, where="_id < 'd10' and title != 'Story 3'")  # nine documents


@pytest.fixture(scope="module")
def judged(tmp_path_factory, new_model, sentences):
    return make_judged(tmp_path_factory.mktemp("judged"), new_model, sentences)


@pytest.fixture
def space(judged):
    """A workspace of its own, over a collection of which nothing is stored."""
    for path in judged.indexes.glob(f"*/*/{stored.FILE}"):
        path.unlink()
    return Workspace(judged.indexes, cache_path=judged.root / "cache.sqlite")


@pytest.fixture
def known(space):
    """An evaluation whose values are known: on q00 B is better, on q01 A, on q02 to q04 both are the same."""
    evaluations = Evaluations(space)
    texts = space.collection("judged").judgements.queries
    best, none = ("d00", "d01"), ("d20",)
    rankings = {
        "q00": (none, best),
        "q01": (("d01", "d02"), ("d20", "d01", "d02")),
        "q02": (none, none),
        "q03": (none, none),
        "q04": (("d04", "d05"), ("d04", "d05")),
    }
    for place, column in enumerate((A, B)):
        rows = {
            name: Retrieved(texts[name], found[place], f"{SCRIPT} about {name}") for name, found in rankings.items()
        }
        evaluations.add(space.index("judged", column.model), column, rows)
    return evaluations


def test_splits_are_counted_and_the_first_queries_are_always_the_same(space, workspace):
    assert splits_of(space.collection("judged")) == {"test": TEST, "dev": QUERIES - TEST, "all": QUERIES}
    assert list(splits_of(workspace.collection("world"))) == ["test", "train", "all"]
    assert splits_of(workspace.collection("plain")) == {}
    collection = space.collection("judged")
    order = list(queries_of(collection.judgements, VIEW))
    assert order == list(queries_of(collection.judgements, VIEW))
    assert order != sorted(order)
    assert sorted(order) == sorted(judged_queries(collection.judgements, "test"))
    assert list(queries_of(collection.judgements, replace(VIEW, first=True))) == order[:100]


def test_an_address_gives_back_its_view(space):
    assert read_evaluate(space, {}) == (VIEW, [])
    for view in (
        VIEW,
        replace(VIEW, split=""),
        replace(VIEW, b=Column("tiny-a", False), split="dev", first=True),
        FILTERED,
    ):
        assert read_evaluate(space, view.params()) == (view, [])


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"on": "../etc"}, "there is no collection '../etc' here"),
        ({"x": "tiny-c:text"}, "judged has no column 'tiny-c:text'"),
        ({"y": SCRIPT}, "judged has no column"),
        ({"split": "train"}, "judged has no split 'train'; there are: test, dev, all"),
        ({"first": "7"}, "first is '7', expected 100"),
        ({"among": "yaer > 3"}, "there is no column 'yaer'"),
    ],
)
def test_what_is_wrong_in_an_address_is_said(space, params, said):
    view, problems = read_evaluate(space, params)
    assert said in "; ".join(problems)
    assert view == VIEW
    with pytest.raises(GraceError):
        read_evaluate(space, params, strict=True)
    assert read_evaluate(space, {"on": ["x"], "x": 7, "first": None})[1] == []


def test_an_evaluation_agrees_with_the_library_and_is_there_at_once_the_next_time(space, judged):
    seen = list(evaluate(Evaluations(space), VIEW))
    assert [step.state for step in (seen[0], seen[-1])] == ["done", "done"]  # one object, reported as it changes
    assert seen[-1].done == seen[-1].total == 2 * TEST
    again = Workspace(judged.indexes, cache_path=judged.root / "cache.sqlite")
    found = compare(Evaluations(again), VIEW)
    assert (found.missing, found.asked, found.problems) == (0, TEST, [])
    assert not again._models  # nothing had to be encoded
    collection, queries = again.collection("judged"), judged_queries(again.collection("judged").judgements, "test")
    for place, column in enumerate((A, B)):
        index = again.index("judged", column.model)
        values = per_query(evaluate_index(index, again.model_of(index), queries), collection.judgements.qrels)
        assert found.summaries[place] == summary(values)  # the intervals too: those of `grace eval retrieval`
        row = found.rows[place]["q00"]
        assert row.rationale == again.model_of(index).generate_rationales([queries["q00"]])[0]
    assert found.lexical["ndcg@10"] > 0.5
    assert compare(Evaluations(again), replace(VIEW, split="")).missing == 2 * (QUERIES - TEST)


def test_both_columns_grow_together_and_what_was_done_before_a_stop_is_kept(space):
    evaluations, asked = Evaluations(space), []
    view = replace(VIEW, split="")

    def wanted():
        asked.append(None)
        return len(asked) < 25  # decoding steps: in the middle of the second round

    shares = []
    for step in evaluate(evaluations, view, wanted):
        found = compare(evaluations, view, lexical=False)
        shares.append((step.state, len(found.queries)))
    assert shares[0] == ("opening", 0)
    assert shares[1] == ("evaluating", 4)
    assert shares[-1][0] == "stopped"
    done = shares[-1][1]
    assert 4 <= done < QUERIES
    assert len(compare(Evaluations(space), view, lexical=False).queries) == done  # read from disk
    *_, last = evaluate(evaluations, view)
    assert last.state == "done"
    assert compare(evaluations, view, lexical=False).missing == 0


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_file(space, judged):
    evaluations = Evaluations(space)
    with only_writer(judged.indexes / "judged" / "tiny-a"):
        *_, last = evaluate(evaluations, replace(VIEW, b=A))
    assert last.notes == ("tiny-a: kept in memory only, as its folder cannot be written now",)
    assert compare(evaluations, replace(VIEW, b=A), lexical=False).missing == 0
    assert not list(judged.indexes.glob(f"*/*/{stored.FILE}"))
    assert "kept in memory only" in render_progress(last)


def test_a_stored_evaluation_of_another_index_is_not_used_and_said(space, judged):
    list(evaluate(Evaluations(space), VIEW))
    folder = judged.indexes / "judged"
    (folder / "tiny-b" / stored.FILE).write_bytes((folder / "tiny-a" / stored.FILE).read_bytes())
    found = compare(Evaluations(space), VIEW, lexical=False)
    assert found.missing == TEST
    assert "was made with another index" in render_scores(found)
    evaluations = Evaluations(space)
    list(evaluate(evaluations, VIEW))
    assert compare(evaluations, VIEW, lexical=False).problems == []
    assert compare(Evaluations(space), VIEW, lexical=False).missing == 0


def test_other_weights_than_the_index_s_are_an_error(space, judged, new_model):
    folder = judged.root / "models" / "tiny-b"
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    new_model("qwen2", seed=7, end_weight=0, max_new_tokens=8).save_pretrained(folder)
    try:
        with pytest.raises(GraceError, match="was built with other weights"):
            list(evaluate(Evaluations(space), VIEW))
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def test_wins_losses_and_words_say_what_the_rankings_say(known, space):
    found = compare(known, VIEW)
    assert list(found.queries) == ["q00", "q01", "q02", "q03", "q04"]
    assert (found.difference["better"], found.difference["equal"], found.difference["worse"]) == (1, 3, 1)
    wins, losses = extremes(known, found)
    assert [case.id for case in wins] == ["q00"]
    assert [case.id for case in losses] == ["q01"]
    assert (wins[0].document, wins[0].grade, wins[0].ranks) == ("d00", 2, (None, 1))
    assert (losses[0].document, losses[0].ranks, losses[0].values[0]) == ("d01", (1, 2), 1.0)
    index = space.index("judged", "tiny-b")
    assert wins[0].rationales[1] == index.rationales[index.row["d00"]]
    told = render_scores(found)
    assert "5 of 18 judged queries" in told
    assert "An interval over so few queries says little." in told
    page = render_cases(found, wins, losses)
    assert "rank 1" in page
    assert "not in the first ten" in page


def test_queries_in_one_place_are_one_bubble_and_a_single_column_is_a_histogram(known):
    found = compare(known, VIEW, lexical=False)
    made = bubbles(found)
    assert [bubble["sign"] for bubble in made] == [1, 0, 0, -1]
    at = {(bubble["x"], bubble["y"]): bubble for bubble in made}
    assert (at[0, 0]["n"], sorted(name for name, _ in at[0, 0]["queries"])) == (2, ["q02", "q03"])
    assert (at[0, 1]["queries"][0][0], at[1, 1]["n"]) == ("q00", 1)
    single = compare(known, replace(VIEW, b=A), lexical=False)
    assert [bar["n"] for bar in bars(single)] == [3, *[0] * 8, 2]
    assert np.array_equal(single.apart, single.values[0]["ndcg@10"])
    assert "bars" in json.loads(picture(single, single.view))
    worst, none = extremes(known, single)
    assert (len(worst), none) == (3, [])
    assert "Lowest nDCG@10" in render_cases(single, worst, none)


def test_markup_in_queries_titles_and_rationales_is_text(known):
    found = compare(known, VIEW)
    page = render_cases(found, *extremes(known, found)) + render_scores(found, SCRIPT) + render_none(SCRIPT)
    assert "&lt;script&gt;" in page
    assert "&lt;img" in page
    assert not any(raw in page for raw in ("<script", "<img", IMAGE))


def test_nothing_evaluated_yet_is_no_error(space):
    found = compare(Evaluations(space), VIEW)
    assert (found.summaries, found.difference, found.missing) == (None, None, 2 * TEST)
    page = render_scores(found)
    assert "The 18 judged queries of the split test are not evaluated yet." in page
    assert "BM25" in page
    assert json.loads(picture(found, VIEW)) == {"view": VIEW.params(), "keep": False}
    assert render_cases(found, [], []) == ""
    assert "qrels/test.tsv" in render_none("plain")


def test_progress_tells_speed_and_time_left():
    progress = Progress(state="evaluating", done=20, total=100)
    progress.marks.extend([(1.0, 0), (3.0, 20)])
    assert (progress.rate, progress.seconds_left) == (10.0, 8.0)
    assert "about 8 s left" in render_progress(progress)
    assert render_progress(Progress(state="done", done=5, total=5)) == ""


@pytest.mark.parametrize(
    "data", [None, {}, {"query": 7}, {"query": "q99"}, {"query": SCRIPT}, "q00", {"query": ["q00"]}]
)
def test_events_that_do_not_fit_are_refused(space, data):
    with pytest.raises(GraceError, match="does not fit"):
        explore_view(space, VIEW, data)


def test_a_query_goes_to_explore_with_both_columns(space):
    view = explore_view(space, VIEW, {"query": "q02"})
    assert (view.collection, view.a, view.b, view.query) == (
        "judged",
        A,
        B,
        space.collection("judged").judgements.queries["q02"],
    )


def test_programs_get_the_figures_of_the_library(space):
    evaluations = Evaluations(space)
    told = evaluate_api(evaluations, "judged", A.id, "tiny-b:text", "dev", False)
    index = space.index("judged", "tiny-a")
    queries = judged_queries(space.collection("judged").judgements, "dev")
    values = per_query(
        evaluate_index(index, space.model_of(index), queries), space.collection("judged").judgements.qrels
    )
    assert told["columns"][A.id] == summary(values)
    assert list(told["columns"]) == [A.id, "tiny-b:text"]
    assert told["queries"] == sum(told["difference"][name] for name in ("better", "equal", "worse")) == QUERIES - TEST
    assert told["bm25"]["queries"] == QUERIES - TEST
    assert evaluate_api(evaluations, "judged", A.id, "", "dev", False)["difference"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nope", A.id, "", "", False), "there is no collection 'nope'"),
        (("judged", "tiny-c", "", "", False), "has no column 'tiny-c'"),
        (("judged", A.id, "", "train", False), "no split 'train'"),
        (("judged", A.id, 7, "", False), "b must be a name, or empty"),
        (("judged", A.id, "", "", "yes"), "first must be true or false"),
        (("judged", A.id, "", "", False, "_id >"), "got the end, expected a value"),
        (("judged", A.id, "", "", False, "_id > 'x'"), "no judged query has a relevant document that satisfies"),
    ],
)
def test_bad_questions_of_programs_are_refused_in_a_sentence(space, arguments, said):
    with pytest.raises(GraceError, match=said):
        evaluate_api(Evaluations(space), *arguments)


def test_programs_do_not_start_long_evaluations(space, monkeypatch):
    monkeypatch.setattr("grace_app.api.MAX_FRESH", 10)
    with pytest.raises(GraceError, match="36 queries would have to be encoded first, at most 10 are"):
        evaluate_api(Evaluations(space), "judged", A.id, B.id, "test", False)


def test_within_a_filter_documents_and_judgements_are_those_that_satisfy_it(space, judged):
    evaluations = Evaluations(space)
    assert compare(evaluations, FILTERED).missing == 2 * 10  # q00 to q09: of each one relevant document is left
    *_, last = evaluate(evaluations, replace(FILTERED, more=(space.column("judged", "bm25"),)))
    assert (last.state, last.total) == ("done", 20)  # BM25 was asked as the baseline
    assert "only those on all documents are stored" in last.notes[0]
    assert not list(judged.indexes.glob(f"*/*/{stored.FILE}"))
    found = compare(evaluations, FILTERED)
    assert (found.missing, list(found.queries), found.documents) == (0, [f"q{i:02}" for i in range(10)], 9)
    left = {f"d{i:02}" for i in range(10) if i != 3}
    for column, rows, values in zip((A, B), found.rows, found.values, strict=True):
        index = space.index("judged", column.model)
        for place, (name, text) in enumerate(found.queries.items()):
            vector = index.embed(space.model_of(index).represent([text], rationale=True), column.pooling)[0]
            order = [
                index.ids[row] for row in np.argsort(-index.scores(vector), kind="stable") if index.ids[row] in left
            ]
            assert list(rows[name].ranking) == order
            gains = {"d03": 0} | {f"d{int(name[1:]) + i:02}": 2 - i for i in (0, 1)}
            ideal = [gains[one] for one in sorted(gains, key=lambda one: -gains[one]) if one in left and gains[one]]
            discounts = 1 / np.log2(np.arange(2, 12))
            got = sum(gains.get(one, 0) * discount for one, discount in zip(order, discounts, strict=False))
            assert values["ndcg@10"][place] == pytest.approx(got / (np.array(ideal) @ discounts[: len(ideal)]))
    assert found.lexical == found.lexical | {"queries": 10}
    shown = render_scores(found)
    assert "10 judged queries</b> of the split test, among the 9 documents that satisfy <code>_id &lt; " in shown
    assert compare(evaluations, VIEW).missing == 2 * TEST  # another question
    assert explore_view(space, FILTERED, {"query": "q02"}).where == FILTERED.where
    told = evaluate_api(evaluations, "judged", A.id, B.id, "test", False, FILTERED.where)
    assert (told["filter"], told["documents"], told["queries"]) == (FILTERED.where, 9, 10)
    assert told["columns"][A.id] == found.summaries[0]
