"""HTML pages as documents: what is text, titles, headings, encodings, and pages that are broken."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader_files import fails, texts, write

from grace_core.readers import read_corpus
from grace_core.readers.html_pages import decode, page_text

PAGES = {
    "words across elements": ("<p>Hello <i>w</i>orld,\n  <b>fine</b> day.", "Hello world, fine day."),
    "paragraphs": ("<p>One.<p>Two.</p>\n\n<p>Three.", "One.\n\nTwo.\n\nThree."),
    "lines": ("One<br>two<br/>three<div>four</div>five", "One\ntwo\nthree\nfour\nfive"),
    "lists": ("<ul><li>a<li> b </ul>c", "a\nb\n\nc"),
    "tables": ("<table><tr><th>a<th>b<tr><td>1</td><td>2</td></table>", "a b\n1 2"),
    "headings": ("<h1>One <b>two</b></h1>x<h3> Three\n</h3><h2></h2>y", "# One two\n\nx\n\n### Three\n\ny"),
    "preformatted": ("<p>a<pre>\nx\n  y\n\nz</pre>b", "a\n\nx\n  y\n\nz\n\nb"),
    "entities": ("&lt;b&gt; &amp; &nbsp;&#8364; &eacute;&hellip;", "<b> & \xa0€ é…"),
    "scripts and styles": (
        "a<script>if (1 < 2) '<p>bad</p>'</script><style>p {}</style><noscript>off</noscript> b",
        "a b",
    ),
    "drawings and templates": ("<svg><title>no</title><text>x</text></svg><template><p>y</p></template>z", "z"),
    "comments": ("a<!-- <p>x</p> -->b<!doctype html>c", "abc"),
    "a form with choices": ("<form><label>Name</label> <select><option>a<option>b</select></form>", "Name\na\nb"),
    "nothing": ("", ""),
    "only markup": ("<p><div></div>", ""),
    "text alone": ("a < b and c > d", "a < b and c > d"),
}


@pytest.mark.parametrize("kind", PAGES)
def test_text_of_a_page(kind):
    markup, expected = PAGES[kind]
    assert page_text(markup)[1] == expected
    assert page_text(f"<html><head><title>T</title></head><body>{markup}</body></html>") == ("T", expected, [])


TITLES = {
    "its own": ("<title>One &amp;\n two</title><h1>Three</h1>", "One & two"),
    "of the first heading": ("<title> </title><h2>x</h2><h1>One <i>two</i></h1><h1>y</h1>", "One two"),
    "within a head that does not end": ("<head><title>One</title><meta charset=utf-8><p>x", "One"),
    "none": ("<p>x", ""),
}


@pytest.mark.parametrize("kind", TITLES)
def test_title_of_a_page(kind):
    markup, expected = TITLES[kind]
    assert page_text(markup)[0] == expected
    assert "x" in page_text(markup)[1] or "y" in page_text(markup)[1] or kind == "its own"


def test_an_element_that_never_ends_is_told():
    title, text, notes = page_text("<p>One.<svg><p>Two.")
    assert (title, text) == ("", "One.")
    assert notes == ["pages end within <svg>, and what is behind its begin is left out"]


ENCODINGS = {
    "utf-8": ("<p>Zürich €".encode(), 0),
    "a mark before it": (b"\xef\xbb\xbf" + "<p>Zürich €".encode(), 0),
    "utf-16 with a mark": ("<p>Zürich €".encode("utf-16"), 0),
    "declared": ('<meta charset="windows-1252"><p>Zürich €'.encode("cp1252"), 0),
    "declared the old way": (
        '<meta http-equiv=content-type content="text/html; charset=iso-8859-15"><p>Zürich €'.encode("iso8859-15"),
        0,
    ),
    "latin-1 is windows-1252": ("<meta charset=latin1><p>Zürich €".encode("cp1252"), 0),
    "of xhtml": ('<?xml version="1.0" encoding="windows-1252"?><html><p>Zürich €</p></html>'.encode("cp1252"), 0),
    "none, and not utf-8": ("<p>Zürich €".encode("cp1252"), 1),
    "unknown": ("<meta charset=klingon><p>Zürich €".encode(), 1),
    "one that runs code elsewhere": ("<meta charset=unicode_escape><p>Zürich €".encode(), 1),
    "utf-16 by its own word": ("<meta charset=utf-16><p>Zürich €".encode(), 0),
}


@pytest.mark.parametrize("kind", ENCODINGS)
def test_encodings(tmp_path, kind):
    data, count = ENCODINGS[kind]
    path = write(tmp_path / "a.html", data)
    assert texts(path) == [("a.html", "a", "Zürich €")]
    assert len(read_corpus(path).notes) == count


def test_bytes_that_do_not_fit_are_replaced_and_told(tmp_path):
    path = write(tmp_path / "a.html", b"<meta charset=utf-8><p>Z\xfcrich")
    assert texts(path)[0][2] == "Z\ufffdrich"
    assert read_corpus(path).notes == [f"bytes that are not UTF-8 are replaced by U+FFFD in pages: 1 file, in {path}"]


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded(data):
    text, _ = decode(data)
    page_text(text)


def test_files(tmp_path):
    write(tmp_path / "a.html", "<title>First</title><p>One.")
    write(tmp_path / "b" / "c.htm.gz", gzip.compress(b"<p>Two."))
    write(tmp_path / "d.xhtml", '<?xml version="1.0"?><html><body><h1>Third</h1></body></html>')
    write(tmp_path / "e.md", "# Fourth\n\nFour.")
    assert texts(tmp_path) == [
        ("a.html", "First", "One."),
        ("b/c.htm.gz", "c", "Two."),
        ("d.xhtml", "Third", "# Third"),
        ("e.md", "Fourth", "\nFour."),
    ]


def test_what_is_no_page_is_refused(tmp_path):
    fails(write(tmp_path / "a.html", b"%PDF-1.4\n"), "a.html is a PDF file, expected HTML: give it the ending .pdf")
    fails(write(tmp_path / "b.html", b"PK\x03\x04\xff\xff"), "a zip archive")


def test_a_page_beyond_the_limit_is_refused(tmp_path):
    fails(
        write(tmp_path / "a.html", b"<p>" + b"x" * (16 * 1024 * 1024)),
        "a.html is longer than 16,777,216 bytes",
        "split it",
    )


def test_markup_is_text_to_nobody_else(tmp_path):
    write(tmp_path / "a.html", "<p>&lt;script&gt;alert(1)&lt;/script&gt;<img src=x onerror=alert(1)>")
    assert texts(tmp_path) == [("a.html", "a", "<script>alert(1)</script>")]
