"""The two columns of a search: what was written about the query, and its neighbours."""

from __future__ import annotations

from grace_app.explore.passages import place_chips
from grace_app.explore.search import Side, Snapshot, movements
from grace_app.page.html import Safe, banner, chip, cut_chip, join, number, tag
from grace_app.page.words import rationale_text
from grace_app.workspace.view import OtherColumn
from grace_core.passages import RESERVED
from grace_core.readers import Document

SNIPPET = 220  # characters
CHIPS, CHIP_LENGTH = 3, 32
SIDES = ("a", "b")


def letter(side: str) -> Safe:
    return tag("span", side.upper(), class_=f"g-letter g-letter-{side}", aria_hidden="true")


def render_empty(*, documents: int = 0, collection: str = "", message: str = "") -> Safe:
    """Nothing asked yet, or what is wrong instead. With a message the address is left as it is."""
    if collection:
        title, hint = (
            "Ask something to see what is retrieved",
            (
                f"Type a query above and press Enter, or pick an example. Both columns search the same {number(documents)} documents of "
                f"{collection}; open a document to see its rationale and its place in either column."
            ),
        )
    elif message:
        title, hint = "This collection cannot be shown", "Choose another one above, or build one in the Corpus tab."
    else:
        title, hint = "There is no collection to search yet", "The Corpus tab builds one from a file of yours."
    box = tag("div", tag("p", title, class_="g-empty-title"), tag("p", hint), class_="g-empty")
    return tag("div", banner(message), box, class_="g-results", data_view="{}", data_keep=bool(message))


def render_failure(view_json: str | None, message: str) -> Safe:
    return tag(
        "div", banner(message), class_="g-results", data_keep=True if view_json is None else None, data_view=view_json
    )


def render_results(shot: Snapshot) -> Safe:
    """A snapshot.

    While a column is not there yet its place is held by cards of the same height, so that nothing jumps.
    """
    columns = tag("div", *(render_column(shot, number_) for number_ in (0, 1)), class_="g-columns")
    return tag(
        "div",
        banner(shot.notice),
        tag("div", summary(shot), class_="g-summary", role="status"),
        columns,
        class_="g-results",
        data_view=shot.view.json(),
        data_busy=None if shot.done else True,
    )


def summary(shot: Snapshot) -> Safe:
    """One line on the whole search: how many documents, how many in both columns, what the judgements say."""
    a, b = shot.sides
    if a.hits is None or b.hits is None:
        return tag("span", "Searching …")
    first, second = ([hit.document_id for hit in side.hits] for side in shot.sides)
    both = len(set(first) & set(second))
    documents = f"{number(shot.documents)} {'passages' if any(hit.passages for hit in a.hits) else 'documents'}"
    documents = documents if shot.left is None else f"{number(shot.left)} of {documents} satisfy the filter"
    parts = [tag("span", tag("b", f"{both} of {len(first)}"), " in both columns"), tag("span", documents)]
    if shot.view.by == "sum":
        parts.append(tag("span", "a document ranks by the sum of its passages"))
    if shot.grades is not None:
        relevant = [sum(document in shot.grades for document in ids) for ids in (first, second)]
        parts.append(
            tag(
                "span",
                f"{len(shot.grades)} judged relevant: {relevant[0]} found by ",
                letter("a"),
                f", {relevant[1]} by ",
                letter("b"),
                aria_label=f"{len(shot.grades)} documents are judged relevant; column A found {relevant[0]}, column B found {relevant[1]}",
            )
        )
    if shot.done:
        parts.append(tag("span", f"{shot.seconds:.1f} s" if shot.seconds >= 0.05 else "at once", class_="g-quiet"))
        parts.append(tag("span", tag("button", "Show on the map", type="button", class_="g-to-map")))
    return join(parts)


