"""HTML of two models, or a model and its text alone, compared by reasons: which reasons gained and lost weight, and which
queries moved by what.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from grace_app.evaluate.view import FIRST
from grace_app.explore.detail import minus
from grace_app.explore.results import shorten
from grace_app.page.html import Safe, number, tag
from grace_app.reasons.render import SHORT_NAMES, bar
from grace_app.reasons.view import ReasonsView
from grace_core.readers import Document

REASONS = 20  # in sight; the others can be unfolded
HITS = 3  # of those that came and left, that are named
QUERY, TITLE = 160, 60  # characters
# columns of the weights: how each is called, by what it is called in the result
WEIGHTS = {"change": "change", "by_words": "by words", "by_geometry": "by geometry"}
WEIGHTS_OVER_TEXT = {"change": "change", "lift": "lift"}
MOVED = {"words": "more by words", "geometry": "more by geometry", "both": "equally by both", "": "not at all"}


def render_offer(view: ReasonsView, queries: int, refusal: str = "") -> Safe:
    """What a comparison would do, or why there can be none; the button stands beside it in the page."""
    if refusal:
        return tag("p", refusal, class_="g-note")
    if not queries:
        return tag(
            "p",
            f"{view.corpus} has no judged queries, and models are compared over these: lay queries.jsonl and qrels beside the corpus, "
            "and build it again. The same documents are not encoded again.",
            class_="g-note",
        )
    over = f"{number(queries)} judged {'query' if queries == 1 else 'queries'}"
    over += f" of the split {view.split}" if view.split else ""
    sentence = f"{view.model} reads the rationales that {view.against} wrote, one forward a document, and both write about {over}."
    if view.against_text:
        sentence = f"{view.model} writes about {over}; of the documents nothing is encoded again."
    return tag("p", sentence, " It can be stopped.", class_="g-note")


def render_comparison(view: ReasonsView, result: dict, documents: Mapping[str, Document]) -> Safe:
    """The outcome of :mod:`grace_core.reasons.comparison`, with the figures of the command."""
    title = f"{result['model']} against {result['against']}"
    if view.against_text:
        title = f"{result['model']}: text and rationale against its text alone"
    return tag(
        "section",
        tag("h3", title),
        tag("p", _which(view, result), class_="g-quiet"),
        _rankings(result),
        tag("p", *_moved(result), class_="g-versus-moved"),
        tag(
            "h4", "Reasons that add weight, or take it" if view.against_text else "Reasons that gained and lost weight"
        ),
        _reasons(result),
        tag(
            "h4", f"The {len(result['telling'])} queries that tell most" if len(result["telling"]) > 1 else "The query"
        ),
        tag(
            "ol",
            *(tag("li", _query(row, documents)) for row in result["telling"]),
            class_="g-versus-queries g-versus-alone" if view.against_text else "g-versus-queries",
        ),
        _every_query(result),
        class_="g-versus",
        aria_label="Text alone, by reasons" if view.against_text else "Two models by reasons",
    )


def _which(view: ReasonsView, result: dict) -> str:
    count = result["queries"]
    split = f" of the split {view.split}" if view.split else ""
    chosen = ", chosen at random, always the same ones" if count == FIRST and not view.every else ""
    command = f"grace reasons … --model {result['model']} --size {len(result['reasons'])} --against {result['against']}"
    command += (f" --split {view.split}" if view.split else "") + ("" if view.every else f" --queries {FIRST}")
    return f"{number(count)} judged {'query' if count == 1 else 'queries'}{split}{chosen}; as {command}"


def _rankings(result: dict) -> Safe:
    """The rankings, from the first to the last, with their nDCG@10 and what lies between them."""
    a, b = result["model"], result["against"]
    names = {
        "text": (a, "its text alone"),
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
        for way in result["others"]
    ]
    parts = [cards[0]]
    for step, card in zip(result["hits_moved"], cards[1:], strict=True):
        parts += [tag("span", f"{step.removeprefix('by_')} →", class_="g-versus-step"), card]
    return tag("div", *parts, class_="g-versus-ways", aria_label="nDCG@10", role="group")


def _moved(result: dict) -> list:
    from grace_core.evaluation.retrieval import CUTOFF

    by, moved = result["hits_moved"], [row["moved"] for row in result["by_query"]]
    if result["documents"] <= CUTOFF:
        return [f"All {result['documents']} documents are among the first ten hits, so that none can come or leave."]
    lead = tag("b", f"{by['by_words']:.0%} of the first ten hits moved by words")
    if "by_geometry" not in by:
        return [
            lead,
            ": both are vectors of one model in one geometry, so that nothing else can move them. Queries: ",
            f"{number(moved.count('words'))} moved, {number(moved.count(''))} not at all.",
        ]
    counts = ", ".join(f"{number(moved.count(kind))} {words}" for kind, words in MOVED.items())
    return [
        lead,
        " (the other model’s rationales, read by this one), ",
        tag("b", f"{by['by_geometry']:.0%} by geometry"),
        f" (the same rationales, made into vectors by the other). Queries: {counts}.",
    ]


def _reasons(result: dict) -> Safe:
    ways, steps = list(result["others"]), list(result["hits_moved"])
    over_text = "text" in ways
    columns, ends = WEIGHTS_OVER_TEXT if over_text else WEIGHTS, (ways[0], ways[-1])
    largest = max((abs(row["change"]) for row in result["reasons"]), default=0.0) or 1.0
    rows = [_reason(row, columns, ends, largest) for row in result["reasons"]]
    rest = []
    for name, short_name in SHORT_NAMES.items():
        row = {"name": short_name} | {way: result["others"][way][name] for way in ways}
        row |= {step: row[after] - row[before] for step, (before, after) in zip(steps, pairwise(ways), strict=True)}
        row |= {"change": row[ends[1]] - row[ends[0]], "lift": result.get("other_lifts", {}).get(name)}
        rest.append(_reason(row, columns, ends, largest))
    sums = (
        "Weights are parts of the scores of the first ten hits above the corpus; those of all reasons, of text, template and tags "
        "add up to 1."
    )
    if over_text:
        sums += (
            " Lift: of what sets the hits that came into the first ten above those that they replaced, in scores with rationales; "
            "lifts add up to 1, too. All parts are the documents’: what the query’s rationale brings shows in each, in the text too."
        )
    more = rows[REASONS:]
    folded = (
        tag("details", tag("summary", f"{number(len(more))} more reasons"), _table(columns, more)) if more else None
    )
    return tag(
        "div",
        _table(columns, rows[:REASONS], rest),
        folded,
        tag("p", sums, class_="g-words"),
        class_="g-versus-reasons",
    )


def _table(columns: Mapping[str, str], rows: list[Safe], rest: list[Safe] | None = None) -> Safe:
    titles = ("reason", "", *columns.values(), "before", "after")
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


def _reason(row: dict, columns: Mapping[str, str], ends: tuple[str, str], largest: float) -> Safe:
    name = row["name"]
    if "number" in row:
        kind = "g-linklike g-versus-name"
        name = tag("button", name, type="button", class_=kind, data_reason=row["number"], dir="auto")
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", bar(row["change"], largest)),
        *(tag("td", minus(f"{row[key]:+.3f}")) for key in columns),
        *(tag("td", minus(f"{row[way]:.3f}")) for way in ends),
    )


def _query(row: dict, documents: Mapping[str, Document]) -> Safe:
    """A query as a way into Explore, with how far it moved by what, what stood first, and which hits came and left."""
    firsts = dict.fromkeys(_title(documents, one) for one in row["first"].values())
    moved = [f"{words}: {_titles(documents, row[words])}" for words in ("came", "left") if row[words]]
    return tag(
        "button",
        tag("span", shorten(row["text"], QUERY), class_="g-versus-text", dir="auto"),
        *(
            tag("span", f"{step.removeprefix('by_')} {row[step]:.0%}", class_="g-versus-share")
            for step in ("by_words", "by_geometry")
            if step in row
        ),
        tag("span", "nDCG ", " → ".join(f"{value:.2f}" for value in row["ndcg@10"].values()), class_="g-versus-share"),
        tag("span", "first: ", " → ".join(firsts), class_="g-versus-first", dir="auto"),
        *(tag("span", line, class_="g-versus-first", dir="auto") for line in moved),
        type="button",
        class_="g-versus-query",
        data_query=row["id"],
        title="Open in Explore, with both columns",
    )


def _titles(documents: Mapping[str, Document], ids: list[str]) -> str:
    more = f" and {number(len(ids) - HITS)} more" if len(ids) > HITS else ""
    return ", ".join(_title(documents, one) for one in ids[:HITS]) + more


def _title(documents: Mapping[str, Document], document_id: str) -> str:
    return shorten(documents[document_id].title or documents[document_id].text, TITLE)


def _every_query(result: dict) -> Safe:
    steps = {step: WEIGHTS[step] for step in result["hits_moved"]}
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
            tag("td", MOVED[row["moved"]].removeprefix("more ")) if len(steps) > 1 else None,
            *(tag("td", f"{row[step]:.0%}") for step in steps),
            *(tag("td", f"{value:.2f}") for value in row["ndcg@10"].values()),
        )
        for row in result["by_query"]
    ]
    titles = ("query", "moved", *steps.values(), "nDCG", "read", "other")
    if len(steps) == 1:
        titles = ("query", "moved by words", "nDCG, text", "with rationales")
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
