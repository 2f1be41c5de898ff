"""A document opened: where it stands in both columns, and what was written about it."""

from __future__ import annotations

import json

from grace_app.explore.passages import render_text
from grace_app.explore.results import SIDES, letter, metadata
from grace_app.explore.search import BLOCKS, OTHERS, Opened, Place
from grace_app.explore.worth import render_offer
from grace_app.page.html import Safe, chip, cut_chip, join, number, tag
from grace_app.page.words import content_words, mark, rationale_text
from grace_app.workspace.view import OtherColumn

SHOWN = 20_000  # characters of a text that are put into the page
MARKUP = "template (pairs with the chat’s markup)"
PANELS = {"read": "Rationales", "why": "Why?", "whatif": "What if?"}


def render_detail(opened: Opened) -> Safe:
    """The dialog. Its views Why? and What if? are filled by assets when they are opened.

    Marked words are those shared with the query's side; with two rationales, also those that both share.
    """
    document = opened.document
    asked = content_words(opened.view.query)
    title = tag("h2", document.title or document.id, id="g-detail-title", dir="auto")
    facts = [
        tag("div", tag("dt", key), tag("dd", value, dir="auto"))
        for key, value in (("id", document.id), *metadata(document))
    ]
    if opened.passages:
        facts[0] = tag(
            "div", tag("dt", "id"), tag("dd", f"{opened.passages.document.id}, passage {document.id}", dir="auto")
        )
    text = document.text[:SHOWN]
    body = [tag("p", mark(part, query=asked), dir="auto") for part in text.splitlines() if part.strip()]
    if len(document.text) > SHOWN:
        body.append(tag("p", f"… and {number(len(document.text) - SHOWN)} more characters", class_="g-quiet"))
    grade = chip(f"relevant · grade {opened.grade}", kind="g-relevant") if opened.grade else None
    if opened.grades is not None and not opened.grade:
        grade = chip("not judged relevant for this query")
    body = tag("div", body or tag("p", "This document has a title only.", class_="g-quiet"), class_="g-body")
    whole = [tag("section", tag("h3", "Text"), body, class_="g-text")]
    read = [
        *(render_text(opened.passages, asked) if opened.passages else whole),
        render_rationales(opened, asked),
        render_offer(opened.view),
        tag("section", tag("h3", "Fields"), tag("dl", *facts, class_="g-facts")),
    ]
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
                *(render_place(place, name, opened) for place, name in zip(opened.places, SIDES, strict=True)),
                class_="g-places",
            ),
            tag(
                "div",
                tag(
                    "div",
                    *(_tab(*one) for one in PANELS.items()),
                    class_="g-panel-tabs",
                    role="tablist",
                    aria_label="Views",
                ),
                tag("button", "Show on the map", type="button", class_="g-to-map"),
                class_="g-panel-row",
            ),
            _panel("read", *read),
            _panel("why", render_blocks(opened.places), tag("div", class_="g-slot")),
            _panel("whatif", tag("div", class_="g-slot")),
            class_="g-dialog",
            role="dialog",
            aria_modal="true",
            aria_labelledby="g-detail-title",
        ),
        class_="g-overlay",
        data_doc=document.id,
        data_view=opened.view.json(),
        data_columns=json.dumps(
            [{"label": p.column.label, "rationale": p.column.rationale, "blocks": p.blocks} for p in opened.places]
        ),
        **{f"data_{name}": value for name, value in opened.view.opened().items() if name != "doc"},
    )


def _tab(name: str, label: str) -> Safe:
    chosen = name == "read"
    return tag(
        "button",
        label,
        type="button",
        role="tab",
        id=f"g-tab-{name}",
        aria_controls=f"g-panel-{name}",
        aria_selected="true" if chosen else "false",
        tabindex="0" if chosen else "-1",
        data_panel=name,
    )


def _panel(name: str, *children: Safe) -> Safe:
    return tag(
        "div",
        *children,
        class_="g-panel",
        role="tabpanel",
        id=f"g-panel-{name}",
        aria_labelledby=f"g-tab-{name}",
        hidden=name != "read",
    )


