"""HTML of the Evaluate tab: metrics with their intervals, and how far an evaluation is."""

from __future__ import annotations

from grace_app.corpus.render import duration
from grace_app.evaluate.evaluations import Comparison, Progress
from grace_app.explore.detail import minus
from grace_app.explore.results import SIDES, letter, shorten
from grace_app.page.html import Safe, banner, join, number, tag
from grace_app.workspace.view import AnyColumn, OtherColumn
from grace_core.errors import GraceError

NAMES = {"ndcg@10": "nDCG@10", "recall@10": "Recall@10", "mrr@10": "MRR@10"}
FEW = 20  # queries below which nothing is concluded


def render_scores(comparison: Comparison, message: str = "", *, running: bool = False) -> Safe:
    """The table with the difference, and what it says in words.

    A message stands above it; ``running``: more queries are coming.
    """
    problems = [banner(problem, kind="info") for problem in comparison.problems]
    parts = [banner(message), *problems, tag("p", *_which(comparison, running), class_="g-eval-which", role="status")]
    if comparison.summaries:
        parts += [_table(comparison), _words(comparison), _matrix(comparison)]
    elif comparison.lexical:
        parts += [_table(comparison)]
    return tag("div", *parts, class_="g-eval-scores")


def _which(comparison: Comparison, running: bool) -> list:
    """Which queries the figures are about, and how many are still to be evaluated."""
    split = f" of the split {comparison.view.split}" if comparison.view.split else ""
    among = _among(comparison)
    if not comparison.missing:
        first = ", chosen at random, always the same ones" if comparison.view.first else ""
        return [
            tag("b", f"{number(comparison.asked)} judged {'query' if comparison.asked == 1 else 'queries'}"),
            split,
            first,
            *among,
            ".",
        ]
    if not comparison.queries:
        asked = (
            f"The {number(comparison.asked)} judged queries{split} are"
            if comparison.asked > 1
            else f"The one judged query{split} is"
        )
        return [
            tag("b", f"{asked} not evaluated yet", *among, ". "),
            "Evaluate encodes them; what is done is shown at once and kept.",
        ]
    done = f"{number(len(comparison.queries))} of {number(comparison.asked)} judged queries"
    return [
        tag("b", done),
        split,
        *among,
        " so far, in random order.",
        None if running else " Evaluate goes on with the rest.",
    ]


def _among(comparison: Comparison) -> list:
    """Of the filter, where there is one: in how many documents is searched, and which."""
    if not comparison.view.where:
        return []
    several = "document that satisfies" if comparison.documents == 1 else "documents that satisfy"
    return [f", among the {number(comparison.documents)} {several} ", tag("code", shorten(comparison.view.where, 200))]


def _table(comparison: Comparison) -> Safe:
    heads = [tag("th", tag("span", "Column", class_="g-spoken"), scope="col")]
    heads += [
        tag(
            "th",
            name,
            tag("span", " 95 % interval", class_="g-eval-level", title="by a bootstrap over the queries"),
            scope="col",
        )
        for name in NAMES.values()
    ]
    rows = []
    for column, name, summary in zip(comparison.view.columns, SIDES, comparison.summaries or [], strict=False):
        label = tag("div", letter(name), tag("span", *_named_in_table(column)))
        rows.append(_row(label, summary, kind=f"g-eval-{name}"))
    if comparison.difference:
        reach = max(abs(end) for metric in NAMES for end in comparison.difference["ci95"][metric])
        label = tag("div", tag("span", "B − A", tag("span", "same queries, paired", class_="g-eval-level")))
        rows.append(_row(label, comparison.difference, kind="g-eval-difference", reach=max(0.1, reach)))
    for column in comparison.view.every[len(comparison.view.columns) :]:
        if column.id in comparison.table:
            label = tag("div", tag("span", *_named_in_table(column)))
            rows.append(_row(label, comparison.table[column.id], kind="g-eval-lexical"))
    if comparison.lexical and not any(column.id == "bm25" for column in comparison.view.every):
        label = tag(
            "div",
            tag(
                "span", "BM25", tag("span", "words alone, for reference", class_="g-eval-level", title="k1 1.5, b 0.75")
            ),
        )
        rows.append(_row(label, comparison.lexical, kind="g-eval-lexical"))
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    return tag("div", table, class_="g-eval-table", tabindex="0", role="region", aria_label="Metrics")


