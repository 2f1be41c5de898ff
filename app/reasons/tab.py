"""The Reasons tab.

See app/reasons/reasons.js for what the page does with the answers of
:class:`grace_app.reasons.server.ReasonsServer`.

The frame stands in the template, which holds no value, so that nothing Python sends ever redraws it.
"""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from grace_app.explore import tab as explore
from grace_app.page.html import Safe, join, tag
from grace_app.page.scripts import html
from grace_app.reasons.server import ReasonsServer
from grace_app.reasons.view import STRONGEST, read_reasons
from grace_app.workspace.shell import Shell
from grace_app.workspace.view import View, read_view
from grace_core.errors import GraceError

WORDS = (
    "A reason is a group of sentences that the model wrote about different documents and that mean nearly the same to it. Scores split by "
    "reasons without remainder, since a document’s vector is the sum of what its text, the template and each sentence add to it. That is "
    "bookkeeping and no cause: docs/reasons.md tells what taking a reason out does."
)


@dataclass
class ReasonsTab:
    shell: Shell
    component: gr.HTML
    server: ReasonsServer


def build(shell: Shell) -> ReasonsTab:
    """Lay out the tab and wire it to Explore, which is built before."""
    server = ReasonsServer(shell.workspace)
    with gr.Tab("Reasons", id="reasons"), gr.Column(elem_classes="g-page"):
        component = html(
            js="page/elements page/ask page/address page/parts reasons/reasons reasons/comparison",
            elem_id="g-reasons",
            value="",
            html_template=str(frame()),
            server_functions=server.functions(),
        )
    tab = ReasonsTab(shell, component, server)
    explore.lead_here(shell.built["explore"], component, lambda data: explored(server, data))
    return tab


def explored(server: ReasonsServer, data: object) -> View:
    """The view of Explore that an event of the page asks for: ``{"view": …, "doc": …}`` for a hit of the view's query, or
    ``{"view": …, "query": id}`` for a judged query under both columns that are compared.
    """
    data = data if isinstance(data, dict) else {}
    asked, _ = read_reasons(server.workspace, data.get("view"), strict=True)
    if data.get("query") and asked.against:
        queries = server.comparisons.queries(asked)
        if data["query"] not in queries:
            raise GraceError(f"{asked.corpus} has no such judged query any more; reload the page")
        columns = {"a": f"{asked.model}:rationale", "b": f"{asked.against}:rationale"}
        if asked.against_text:
            columns = {"a": asked.against, "b": f"{asked.model}:rationale"}
        wanted = {"collection": asked.corpus, "k": "10", "q": queries[data["query"]]} | columns
        return read_view(server.workspace, wanted, strict=True)[0]
    if not isinstance(data.get("doc"), str) or not asked.ask:
        raise GraceError("the page sent an event that does not fit; reload the page")
    columns = {"a": f"{asked.model}:text", "b": f"{asked.model}:rationale"}
    wanted = {"collection": asked.corpus, "k": "20", "q": asked.ask, "doc": data["doc"], "why": "b"} | columns
    return read_view(server.workspace, wanted, strict=True)[0]


def frame() -> Safe:
    """Everything of the tab that does not depend on a collection."""
    slider = tag(
        "input",
        type="range",
        min=str(-STRONGEST),
        max=str(STRONGEST),
        step="0.05",
        value="0",
        data_part="strength",
        aria_label="How much more, or less, of this reason",
    )
    steering = tag(
        "div",
        tag("span", "less"),
        slider,
        tag("span", "more"),
        tag("output", "0", data_part="told"),
        tag("button", "Reset", type="button", class_="g-button", data_do="reset"),
        class_="g-reasons-slider",
    )
    close = tag("button", "Close", type="button", class_="g-close", data_do="close", title="Close the reason (Esc)")
    opened = tag(
        "section",
        tag("div", tag("h2", data_part="name", tabindex="-1", dir="auto"), close, class_="g-reasons-head"),
        tag(
            "div",
            steering,
            tag("label", tag("input", type="checkbox", data_part="only"), " only hits that have it"),
            class_="g-reasons-steer",
            data_part="steering",
            hidden=True,
        ),
        tag("p", class_="g-quiet", data_part="steered"),
        tag("div", data_part="reason"),
        class_="g-reasons-opened",
        hidden=True,
        aria_label="The opened reason",
    )
    compare = tag("button", "Compare", type="button", class_="g-button g-primary", data_do="compare", hidden=True)
    comparison = tag("div", tag("div", data_part="comparison"), compare, class_="g-reasons-comparison", hidden=True)
    asking = {"placeholder": "Split a query’s hits by reasons …", "aria_label": "Query to split by reasons"}
    query = tag("input", type="text", data_part="ask", **asking)
    find = tag(
        "input",
        type="search",
        data_part="find",
        placeholder="Find a reason …",
        aria_label="Show reasons with these words",
    )
    aside = tag("div", find, tag("div", data_part="list", tabindex="-1"), class_="g-reasons-side")
    return tag(
        "div",
        tag("div", class_="g-reasons-banner"),
        tag(
            "div",
            _select("corpus", "Collection"),
            _select("model", "Model"),
            _select("size", "Reasons"),
            tag(
                "form",
                query,
                tag("button", "Split", class_="g-button g-primary", disabled=True),
                class_="g-reasons-ask",
            ),
            class_="g-reasons-controls",
        ),
        tag(
            "div",
            _select("against", "Compare with"),
            _select("judged", "Judged queries"),
            _select("queries", "How many"),
            class_="g-reasons-versus",
        ),
        tag("div", class_="g-reasons-job", role="status"),
        tag("div", data_part="summary"),
        tag(
            "div",
            aside,
            tag("div", opened, comparison, tag("div", data_part="hits"), class_="g-reasons-main"),
            class_="g-reasons-body",
        ),
        tag("div", data_part="none"),
        tag("p", WORDS, class_="g-words"),
        tag("p", class_="g-spoken", role="status", data_part="spoken"),
        class_="g-reasons",
        data_busy=True,
    )


def _select(name: str, label: str) -> Safe:
    return join(tag("label", tag("span", label), tag("select", data_set=name), class_="g-map-field"))
