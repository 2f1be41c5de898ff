"""BM25, a sentence encoder and fusions in the explorer: links, search, an opened document, Why?, What if?,
Evaluate, the API.
"""

from __future__ import annotations

import json

import pytest
from columns_app import add_encoders

from grace_app.api import explain_api, search_api, what_if_api
from grace_app.evaluate.evaluations import Evaluations, compare, evaluate
from grace_app.evaluate.render import render_scores
from grace_app.evaluate.render_queries import render_cases
from grace_app.evaluate.view import read_evaluate
from grace_app.explore.detail import render_detail
from grace_app.explore.results import render_results
from grace_app.explore.search import open_document, search
from grace_app.explore.why import answer_what_if, answer_why
from grace_app.workspace.view import OtherColumn, read_view
from grace_core.errors import GraceError

QUERY = "summer river under the old bridge"
PAIRS = [
    ("bm25", "st:mini"),
    ("0.7*bm25+0.3*tiny-a:rationale", "rrf(bm25,tiny-b:text)"),
    ("st:cls", "tiny-a:rationale"),
    ("bm25+st:mini+2*tiny-b:rationale", "tiny-a:text"),
]


@pytest.fixture(scope="module")
def space(world, tmp_path_factory, sentences):
    """The world's collection in a folder of its own, with two encoders besides."""
    return add_encoders(world, tmp_path_factory.mktemp("other-columns"), sentences)


def view_of(space, a: str, b: str, **more):
    view, problems = read_view(space, {"collection": "world", "a": a, "b": b, "q": QUERY, **more})
    assert problems == []
    return view


def test_what_is_offered_can_be_asked_for(space):
    offered = [column.id for column in space.offered("world")]
    assert offered[:4] == ["tiny-a:text", "tiny-a:rationale", "tiny-b:text", "tiny-b:rationale"]
    fused = ["bm25+tiny-a:rationale", "bm25+tiny-b:rationale", "bm25+st:cls", "bm25+st:mini"]
    assert offered[4:] == ["bm25", "st:cls", "st:mini", *fused]
    assert all(space.column("world", name).id == name for name in offered)


def test_a_model_s_name_alone_is_its_column_with_rationale(space):
    assert space.column("world", "tiny-a") == space.column("world", "tiny-a:rationale")


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_a_link_gives_back_its_columns(space, a, b):
    view = view_of(space, a, b, doc="d05", why="a")
    assert (view.a.id, view.b.id) == (a, b)
    assert read_view(space, view.params()) == (view, [])


@pytest.mark.parametrize(
    "text",
    ["bm26", "st:nobody", "bm25+nobody", "0*bm25+tiny-a", "bm25+bm25", "/etc/passwd", "st:/etc", "a b", "rrf(bm25)"],
)
def test_what_is_no_column_is_told(space, text):
    view, problems = read_view(space, {"collection": "world", "a": text, "q": QUERY})
    assert problems
    assert view.a.id == "tiny-a:rationale"
    with pytest.raises(GraceError):
        space.column("world", text)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_search_and_an_opened_document(space, a, b):
    view = view_of(space, a, b, doc="d05")
    *_, last = search(space, view)
    for side in last.sides:
        assert len(side.hits) == view.k
        assert [hit.score for hit in side.hits] == sorted((hit.score for hit in side.hits), reverse=True)
    assert last.a.column.label in str(render_results(last))
    opened = open_document(space, view)
    for place in opened.places:
        assert sum(place.blocks.values()) == pytest.approx(place.score, abs=1e-5)
    page = str(render_detail(opened))
    assert "score that ranked the document" in page
    first = last.a.hits[0]
    again = open_document(space, view_of(space, a, b, doc=first.document.id)).places[0]
    assert (again.rank, again.score) == (1, pytest.approx(first.score, abs=1e-6))


