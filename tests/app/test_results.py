"""The columns: markers, bars, and documents that try to be markup."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_html import NASTY, Reader

from grace_app.explore.detail import render_detail
from grace_app.explore.results import marker, render_examples, render_results, share, shorten
from grace_app.explore.search import Opened, Place, Side, Snapshot, movements
from grace_app.page.words import content_words, mark, rationale_text
from grace_app.workspace.view import Column, View
from grace_core.hits import Hit
from grace_core.readers import Document

A, B = Column("one", False), Column("two", True)
OURS = {
    "div",
    "span",
    "p",
    "b",
    "h2",
    "h3",
    "header",
    "section",
    "ol",
    "ul",
    "li",
    "button",
    "mark",
    "kbd",
    "dl",
    "dt",
    "dd",
} | {"table", "thead", "tbody", "tr", "th", "td"}


def hit(rank, document, rationale=""):
    return Hit(rank, 1 - rank / 100, document, rationale, False, rank)


def documents(*ids):
    return [Document(i, f"Title {i}", f"Text {i}", {}) for i in ids]


def snapshot(first, second, k=5):
    view = View("c", A, B, k, "query")
    sides = [
        Side(column, hits=[hit(rank, d) for rank, d in enumerate(found, 1)])
        for column, found in ((A, first), (B, second))
    ]
    return Snapshot(view, *sides, documents=9, done=True)


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.integers(0, 30), unique=True))
def test_movements_say_how_far_a_document_stands_higher(first, second):
    found = movements(first, second)
    for rank, (document, places) in enumerate(zip(first, found, strict=True)):
        assert (places is None) == (document not in second)
        if places is not None:
            assert second.index(document) == rank + places
    for document, places in zip(second, movements(second, first), strict=True):
        if places is not None:
            assert places == -found[first.index(document)]


@pytest.mark.parametrize(
    ("places", "sign", "spoken"),
    [
        (2, "▲2", "2 places higher than in column A"),
        (-1, "▼1", "1 place lower than in column A"),
        (0, "=", "same rank as in column A"),
        (None, "only here", "not among the first 5 of column A"),
    ],
)
def test_markers_are_shown_and_spoken(places, sign, spoken):
    page = marker(places, other="a", k=5)
    assert f'<span aria-hidden="true">{sign}</span>' in page
    assert spoken in page


def test_a_snapshot_shows_what_moved():
    x, y, z = documents("x", "y", "z")
    text = Reader(render_results(snapshot([x, y], [y, x, z]))).text
    assert text.count("▲1") == 2
    assert text.count("▼1") == 2
    assert text.count("only here") == 1


def test_waiting_columns_hold_their_place():
    shot = snapshot(documents("x"), [])
    shot.b.hits, shot.done = None, False
    assert render_results(shot).count("g-skeleton") == shot.view.k
    assert "data-busy" in render_results(shot)


@settings(max_examples=60)
@given(NASTY, NASTY, NASTY, NASTY, NASTY)
def test_documents_cannot_become_markup(identifier, title, text, rationale, query):
    document = Document(identifier, title, text, {title: text, "n": 3})
    shot = snapshot([document], [document])
    shot.view = View(title, Column(text, False), Column(identifier, True), 5, query)
    shot.b.rationale, shot.b.written, shot.notice = rationale, True, text
    blocks = {"text × text": 0.2, "template": -0.1}
    places = [Place(column, 1, 0.5, rationale, True, True, False, blocks) for column in (shot.view.a, shot.view.b)]
    view = replace(shot.view, doc=identifier, panel="why", against=title)
    opened = Opened(view, document, tuple(places), (rationale, rationale), 9, 1, {identifier: 1})
    for page in (render_results(shot), render_detail(opened), render_examples([title, text])):
        for name, attributes in Reader(page).elements:
            assert name in OURS
            assert not any(attribute.startswith("on") or attribute in ("src", "href") for attribute in attributes)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_bars_stay_in_their_frame(score, average, best):
    assert 0 <= share(score, average, best) <= 1


@given(st.text(), st.integers(10, 50))
def test_shortened_texts_are_one_short_line(text, length):
    line = shorten(text, length)
    assert len(line) <= length + 1
    assert "\n" not in line


def test_shared_words_are_marked_and_common_ones_not():
    words = content_words("The Rivers and the bridge")
    assert words == {"river", "bridge"}
    page = mark("A river, the RIVER's <bridge>", query=words)
    assert page.count("<mark") == 3
    assert Reader(page).text == "A river, the RIVER's <bridge>"


@given(NASTY)
def test_marking_keeps_the_text(text):
    assert Reader(mark(text, query=content_words(text))).text == Reader(tag_of(text)).text


def tag_of(text):
    from grace_app.page.html import join

    return join(text)


def test_think_tags_are_set_apart_and_are_no_words():
    page = rationale_text("<think>a river</think> flows", query={"river", "think"})
    assert page.count("g-think") == 2
    assert page.count("<mark") == 1
    assert "think" not in content_words("<think>x</think>")


def test_the_note_says_what_a_score_is_and_what_demo_models_know():
    from grace_app.explore.results import render_note
    from grace_core.geometry import words

    calibrated = str(render_note([words("calibrated")], demo=False))
    assert "cosine of two calibrated vectors" in calibrated
    assert "Demo models" not in calibrated
    assert "know only the demo world" in str(render_note([], demo=True))
    assert str(render_note([], demo=False)) == ""