def render_column(shot: Snapshot, place: int) -> Safe:
    side, name = shot.sides[place], SIDES[place]
    other = shot.sides[1 - place]
    heading = tag("header", letter(name), tag("h2", side.column.label), class_="g-column-head")
    if side.hits is None:
        body = tag("ol", *(skeleton() for _ in range(shot.view.k)), class_="g-hits", aria_busy="true")
    elif not side.hits:
        what = (
            "no document satisfies the filter: take a condition away"
            if shot.view.where
            else "this index holds no documents."
        )
        body = tag("p", f"Nothing was found: {what}", class_="g-quiet")
    else:
        moved = None
        if other.hits is not None:
            moved = movements([hit.document_id for hit in side.hits], [hit.document_id for hit in other.hits])
        best = side.hits[0].score
        body = tag(
            "ol",
            *(
                render_hit(
                    hit,
                    rationale=side.column.rationale,
                    bar=share(hit.score, side.average, best),
                    grade=(shot.grades or {}).get(hit.document_id),
                    moved=None if moved is None else marker(moved[i], other="b" if name == "a" else "a", k=shot.view.k),
                    by=shot.view.by,
                )
                for i, hit in enumerate(side.hits)
            ),
            class_="g-hits",
        )
    return tag(
        "section",
        heading,
        render_rationale(side),
        scale_note(side),
        body,
        class_=f"g-column g-column-{name}",
        aria_label=f"Column {name.upper()}: {side.column.label}",
    )


def render_rationale(side: Side) -> Safe:
    """What the model wrote about the query, in a box of fixed height."""
    flags = []
    if side.text_truncated:
        flags.append(cut_chip("query", side.text_tokens, side.left_out))
    if side.truncated:
        flags.append(chip("rationale cut off at the limit", kind="g-flag"))
    if not side.column.rationale:
        how = "compares words" if side.column.id == "bm25" else "reads the text alone"
        how = how if isinstance(side.column, OtherColumn) else "embeds the text alone"
        inner = tag("p", f"No rationale: this column {how}.", class_="g-quiet")
        label = "Query"
    else:
        label = "Rationale of the query"
        if side.status == "opening":
            inner = tag("p", f"Opening {side.column.model} …", class_="g-quiet")
        elif side.written and not side.rationale:
            inner = tag("p", "The model ended its turn at once: the rationale is empty.", class_="g-quiet")
        elif not side.rationale:
            inner = tag("p", "Reading the query …", class_="g-quiet")
        else:
            caret = None if side.written else tag("span", class_="g-caret", aria_hidden="true")
            inner = tag("p", rationale_text(side.rationale), caret, dir="auto")
    state = "writing" if side.status == "writing" and not side.written else "done" if side.written else "waiting"
    return tag(
        "div",
        tag("div", tag("span", label), *flags, class_="g-label"),
        tag("div", inner, class_="g-rationale-text", tabindex="0" if side.rationale else None),
        class_="g-rationale",
        data_state=state,
    )


def scale_note(side: Side) -> Safe:
    note = "" if side.hits is None else f"bar: how far above the average document ({side.average:.3f})"
    return tag("p", note, class_="g-scale")


def render_hit(hit, *, rationale: bool, bar: float, grade: int | None, moved: Safe | None, by: str) -> Safe:
    """One neighbour: a card whose title is the button that opens it."""
    document: Document = hit.document
    chips = [
        chip(shorten(_field(key, value), CHIP_LENGTH), title=f"{key}: {shorten(value, 300)}")
        for key, value in metadata(document)[:CHIPS]
    ]
    chips = place_chips(hit, by) + chips
    if grade:
        chips.insert(0, chip(f"relevant · grade {grade}", kind="g-relevant", title="by the collection's judgements"))
    if hit.text_truncated:
        chips.append(cut_chip("text", hit.text_tokens))
    if hit.truncated and rationale:
        chips.append(chip("rationale cut off", kind="g-flag"))
    title = document.title or shorten(document.text, 80) or document.id
    return tag(
        "li",
        tag("div", hit.rank, class_="g-rank", aria_label=f"rank {hit.rank}"),
        tag(
            "div",
            tag("button", title, type="button", class_="g-open", data_doc=document.id, dir="auto", title=title),
            tag("p", shorten(document.text, SNIPPET), class_="g-snippet", dir="auto"),
            tag("div", *chips, class_="g-chips"),
            class_="g-hit-main",
        ),
        tag(
            "div",
            tag("span", f"{hit.score:.4f}", class_="g-score", aria_label=f"score {hit.score:.4f}"),
            bar_of(bar),
            moved,
            class_="g-hit-side",
        ),
        class_="g-hit",
        data_hit=document.id,
    )


