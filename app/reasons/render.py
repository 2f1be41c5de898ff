"""HTML of the Reasons tab: the list of reasons, one of them with its documents, and the hits of a query split
by reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grace_app.explore.results import shorten
from grace_app.page.html import Safe, chip, number, tag
from grace_app.reasons.view import ReasonsView

if TYPE_CHECKING:
    import numpy as np

    from grace_core.reasons.collection import Grouping, Reason, Reasons
    from grace_core.reasons.split import Split

TEXT, TITLE = 360, 90  # characters
STRONGEST = 10  # reasons that brought a list together
SMALL = 0.0005  # parts of a score that are summed up in one line
SHORT_NAMES = {"text": "text", "template": "chat template", "no reason": "tags and marks"}


@dataclass(frozen=True)
class Hits:
    """The first hits of a query: their split, the places ``shown`` of them out of ``found``, the ranks
    ``(h,)`` before steering, the parts ``(h, 1 + i)`` of a steered score, and grades by id."""

    split: Split
    shown: np.ndarray
    found: int
    old: np.ndarray
    steered: np.ndarray | None
    grades: dict[str, int]


def render_why_none(corpus: str, model: str = "", documents: int = 0, width: int = 0, *, refusal: str = "") -> Safe:
    """Why no reasons are shown: none can be, or none were found yet; ``refusal``: and why none can be found here."""
    if not model:
        title, hint = (
            f"{corpus} has no rationales",
            "Reasons are made of the sentences of rationales. Build the collection with a model and its rationales in the Corpus tab.",
        )
    else:
        title, hint = (
            f"The reasons of {model} were not found yet",
            f"Its {number(documents)} rationales are read once more, one forward each and nothing is written, to know what each "
            "sentence adds to its document’s vector. The sentences are then grouped. It can be stopped and goes on from there; the "
            "result is kept with the index."
            + (
                " A model of this size takes some minutes on two processors."
                if width >= 384 and documents > 200
                else ""
            ),
        )
    return tag("div", tag("p", title, class_="g-empty-title"), tag("p", refusal or hint), class_="g-empty")


def render_summary(reasons: Reasons, grouping: Grouping) -> Safe:
    about, size = reasons.about, len(grouping)
    agreement = about["agreement"].get(str(size))
    parts = [
        tag(
            "span",
            tag("b", number(size)),
            " reason in " if size == 1 else " reasons in ",
            number(about["speaking"]),
            " sentences",
        ),
        tag(
            "span",
            f"{grouping_share(grouping):.0%} of what sets the documents apart; their texts {grouping.other_shares[0]:.0%}",
        ),
    ]
    if agreement is not None:
        title = "Adjusted Rand index of these groups and those of another random start: 1 is the same, 0 no more alike than by chance."
        parts.append(tag("span", f"{agreement:.2f} alike with another seed", title=title))
    title = (
        "A share says where a sum comes from, not what would happen without it. grace reasons … --faithfulness takes a reason out and "
        "ranks again: on some collections the queries that it serves lose by that, on others it is not shown (docs/reasons.md)."
    )
    parts.append(tag("span", "shares, not effects", title=title))
    return tag("div", *parts, class_="g-summary")


def grouping_share(grouping: Grouping) -> float:
    return sum(reason.share for reason in grouping.reasons)


def render_list(grouping: Grouping) -> Safe:
    """All reasons as buttons, those with the largest share first."""
    reasons = sorted(grouping.reasons, key=lambda reason: (-reason.share, reason.number))
    largest = max((abs(reason.share) for reason in reasons), default=0) or 1
    return tag("ul", *(tag("li", _row(grouping, reason, largest)) for reason in reasons), class_="g-reasons-list")


def _row(grouping: Grouping, reason: Reason, largest: float) -> Safe:
    sentence = grouping.sentences.texts[reason.sentence].strip()
    return tag(
        "button",
        tag("span", reason.name, class_="g-reason-name", dir="auto"),
        tag("span", f"{reason.share:.1%}", class_="g-reason-share"),
        tag(
            "span",
            tag("span", style=f"width:{100 * abs(reason.share) / largest:.1f}%"),
            class_="g-reason-meter",
            aria_hidden="true",
        ),
        tag("span", f"{number(len(reason.documents))} docs", class_="g-reason-docs"),
        tag("span", shorten(sentence, 120), class_="g-reason-says", dir="auto"),
        type="button",
        class_="g-reason",
        data_reason=reason.number,
        aria_pressed="false",
    )


def render_reason(grouping: Grouping, number_: int, begin: int, most: int) -> Safe:
    """A reason with its documents from ``begin`` on, their sentences of it lit."""
    reason = grouping.reasons[number_]
    index, sentences = grouping.sentences.index, grouping.sentences
    rows = reason.documents[begin : begin + most]
    documents = [index.collection.documents[index.ids[row]] for row in rows]
    items = [
        tag(
            "li", tag("h4", _title(document), dir="auto"), said(grouping, int(row), number_), class_="g-reason-document"
        )
        for row, document in zip(rows, documents, strict=True)
    ]
    rest = len(reason.documents) - begin - len(rows)
    more = (
        tag("button", f"{number(rest)} more", type="button", class_="g-button", data_more=begin + len(rows))
        if rest > 0
        else None
    )
    if begin:
        return tag("div", *items, more, class_="g-reason-more")
    count = (
        f"{number(reason.size)} {'sentence' if reason.size == 1 else 'sentences'} of {number(len(reason.documents))}"
    )
    return tag(
        "div",
        tag("p", "“", sentences.texts[reason.sentence].strip(), "”", class_="g-reason-standing", dir="auto"),
        tag(
            "p",
            f"{count} {'document' if len(reason.documents) == 1 else 'documents'} · {reason.share:.2%} of what sets them apart",
            class_="g-quiet",
        ),
        tag("p", *(chip(term) for term in reason.terms), class_="g-reason-terms"),
        tag("ul", *items, more, class_="g-reason-documents"),
    )


def _title(document) -> str:
    return shorten(document.title or document.text, TITLE) or document.id


def said(grouping: Grouping, row: int, reason: int | None) -> Safe:
    """A rationale as its sentences, those of a reason lit; the name of each one's reason shows when it is
    pointed at.
    """
    sentences, parts = grouping.sentences, []
    for i in sentences.of(row):
        label = int(grouping.labels[i])
        if label < 0:
            if sentences.texts[i].strip():
                parts.append(tag("span", sentences.texts[i], class_="g-think"))
            continue
        lit = label == reason
        parts.append(
            tag(
                "mark" if lit else "span",
                sentences.texts[i],
                class_="g-said",
                data_of=label,
                title=grouping.reasons[label].name,
            )
        )
    return (
        tag("p", *parts, class_="g-reason-said", dir="auto") if parts else tag("p", "(no rationale)", class_="g-quiet")
    )


def render_hits(view: ReasonsView, grouping: Grouping, hits: Hits) -> Safe:
    """What brought a list of hits together, and each of them split."""
    split, size = hits.split, len(grouping)
    residual = float(abs(split.residual).max()) if len(split.rows) else 0.0
    largest = float(abs(split.above[hits.shown]).max()) if len(hits.shown) else 0.0
    items = [_hit(view, grouping, hits, int(place), largest or 1.0) for place in hits.shown]
    count = number(len(split.rows))
    limit = f"the first {len(hits.shown)} of {count} hits that were split"
    if view.only:
        limit = f"{number(hits.found)} of the first {count} hits have it"
    note = (
        f"Bars and “above mean”: what a part adds above what it adds to the average document of the collection, over all {size} reasons. "
        f"“In score”: what it adds to the score. Both are exact sums; largest residual of these {count} hits: {residual:.0e}."
    )
    return tag(
        "div",
        _strongest(grouping, split, view.reason),
        tag("div", tag("span", limit), class_="g-summary", role="status"),
        tag("ol", *items, class_="g-split-hits")
        if items
        else tag("p", "None of these hits has this reason.", class_="g-quiet"),
        tag("p", note, class_="g-words"),
        data_residual=f"{residual:.3e}",
    )


def _strongest(grouping: Grouping, split: Split, chosen: int | None) -> Safe:
    """The reasons that move these hits most, with their sums over them."""
    sums = split.above.sum(axis=0)
    reasons = sorted(split.strongest(STRONGEST), key=lambda r: -sums[r])
    largest = max((abs(float(sums[r])) for r in reasons), default=0.0) or 1.0
    rows = [
        tag(
            "li",
            tag(
                "button",
                tag("span", grouping.reasons[r].name, class_="g-reason-name", dir="auto"),
                bar(float(sums[r]), largest),
                tag("span", f"{sums[r]:+.3f}", class_="g-split-value"),
                type="button",
                class_="g-split-row",
                data_reason=r,
                aria_pressed="true" if r == chosen else "false",
            ),
        )
        for r in reasons
    ]
    head = tag("h3", "What brought these hits together")
    hint = tag(
        "p",
        f"Sums over the first {len(split.rows)} hits of what each reason adds above the average document. A click opens it.",
        class_="g-quiet",
    )
    return tag("section", head, hint, tag("ul", *rows, class_="g-split-strongest"), class_="g-split-lead")


def _hit(view: ReasonsView, grouping: Grouping, hits: Hits, place: int, largest: float) -> Safe:
    split, size = hits.split, len(grouping)
    row, index = int(split.rows[place]), grouping.sentences.index
    document = index.collection.documents[index.ids[row]]
    parts, above = split.parts[place], split.above[place]
    own = sorted(
        {int(label) for label in grouping.labels[list(grouping.sentences.of(row))] if label >= 0},
        key=lambda r: -above[r],
    )
    lines = [
        _line(grouping.reasons[r].name, above[r], parts[r], largest, reason=r, chosen=r == view.reason) for r in own
    ]
    lines += [_line(SHORT_NAMES[name], above[size + i], parts[size + i], largest) for i, name in enumerate(SHORT_NAMES)]
    absent = float(above[:size].sum() - above[own].sum())
    if abs(absent) >= SMALL:
        lines.append(_line("reasons that it does not have", absent, 0.0, largest))
    total = tag(
        "li",
        tag("span", "sum"),
        tag("span"),
        tag("b", f"{above.sum():+.4f}", class_="g-split-value"),
        tag("b", f"{split.scores[place]:.4f}", class_="g-split-value"),
        class_="g-split-line g-split-sum",
    )
    rank, old = place + 1, int(hits.old[place])
    moved = None
    if hits.steered is not None:
        move = "–" if rank == old else f"▲ from {number(old)}" if rank < old else f"▼ from {number(old)}"
        moved = tag("span", move, class_="g-move g-move-up" if rank < old else "g-move")
    steered = None
    if hits.steered is not None:
        query, *added = hits.steered[place].tolist()
        terms = [f"{value:+.4f} of {grouping.reasons[r].name}" for (r, _), value in zip(view.steer, added, strict=True)]
        sums = f"{split.scores[place]:.4f} = {query:.4f} of the query {' '.join(terms)}"
        steered = tag("p", sums, class_="g-quiet g-split-steered", dir="auto")
    grade = hits.grades.get(document.id)
    head = tag(
        "div",
        tag("span", str(rank), class_="g-rank"),
        tag("h4", _title(document), dir="auto"),
        moved,
        chip("relevant", kind="g-relevant") if grade else None,
        tag(
            "button",
            "Why?",
            type="button",
            class_="g-linklike",
            data_why=document.id,
            aria_label=f"Why? {_title(document)}",
        ),
        class_="g-split-head",
    )
    caption = tag(
        "li",
        tag("span"),
        tag("span"),
        tag("span", "above mean", class_="g-split-value"),
        tag("span", "in score", class_="g-split-value"),
        class_="g-split-line g-split-caption",
    )
    return tag(
        "li",
        head,
        steered,
        tag(
            "div",
            said(grouping, row, view.reason),
            tag("ul", caption, *lines, total, class_="g-split-lines"),
            class_="g-split-body",
        ),
        class_="g-split-hit",
        data_row=row,
        data_rank=rank,
    )


def _line(
    name: str, above: float, part: float, largest: float, *, reason: int | None = None, chosen: bool = False
) -> Safe:
    label = tag("span", name, class_="g-split-name", title=name, dir="auto")
    if reason is not None:
        label = tag(
            "button", name, type="button", class_="g-linklike g-split-name", data_reason=reason, title=name, dir="auto"
        )
    return tag(
        "li",
        label,
        bar(float(above), largest),
        tag("span", f"{above:+.4f}", class_="g-split-value"),
        tag("span", f"{part:.4f}", class_="g-split-value"),
        class_="g-split-line g-split-chosen" if chosen else "g-split-line",
    )


def bar(value: float, largest: float) -> Safe:
    """A bar to the right of the middle, or to its left below 0."""
    width = 50 * min(1.0, abs(value) / largest)
    left = 50 if value >= 0 else 50 - width
    fill = tag(
        "span", style=f"left:{left:.2f}%;width:{width:.2f}%", class_="g-split-minus" if value < 0 else "g-split-plus"
    )
    return tag("span", fill, class_="g-split-bar", aria_hidden="true")