def _named_in_table(column: AnyColumn) -> list:
    if isinstance(column, OtherColumn):
        return [
            column.label,
            tag("span", column.id, class_="g-eval-level") if column.label.lower() != column.id else None,
        ]
    return [column.model, tag("span", "with rationale" if column.rationale else "text only", class_="g-eval-level")]


def _matrix(comparison: Comparison) -> Safe:
    """The paired difference in nDCG@10 of any two columns: the row's less the column's."""
    if not comparison.pairs:
        return Safe("")
    labels = {column.id: column.label for column in comparison.view.every}
    heads = [tag("th", tag("span", "nDCG@10, row less column", class_="g-eval-level"), scope="col")]
    heads += [tag("th", labels[name], scope="col") for name in comparison.table]
    rows = []
    for mine in comparison.table:
        cells = []
        for other in comparison.table:
            if mine == other:
                cells.append(tag("td", "–"))
                continue
            way = 1 if (other, mine) in comparison.pairs else -1
            pair = comparison.pairs[(other, mine) if way == 1 else (mine, other)]
            low, high = sorted(way * end for end in pair["ci95"]["ndcg@10"])
            sure = "g-eval-number-better" if low > 0 else "g-eval-number-worse" if high < 0 else None
            interval = tag("span", f"{_figure(low, True)} … {_figure(high, True)}", class_="g-eval-interval")
            cells.append(tag("td", tag("b", _figure(way * pair["ndcg@10"], True), class_=sure), interval))
        rows.append(tag("tr", tag("th", labels[mine], scope="row"), *cells))
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    title = tag("h3", "Any two of them, paired by query", class_="g-section-title")
    return join(
        title,
        tag(
            "div",
            table,
            class_="g-eval-table g-eval-pairs",
            tabindex="0",
            role="region",
            aria_label="Differences of pairs",
        ),
    )


def _row(label: Safe, summary: dict, *, kind: str, reach: float | None = None) -> Safe:
    """One row. Its intervals stand on a scale from 0 to 1, or from −``reach`` to ``reach``."""
    cells = []
    for metric in NAMES:
        mean, (low, high) = summary[metric], summary["ci95"][metric]
        at = [
            round(100 * min(1.0, max(0.0, (value + reach) / (2 * reach) if reach else value)), 1)
            for value in (low, mean, high)
        ]
        cells.append(
            tag(
                "td",
                tag("b", _figure(mean, reach)),
                tag("span", f"{_figure(low, reach)} … {_figure(high, reach)}", class_="g-eval-interval"),
                tag(
                    "span",
                    tag("span", class_="g-whisker-zero") if reach else None,
                    tag("span", class_="g-whisker-range", style=f"left:{at[0]}%;width:{round(at[2] - at[0], 1)}%"),
                    tag("span", class_="g-whisker-dot", style=f"left:{at[1]}%"),
                    class_="g-whisker",
                    aria_hidden="true",
                ),
            )
        )
    return tag("tr", tag("th", label, scope="row"), *cells, class_=kind)


def _figure(value: float, signed: object) -> str:
    value = round(value, 3) + 0.0  # without a minus before 0.000
    return minus(f"{value:+.3f}" if signed and value else f"{value:.3f}")


def _words(comparison: Comparison) -> Safe:
    total = len(comparison.queries)
    if not comparison.difference:
        values = comparison.values[0]["ndcg@10"]
        full, none = int((values > 1 - 1e-9).sum()), int((values < 1e-9).sum())
        sentence = f"The ranking is ideal on {number(full)} of {number(total)} queries and finds nothing relevant in the first ten on "
        return tag("p", sentence, f"{number(none)}.", class_="g-eval-words")
    counts = [(name, comparison.difference[name]) for name in ("better", "equal", "worse")]
    low, high = comparison.difference["ci95"]["ndcg@10"]
    if total < FEW:
        verdict = "An interval over so few queries says little."
    elif low <= 0 <= high:
        verdict = "The interval of the difference holds 0: these queries do not tell the two apart."
    else:
        way = "better" if low > 0 else "worse"
        verdict = f"The interval of the difference leaves 0 out: B ranks {way} than A on queries like these."
    better, equal, worse = (tag("b", number(count), class_=f"g-eval-number-{name}") for name, count in counts)
    return tag(
        "div",
        tag(
            "p",
            "By nDCG@10, B ranks better than A on ",
            better,
            ", equally well on ",
            equal,
            " and worse on ",
            worse,
            f" of {number(total)} queries.",
        ),
        tag(
            "div",
            *(
                tag("span", class_=f"g-eval-{name}", style=f"width:{round(100 * count / total, 2)}%")
                for name, count in counts
                if count
            ),
            class_="g-eval-share",
            aria_hidden="true",
        ),
        tag("p", verdict),
        class_="g-eval-words",
    )


