"""A hit of a collection of passages: which passage of its document it is, and the whole document with that
one lit and the others a click away."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grace_app.page.html import Safe, chip, number, tag
from grace_app.page.words import mark
from grace_app.workspace.view import OtherColumn, View
from grace_core.passages import BEGIN, END, HEADING, PAGE, PAGE_BREAK
from grace_core.readers.chunked import parent_of

if TYPE_CHECKING:
    from grace_core.hits import Hit
    from grace_core.readers import Document

AROUND = 200_000  # characters of a text that are shown before and behind the passage
LISTED = 2_000  # passages in the list
_BETWEEN = re.compile(r"\f|\n[^\S\f]*\n[^\S\f]*")


@dataclass(frozen=True)
class Opened:
    """The whole document of the passage ``current``, and all its passages with their scores in both columns,
    None without one. ``sums`` are what the document ranks by in either, where it is the sum of its passages, of
    those that satisfy the filter.
    """

    document: Document
    current: Document
    passages: tuple[Document, ...]
    scores: tuple[tuple[float | None, ...], tuple[float | None, ...]]
    sums: tuple[float, float] | None = None
    filtered: bool = False


def open_passages(workspace, view: View) -> Opened | None:
    """Of the opened document, which is a passage; None in a collection of whole documents. Raises GraceError."""
    collection = workspace.collection(view.collection)
    if collection.chunk is None:
        return None
    current = collection.documents[view.doc]
    names = collection.passages[parent_of(current)]
    passages = tuple(collection.documents[name] for name in names)
    scores = tuple(_scores(workspace, view, column, names) for column in (view.a, view.b))
    sums = None
    if view.by == "sum":
        counted = set(names)
        if view.where:
            ids = collection.columns(["_id"])["_id"].to_pylist()
            counted &= {name for name, left in zip(ids, collection.mask(view.where), strict=True) if left}
        sums = tuple(_sum(names, side, counted) for side in scores)
    return Opened(collection.whole(view.doc), current, passages, scores, sums, bool(view.where))


def _sum(names: list[str], scores: tuple[float | None, ...], counted: set[str]) -> float:
    return sum(score for name, score in zip(names, scores, strict=True) if score is not None and name in counted)


def _scores(workspace, view: View, column, names: list[str]) -> tuple[float | None, ...]:
    if isinstance(column, OtherColumn):
        opened = workspace.opened(view.collection, column)
        rows, scores = opened.rows.row, opened.scores(view.query)
        return tuple(float(scores[rows[name]]) if name in rows else None for name in names)
    index = workspace.index(view.collection, column.model)
    batch = workspace.model_of(index).represent([view.query], rationale=column.rationale)
    there = [name for name in names if name in index.row]
    scores = index.scores(
        index.embed(batch, column.pooling)[0], [index.row[name] for name in there], pooling=column.pooling
    )
    known = dict(zip(there, scores.tolist(), strict=True))
    return tuple(known.get(name) for name in names)


def place_chips(hit: Hit, by: str) -> list[Safe]:
    """Page and heading of a hit's passage, and how many there are in its document."""
    if not hit.passages:
        return []
    page, heading, count = hit.document.metadata[PAGE], hit.document.metadata[HEADING], len(hit.passages)
    chips = [chip(f"page {page}", kind="g-place-chip")] if page else []
    chips += [chip(heading, kind="g-place-chip", title=heading)] if heading else []
    which = hit.document.id.rpartition("#")[2]
    title = "the best of this document" + (", which ranks by the sum of all" if by == "sum" else "")
    return [*chips, chip(f"passage {which} of {count}", title=title)] if count > 1 else chips


