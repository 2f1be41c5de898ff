"""HTML of the Mend tab: failing queries, the causes of one, a document's rationale to change, a replay, and the history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from grace_app.explore.results import shorten
from grace_app.page.html import Safe, banner, chip, number, tag

if TYPE_CHECKING:
    from grace_core.index import GraceIndex
    from grace_core.mend_layer import Content, Mend
    from grace_core.mending import Cause, Failure, Mender, Replay

LISTED = 200  # failing queries
MOVED = 12  # queries that win, or lose, in a list
TEXT, QUERY, WORDS = 420, 140, 200  # characters
STATES = {"kept": "in force", "reverted": "reverted", "stale": "no longer in force"}
KINDS = {"edit": "edited", "remove": "taken out", "regenerate": "written again", "import": "imported"}


def signed(value: float, digits: int = 3) -> str:
    return f"{value + 0.0:+.{digits}f}".replace("-", "−")


def render_failing(mender: Mender, chosen: str) -> Safe:
    """The judged queries with a document that is not relevant above a relevant one, the worst nDCG@10 first."""
    values = mender.ndcg()
    pairs = [(i, pair) for i in range(len(mender.queries)) if (pair := mender.pair(i))]
    pairs.sort(key=lambda one: (values[one[0]], one[1].right_rank))
    items = [
        tag(
            "li",
            tag(
                "button",
                tag("span", shorten(mender.texts[mender.queries[i]], QUERY), class_="g-mend-text", dir="auto"),
                tag("span", f"rank {number(pair.right_rank)} · {values[i]:.2f}", class_="g-mend-figure"),
                type="button",
                class_="g-mend-query",
                data_query=mender.queries[i],
                aria_pressed="true" if mender.queries[i] == chosen else "false",
            ),
        )
        for i, pair in pairs[:LISTED]
    ]
    count = len(mender.queries)
    rest = tag("p", f"and {number(len(pairs) - LISTED)} more", class_="g-quiet") if len(pairs) > LISTED else None
    lead = (
        f"nDCG@10 {values.mean():.4f} over {number(count)} judged {'query' if count == 1 else 'queries'}; of {number(len(pairs))} a "
        "document that is not relevant stands above a relevant one. Rank of that one, and nDCG@10:"
    )
    return tag("div", tag("p", lead, class_="g-quiet"), tag("ul", *items, class_="g-mend-list"), rest)


def render_sound(text: str) -> Safe:
    return tag(
        "div",
        tag("h3", text, dir="auto"),
        tag("p", "No document stands above a relevant one of this query: there is nothing to mend.", class_="g-note"),
    )


def render_failure(failure: Failure, pair: Mapping, index: GraceIndex) -> Safe:
    """Why a query fails, with the documents that a cause is about a click away."""
    wrong, right = (_title(index, document) for document in (failure.wrong, failure.right))
    lead = [
        tag("b", wrong, dir="auto"),
        f" stands at rank {number(failure.wrong_rank)} and is not relevant; ",
        tag("b", right, dir="auto"),
        f" is, at rank {number(failure.right_rank)}. Their scores differ by {signed(failure.difference, 4)}.",
    ]
    decisive = [
        "What puts it there most: the query’s ",
        tag("q", shorten(pair["query"].strip(), WORDS), dir="auto"),
        " with the document’s ",
        tag("q", shorten(pair["document"].strip(), WORDS), dir="auto"),
        f" ({pair['document_part']}), {signed(pair['above_corpus'], 4)} above the average document.",
    ]
    causes = [_cause(cause, index) for cause in failure.causes]
    choose = [
        tag(
            "button",
            f"Change the rationale of {shorten(title, 60)}",
            type="button",
            class_="g-button",
            data_doc=document,
            dir="auto",
        )
        for document, title in ((failure.wrong, wrong), (failure.right, right))
    ]
    return tag(
        "section",
        tag("h3", failure.text, dir="auto"),
        tag("p", *lead),
        tag("p", *decisive),
        tag("ul", *causes, class_="g-mend-causes")
        if causes
        else tag("p", "None of the causes applies.", class_="g-note"),
        tag("div", *choose, class_="g-mend-choose"),
    )


def _cause(cause: Cause, index: GraceIndex) -> Safe:
    about = f" of {_title(index, cause.document)}" if cause.document else ""
    attempt = None
    if cause.remedy:
        label = "Try without it" if cause.remedy == "remove" else "Try one written again"
        attempt = tag(
            "button", label, type="button", class_="g-button", data_doc=cause.document, data_remedy=cause.remedy
        )
    return tag(
        "li",
        tag(
            "div", tag("b", cause.name[:1].upper() + cause.name[1:], about, dir="auto"), attempt, class_="g-mend-cause"
        ),
        tag("p", cause.why, class_="g-quiet", dir="auto"),
        tag("p", "What could be done: ", cause.suggestion, class_="g-quiet"),
    )


def render_document(index: GraceIndex, document_id: str) -> Safe:
    """A document with its rationale to be changed."""
    document, row = index.collection.documents[document_id], index.row[document_id]
    rationale = index.rationales[row]
    said = tag(
        "label",
        tag("span", f"Rationale of {index.model_name}"),
        tag("textarea", rationale, rows="5", data_part="rationale", dir="auto"),
    )
    seed = tag(
        "label",
        "seed ",
        tag("input", type="number", min="0", step="1", value="1", data_part="seed"),
        class_="g-mend-seed",
    )
    return tag(
        "section",
        tag("h3", _title(index, document_id), dir="auto"),
        tag("p", shorten(document.text, TEXT), class_="g-quiet", dir="auto"),
        said,
        tag(
            "div",
            tag("button", "Try these words", type="button", class_="g-button g-primary", data_try="edit"),
            tag("button", "Try without it", type="button", class_="g-button", data_try="remove") if rationale else None,
            tag("span", tag("button", "Write it again", type="button", class_="g-button", data_try="regenerate"), seed),
            class_="g-mend-tries",
        ),
        data_document=document_id,
    )


def render_replay(
    replay: Replay, texts: Mapping[str, str], content: Content, *, changed: bool, query: str = "", refusal: str = ""
) -> Safe:
    """What all judged queries would change by with another rationale, the open ``query`` first, and the form that keeps it,
    or why it cannot be kept.
    """
    rationale = (
        tag("q", content.rationale, dir="auto") if content.rationale else tag("span", "no rationale", class_="g-quiet")
    )
    if not changed:
        return tag(
            "section",
            tag("p", "With: ", rationale),
            tag("p", "That is the rationale that it has; nothing changes.", class_="g-note"),
        )
    record = replay.as_dict()
    low, high = record["ci95"]
    verdict = tag(
        "p",
        tag("b", f"nDCG@10 {record['before']:.4f} → {record['after']:.4f}, {signed(record['change'], 5)}"),
        f" over all {number(record['queries'])} replayed queries (95 % interval {signed(low, 5)} to {signed(high, 5)}); "
        f"{number(len(record['wins']))} win, {number(len(record['losses']))} lose.",
    )
    own = None
    if query in replay.queries:
        place = replay.queries.index(query)
        before, after = int(replay.rank_before[place]), int(replay.rank_after[place])
        own = tag("p", f"For the open query the document stands at rank {number(after)}, before at {number(before)}.")
    lists = [_moved(title, record[name], texts) for title, name in (("Wins", "wins"), ("Losses", "losses"))]
    note = tag(
        "input", type="text", maxlength="500", placeholder="Why, for the history …", data_part="note", aria_label="Note"
    )
    return tag(
        "section",
        tag("p", "With: ", rationale, class_="g-mend-with"),
        own,
        verdict,
        tag("div", *lists, class_="g-mend-moved"),
        tag("p", refusal, class_="g-note")
        if refusal
        else tag("form", note, tag("button", "Keep", class_="g-button g-primary"), class_="g-mend-keep"),
        class_="g-mend-replay",
    )


def _moved(title: str, moved: list[dict], texts: Mapping[str, str]) -> Safe:
    items = [
        tag(
            "li",
            tag("span", shorten(texts[one["query"]], QUERY), class_="g-mend-text", dir="auto"),
            tag("span", f"{one['before']:.2f} → {one['after']:.2f}", class_="g-mend-figure"),
            title=f"the document at rank {one['rank_before']} → {one['rank_after']}",
        )
        for one in moved[:MOVED]
    ]
    more = tag("p", f"and {number(len(moved) - MOVED)} more", class_="g-quiet") if len(moved) > MOVED else None
    body = tag("ul", *items) if items else tag("p", "none", class_="g-quiet")
    return tag("div", tag("h4", f"{title} ({number(len(moved))})"), body, more)


def render_history(index: GraceIndex, *, may_revert: bool) -> Safe:
    """Every mend of an index there was, the newest first; nothing where there never was one."""
    from grace_core.mend_layer import Layer
    from grace_core.mends import check

    state = check(index)
    if not state["ok"]:
        return banner(state["error"])
    layer = Layer.load(index.folder)
    if not layer.mends:
        return tag("p", "Nothing was mended here yet.", class_="g-quiet")
    last = {document: own[-1] for document, own in layer.kept().items()}
    rows = [_mend(mend, may_revert and last.get(mend.document) is mend) for mend in reversed(layer.mends)]
    return tag("ul", *rows, class_="g-mend-history")


def _mend(mend: Mend, may_revert: bool) -> Safe:
    ended = f" {mend.ended[:10]}: {mend.reason}" if mend.state != "kept" else ""
    revert = tag(
        "button", "Revert", type="button", class_="g-button", data_revert=mend.id, aria_label=f"Revert {mend.id}"
    )
    old, new = (shorten(side.rationale, WORDS) or "none" for side in (mend.old, mend.new))
    return tag(
        "li",
        tag(
            "div",
            tag("b", mend.id),
            tag("span", f"{KINDS[mend.kind]} {mend.time[:16].replace('T', ' ')}, {mend.document}", dir="auto"),
            chip(STATES[mend.state] + ended, kind="g-relevant" if mend.state == "kept" else ""),
            revert if may_revert else None,
            class_="g-mend-cause",
        ),
        tag("p", mend.note, dir="auto") if mend.note else None,
        tag("p", tag("q", old, dir="auto"), " → ", tag("q", new, dir="auto"), class_="g-quiet"),
    )


def _title(index: GraceIndex, document_id: str) -> str:
    document = index.collection.documents[document_id]
    return document.title or shorten(document.text, 70) or document.id