def render_blocks(places: tuple[Place, Place]) -> Safe:
    """The scores of both columns split by where the two tokens of a pair stand.

    The bars over the table are drawn by assets/why.js.
    """
    known = [*BLOCKS, *OTHERS]
    there = list(dict.fromkeys(kind for place in places for kind in place.blocks))
    kinds = [kind for kind in known if kind in there] + [kind for kind in there if kind not in known]

    def row(label: object, values: list[float | None], form: str, kind: str | None = None) -> Safe:
        apart = values[1] - values[0] if None not in values else None
        cells = [tag("td", "–" if value is None else minus(form.format(value))) for value in values]
        return tag(
            "tr",
            tag("th", label, scope="row"),
            *cells,
            tag("td", "–" if apart is None else minus(f"{apart:+.4f}")),
            class_=kind,
        )

    def place_of(kind: str) -> int:
        return known.index(kind) if kind in known else len(known)

    rows = [
        row(
            join(tag("span", class_=f"g-swatch g-block-{place_of(kind)}"), MARKUP if kind == "template" else kind),
            [place.blocks.get(kind) for place in places],
            "{:+.4f}",
        )
        for kind in kinds
    ]
    sums = [sum(place.blocks.values()) for place in places]
    rows.append(row("sum", sums, "{:.4f}", "g-row-sum"))
    rows.append(row("score that ranked the document", [place.score for place in places], "{:.4f}", "g-row-score"))
    residuals = [tag("td", f"{abs(place.score - total):.0e}") for place, total in zip(places, sums, strict=True)]
    rows.append(
        tag("tr", tag("th", "residual (rounding)", scope="row"), *residuals, tag("td"), class_="g-row-residual")
    )
    letters = (
        tag("th", letter(name), tag("span", f"column {name.upper()}", class_="g-spoken"), scope="col") for name in SIDES
    )
    head = tag(
        "tr", tag("th", "query’s token × document’s token", scope="col"), *letters, tag("th", "B − A", scope="col")
    )
    return tag(
        "section",
        tag("div", class_="g-draw-blocks"),
        tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="g-blocks"),
        tag(
            "p",
            "A score is a sum over all pairs of a token of the query and a token of the document. The bars sort these pairs by where "
            "the two tokens stand; what lies left of the line lowers the score. This is bookkeeping, not cause: a rationale is written "
            "after the text and has read it, so its share also carries what the text says. What a rationale does to the score is tried "
            "under What if?",
            class_="g-words",
        ),
        _other_words(places),
    )


def _other_words(places: tuple[Place, Place]) -> Safe | None:
    """What the lines of columns are that are no models."""
    if not any(isinstance(place.column, OtherColumn) for place in places):
        return None
    return tag(
        "p",
        "Columns that are no models have scores on scales of their own, so that B − A of two kinds compares nothing. Terms are words of "
        "the query, for BM25; the markup of a sentence encoder is CLS and SEP; the parts of a fusion are scaled, and what an average "
        "document has is taken off.",
        class_="g-words",
    )


def minus(number_: str) -> str:
    """With a minus as wide as a plus."""
    return number_.replace("-", "−")


def flags(opened: Opened) -> list[Safe]:
    models = {place.column.model: place for place in opened.places}
    chips = [
        cut_chip(f"{name}: text", place.text_tokens, place.left_out)
        for name, place in models.items()
        if place.text_truncated
    ]
    for place in {place.column.model: place for place in opened.places if place.column.rationale}.values():
        if place.truncated:
            chips.append(chip(f"{place.column.model}: rationale cut off at the limit", kind="g-flag"))
        if place.empty:
            chips.append(chip(f"{place.column.model}: empty rationale", kind="g-flag"))
    return chips


def render_place(place: Place, name: str, opened: Opened) -> Safe:
    words = [number(opened.documents), "filtered" if opened.view.where else "", "passages" if opened.passages else ""]
    among = f" of {' '.join(word for word in words if word)}"
    title = "among what satisfies the filter" if opened.view.where else None
    return tag(
        "div",
        letter(name),
        tag("span", place.column.label, class_="g-place-label"),
        tag("span", "rank ", tag("b", number(place.rank)), among, class_="g-place-rank", title=title),
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
            without = tag(
                "p", letter(SIDES[1 - with_rationale]), " This column uses no rationale.", class_="g-quiet g-without"
            )
        return tag(
            "section",
            tag("h3", "Rationales of ", place.column.model),
            _legend("sides"),
            tag("div", left, right, class_="g-pair"),
            without,
        )
    both = (
        content_words(a.rationale) & content_words(b.rationale) if a.column.rationale and b.column.rationale else set()
    )
    cards = [
        _card(name, "About this document", _written(place.rationale, query=query_words[i], both=both))
        if place.column.rationale
        else _none(name, place)
        for i, (place, name) in enumerate(zip(opened.places, SIDES, strict=True))
    ]
    kinds = ["query", "both"] if a.column.rationale and b.column.rationale else ["query"]
    return tag(
        "section", tag("h3", "Rationales of this document"), _legend(*kinds), tag("div", *cards, class_="g-pair")
    )


def _written(rationale: str, **classes: set[str]) -> Safe:
    if not rationale:
        return tag("p", "Empty: the model ended its turn at once.", class_="g-quiet")
    return join(
        *(tag("p", rationale_text(part, **classes), dir="auto") for part in rationale.splitlines() if part.strip())
    )


def _card(name: str, heading: str, body: Safe) -> Safe:
    return tag(
        "div", tag("div", letter(name), tag("span", heading), class_="g-label"), body, class_=f"g-card g-card-{name}"
    )


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
        *(
            tag(
                "span", tag("mark", "word", class_=f"g-mark-{'both' if kind == 'both' else 'query'}"), f" {words[kind]}"
            )
            for kind in kinds
        ),
        class_="g-legend",
    )
