"""HTML of two models compared by reasons: which reasons gained and lost weight, and which queries moved by what."""

from __future__ import annotations

from collections.abc import Mapping

from grace_app.evaluate.view import FIRST
from grace_app.explore.detail import minus
from grace_app.explore.results import shorten
from grace_app.page.html import Safe, number, tag
from grace_app.reasons.render import SHORT_NAMES, bar
from grace_app.reasons.view import ReasonsView
from grace_core.readers import Document

WAYS = ("own", "words", "other")
REASONS = 20  # in sight; the others can be unfolded
QUERY, TITLE = 160, 60  # characters
MOVED = {"words": "more by words", "geometry": "more by geometry", "both": "equally by both", "": "not at all"}


def render_offer(view: ReasonsView, queries: int) -> Safe:
    """What a comparison would do, or why there can be none; the button stands beside it in the page."""
    if not queries:
        return tag(
            "p",
            f"{view.corpus} has no judged queries, and models are compared over these: lay queries.jsonl and qrels beside the corpus, "
            "and build it again. The same documents are not encoded again.",
            class_="g-note",
        )
    told = (
        f"{view.model} reads the rationales that {view.against} wrote, one forward a document, and both write about {number(queries)} "
        f"judged {'query' if queries == 1 else 'queries'}{f' of the split {view.split}' if view.split else ''}. It can be stopped."
    )
    return tag("p", told, class_="g-note")


def render_comparison(view: ReasonsView, result: dict, documents: Mapping[str, Document]) -> Safe:
    """The outcome of :func:`grace_core.reasons.comparison.compare_models`, with the figures of the command."""
    return tag(
        "section",
        tag("h3", f"{result['model']} against {result['against']}"),
        tag("p", _which(view, result), class_="g-quiet"),
        _three(result),
        tag("p", *_moved(result), class_="g-versus-moved"),
        tag("h4", "Reasons that gained and lost weight"),
        _reasons(result),
        tag(
            "h4", f"The {len(result['telling'])} queries that tell most" if len(result["telling"]) > 1 else "The query"
        ),
        tag("ol", *(tag("li", _query(row, documents)) for row in result["telling"]), class_="g-versus-queries"),
        _every_query(result),
        class_="g-versus",
        aria_label="Two models by reasons",
    )


def _which(view: ReasonsView, result: dict) -> str:
    count = result["queries"]
    split = f" of the split {view.split}" if view.split else ""
    chosen = ", chosen at random, always the same ones" if count == FIRST and not view.every else ""
    command = f"grace reasons … --model {result['model']} --size {len(result['reasons'])} --against {result['against']}"
    command += (f" --split {view.split}" if view.split else "") + ("" if view.every else f" --queries {FIRST}")
    return f"{number(count)} judged {'query' if count == 1 else 'queries'}{split}{chosen}; as {command}"


def _three(result: dict) -> Safe:
    """The three rankings with their nDCG@10."""
    a, b = result["model"], result["against"]
    names = {
        "own": (a, "with its own rationales"),
        "words": (a, f"with the rationales of {b}"),
        "other": (b, "with its own rationales"),
    }
    cards = [
        tag(
            "div",
            tag("b", f"{result['ndcg@10'][way]:.3f}"),
            tag("span", names[way][0], class_="g-versus-model"),
            tag("span", names[way][1], class_="g-quiet"),
            class_="g-versus-way",
        )
        for way in WAYS
    ]
    steps = [tag("span", f"{word} →", class_="g-versus-step") for word in ("words", "geometry")]
    return tag(
        "div",
        cards[0],
        steps[0],
        cards[1],
        steps[1],
        cards[2],
        class_="g-versus-ways",
        aria_label="nDCG@10",
        role="group",
    )


def _moved(result: dict) -> list:
    by, moved = result["hits_moved"], [row["moved"] for row in result["by_query"]]
    counts = ", ".join(f"{number(moved.count(kind))} {words}" for kind, words in MOVED.items())
    return [
        tag("b", f"{by['by_words']:.0%} of the first ten hits moved by words"),
        " (the other model’s rationales, read by this one), ",
        tag("b", f"{by['by_geometry']:.0%} by geometry"),
        f" (the same rationales, made into vectors by the other). Queries: {counts}.",
    ]


