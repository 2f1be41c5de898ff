"""Why?: the numbers are the library's and add up, on the page and through /explain."""

from __future__ import annotations

import json

import numpy as np
import pytest
from explorer_world import QUERY
from gradio_client import Client
from gradio_client.exceptions import AppError

from grace_app.explore import why as module
from grace_app.explore.detail import render_detail
from grace_app.explore.search import BLOCKS, open_document
from grace_app.explore.why import answer_why, case, why
from grace_app.workspace.view import Column, View
from grace_core.errors import GraceError

TEXT, FULL, OTHER = Column("tiny-a", False), Column("tiny-a", True), Column("tiny-b", True)


def view(doc="d05", a=FULL, b=OTHER, k=5):
    return View("world", a, b, k, QUERY, doc)


@pytest.fixture(scope="module")
def told(workspace):
    return why(case(workspace, view(), "a"), against="d11")


@pytest.mark.parametrize(("a", "b"), [(FULL, OTHER), (TEXT, FULL)])
def test_stored_blocks_add_up_to_the_score_that_ranked_the_document(workspace, a, b):
    for place in open_document(workspace, view(a=a, b=b)).places:
        assert list(place.blocks) == (list(BLOCKS) if place.column.rationale else ["text × text", "template"])
        assert sum(place.blocks.values()) == pytest.approx(place.score, abs=1e-5)


def test_stored_blocks_are_those_of_the_token_states(workspace, told):
    stored = open_document(workspace, view()).places[0].blocks
    for name in BLOCKS[:-1]:
        assert stored[name] == pytest.approx(told["blocks"][name], abs=1e-5)
    template = sum(value for name, value in told["blocks"].items() if "template" in name)
    assert stored["template"] == pytest.approx(template, abs=1e-5)


def test_every_level_adds_up(workspace, told):
    index = workspace.index("world", "tiny-a")
    (expected,) = workspace.explainer(index).why(QUERY, [index.row["d05"]], pooling=FULL.pooling)
    assert told["score"] == pytest.approx(expected.score, abs=1e-6)
    assert np.allclose(told["raw"], expected.sentences, atol=1e-6)
    above = told["score"] - told["average"]
    for name, whole in (
        ("raw", told["score"]),
        ("tokens_raw", told["score"]),
        ("above", above),
        ("tokens_above", above),
    ):
        assert np.sum(told[name]) == pytest.approx(whole, abs=1e-5)
    assert 0 <= told["largest_residual"] < 1e-5
    assert np.shape(told["raw"]) == np.shape(told["above"]) == (len(told["query"]), len(told["sentences"]))
    assert len(told["tokens"]) == len(told["parts"]) == len(told["tokens_raw"]) == told["sentences"][-1]["end"]
    json.dumps(told, allow_nan=False)


def test_a_column_of_the_text_alone_has_text_alone(workspace):
    told = why(case(workspace, view(a=TEXT, b=FULL), "a"))
    assert set(told["parts"]) == {"text", "template"}  # what stands behind the text has read it
    assert list(told["blocks"]) == ["text × text", "text × template", "template × text", "template × template"]
    assert {one["part"] for one in told["query"] + told["sentences"]} == {"text", "template"}
    assert told["against"] is None


def test_one_document_above_another_adds_up_to_the_difference(workspace, told):
    other = why(case(workspace, view("d11"), "a"))
    found = told["against"]
    assert found["id"] == "d11"
    assert found["score"] == pytest.approx(told["score"] - other["score"], abs=1e-6)
    assert sum(found["blocks"].values()) == pytest.approx(found["score"], abs=1e-5)
    assert sum(one["contribution"] for one in found["query_sentences"]) == pytest.approx(found["score"], abs=1e-5)
    apart = [sum(one["contribution"] for one in found[side]) for side in ("first", "second")]
    assert apart[0] - apart[1] == pytest.approx(found["score"], abs=1e-5)


def test_hits_that_are_too_long_to_be_read_along_change_nothing(workspace, told, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 0)
    alone = why(case(workspace, view(), "a"), against="d11")
    assert alone["score"] == pytest.approx(told["score"], abs=1e-6)
    assert np.allclose(alone["raw"], told["raw"], atol=1e-6)
    assert [one["id"] for one in alone["others"]] == [one["id"] for one in told["others"]]
    assert "d05" not in [one["id"] for one in told["others"]]


def test_the_opened_document_shows_the_blocks_at_once(workspace):
    opened = open_document(workspace, view())
    page = render_detail(opened)
    for place in opened.places:
        for value in place.blocks.values():
            assert f"{value:+.4f}".replace("-", "−") in page
        assert page.count(f"{place.score:.4f}".replace("-", "−")) >= 2  # beside the rank, and as the sum of the blocks


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"view": "{", "doc": "d05", "side": "a"},
        {"view": view().json(), "doc": 5, "side": "a"},
        {"view": view().json(), "doc": "d05", "side": "c"},
        {"view": "[]", "doc": "d05", "side": "a"},
    ],
)
def test_events_that_do_not_fit_are_refused(workspace, data):
    with pytest.raises(GraceError, match="reload the page"):
        answer_why(workspace, data, against="")


def test_documents_that_are_not_there_are_said(workspace):
    event = {"view": view().json(), "side": "a"}
    with pytest.raises(GraceError, match="world has no document '<b>'"):
        answer_why(workspace, event | {"doc": "<b>"}, against="")
    with pytest.raises(GraceError, match="world has no document 'nope'"):
        answer_why(workspace, event | {"doc": "d05"}, against="nope")


@pytest.fixture(scope="module")
def client(url):
    made = Client(url, verbose=False)
    yield made
    made.close()


def test_the_endpoint_agrees_with_the_page(client, told):
    found = client.predict(QUERY, "world", "tiny-a", "d05", True, "d11", api_name="/explain")
    assert found["score"] == pytest.approx(told["score"], abs=1e-5)
    assert found["sum"] == pytest.approx(found["score"], abs=1e-5)
    assert found["blocks"] == pytest.approx(told["blocks"], abs=1e-5)
    assert sum(pair["contribution"] for pair in found["sentences"]) == pytest.approx(found["score"], abs=1e-5)
    assert [token["token"] for token in found["tokens"]] == told["tokens"]
    assert found["difference"]["score"] == pytest.approx(told["against"]["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", "world", "tiny-a", "d05"), "the query is empty"),
        (("x", "nope", "tiny-a", "d05"), "there is no collection 'nope'"),
        (("x", "world", "someone/a-model", "d05"), "has no 'someone/a-model'"),
        (("x", "world", "tiny-a", "nope"), "world has no document 'nope'"),
        (("x", "world", "tiny-a", ""), "document must be a name"),
        (("x", "world", "tiny-a", "d05", "yes"), "true or false"),
        (("x", "world", "tiny-a", "d05", True, "nope"), "world has no document 'nope'"),
        (("x", "world", "tiny-a", "d05", True, 7), "against must be"),
    ],
)
def test_bad_questions_are_refused_in_a_sentence(client, arguments, said):
    with pytest.raises(AppError, match=said):
        client.predict(*arguments, api_name="/explain")
