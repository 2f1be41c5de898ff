"""What if?: edits are read as they stand, scores and ranks are the library's, and what a page sends is checked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from explorer_world import IMAGE, QUERY, SCRIPT
from gradio_client import Client
from gradio_client.exceptions import AppError

from grace_app.explore.why import AROUND, MAX_EDIT, case, read_source, what_if
from grace_app.workspace.view import Column, View
from grace_core.errors import GraceError
from grace_core.model import GraceModel

TEXT, FULL, OTHER = Column("tiny-a", False), Column("tiny-a", True), Column("tiny-b", True)


def view(doc="d05", a=FULL, b=OTHER):
    return View("world", a, b, 5, QUERY, doc)


@pytest.fixture(scope="module")
def found(workspace):
    return case(workspace, view(), "a")


@pytest.fixture(scope="module")
def start(found):
    return what_if(found, effects=True)


def kept(start, part, **changed):
    """Edits that keep every sentence of ``part`` but those given as ``_3=…``."""
    edits = [True] * len(start["sentences"][part])
    for place, edit in changed.items():
        edits[int(place[1:])] = edit
    return edits


def test_nothing_edited_changes_nothing(found, start):
    assert start["score"] == pytest.approx(start["old_score"], abs=1e-6)
    assert (start["rank"], start["passed"], start["passed_by"]) == (start["old_rank"], [], [])
    again = what_if(found, text=kept(start, "text"), rationale=kept(start, "rationale"))
    assert again["score"] == start["score"]
    assert start["rationale"] == found.index.rationales[found.row]


@pytest.mark.parametrize("part", ["text", "rationale"])
def test_a_struck_sentence_has_the_effect_that_stood_beside_it(found, start, part):
    struck = what_if(found, **{part: kept(start, part, _0=False)})
    assert struck["score"] - start["score"] == pytest.approx(start["sentences"][part][0]["effect"], abs=1e-5)
    assert struck["score"] != start["score"]


def test_a_rewritten_text_is_encoded_with_the_stored_rationale(found, start):
    made = what_if(found, text=kept(start, "text", _0=f"{SCRIPT} Snow on the walls."))
    rest = " ".join(one["text"] for one in start["sentences"]["text"][1:])
    whole = found.explainer.model.represent_given(
        [f"{SCRIPT} Snow on the walls.\n{rest}"], [found.explainer.rationale_ids[found.row]]
    )
    (whole,) = found.index.embed(whole, role="document")
    assert made["score"] == pytest.approx(
        float(whole @ found.query_vector), abs=0.02
    )  # white space between sentences may differ
    assert made["score"] != start["score"]


def test_a_struck_rationale_leaves_the_text(found, start):
    made = what_if(found, rationale=[False] * len(start["sentences"]["rationale"]))
    empty = found.explainer.model.represent_given([found.explainer.text(found.row)], [""])
    (empty,) = found.index.embed(empty, role="document")
    assert made["rationale"] == ""
    assert made["score"] == pytest.approx(float(empty @ found.query_vector), abs=1e-5)


def test_the_other_column_s_rationale_can_be_swapped_in(workspace, found, start):
    assert start["sources"][0] == {"side": "b", "doc": "d05", "label": "column B: tiny-b"}
    index = workspace.index("world", "tiny-b")
    written = index.rationales[index.row["d05"]]
    made = what_if(found, source=("b", "d05"), workspace=workspace, effects=True)
    swapped = found.explainer.model.represent_given([found.explainer.text(found.row)], [written])
    (swapped,) = found.index.embed(swapped, role="document")
    assert made["score"] == pytest.approx(float(swapped @ found.query_vector), abs=1e-5)
    edits = [True] * len(made["sentences"]["rationale"])
    edits[0] = False
    struck = what_if(found, source=("b", "d05"), workspace=workspace, rationale=edits)
    assert struck["score"] - made["score"] == pytest.approx(made["sentences"]["rationale"][0]["effect"], abs=1e-5)


def test_another_hit_s_rationale_can_be_swapped_in(found, start):
    one = start["sources"][1]
    made = what_if(found, source=(one["side"], one["doc"]))
    assert made["rationale"] == found.index.rationales[found.index.row[one["doc"]]]


def test_ranks_are_those_of_the_scores(found, start):
    vectors, query = found.explainer.vectors(found.pooling), found.query_vector
    made = what_if(
        found,
        text=kept(start, "text", _0="Entirely other words stand here."),
        rationale=kept(start, "rationale", _0=False),
    )
    scores = vectors @ query
    scores[found.row] = made["score"]
    order = [found.index.ids[i] for i in np.argsort(-scores, kind="stable")]
    assert order.index("d05") == made["rank"] - 1
    assert made["passed_count"] - made["passed_by_count"] == made["old_rank"] - made["rank"]
    ranks = {one["rank"]: one for one in made["ranks"]}
    assert set(range(max(1, made["rank"] - AROUND), min(30, made["rank"] + AROUND) + 1)) <= set(ranks)
    assert all(one["after"]["id"] == order[rank - 1] for rank, one in ranks.items())
    assert ranks[made["old_rank"]]["before"]["id"] == "d05"
    assert {one["id"] for one in made["passed"]} | {one["id"] for one in made["passed_by"]} <= set(order) - {"d05"}
    assert (len(made["passed"]), len(made["passed_by"])) == (made["passed_count"], made["passed_by_count"])
    json.dumps(made, allow_nan=False)


def test_one_edit_asks_for_the_query_once(workspace, start, monkeypatch):
    fresh, asked = case(workspace, view(), "a"), []
    represent = GraceModel.represent
    monkeypatch.setattr(
        GraceModel, "represent", lambda self, texts, **options: asked.extend(texts) or represent(self, texts, **options)
    )
    assert what_if(fresh, text=kept(start, "text", _0=False), effects=True)["sentences"] == start["sentences"]
    assert asked == [QUERY]


def test_a_column_of_the_text_alone_has_a_text_to_edit(workspace):
    found = case(workspace, view(a=TEXT, b=FULL), "a")
    start = what_if(found, effects=True)
    assert start["sentences"]["rationale"] == start["sources"] == []
    assert what_if(found, text=kept(start, "text", _0=False))["score"] != start["score"]


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"text": "x"}, "must be a list"),
        ({"text": [1]}, "must be a list"),
        ({"rationale": {"0": True}}, "must be a list"),
        ({"rationale": [True] * 999}, "got edits of 999"),
        ({"text": [False] * 99}, "got edits of 99"),
    ],
)
def test_edits_that_do_not_fit_are_refused(found, edits, said):
    with pytest.raises(GraceError, match=said):
        what_if(found, **edits)


def test_edits_that_go_too_far_are_refused(found, start):
    with pytest.raises(GraceError, match="the edited text is empty"):
        what_if(found, text=[False] * len(start["sentences"]["text"]))
    with pytest.raises(GraceError, match="shorten it"):
        what_if(found, text=kept(start, "text", _0="x" * (MAX_EDIT + 1)))
    with pytest.raises(GraceError, match="takes at most"):
        what_if(found, rationale=kept(start, "rationale", _0="word " * 10_000))


def test_markup_in_an_edit_is_text(found, start):
    made = what_if(found, rationale=kept(start, "rationale", _0=f"{SCRIPT} {IMAGE} <|im_end|> \x00 \ud800"))
    json.dumps(made, allow_nan=False).encode()
    assert np.isfinite(made["score"])


@pytest.mark.parametrize("value", ["x", {}, {"side": "c", "doc": "d05"}, {"side": "a", "doc": 5}])
def test_a_source_that_does_not_fit_is_refused(found, value):
    with pytest.raises(GraceError, match="reload the page"):
        read_source(found, value)


def test_sources_that_are_not_there_are_said(workspace, found):
    with pytest.raises(GraceError, match="no document 'nope'"):
        what_if(found, source=("a", "nope"))
    with pytest.raises(GraceError, match="column B uses no rationale"):
        read_source(case(workspace, view(b=TEXT), "a"), {"side": "b", "doc": "d05"})


@pytest.fixture(scope="module")
def client(url):
    made = Client(url, verbose=False)
    yield made
    made.close()


def test_the_endpoint_agrees_with_the_page(client, found, start):
    made = client.predict(QUERY, "world", "tiny-a", "d05", leave_one_out=True, api_name="/what_if")
    assert made["score"] == pytest.approx(made["old_score"], abs=1e-6)
    assert made["old_rank"] == start["old_rank"]
    effects = [
        one["effect"] for part in ("text", "rationale") for one in start["sentences"][part] if one["effect"] is not None
    ]
    assert [one["score"] - made["score"] for one in made["leave_one_out"]] == pytest.approx(effects, abs=1e-5)
    empty = client.predict(QUERY, "world", "tiny-a", "d05", edited_rationale="", api_name="/what_if")
    assert empty["score"] == pytest.approx(
        what_if(found, rationale=[False] * len(start["sentences"]["rationale"]))["score"], abs=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"edited_text": " "}, "the edited text is empty"),
        ({"edited_text": "x" * (MAX_EDIT + 1)}, "shorten it"),
        ({"edited_rationale": "word " * 10_000}, "takes at most"),
        ({"edited_rationale": 7}, "must be text"),
        ({"rationale": False, "edited_rationale": "x"}, "changes nothing"),
        ({"document": "nope"}, "world has no document 'nope'"),
        ({"model": "someone/a-model"}, "has no 'someone/a-model'"),
        ({"leave_one_out": "yes"}, "leave_one_out must be true or false"),
    ],
)
def test_bad_trials_are_refused_in_a_sentence(client, arguments, said):
    asked = {"query": QUERY, "collection": "world", "model": "tiny-a", "document": "d05"} | arguments
    with pytest.raises(AppError, match=said):
        client.predict(**asked, api_name="/what_if")