def bar_of(part: float) -> Safe:
    # width by class, not by style: the only inline number is a rounded integer of our own
    return tag(
        "span",
        tag("span", class_="g-bar-fill", style=f"width:{round(100 * part)}%"),
        class_="g-bar",
        aria_hidden="true",
    )


def share(score: float, average: float, best: float) -> float:
    """Where ``score`` stands between the average document (0) and the best hit (1)."""
    return min(1.0, max(0.0, (score - average) / (best - average))) if best > average else 0.0


def marker(places: int | None, *, other: str, k: int) -> Safe:
    """How a document moved, seen from the other column."""
    column = f"column {other.upper()}"
    if places is None:
        mark, spoken, kind = "only here", f"not among the first {k} of {column}", "only"
    elif places == 0:
        mark, spoken, kind = "=", f"same rank as in {column}", "same"
    else:
        steps = f"{abs(places)} {'place' if abs(places) == 1 else 'places'}"
        up = places > 0
        mark, spoken, kind = (
            f"{'▲' if up else '▼'}{abs(places)}",
            f"{steps} {'higher' if up else 'lower'} than in {column}",
            "up" if up else "down",
        )
    return tag(
        "span",
        tag("span", mark, aria_hidden="true"),
        tag("span", spoken, class_="g-spoken"),
        class_=f"g-move g-move-{kind}",
        title=spoken,
    )


def skeleton() -> Safe:
    line = [tag("span", class_=f"g-line g-line-{width}") for width in ("title", "text", "chips")]
    return tag(
        "li",
        tag("div", class_="g-rank"),
        tag("div", *line, class_="g-hit-main"),
        class_="g-hit g-skeleton",
        aria_hidden="true",
    )


def metadata(document: Document) -> list[tuple[str, object]]:
    fields = {
        key: ", ".join(map(str, value)) if isinstance(value, list) else value
        for key, value in document.metadata.items()
    }
    return [
        (key, value)
        for key, value in fields.items()
        if value is not None and str(value).strip() and key not in RESERVED
    ]


def _field(key: str, value: object) -> object:
    """A field as a chip: a number or a flag says nothing without its name."""
    return value if isinstance(value, str) else f"{key} {value}"


def shorten(value: object, length: int) -> str:
    """``value`` on one line, cut at a word where there is one near."""
    line = " ".join(str(value)[: 4 * length + 1000].split())
    if len(line) <= length:
        return line
    cut = line[:length]
    space = cut.rfind(" ")
    return (cut[:space] if space > length * 0.7 else cut).rstrip(" ,;:.") + "…"


def render_examples(examples: list[str]) -> Safe:
    """Examples as buttons; nothing without any."""
    if not examples:
        return Safe("")
    return tag(
        "div",
        tag("span", "Try", class_="g-quiet"),
        *(tag("button", text, type="button", class_="g-example", data_query=text) for text in examples),
        class_="g-examples",
    )


def render_note(words: list[str], demo: bool) -> Safe:
    """What a score is in the columns that are compared, and what demo models are, where one of them is a demo model."""
    lines = [tag("p", line, class_="g-note") for line in words]
    if demo:
        lines.append(
            tag(
                "p",
                tag("b", "Demo models know only the demo world:"),
                " a small set of real things they were trained on. For texts of your own, choose another model in the Corpus tab, or run ",
                tag("code", "grace index build CORPUS --out indexes/NAME --model smollm2"),
                ".",
                class_="g-note",
            )
        )
    return join(*lines)
