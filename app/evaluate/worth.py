"""Was it worth writing? What ``grace eval worth --save`` measured of the models of a view: in words, in figures, and as
curves that app/evaluate/worth.js draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grace_app.evaluate.view import EvaluateView
from grace_app.explore.detail import minus
from grace_app.page.html import Safe, drawing, join, number, tag
from grace_app.workspace.view import Column
from grace_core.errors import GraceError

if TYPE_CHECKING:
    from grace_app.workspace.state import Workspace


def render_worth(workspace: Workspace, view: EvaluateView) -> Safe:
    """A section to unfold for each model of the view that something is kept for; a line where that does not fit any more."""
    from grace_core.evaluation.stored_worth import load

    parts = []
    for model in dict.fromkeys(column.model for column in view.columns if isinstance(column, Column)):
        try:
            kept = load(workspace.index(view.collection, model))
        except GraceError as error:
            parts.append(tag("p", str(error), class_="g-note g-eval-worth-stale"))
            continue
        if kept:
            parts.append(_section(model, kept))
    return join(parts)


def _section(model: str, kept: dict) -> Safe:
    curves = kept["curves"]
    split = f" of the split {kept['split']}" if kept["split"] else ""
    how = (
        f"{number(kept['queries'])} judged queries{split} and {number(kept['documents'])} documents, {kept['geometry']} geometry, greedy, "
        "95 % intervals by a bootstrap over the queries."
    )
    if curves["gate"]:
        how += (
            f" The gate’s margin, below {curves['gate']['threshold']:.3f}, was chosen on the split {kept['dev']}; its curve is for the "
            "eye only."
        )
    return tag(
        "details",
        tag("summary", "Was it worth writing? ", tag("b", model)),
        *(tag("p", line, class_="g-eval-worth-words") for line in words(curves)),
        tag("div", class_="g-eval-curves", data_curves=drawing(curves)),
        _table(curves),
        tag("p", how, " As measured by ", tag("code", "grace eval worth … --save"), ".", class_="g-words"),
        class_="g-eval-worth",
    )


def words(curves: dict) -> list[str]:
    """What the curves say, a sentence or two a line."""
    most, none = curves["budgets"][-1], curves["sides"]["both"][0][1]
    low, gain, high = curves["over_none"]["both"]
    verdict = "Writing was worth it" if low > 0 else "Writing did harm" if high < 0 else "Whether it helps is not told"
    lines = [
        f"{verdict}: with rationales of at most {most} tokens ({curves['tokens'][-1]:.0f} on the mean of the queries) nDCG@10 is "
        f"{curves['sides']['both'][-1][1]:.3f}, by the text alone {none:.3f}, {_signed(low, gain, high)}. "
        f"Where documents have theirs anyway, those of the queries change it by {_signed(*curves['over_none']['queries'])}."
    ]
    if gate := curves["gate"]:
        less = {name: _signed(*value) for name, value in gate["less"].items()}
        apart = "" if gate["less"]["random"][0] > 0 or gate["less"]["random"][2] < 0 else ", which is not told apart"
        lines.append(
            f"A gate that lets {gate['wrote']:.0%} of the queries write gives {gate['gated'][1]:.3f}: {less['always']} against writing "
            f"always, {less['never']} against never, {less['random']} against as many queries at random{apart}."
        )
    return lines


def _table(curves: dict) -> Safe:
    from grace_core.evaluation.stored_worth import SIDES

    heads = [tag("th", "tokens", scope="col"), tag("th", "written by a query", scope="col")]
    heads += [tag("th", name, scope="col") for name in SIDES.values()]
    rows = [
        tag(
            "tr",
            tag("th", number(budget) if budget else "none", scope="row"),
            tag("td", f"{curves['tokens'][i]:.1f}"),
            *(tag("td", _interval(*curves["sides"][side][i])) for side in SIDES),
        )
        for i, budget in enumerate(curves["budgets"])
    ]
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    region = {"tabindex": "0", "role": "region", "aria_label": "nDCG@10 by tokens"}
    return tag("div", table, class_="g-eval-worth-table", **region)


def _interval(low: float, mean: float, high: float) -> str:
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _signed(low: float, mean: float, high: float) -> str:
    return minus(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
