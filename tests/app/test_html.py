"""Escaping is what happens by default: whatever a text holds, the page holds it as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace_app.page import html
from grace_app.page.html import Safe, banner, drawing, join, tag

NASTY = st.one_of(
    st.text(),
    st.sampled_from(
        ["<script>alert(1)</script>", "</p><img src=x onerror=alert(1)>", "\" onmouseover='x", "&lt;b&gt;", "${1}{{2}}"]
    ),
    st.text(alphabet="<>&\"'/=! abc${}`"),
)


class Reader(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.elements, self.text = [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def shown(text: str) -> str:
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]", "\ufffd", text)


@given(NASTY, NASTY)
def test_children_and_attributes_come_back_as_they_were(child, attribute):
    page = Reader(tag("p", child, title=attribute, data_doc=attribute))
    assert page.elements == [("p", {"title": shown(attribute), "data-doc": shown(attribute)})]
    assert page.text == shown(child)


@given(st.lists(NASTY))
def test_nested_children_stay_text(children):
    page = Reader(tag("div", [tag("span", child) for child in children], children))
    assert [name for name, _ in page.elements] == ["div", *["span"] * len(children)]
    assert page.text == shown("".join(children) * 2)


def test_attributes_that_are_none_or_false_are_left_out():
    assert (
        tag("button", "x", disabled=True, title=None, hidden=False, class_="c")
        == '<button disabled class="c">x</button>'
    )


@pytest.mark.parametrize("name", ["img src=x", "p onclick", "", "<p", "P"])
def test_names_cannot_carry_markup(name):
    with pytest.raises(ValueError, match="plain"):
        tag(name)


def test_no_behaviour_in_attributes():
    with pytest.raises(ValueError, match="belongs in a script"):
        tag("p", "x", onclick="alert(1)")


def test_only_safe_text_is_left_alone():
    assert join("<b>", tag("i", "x"), None, ["&"], 3) == "&lt;b&gt;<i>x</i>&amp;3"
    assert isinstance(join("a"), Safe)
    assert banner(None) == ""
    assert "&lt;b&gt;" in banner("<b>")


def test_what_is_drawn_comes_back_as_it_was_and_holds_no_markup():
    made = {"query": "<script>1</script> & \\u003c \u2028 '\"", "rows": [1, None, 0.5]}
    assert json.loads(drawing(made)) == made
    assert "<" not in drawing(made)


def test_only_the_helpers_make_markup():
    """No other module of the app calls something safe, or writes an element by hand."""
    folder = Path(html.__file__).parents[1]
    for path in folder.rglob("*.py"):
        if path.name == "html.py":
            continue
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"Safe\((?!\"\"\))", source), path
        assert not re.search(r"""f?["']</?(div|p|span|b|a|script|table|h[1-6])\b""", source), path
