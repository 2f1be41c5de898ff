"""The Mend tab.

See app/mending/mending.js for what the page does with the answers of :class:`grace_app.mending.server.MendServer`.

The frame stands in the template, which holds no value, so that nothing Python sends ever redraws it.
"""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from grace_app.explore import tab as explore
from grace_app.mending.server import MendServer
from grace_app.mending.view import read_mend
from grace_app.page.html import Safe, tag
from grace_app.page.scripts import html
from grace_app.workspace.shell import Shell
from grace_app.workspace.view import View, read_view
from grace_core.errors import GraceError

WORDS = (
    "A mend gives one document another rationale. It is encoded again and all judged queries are replayed before anything is kept: what "
    "helps one query may cost others, also those that nobody has judged. Kept mends can be reverted. docs/mending.md tells more."
)


@dataclass
class MendTab:
    shell: Shell
    component: gr.HTML
    server: MendServer


def build(shell: Shell) -> MendTab:
    """Lay out the tab and wire it to Explore and Evaluate, which are built before."""
    server = MendServer(shell.workspace)
    with gr.Tab("Mend", id="mend"), gr.Column(elem_classes="g-page"):
        component = html(
            js="page/elements page/ask page/address page/parts mending/mending",
            elem_id="g-mend",
            value="",
            html_template=str(frame()),
            server_functions=server.functions(),
        )
    tab = MendTab(shell, component, server)
    first = shell.built["explore"]
    explore.lead_here(first, component, lambda data: explored(server, data))
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    for part in (first.detail, shell.built["evaluate"].cases):
        part.tomend(lambda: gr.Tabs(selected="mend"), None, shell.tabs, **quiet)
    return tab


def explored(server: MendServer, data: object) -> View:
    """The view of Explore for the open query, which an event of the page asks for: ``{"view": …}``."""
    asked, _ = read_mend(server.workspace, data.get("view") if isinstance(data, dict) else None, strict=True)
    if not asked.query:
        raise GraceError("the page sent an event that does not fit; reload the page")
    text = server.workspace.collection(asked.corpus).judgements.queries[asked.query]
    columns = {"a": f"{asked.model}:text", "b": f"{asked.model}:rationale"}
    return read_view(server.workspace, {"collection": asked.corpus, "k": "10", "q": text} | columns, strict=True)[0]


def frame() -> Safe:
    """Everything of the tab that does not depend on a collection."""
    names = {"corpus": "Collection", "model": "Model", "judged": "Judged queries", "queries": "How many"}
    controls = [
        tag("label", tag("span", label), tag("select", data_set=name), class_="g-map-field")
        for name, label in names.items()
    ]
    find = tag(
        "button", "Find failing queries", type="button", class_="g-button g-primary", data_do="find", disabled=True
    )
    to_explore = tag("button", "Open in Explore", type="button", class_="g-linklike", data_do="explore", hidden=True)
    return tag(
        "div",
        tag("div", class_="g-mend-banner"),
        tag("div", *controls, find, class_="g-mend-controls"),
        tag("div", class_="g-mend-job", role="status"),
        tag("div", data_part="none"),
        tag(
            "div",
            tag("div", data_part="failing"),
            tag(
                "div",
                tag("div", data_part="query"),
                to_explore,
                tag("div", data_part="document"),
                tag("div", data_part="replay"),
                tag("h3", "History"),
                tag("div", data_part="history"),
                class_="g-mend-main",
            ),
            class_="g-mend-body",
        ),
        tag("p", WORDS, class_="g-words"),
        class_="g-mend",
        data_busy=True,
    )
