"""A document opened: where it stands in both columns, and what was written about it."""

from __future__ import annotations

from app.components.html import Safe, chip, join, number, tag
from app.components.results import SIDES, letter, metadata
from app.components.words import content_words, mark, rationale_text
from app.search import Opened, Place

SHOWN = 20_000  # characters of a text that are put into the page


def render_detail(opened: Opened, *, ticket: int = 0) -> Safe:
    """The dialog, with the number of the click that asked for it.

    Marked words are those shared with the query's side; with two rationales, also those that both share.
    """
    document = opened.document
    asked = content_words(opened.view.query)
    title = tag("h2", document.title or document.id, id="g-detail-title", dir="auto")
    facts = [tag("div", tag("dt", key), tag("dd", value, dir="auto")) for key, value in (("id", document.id), *metadata(document))]
    text = document.text[:SHOWN]
    body = [tag("p", mark(part, query=asked), dir="auto") for part in text.splitlines() if part.strip()]
    if len(document.text) > SHOWN:
        body.append(tag("p", f"… and {number(len(document.text) - SHOWN)} more characters", class_="g-quiet"))
    grade = chip(f"relevant · grade {opened.grade}", kind="g-relevant") if opened.grade else None
    if opened.grades is not None and not opened.grade:
        grade = chip("not judged relevant for this query")
    return tag(
        "div",
        tag(
            "div",
            tag(
                "header",
                tag("div", title, tag("div", grade, *flags(opened), class_="g-chips")),
                tag("button", "Close", tag("kbd", "Esc"), type="button", class_="g-close", aria_label="Close"),
                class_="g-detail-head",
            ),
            tag(
                "div",
                *(render_place(place, name, opened.documents) for place, name in zip(opened.places, SIDES, strict=True)),
                class_="g-places",
            ),
            tag(
                "section",
                tag("h3", "Text"),
                tag("div", body or tag("p", "This document has a title only.", class_="g-quiet"), class_="g-body"),
                class_="g-text",
            ),
            render_rationales(opened, asked),
            tag("section", tag("h3", "Fields"), tag("dl", *facts, class_="g-facts")),
            class_="g-dialog",
            role="dialog",
            aria_modal="true",
            aria_labelledby="g-detail-title",
        ),
        class_="g-overlay",
        data_doc=document.id,
        data_ticket=ticket,
    )


def flags(opened: Opened) -> list[Safe]:
    found = []
    if any(place.text_truncated for place in opened.places):
        found.append(chip("text cut to fit the prompt", kind="g-flag"))
    for place in {place.column.model: place for place in opened.places if place.column.rationale}.values():
        if place.truncated:
            found.append(chip(f"{place.column.model}: rationale cut off at the limit", kind="g-flag"))
        if place.empty:
            found.append(chip(f"{place.column.model}: empty rationale", kind="g-flag"))
    return found


def render_place(place: Place, name: str, documents: int) -> Safe:
    return tag(
        "div",
        letter(name),
        tag("span", place.column.label, class_="g-place-label"),
        tag("span", "rank ", tag("b", number(place.rank)), f" of {number(documents)}", class_="g-place-rank"),
        tag("span", f"{place.score:.4f}", class_="g-score", aria_label=f"score {place.score:.4f}"),
        class_=f"g-place g-place-{name}",
    )


def render_rationales(opened: Opened, asked: set[str]) -> Safe:
    """The rationales side by side, with a legend of what is marked.

    One model with and without its rationale has one rationale: then the query's stands beside the document's.
    """
    a, b = opened.places
    if not (a.column.rationale or b.column.rationale):
        return tag("section", tag("h3", "Rationales"), tag("div", _none("a", a), _none("b", b), class_="g-pair"))
    query_words = [asked | content_words(written) for written in opened.queries]
    if a.column.model == b.column.model:
        with_rationale = 0 if a.column.rationale else 1
        place, name = opened.places[with_rationale], SIDES[with_rationale]
        document_words = content_words(place.rationale)
        shared = {"query": query_words[with_rationale] & document_words}
        left = _card(name, "About the query", _written(opened.queries[with_rationale], query=document_words))
        right = _card(name, "About this document", _written(place.rationale, **shared))
        without = None
        if not opened.places[1 - with_rationale].column.rationale:
            without = tag("p", letter(SIDES[1 - with_rationale]), " This column uses no rationale.", class_="g-quiet g-without")
        return tag(
            "section", tag("h3", "Rationales of ", place.column.model), _legend("sides"), tag("div", left, right, class_="g-pair"), without
        )
    both = content_words(a.rationale) & content_words(b.rationale) if a.column.rationale and b.column.rationale else set()
    cards = [
        _card(name, "About this document", _written(place.rationale, query=query_words[i], both=both))
        if place.column.rationale
        else _none(name, place)
        for i, (place, name) in enumerate(zip(opened.places, SIDES, strict=True))
    ]
    kinds = ["query", "both"] if a.column.rationale and b.column.rationale else ["query"]
    return tag("section", tag("h3", "Rationales of this document"), _legend(*kinds), tag("div", *cards, class_="g-pair"))


def _written(rationale: str, **classes: set[str]) -> Safe:
    if not rationale:
        return tag("p", "Empty: the model ended its turn at once.", class_="g-quiet")
    return join(*(tag("p", rationale_text(part, **classes), dir="auto") for part in rationale.splitlines() if part.strip()))


def _card(name: str, heading: str, body: Safe) -> Safe:
    return tag("div", tag("div", letter(name), tag("span", heading), class_="g-label"), body, class_=f"g-card g-card-{name}")


def _none(name: str, place: Place) -> Safe:
    return tag(
        "div",
        tag("div", letter(name), tag("span", place.column.label), class_="g-label"),
        tag("p", "This column uses no rationale.", class_="g-quiet"),
        class_=f"g-card g-card-{name} g-card-none",
    )


def _legend(*kinds: str) -> Safe:
    words = {
        "sides": "on both sides, the query’s and the document’s",
        "query": "also in the query or its rationale",
        "both": "in both columns’ rationales",
    }
    return tag(
        "p",
        *(tag("span", tag("mark", "word", class_=f"g-mark-{'both' if kind == 'both' else 'query'}"), f" {words[kind]}") for kind in kinds),
        class_="g-legend",
    )
