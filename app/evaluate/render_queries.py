"""HTML of judged queries one by one: those that differ most, and the picture of all that app/evaluate/evaluate.js draws."""

from __future__ import annotations

from collections.abc import Sequence

from grace_app.evaluate.evaluations import Comparison, QueryRow
from grace_app.evaluate.view import ALL, EvaluateView
from grace_app.explore.detail import minus
from grace_app.explore.results import SIDES, letter, shorten
from grace_app.mending.links import mend_button
from grace_app.page.html import Safe, drawing, join, tag
from grace_app.page.words import content_words, rationale_text
from grace_app.workspace.view import AnyColumn, Column, OtherColumn

CANVAS = str(tag("div", class_="g-eval-canvas"))
CELLS = 50  # on either axis: queries in the same cell of the picture are one bubble
BINS = 10  # of the histogram
QUERY = 140  # characters of a query in the picture's list
WRITTEN = 1_200  # characters of a rationale in a list
NAMED = 200  # queries of one bubble that are listed by name


def picture(comparison: Comparison | None, view: EvaluateView | None, *, keep: bool = False) -> str:
    """What is drawn, as JSON: bubbles of queries, or of a single column a histogram.

    Without queries only the view for the address, which the page leaves as it is with ``keep``."""
    data: dict = {"view": view.params() if view else {}, "keep": keep}
    if comparison and comparison.queries:
        single = len(comparison.values) == 1
        data |= {"labels": [column.label for column in comparison.view.columns]}
        data |= {"bars": bars(comparison)} if single else {"bubbles": bubbles(comparison)}
    return drawing(data)


def bubbles(comparison: Comparison) -> list[dict]:
    """Queries that stand in the same cell of the picture, on the same side of the diagonal; the most gained
    first, as keys go through them.

    ``sign`` is 1 where B is better; ``n`` counts, ``queries`` lists up to NAMED as [id, text].
    """
    from grace_core.evaluation.retrieval import SAME

    x, y = (values["ndcg@10"] for values in comparison.values)
    cells: dict[tuple, list[int]] = {}
    for i, apart in enumerate(comparison.apart):
        sign = int(apart > SAME) - int(apart < -SAME)
        cells.setdefault((sign, round(CELLS * x[i]), round(CELLS * y[i])), []).append(i)
    names = list(comparison.queries)
    circles = [
        {
            "sign": sign,
            "x": round(float(x[members].mean()), 3),
            "y": round(float(y[members].mean()), 3),
            "n": len(members),
            "queries": _named(comparison, [names[i] for i in members]),
        }
        for (sign, _, _), members in cells.items()
    ]
    return sorted(circles, key=lambda bubble: (bubble["x"] - bubble["y"], bubble["x"]))


def bars(comparison: Comparison) -> list[dict]:
    """How many queries have an nDCG@10 from ``low`` to ``high``; the last bar holds 1."""
    values, names = comparison.values[0]["ndcg@10"], list(comparison.queries)
    members: list[list[str]] = [[] for _ in range(BINS)]
    for name, value in zip(names, values, strict=True):
        members[min(BINS - 1, int(BINS * value + 1e-9))].append(name)
    return [
        {"low": i / BINS, "high": (i + 1) / BINS, "n": len(found_here), "queries": _named(comparison, found_here)}
        for i, found_here in enumerate(members)
    ]


def _named(comparison: Comparison, names: Sequence[str]) -> list[list[str]]:
    return [[name, shorten(comparison.queries[name], QUERY)] for name in names[:NAMED]]


def render_cases(comparison: Comparison, wins: list[QueryRow], losses: list[QueryRow]) -> Safe:
    """Wins beside losses, or of a single column its worst queries."""
    if not comparison.queries:
        return Safe("")
    legend = tag(
        "p",
        tag("mark", "word", class_="g-mark-query"),
        " in the rationale of the query and of the document",
        class_="g-note",
    )
    columns = comparison.view.columns
    legend = legend if any(column.rationale for column in columns) else None
    if len(columns) == 1:
        return tag(
            "div",
            legend,
            _cases("Lowest nDCG@10", "a", wins, comparison.view, "Every ranking is ideal."),
            class_="g-eval-cases",
        )
    lists = (
        _cases("Biggest wins of B", "b", wins, comparison.view, "B ranks better on no query."),
        _cases("Biggest losses of B", "a", losses, comparison.view, "B ranks worse on no query."),
    )
    return tag("div", legend, tag("div", *lists, class_="g-eval-pair"), class_="g-eval-cases")


