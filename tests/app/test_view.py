"""Columns and the address: what is asked for is read exactly, and rubbish gives a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grace_app.workspace.view import MAX_QUERY, SIZES, Column, View, check_query, default_view, read_view
from grace_core.errors import GraceError

FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)


def test_one_index_serves_two_columns(workspace):
    labels = [column.label for column in workspace.columns("world")]
    assert labels == ["tiny-a · text only", "tiny-a · with rationale", "tiny-b · text only", "tiny-b · with rationale"]
    assert [column.id for column in workspace.columns("plain")] == ["tiny-a:text"]


def test_the_default_is_text_alone_against_text_with_rationale(workspace):
    assert default_view(workspace) == View("world", Column("tiny-a", True), Column("tiny-b", True), 10)
    assert default_view(workspace, "plain") == View("plain", Column("tiny-a", False), Column("tiny-a", False), 10)


def test_an_address_gives_back_its_view(workspace):
    view = View("world", Column("tiny-b", True), Column("tiny-a", False), 20, "a query & <more>=1", "<b>&\"'")
    assert read_view(workspace, view.params()) == (view, [])
    for opened in (replace(view, panel="why", side="b", against="d04"), replace(view, panel="whatif", side="a")):
        assert read_view(workspace, opened.params()) == (opened, [])
    assert read_view(workspace, {"q": "x", "why": "a"})[0].panel == ""  # of no document


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"collection": "nope"}, "no collection 'nope' here; there are: plain, world"),
        ({"collection": "../world"}, "no collection '../world'"),
        ({"a": "tiny-c"}, "no column 'tiny-c'"),
        ({"b": "tiny-c:text"}, "no column 'tiny-c:text'"),
        ({"collection": "plain", "b": "tiny-a:rationale"}, "plain has no column"),
        ({"k": "7"}, "expected one of 5, 10, 20"),
        ({"k": "ten"}, "k is 'ten'"),
        ({"q": "river", "doc": "d01", "why": "c"}, "why is 'c', expected a or b"),
        ({"q": "river", "doc": "d01", "whatif": "<b>"}, "whatif is '<b>', expected a or b"),
        ({"q": "   "}, "the query is empty"),
        ({"q": "x" * (MAX_QUERY + 1)}, "shorten it"),
    ],
)
def test_what_is_wrong_in_an_address_is_said(workspace, params, said):
    view, problems = read_view(workspace, params)
    assert said in "; ".join(problems)
    assert "Traceback" not in "; ".join(problems)
    assert view.collection in workspace.collections()
    with pytest.raises(GraceError):
        read_view(workspace, params, strict=True)


RUBBISH = st.one_of(st.text(), st.integers(), st.none(), st.lists(st.text()))


@FIXTURE
@given(st.dictionaries(st.sampled_from(["collection", "a", "b", "k", "q", "doc", "why", "vs", "whatif", "x"]), RUBBISH))
def test_rubbish_never_breaks_the_page(workspace, params):
    view, problems = read_view(workspace, params)
    assert view.collection in workspace.collections()
    assert view.a in workspace.columns(view.collection)
    assert view.b in workspace.columns(view.collection)
    assert view.k in SIZES
    assert all("\n" not in problem for problem in problems)


@given(st.text())
def test_queries_are_fit_for_a_tokenizer(query):
    try:
        checked = check_query(query)
    except GraceError:
        return
    checked.encode()
    assert checked.strip()
    assert "\x00" not in checked


def test_a_long_query_stays_out_of_the_address():
    view = View("c", Column("m", False), Column("m", True), 10, "x" * 5000, "doc")
    assert view.params() == {}
    assert len(view.json()) > 5000


def test_nothing_built_is_said(tmp_path):
    from grace_app.workspace.state import Workspace

    with pytest.raises(GraceError, match="Corpus tab"):
        default_view(Workspace(tmp_path / "none"))