def test_a_filter_leaves_as_many_as_it_says(space):
    *_, last = search(space, view_of(space, "bm25", "bm25+tiny-a:rationale", where="year < 1904"))
    assert last.left == len(last.a.hits) == len(last.b.hits) == 4
    assert "4 of 30 documents satisfy the filter" in str(render_results(last))


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("side", ["a", "b"])
def test_why_and_what_if(space, a, b, side):
    event = {"view": view_of(space, a, b).json(), "doc": "d05", "side": side}
    told = answer_why(space, event, against="d11")
    assert json.loads(json.dumps(told))["against"]["id"] == "d11"
    residual = told["ledger"]["largest_residual"] if "ledger" in told else told["largest_residual"]
    assert residual < 1e-5
    first = answer_what_if(space, event | {"effects": True})
    sentences = first["sentences"]["text"]
    assert len(sentences) == 4
    struck = answer_what_if(space, event | {"text": [False, True, True, True]})
    assert struck["score"] - first["score"] == pytest.approx(sentences[0]["effect"], abs=1e-4)
    assert struck["old_rank"] == first["rank"]
    assert struck["passed_count"] - struck["passed_by_count"] == struck["old_rank"] - struck["rank"]
    written = answer_what_if(space, event | {"text": [True, True, QUERY, True]})
    assert written["score"] != first["score"]
    with pytest.raises(GraceError, match="text is empty"):
        answer_what_if(space, event | {"text": [False] * 4})
    with pytest.raises(GraceError, match="got edits of 2"):
        answer_what_if(space, event | {"text": [True, True]})


def test_a_fusion_s_rationale_is_edited(space):
    event = {"view": view_of(space, "bm25+tiny-a:rationale", "bm25").json(), "doc": "d05", "side": "a"}
    first = answer_what_if(space, event | {"effects": True})
    rationale = first["sentences"]["rationale"]
    assert rationale
    made = answer_what_if(space, event | {"rationale": ["A river in summer."] + [False] * (len(rationale) - 1)})
    assert made["rationale"] == "A river in summer."
    assert made["score"] != first["score"]


def test_evaluate_puts_any_number_in_one_table(space):
    asked = {
        "on": "world",
        "x": "tiny-a:text",
        "y": "bm25",
        "more": "st:mini|bm25+st:mini|rrf(bm25,tiny-a:text)",
        "split": "all",
    }
    view, problems = read_evaluate(space, asked)
    assert problems == []
    assert read_evaluate(space, view.params())[0] == view
    evaluations = Evaluations(space)
    assert compare(evaluations, view).missing == 15
    *_, last = evaluate(evaluations, view)
    assert (last.state, last.done, last.notes) == ("done", 15, ())
    found = compare(evaluations, view)
    assert list(found.table) == ["tiny-a:text", "bm25", "st:mini", "bm25+st:mini", "rrf(bm25,tiny-a:text)"]
    assert len(found.pairs) == 10
    assert found.pairs["tiny-a:text", "bm25"]["ndcg@10"] == found.difference["ndcg@10"]
    page = str(render_scores(found))
    for label in ("BM25", "BM25 + mini", "ranks of BM25 and tiny-a · text only", "Any two of them"):
        assert label in page
    assert page.count("words alone, for reference") == 0  # it is a column already
    assert str(render_cases(found, [], []))


def test_more_columns_that_are_not_there_are_told(space):
    view, problems = read_evaluate(space, {"on": "world", "more": "bm25|nobody|tiny-a:text|bm25"})
    assert [column.id for column in view.more] == ["bm25", "tiny-a:text"]
    assert "no column 'nobody'" in problems[0]


def test_the_api_takes_columns(space):
    hits = search_api(space, QUERY, "world", "0.5*bm25+tiny-a:rationale", True, 3)["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    told = explain_api(space, QUERY, "world", "bm25+st:mini", "d05", True, "d11")
    assert abs(told["residual"]) < 1e-5
    assert told["against"]["document"] == "d11"
    made = what_if_api(space, QUERY, "world", "bm25", "d05", True, QUERY, None, True)
    assert made["rank"] == 1
    assert len(made["leave_one_out"]) == 4
    with pytest.raises(GraceError, match="no column 'st:x'"):
        search_api(space, QUERY, "world", "st:x", True, 3)
    assert isinstance(space.column("world", "bm25"), OtherColumn)
