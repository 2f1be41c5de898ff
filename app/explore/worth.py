"""Was it worth writing? Of the opened document: score and rank without, with another's and with word-shuffled rationales,
as :func:`grace_core.evaluation.worth.of_hit` measures them, and what was written in tokens.
"""

from __future__ import annotations

from grace_app.explore.results import letter, shorten
from grace_app.explore.why import case, read_side
from grace_app.mending.links import mend_button
from grace_app.page.html import Safe, number, tag
from grace_app.workspace.view import Column, View
from grace_core.errors import GraceError

ROWS = {
    "own": "its own rationale",
    "empty": "no rationale",
    "swapped": "another’s rationale",
    "words": "its own, words in random order",
}
SIDES = {"document": "of the document", "query": "of the query", "both": "of both"}
OTHERWISE = "a text about something else"  # whose rationale stands in for the query's where no query is judged


def answer_worth(workspace, data: object) -> dict:
    """``{"html": …}`` for an event of the page, ``{"view": JSON, "doc": …, "side": …}``. Raises GraceError."""
    view, side, _ = read_side(workspace, data)
    return {"html": str(render_worth(side, worth(workspace, view, side)))}


def worth(workspace, view: View, side: str) -> dict:
    """What :func:`grace_core.evaluation.worth.of_hit` tells of ``view.doc`` in the column ``side``, with the ``title`` of
    the document whose rationale is put in, and the ``other_query``. Raises GraceError for a column without a rationale.
    """
    from grace_core.evaluation.worth import of_hit

    column = view.a if side == "a" else view.b
    if not isinstance(column, Column) or not column.rationale:
        raise GraceError(f"column {side.upper()} writes no rationale, so there is none whose worth could be told")
    explained_hit = case(workspace, view, side)
    other_query = next((text for text in workspace.examples(view.collection) if text != view.query), OTHERWISE)
    result = of_hit(explained_hit.explainer, view.query, explained_hit.row, other_query)
    title = explained_hit.named(explained_hit.index.row[result["other"]])["title"]
    return result | {
        "title": title,
        "other_query": other_query,
        "model": column.model,
        "documents": len(explained_hit.index),
    }


def render_offer(view: View) -> Safe | None:
    """The section before it is asked for: a button for each column that writes; None where neither does."""
    sides = {"a": view.a, "b": view.b}
    if view.a == view.b:
        del sides["b"]
    buttons = [
        tag(
            "button",
            letter(side),
            " Measure",
            type="button",
            class_="g-button",
            data_worth=side,
            aria_label=f"Measure in column {side.upper()}",
        )
        for side, column in sides.items()
        if isinstance(column, Column) and column.rationale
    ]
    if not buttons:
        return None
    what = "Encodes document and query again without rationale, with another’s, and with the words of their own in random order."
    models = dict.fromkeys(one.model for one in sides.values() if isinstance(one, Column) and one.rationale)
    mend = [mend_button(f"Mend {model}’s rationale", view.collection, model, document=view.doc) for model in models]
    return tag(
        "section",
        tag("h3", "Was it worth writing?"),
        tag("p", what, class_="g-quiet"),
        tag("div", *buttons, *mend, class_="g-worth-buttons"),
        *(tag("div", data_worth_of=side, role="status") for side in sides),
        class_="g-worth",
    )


def render_worth(side: str, result: dict) -> Safe:
    heads = (
        tag("th", tag("span", "what is put in", class_="g-spoken"), scope="col"),
        *(tag("th", name, scope="col") for name in SIDES.values()),
    )
    own = result["both"]["own"]
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            *(_cell(result[where][treatment], own) for where in SIDES),
            class_="g-worth-own" if treatment == "own" else None,
        )
        for treatment, name in ROWS.items()
    ]
    tokens, none = result["tokens"], result["both"]["empty"]
    verdict = f"Rank {number(own['rank'])} with both rationales, {number(none['rank'])} without either, among documents that keep theirs."
    cost = (
        f" The document’s rationale took {number(tokens['document'])} tokens, written once when the collection was built, the query’s "
        f"{number(tokens['query'])}, written for this search: a pass each, where their texts of {number(tokens['document_text'])} and "
        f"{number(tokens['query_text'])} tokens took one."
    )
    note = (
        f"Score, and rank of {number(result['documents'])}. Another’s is, chosen at random, that of “{shorten(result['title'], 60)}”, "
        f"and for the query that of the query “{shorten(result['other_query'], 60)}”. All other documents keep what they have. "
        "One hit is an anecdote: grace eval worth and grace eval faithfulness measure a collection."
    )
    return tag(
        "div",
        tag("p", letter(side), " ", tag("b", verdict), cost),
        tag("div", tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows)), class_="g-blocks"),
        tag("p", note, class_="g-words"),
    )


def _cell(placed: dict, own: dict) -> Safe:
    rank = f"rank {number(placed['rank'])}"
    moved = placed["rank"] - own["rank"]
    kind = "g-worth-lower" if moved > 0 else "g-worth-higher" if moved < 0 else None
    score = f"{placed['score']:.4f}".replace("-", "−")
    return tag("td", score, " ", tag("span", rank, class_=kind))
