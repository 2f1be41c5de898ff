"""Facets as rows of boxes to tick, with counts."""

from __future__ import annotations

from collections.abc import Sequence

from grace_app.explore.facets import Choice, Facet
from grace_app.page.html import Safe, number, tag


def render_facets(facets: Sequence[Facet]) -> Safe:
    """Folded up until one is ticked; nothing without any."""
    if not facets:
        return Safe("")
    ticked = any(choice.ticked for facet in facets for choice in facet.choices)
    names = ", ".join(facet.column for facet in facets)
    rows = (
        tag(
            "div",
            tag("span", facet.column, class_="g-facet-name", title=facet.column, dir="auto"),
            tag("div", *(_choice(facet.column, choice) for choice in facet.choices), class_="g-facet-choices"),
            class_="g-facet-row",
            role="group",
            aria_label=facet.column,
        )
        for facet in facets
    )
    return tag("details", tag("summary", f"Narrow down by {names}", dir="auto"), *rows, class_="g-facets", open=ticked)


def _choice(column: str, choice: Choice) -> Safe:
    return tag(
        "button",
        tag("span", str(choice.value).lower() if isinstance(choice.value, bool) else choice.value, dir="auto"),
        tag("span", number(choice.count), class_="g-facet-count"),
        type="button",
        role="checkbox",
        aria_checked="true" if choice.ticked else "false",
        class_="g-facet",
        disabled=not choice.count and not choice.ticked,
        data_facet=column,
        data_value=choice.key,
    )