def _reasons(result: dict) -> Safe:
    largest = max((abs(row["change"]) for row in result["reasons"]), default=0.0) or 1.0
    rows = [_reason(row, largest) for row in result["reasons"]]
    rest = [
        _reason(
            {
                "name": SHORT_NAMES[name],
                **{way: result["others"][way][name] for way in WAYS},
                "change": result["others"]["other"][name] - result["others"]["own"][name],
                "by_words": result["others"]["words"][name] - result["others"]["own"][name],
                "by_geometry": result["others"]["other"][name] - result["others"]["words"][name],
            },
            largest,
        )
        for name in SHORT_NAMES
    ]
    sums = (
        "Weights are parts of the scores of the first ten hits above the corpus; those of all reasons, of text, template and tags "
        "add up to 1."
    )
    more = rows[REASONS:]
    folded = tag("details", tag("summary", f"{number(len(more))} more reasons"), _table(more)) if more else None
    return tag("div", _table(rows[:REASONS], rest), folded, tag("p", sums, class_="g-words"), class_="g-versus-reasons")


def _table(rows: list[Safe], rest: list[Safe] | None = None) -> Safe:
    titles = ("reason", "", "change", "by words", "by geometry", "before", "after")
    head = tag(
        "tr", *(tag("th", title or tag("span", "change, drawn", class_="g-spoken"), scope="col") for title in titles)
    )
    bodies = [tag("tbody", *rows), tag("tbody", *rest, class_="g-versus-rest") if rest else None]
    return tag(
        "div",
        tag("table", tag("thead", head), *bodies),
        class_="g-versus-table",
        tabindex="0",
        role="region",
        aria_label="Weights",
    )


def _reason(row: dict, largest: float) -> Safe:
    name = row["name"]
    if "number" in row:
        kind = "g-linklike g-versus-name"
        name = tag("button", name, type="button", class_=kind, data_reason=row["number"], dir="auto")
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", bar(row["change"], largest)),
        *(tag("td", minus(f"{row[key]:+.3f}")) for key in ("change", "by_words", "by_geometry")),
        *(tag("td", minus(f"{row[key]:.3f}")) for key in ("own", "other")),
    )


def _query(row: dict, documents: Mapping[str, Document]) -> Safe:
    """A query as a way into Explore, with how far it moved by what and what stood first."""
    first = [shorten(documents[row["first"][way]].title or documents[row["first"][way]].text, TITLE) for way in WAYS]
    return tag(
        "button",
        tag("span", shorten(row["text"], QUERY), class_="g-versus-text", dir="auto"),
        tag("span", f"words {row['by_words']:.0%}", class_="g-versus-share"),
        tag("span", f"geometry {row['by_geometry']:.0%}", class_="g-versus-share"),
        tag("span", "nDCG ", " → ".join(f"{row['ndcg@10'][way]:.2f}" for way in WAYS), class_="g-versus-share"),
        tag("span", "first: ", " → ".join(dict.fromkeys(first)), class_="g-versus-first", dir="auto"),
        type="button",
        class_="g-versus-query",
        data_query=row["id"],
        title="Open in Explore, with both models",
    )


def _every_query(result: dict) -> Safe:
    rows = [
        tag(
            "tr",
            tag(
                "th",
                tag(
                    "button",
                    shorten(row["text"], QUERY),
                    type="button",
                    class_="g-linklike g-versus-name",
                    data_query=row["id"],
                    dir="auto",
                ),
                scope="row",
            ),
            tag("td", MOVED[row["moved"]].removeprefix("more ")),
            tag("td", f"{row['by_words']:.0%}"),
            tag("td", f"{row['by_geometry']:.0%}"),
            *(tag("td", f"{row['ndcg@10'][way]:.2f}") for way in WAYS),
        )
        for row in result["by_query"]
    ]
    titles = ("query", "moved", "by words", "by geometry", "nDCG", "read", "other")
    head = tag("tr", *(tag("th", title, scope="col") for title in titles))
    table = tag(
        "div",
        tag("table", tag("thead", head), tag("tbody", *rows)),
        class_="g-versus-table g-versus-all",
        tabindex="0",
        role="region",
        aria_label="All queries",
    )
    count = len(rows)
    return tag("details", tag("summary", f"All {number(count)} queries" if count > 1 else "In figures"), table)
