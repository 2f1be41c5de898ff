"""Ranks of an opened document, and what an edit does to them, among the documents that satisfy the filter."""

from __future__ import annotations

import numpy as np
import pytest
from explorer_world import QUERY
from test_html import Reader

from grace_app.api import search_api, what_if_api
from grace_app.explore.detail import render_detail
from grace_app.explore.search import open_document, search
from grace_app.explore.why import answer_what_if
from grace_app.workspace.view import read_view
from grace_core.errors import GraceError

WHERE = "kind = 'tale' and year < 1925"
COLUMNS = ("tiny-a:rationale", "bm25", "0.5*bm25+tiny-a:rationale", "rrf(bm25,tiny-a:rationale)")


def asked(workspace, column: str, doc: str, where: str = WHERE):
    params = {"collection": "world", "a": column, "b": "bm25", "q": QUERY, "k": "20", "where": where, "doc": doc}
    return read_view(workspace, params, strict=True)[0]


@pytest.mark.parametrize("column", COLUMNS)
def test_an_opened_hit_has_the_rank_that_the_search_gave_it(workspace, column):
    *_, shot = search(workspace, asked(workspace, column, ""))
    assert len(shot.a.hits) == shot.left == 14
    for hit in shot.a.hits[::5]:
        opened = open_document(workspace, asked(workspace, column, hit.document.id))
        assert (opened.places[0].rank, opened.documents) == (hit.rank, 14)
    assert "of 14 filtered" in Reader(str(render_detail(opened))).text
    outside = open_document(workspace, asked(workspace, column, "d05"))  # a song: counted among the tales
    above = [hit for hit in shot.a.hits if hit.score > outside.places[0].score]
    assert (outside.places[0].rank, outside.documents) == (len(above) + 1, 15)


@pytest.mark.parametrize("column", COLUMNS)
def test_an_edit_moves_a_document_among_those_of_the_filter(workspace, column):
    view = asked(workspace, column, "d04")
    *_, shot = search(workspace, view)
    (before,) = [hit.rank for hit in shot.a.hits if hit.document.id == "d04"]
    event = {"view": view.json(), "doc": "d04", "side": "a"}
    start = answer_what_if(workspace, event | {"effects": True})
    count = len(start["sentences"]["text"])
    told = answer_what_if(workspace, event | {"text": [QUERY, *[False] * (count - 1)]})
    assert (start["rank"], told["old_rank"], told["documents"], told["filtered"]) == (before, before, 14, True)
    assert told["old_rank"] - told["rank"] == told["passed_count"] - told["passed_by_count"]
    tales = {hit.document.id for hit in shot.a.hits}
    everyone = [one[when]["id"] for one in told["ranks"] for when in ("before", "after")]
    assert set(everyone) | {one["id"] for one in told["passed"] + told["passed_by"]} <= tales
    there = {one["rank"]: one["before"]["id"] for one in told["ranks"]}
    order = [hit.document.id for hit in shot.a.hits]
    assert all(order[rank - 1] == document for rank, document in there.items())
    if not column.startswith("rrf"):  # where another document's score may change with the edited one's rank
        others = np.array([hit.score for hit in shot.a.hits if hit.document.id != "d04"])
        assert told["rank"] == 1 + (others > told["score"]).sum()


@pytest.mark.parametrize("column", COLUMNS)
def test_the_api_tells_what_the_page_tells(workspace, column):
    model = column.removesuffix(":rationale") if column.startswith("tiny") else column
    view = asked(workspace, column, "d04")
    text = answer_what_if(workspace, {"view": view.json(), "doc": "d04", "side": "a", "effects": True})
    edits = [QUERY, *[False] * (len(text["sentences"]["text"]) - 1)]
    page = answer_what_if(workspace, {"view": view.json(), "doc": "d04", "side": "a", "text": edits})
    told = what_if_api(workspace, QUERY, "world", model, "d04", True, QUERY, None, False, f" {WHERE} ")
    assert told["score"] == pytest.approx(page["score"], abs=1e-6)
    assert all(told[name] == page[name] for name in ("rank", "old_rank", "documents"))
    assert [len(told["passed"]), len(told["passed_by"])] == [page["passed_count"], page["passed_by_count"]]
    hits = search_api(workspace, QUERY, "world", model, True, 20, WHERE)["hits"]
    assert told["old_rank"] == next(hit["rank"] for hit in hits if hit["id"] == "d04")
    assert set(told["passed"]) <= {hit["id"] for hit in hits}
    outside = what_if_api(workspace, QUERY, "world", model, "d05", True, None, None, False, WHERE)
    assert (outside["documents"], outside["rank"]) == (15, outside["old_rank"])
    assert what_if_api(workspace, QUERY, "world", model, "d04", True, None, None, False)["documents"] == 30
    for wrong, said in (("yaer > 3", "no column 'yaer'"), (7, "filter must be text"), (None, "filter must be text")):
        with pytest.raises(GraceError, match=said):
            what_if_api(workspace, QUERY, "world", model, "d04", True, None, None, False, wrong)


def test_without_a_filter_all_documents_count(workspace):
    view = asked(workspace, COLUMNS[0], "d04", where="")
    assert open_document(workspace, view).documents == 30
    told = answer_what_if(workspace, {"view": view.json(), "doc": "d04", "side": "a"})
    assert (told["documents"], told["filtered"]) == (30, False)