def _cases(title: str, name: str, cases: list[QueryRow], view: EvaluateView, nothing: str) -> Safe:
    body = [_case(case, view, unfolded=place == 0) for place, case in enumerate(cases)] or [
        tag("p", nothing, class_="g-quiet")
    ]
    heading = tag("h3", title, class_="g-section-title")
    return tag("section", heading, *body, class_=f"g-eval-list g-place-{name}", aria_label=title)


def _case(case: QueryRow, view: EvaluateView, *, unfolded: bool) -> Safe:
    columns = view.columns
    values = [f"{value:.2f}" for value in case.values]
    if len(values) > 1:
        lead = tag("span", minus(f"{case.values[1] - case.values[0]:+.2f}"), class_="g-eval-gain")
        spoken = f"nDCG@10 {values[0]} in column A, {values[1]} in column B"
        change = join(
            tag("span", f"{values[0]} → {values[1]}", aria_hidden="true"), tag("span", spoken, class_="g-spoken")
        )
    else:
        lead, change = tag("span", values[0], class_="g-eval-gain"), None
    places = [
        join(letter(name), f" {f'rank {rank}' if rank else 'not in the first ten'}")
        for name, rank in zip(SIDES, case.ranks, strict=False)
    ]
    places = [tag("span", place) for place in places]
    cards = [_card(case, i, column, name) for i, (column, name) in enumerate(zip(columns, SIDES, strict=False))]
    return tag(
        "details",
        tag(
            "summary",
            lead,
            tag("span", case.query, class_="g-eval-query", dir="auto"),
            tag("span", change, class_="g-eval-from"),
        ),
        tag(
            "div",
            tag(
                "p",
                tag("span", "Best relevant document: ", class_="g-quiet"),
                tag("b", case.title, dir="auto"),
                f" (grade {case.grade})",
                class_="g-eval-document",
            ),
            tag("p", *places, class_="g-summary g-eval-ranks"),
            tag("div", *cards, class_="g-pair" if len(cards) > 1 else "g-eval-single"),
            tag("button", "Open in Explore", type="button", class_="g-button", data_query=case.id),
            *_mends(case, view),
            class_="g-eval-open",
        ),
        open=unfolded,
        class_="g-eval-case",
    )


def _mends(case: QueryRow, view: EvaluateView) -> list[Safe]:
    """Ways to the Mend tab, of the models that write and do not rank the query's documents ideally."""
    pairs = zip(view.columns, case.values, strict=True)
    models = [column.model for column, value in pairs if isinstance(column, Column) and column.rationale and value < 1]
    asked = {"query": case.id, "judged": view.split or ALL, "queries": ALL}
    return [mend_button(f"Mend {model}", view.collection, model, **asked) for model in models]


def _card(case: QueryRow, place: int, column: AnyColumn, name: str) -> Safe:
    heading = tag("div", letter(name), tag("span", column.label), class_="g-label")
    reads = column.rationale and not isinstance(column, OtherColumn)
    if not reads:
        body = [
            tag(
                "p",
                "What a fusion reads is shown in Explore." if column.rationale else "This column uses no rationale.",
                class_="g-quiet",
            )
        ]
    else:
        written, about = case.written[place], case.rationales[place]
        shared = content_words(written) & content_words(about)
        body = []
        for title, text in (("About the query", written), ("About the document", about)):
            body += [tag("h4", title), tag("p", _marked(text, shared), dir="auto", class_="g-eval-written")]
    kind = f"g-card g-card-{name}" + ("" if reads else " g-card-none")
    return tag("div", heading, *body, class_=kind)


def _marked(rationale: str, shared: set[str]) -> Safe:
    if not rationale.strip():
        return tag("span", "Empty: nothing was written.", class_="g-quiet")
    cut = f"{rationale[:WRITTEN]} …" if len(rationale) > WRITTEN else rationale
    return rationale_text(" ".join(cut.split()), query=shared)