def render_none(name: str) -> Safe:
    """A collection without judged queries."""
    return tag(
        "div",
        tag(
            "div",
            tag("p", f"{name} has no judged queries", class_="g-empty-title"),
            tag(
                "p",
                "Evaluating needs queries, and for each the documents that answer it. Lay them beside the corpus as BEIR does:",
            ),
            tag(
                "pre",
                'corpus.jsonl      {"_id": "d1", "title": "…", "text": "…"}\n'
                'queries.jsonl     {"_id": "q1", "text": "…"}\n'
                "qrels/test.tsv    query-id   corpus-id   score",
                class_="g-eval-files",
            ),
            tag(
                "p",
                "Then name that folder: ",
                tag("code", f"grace index build FOLDER --out indexes/{name} --model MODEL", class_="g-code"),
                ". The same documents are not encoded again.",
            ),
            class_="g-empty",
        ),
        class_="g-eval-scores",
    )


def render_trouble(message: str, *, empty: bool = False) -> Safe:
    """What is wrong where nothing can be shown; ``empty``: there is no collection at all."""
    box = tag(
        "div",
        tag("p", "There is no collection to evaluate yet", class_="g-empty-title"),
        tag("p", "The Corpus tab builds one from a file of yours."),
        class_="g-empty",
    )
    return tag("div", box if empty else banner(message), class_="g-eval-scores")


def render_progress(progress: Progress | None) -> Safe:
    """How far the evaluation is, with the button that stops it; once it is over, only what is to be known."""
    if progress is None:
        return Safe("")
    if progress.state not in ("opening", "evaluating"):
        if progress.state == "stopped":
            line = "Stopped. What was evaluated is kept, and Evaluate goes on from there."
            return tag("p", " ".join([line, *progress.notes]), class_="g-note", role="status")
        return tag("p", "; ".join(progress.notes), class_="g-note") if progress.notes else Safe("")
    facts = [tag("span", tag("b", number(progress.done)), f" of {number(progress.total)} queries encoded")]
    if progress.state == "opening":
        facts = [tag("span", "Opening the models …")]
    elif progress.rate:
        facts += [
            tag("span", f"{progress.rate:.1f} a second"),
            tag("span", f"about {duration(progress.seconds_left)} left"),
        ]
    percent = 100 * progress.done / progress.total if progress.total else 0
    return tag(
        "div",
        tag(
            "div",
            tag("div", class_="g-progress-fill", style=f"width:{percent:.1f}%"),
            class_="g-progress",
            role="progressbar",
            aria_valuemin="0",
            aria_valuemax=progress.total or 1,
            aria_valuenow=progress.done,
            aria_label="Evaluating",
        ),
        tag(
            "div",
            tag("div", *facts, class_="g-summary"),
            tag("button", "Cancel", type="button", class_="g-button", data_action="cancel"),
            class_="g-job-foot",
        ),
        class_=f"g-job g-job-{'loading' if progress.state == 'opening' else 'encoding'}",
        data_state=progress.state,
    )


def summary_json(comparison: Comparison) -> dict:
    """The figures for programs. Raises GraceError if there are none yet."""
    if not comparison.summaries:
        raise GraceError(
            "no query of these has been evaluated yet: press Evaluate in the app, or run `grace eval retrieval … --save`"
        )
    record = {
        "collection": comparison.view.collection,
        "split": comparison.view.split or None,
        "filter": comparison.view.where or None,
        "documents": comparison.documents,
        "queries": len(comparison.queries),
        "asked": comparison.asked,
        "columns": {
            column.id: summary for column, summary in zip(comparison.view.columns, comparison.summaries, strict=True)
        },
    }
    return record | {"difference": comparison.difference, "bm25": comparison.lexical}
