"""HTML of the Map tab's panel: what changed between the columns, an opened document, found and selected documents."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence

from grace_app.explore.results import SIDES, letter, metadata, shorten
from grace_app.map.maps import Chart, Pair, quality
from grace_app.map.view import WHERE
from grace_app.page.html import Safe, chip, cut_chip, join, number, tag
from grace_app.page.words import content_words, rationale_text
from grace_app.workspace.view import Column

MOVED = 8  # documents named that moved most
CHANGED = 6  # lines on regions
FOUND = 100  # found documents that are listed
LISTED = 200  # selected documents that are listed
TEXT, BEGIN = 4_000, 150  # characters
_THINK = re.compile(r"</?think>")
RISKY = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a cell that begins so for a formula


def name_of(pair: Pair, row: int) -> str:
    document = pair.documents[row]
    return document.title or shorten(document.text, 80) or document.id


def link(pair: Pair, row: int, *rest: object, kind: str = "") -> Safe:
    """A button that opens a document."""
    name = name_of(pair, row)
    return tag(
        "button",
        tag("span", name, dir="auto"),
        *rest,
        type="button",
        class_=f"g-map-link {kind}".strip(),
        data_row=row,
        title=name,
    )


def hint(pair: Pair, row: int) -> dict:
    """What is shown of a document that is pointed at; plain text for the scripts."""
    texts = [begin(pair, side, row) or "(empty)" for side in range(1 if pair.one else 2)]
    change = None if pair.one else pair.compared
    kept = "" if change is None else f"{round(float(change.overlap[row]) * change.k)} of {change.k} neighbours kept"
    return {"row": row, "title": shorten(name_of(pair, row), 90), "begin": texts, "note": kept}


def begin(pair: Pair, side: int, row: int) -> str:
    """The first words of what a column has read of a document besides its text."""
    return shorten(_THINK.sub(" ", pair.text(side, row)[: 8 * BEGIN]), BEGIN)


def render_change(pair: Pair) -> Safe:
    """How many neighbours were kept, who moved most, what became of the regions, and how far the maps can be
    trusted.
    """
    if pair.one:
        words = "Both maps would be the same column, so one is drawn and there is nothing to compare. Choose another column for map B."
        return tag(
            "div", tag("h3", "One column"), tag("p", words, class_="g-quiet"), _quality(pair), class_="g-map-rest"
        )
    change = pair.change()
    if change.k == 0:
        return tag(
            "div",
            tag("h3", "One document"),
            tag("p", "It has no neighbours to compare.", class_="g-quiet"),
            class_="g-map-rest",
        )
    moved = [row for row in change.moved[:MOVED].tolist() if change.overlap[row] < 1]
    kept = tag(
        "p", tag("b", f"{change.mean * change.k:.1f} of {change.k}"), " neighbours kept on average", class_="g-map-kept"
    )
    parts = [tag("h3", "From A to B"), kept, _bars(pair)]
    if moved:
        parts.append(tag("h3", "These moved most"))
        parts.append(tag("ul", *(tag("li", link(pair, row, _count(pair, row))) for row in moved), class_="g-map-list"))
    else:
        parts.append(tag("p", "No document lost a neighbour.", class_="g-quiet"))
    if lines := region_changes(pair):
        parts += [
            tag("h3", "Regions"),
            tag("ul", *(tag("li", line, dir="auto") for line in lines[:CHANGED]), class_="g-map-lines"),
        ]
        if len(lines) > CHANGED:
            more = tag("ul", *(tag("li", line, dir="auto") for line in lines[CHANGED:]), class_="g-map-lines")
            parts.append(tag("details", tag("summary", f"{len(lines) - CHANGED} more"), more))
    return tag("div", *parts, _quality(pair), class_="g-map-rest")


def region_changes(pair: Pair) -> list[str]:
    """Regions that merged or split from A to B, in words."""
    from grace_core.projection import regions_changed

    a, b = (chart.regions for chart in pair.charts)
    return [] if pair.one or a is None or b is None else [str(line) for line in regions_changed(a, b)]


def _bars(pair: Pair) -> Safe:
    """How many documents kept how many neighbours."""
    change = pair.change()
    counts = [0] * (change.k + 1)
    for kept in (change.overlap * change.k).round().astype(int).tolist():
        counts[kept] += 1
    most = max(counts)
    bars = [
        tag(
            "span",
            style=f"height:{round(100 * count / most)}%",
            title=f"{number(count)} documents kept {kept} of {change.k}",
        )
        for kept, count in enumerate(counts)
    ]
    return tag(
        "div",
        tag("div", *bars, class_="g-map-bars", role="img", aria_label="How many documents kept how many neighbours"),
        tag("div", tag("span", "none kept"), tag("span", "all kept"), class_="g-map-bars-foot g-quiet"),
    )


def _quality(pair: Pair) -> Safe | None:
    rows = []
    for name, chart in zip(SIDES, pair.charts[: 1 if pair.one else 2], strict=False):
        numbers = quality(chart)
        if isinstance(numbers["trustworthiness"], (int, float)):
            kept = (
                f", keeps {numbers['preservation']:.0%} of the nearest 15"
                if isinstance(numbers["preservation"], (int, float))
                else ""
            )
            rows.append(tag("li", letter(name), f" trustworthiness {numbers['trustworthiness']:.3f}{kept}"))
    if not rows:
        return None
    note = "1 would mean that whatever is near on the map is near for the model, too; 0.5 is chance."
    return join(
        tag("h3", "How far to trust the maps"),
        tag("ul", *rows, class_="g-map-lines"),
        tag("p", note, class_="g-quiet g-small"),
    )


def _count(pair: Pair, row: int) -> Safe | None:
    change = pair.compared
    if change is None or pair.one or change.k == 0:
        return None
    kept = round(float(change.overlap[row]) * change.k)
    return tag(
        "span", f"{kept}/{change.k}", class_="g-quiet g-map-count", title=f"{kept} of {change.k} neighbours kept"
    )


def render_card(pair: Pair, row: int, *, star: bool) -> tuple[Safe, dict[str, list[int]]]:
    """An opened document, and the rows of its neighbours in three lists: kept, lost, won."""
    document = pair.documents[row]
    kept, lost, won = pair.neighbours(row)
    facts = [chip(shorten(value, 40), title=f"{key}: {shorten(value, 300)}") for key, value in metadata(document)[:6]]
    body = [tag("p", part, dir="auto") for part in document.text[:TEXT].splitlines() if part.strip()]
    if len(document.text) > TEXT:
        body.append(tag("p", f"… and {number(len(document.text) - TEXT)} more characters", class_="g-quiet"))
    share = [tag("b", f"{len(kept)} of {len(kept) + len(lost)}"), " neighbours kept"]
    html = tag(
        "article",
        tag(
            "header",
            tag("h2", document.title or document.id, dir="auto"),
            tag("button", "Close", tag("kbd", "Esc"), type="button", class_="g-close", aria_label="Close the document"),
            class_="g-map-card-head",
        ),
        tag("div", *facts, class_="g-chips"),
        None if pair.one else tag("p", *share, class_="g-map-kept"),
        tag(
            "div",
            body or tag("p", "This document has a title only.", class_="g-quiet"),
            class_="g-map-text",
            tabindex="0",
        ),
        tag("div", *_ways(star, bool(document.title)), class_="g-map-ways"),
        *_rationales(pair, row),
        *_neighbours(pair, kept, lost, won),
        class_="g-map-card",
        data_doc=document.id,
    )
    return html, {"kept": kept, "lost": [] if pair.one else lost, "won": [] if pair.one else won}


def _ways(star: bool, titled: bool) -> list[Safe]:
    """From here to the Explore tab."""
    ways = [("title" if titled else "text", "Search from here", "Search for this document’s title in both columns")]
    if titled:
        ways.append(("text", "Search its text", "Search for this document’s text in both columns"))
    if star:
        ways.append(("why", "Why near the query?", "Open this document under the placed query in the Explore tab"))
    buttons = [
        tag("button", label, type="button", class_="g-button", data_go=what, title=title) for what, label, title in ways
    ]
    zoom = tag(
        "button",
        "Zoom in",
        type="button",
        class_="g-button",
        data_do="near-card",
        title="Show it and its neighbours large",
    )
    return [*buttons, zoom]


def _rationales(pair: Pair, row: int) -> list[Safe]:
    charts = pair.charts[: 1 if pair.one else 2]
    models = {chart.column.model for chart in charts}
    written = [chart.index.rationales[row] if chart.column.rationale else "" for chart in charts]
    both = (
        content_words(written[0]) & content_words(written[1])
        if len(written) == 2 and all(written) and len(models) == 2
        else set()
    )
    cards = []
    for name, chart, rationale in zip(SIDES, charts, written, strict=False):
        if not chart.column.rationale:
            said: object = tag("p", "This column uses no rationale.", class_="g-quiet")
        elif not rationale.strip():
            said = tag("p", "Empty: the model ended its turn at once.", class_="g-quiet")
        else:
            said = [
                tag("p", rationale_text(part, both=both), dir="auto")
                for part in rationale[:TEXT].splitlines()
                if part.strip()
            ]
        cut = (
            chip("rationale cut off", kind="g-flag") if chart.column.rationale and chart.index.truncated[row] else None
        )
        text = _text_cut(chart, row)
        label = tag("div", letter(name), tag("span", chart.column.label), text, cut, class_="g-label")
        cards.append(tag("div", label, said, class_=f"g-card g-card-{name}"))
    return cards


def _text_cut(chart: Chart, row: int) -> Safe | None:
    """That a column has not read the whole text."""
    hit = chart.opened.hit(row, 1, 0.0)
    if not hit.text_truncated:
        return None
    if isinstance(chart.column, Column):
        return cut_chip("text", hit.text_tokens)
    left = int(chart.index.left_out[row])
    return chip(f"text cut: {number(left)} tokens left out", kind="g-flag", title="The encoder has no room for them.")


def _neighbours(pair: Pair, kept: Sequence[int], lost: Sequence[int], won: Sequence[int]) -> list[Safe]:
    def listed(title: str, rows: Sequence[int], kind: str) -> Safe | None:
        if not rows:
            return None
        items = [tag("li", link(pair, row, _count(pair, row), kind=f"g-map-{kind}")) for row in rows]
        return tag("section", tag("h3", title), tag("ul", *items, class_="g-map-list"))

    if pair.one:
        return [part for part in [listed(f"Its {len(kept)} nearest", kept, "kept")] if part]
    lists = [
        listed(f"Kept ({len(kept)})", kept, "kept"),
        listed(f"Only near in A ({len(lost)})", lost, "lost"),
        listed(f"Only near in B ({len(won)})", won, "won"),
    ]
    return [part for part in lists if part]


def render_star(pair: Pair, query: str, sides: Sequence[dict]) -> Safe:
    """The nearest documents of a placed query in each column."""
    off = tag("button", "Take it off", type="button", class_="g-button", data_do="unstar")
    zoom = tag(
        "button",
        "Zoom in",
        type="button",
        class_="g-button",
        data_do="near-star",
        title="Show the star and its neighbours large",
    )
    parts = [tag("h3", f"Nearest to “{shorten(query, 70)}”"), zoom, off]
    both = set(sides[0]["rows"]) & set(sides[-1]["rows"])
    if len(sides) == 2:
        parts.append(
            tag("p", tag("b", f"{len(both)} of {len(sides[0]['rows'])}"), " near in both columns", class_="g-map-kept")
        )
    for name, chart, side in zip(SIDES, pair.charts, sides, strict=False):
        parts.append(tag("div", letter(name), tag("span", chart.column.label), class_="g-label"))
        scores = (tag("span", f"{score:.3f}", class_="g-quiet g-map-count") for score in side["scores"])
        lines = [tag("li", link(pair, row, score)) for row, score in zip(side["rows"], scores, strict=True)]
        parts.append(tag("ul", *lines, class_="g-map-list"))
    return tag("div", *parts, class_="g-map-rest")


def render_found(pair: Pair, rows: Sequence[int], words: str, wrong: str = "") -> Safe:
    """Documents that hold the words that were looked for, or satisfy a filter; ``wrong`` is what is wrong with that."""
    where = words.removeprefix(WHERE).strip() if words.startswith(WHERE) else ""
    one, several = ("document satisfies", "documents satisfy") if where else ("document holds", "documents hold")
    head = tag("h3", f"{number(len(rows))} {one if len(rows) == 1 else several} “{shorten(where or words, 60)}”")
    if not len(rows):
        hint = wrong or ("" if where else "Titles, texts and both columns’ rationales were looked through.")
        return tag("div", head, tag("p", hint, class_="g-quiet"))
    items = [tag("li", link(pair, int(row), _count(pair, int(row)))) for row in rows[:FOUND]]
    more = tag("p", f"… and {number(len(rows) - FOUND)} more", class_="g-quiet") if len(rows) > FOUND else None
    choose = tag("button", "Select them", type="button", class_="g-button", data_do="select-found")
    return tag("div", head, choose, tag("ul", *items, class_="g-map-list"), more, class_="g-map-rest")


def render_selection(pair: Pair, rows: Sequence[int], terms: Sequence[str]) -> Safe:
    """Selected documents as a table, with the terms that set them apart from all others."""
    charts = pair.charts[: 1 if pair.one else 2]
    fields = pair.collection.corpus.fields[:2]
    regions = [(name, chart) for name, chart in zip(SIDES, charts, strict=False) if chart.regions]
    change = None if pair.one else pair.compared
    kept = [] if change is None else ["Kept"]
    heads = ["Document", *fields, *kept, *(join(letter(name), " region") for name, _ in regions), "Rationale"]
    side = len(charts) - 1
    lines = []
    for row in list(rows)[:LISTED]:
        document = pair.documents[row]
        cells = [tag("td", link(pair, row), class_="g-col-title")]
        values = [document.metadata.get(key) for key in fields]
        cells += [tag("td", shorten("" if value is None else value, 60), dir="auto") for value in values]
        cells += [] if change is None else [tag("td", f"{round(float(change.overlap[row]) * change.k)} of {change.k}")]
        cells += [tag("td", region_name(chart.regions, row), dir="auto") for _, chart in regions]
        cells.append(tag("td", begin(pair, side, row), class_="g-col-text", dir="auto"))
        lines.append(tag("tr", *cells))
    limit = f"the first {number(LISTED)} are listed, the export has all" if len(rows) > LISTED else ""
    return join(
        tag(
            "header",
            tag("h3", tag("b", number(len(rows))), f" {'document' if len(rows) == 1 else 'documents'} selected"),
            tag("span", limit, class_="g-quiet") if limit else None,
            tag(
                "span",
                *(
                    tag("button", label, type="button", class_="g-button", data_do=what, title=title)
                    for what, label, title in (
                        ("csv", "Export CSV", "Save the selected documents as CSV"),
                        ("json", "Export JSON", "Save the selected documents as JSON"),
                        ("clear", "Clear", "Select nothing (Esc)"),
                    )
                ),
                class_="g-map-buttons",
            ),
            class_="g-map-selection-head",
        ),
        tag("p", tag("span", "Terms that set them apart: ", class_="g-quiet"), *map(chip, terms), class_="g-map-terms")
        if terms
        else None,
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
                tag("tbody", *lines),
            ),
            class_="g-table",
            tabindex="0",
            role="region",
            aria_label="Selected documents",
        ),
    )


def region_name(regions, row: int) -> str:
    label = int(regions.labels[row])
    return regions.names[label] if 0 <= label < len(regions.names) else ""


def export(pair: Pair, rows: Sequence[int], kind: str) -> str:
    """Selected documents as ``csv`` or ``json``, with their fields, rationales, regions and places.

    Cells of the CSV that a spreadsheet would run as a formula begin with an apostrophe; the JSON has every
    text as it is.
    """
    charts = list(zip(SIDES, pair.charts[: 1 if pair.one else 2], strict=False))
    change = None if pair.one else pair.compared
    records = []
    for row in rows:
        document = pair.documents[row]
        one = {"id": document.id, "title": document.title, "text": document.text, "metadata": document.plain_metadata}
        one |= (
            {}
            if change is None
            else {"neighbours_kept": round(float(change.overlap[row]) * change.k), "neighbours": change.k}
        )
        for name, chart in charts:
            one[name] = {
                "column": chart.column.id,
                "x": round(float(chart.points[row, 0]), 5),
                "y": round(float(chart.points[row, 1]), 5),
            }
            one[name] |= {"region": region_name(chart.regions, row)} if chart.regions else {}
            one[name] |= {"rationale": chart.index.rationales[row]} if chart.column.rationale else {}
        records.append(one)
    if kind == "json":
        return json.dumps(records, ensure_ascii=False, indent=1)
    flat = [_flat(one, [name for name, _ in charts]) for one in records]
    out = io.StringIO()  # lines end as RFC 4180 says: a text's own line feeds and carriage returns are quoted only then
    writer = csv.DictWriter(out, list(dict.fromkeys(key for one in flat for key in one)))
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flat(one: dict, sides: Sequence[str]) -> dict:
    flat = {key: value for key, value in one.items() if key not in ("metadata", *sides)}
    flat |= {f"metadata.{key}": value for key, value in one["metadata"].items()}
    flat |= {f"{side}.{key}": value for side in sides for key, value in one[side].items()}
    return {_cell(key): _cell(value) for key, value in flat.items()}


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(RISKY) else value