def render_text(opened: Opened, asked: set[str]) -> list[Safe]:
    """The whole text, or so much of it around the passage, with the passage lit, and the list of all passages."""
    text, begin, end = opened.document.text, opened.current.metadata[BEGIN], opened.current.metadata[END]
    first, last = max(0, begin - AROUND), min(len(text), end + AROUND)
    left = [f"… {number(first)} characters before this"] if first else []
    right = [f"… and {number(len(text) - last)} more characters"] if last < len(text) else []
    breaks = [place for place, character in enumerate(text) if character == PAGE_BREAK]
    body = [tag("p", line, class_="g-quiet") for line in left]
    lit_before = False
    if breaks:
        body.append(_page(bisect_right(breaks, first - 1) + 1))
    for start, stop in _paragraphs(text, first, last):
        if start and text[start - 1] == PAGE_BREAK:
            body.append(_page(bisect_right(breaks, start - 1) + 1))
        if not text[start:stop].strip():
            continue
        a, b = max(start, min(begin, stop)), max(start, min(end, stop))
        pieces: list[object] = [text[start:a]]
        if text[a:b].strip():
            name = None if lit_before else "g-passage"
            pieces.append(tag("span", mark(text[a:b], query=asked), class_="g-lit", id=name))
            lit_before = True
        body.append(tag("p", *pieces, text[b:stop], dir="auto"))
    body += [tag("p", line, class_="g-quiet") for line in right]
    whole = tag("div", body, class_="g-body g-whole", tabindex="0", role="region", aria_label="The whole document")
    return [tag("section", tag("h3", "Text"), whole, class_="g-text"), _list(opened)]


def _paragraphs(text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Where paragraphs begin and end, without the blank lines or the end of a page between them."""
    start = first
    for match in _BETWEEN.finditer(text, first, last):
        yield start, match.start()
        start = match.end()
    yield start, last


def _page(page: int) -> Safe:
    return tag("p", f"page {page}", class_="g-page-break")


def _list(opened: Opened) -> Safe | None:
    """All passages in their order, with their scores: a listbox, one stop of the Tab key in which the arrow keys move."""
    if len(opened.passages) < 2:
        return None
    best = [
        max(known, default=None) for known in ([score for score in side if score is not None] for side in opened.scores)
    ]
    listed = list(zip(opened.passages, *opened.scores, strict=True))[:LISTED]
    ids, rows = [one.id for one, *_ in listed], []
    stop = opened.current.id if opened.current.id in ids else ids[0]
    for one, *scores in listed:
        page, heading = one.metadata[PAGE], one.metadata[HEADING]
        place = " · ".join(str(part) for part in (page and f"page {page}", heading) if part)
        values = [
            tag(
                "span",
                "–" if score is None else f"{score:.3f}",
                class_=f"g-passage-{side}{' g-best' if score == best[i] else ''}",
            )
            for i, (side, score) in enumerate(zip("ab", scores, strict=True))
        ]
        label = [
            tag("b", one.id.rpartition("#")[2]),
            tag("span", place, class_="g-passage-place"),
            tag("span", " ".join(one.text.split())[:120], class_="g-passage-begin", dir="auto"),
        ]
        current = one.id == opened.current.id
        option = tag(
            "button",
            *label,
            *values,
            type="button",
            role="option",
            aria_selected="true" if current else "false",
            aria_current="true" if current else None,
            tabindex="0" if one.id == stop else "-1",
            data_passage=one.id,
        )
        rows.append(tag("li", option, role="none"))
    more = len(opened.passages) - LISTED
    return tag(
        "section",
        tag("h3", "Passages of this document"),
        tag("p", _words(opened), class_="g-quiet g-small"),
        tag("ol", *rows, class_="g-passages", role="listbox", aria_label="Passages of this document"),
        tag("p", f"… and {number(more)} more", class_="g-quiet") if more > 0 else None,
    )


def _words(opened: Opened) -> str:
    known = "With their scores in both columns; the best of each is bold. Each has a rationale of its own."
    if opened.sums is None:
        return known
    a, b = (f"{value:.4f}" for value in opened.sums)
    which = ", of those that satisfy the filter" if opened.filtered else ""
    return f"{known} The document ranks by their sum{which}: {a} in A, {b} in B."
