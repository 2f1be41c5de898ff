"""The row under a search that saves what is on the screen: as one HTML file that needs nothing else, and the
hits as CSV and JSON.

The page itself writes the HTML file (``export.js``), from what it shows, so that an opened explanation is
saved as it stands. Nothing of it is a script, and a policy in the file forbids all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gradio as gr

from grace_app.export.tables import as_csv, hits_of
from grace_app.gate import runs_model
from grace_app.page.html import Safe, tag
from grace_app.page.scripts import html
from grace_app.workspace.answers import server_functions

ROOM = Path(__file__).parent
STYLES = [ROOM.parent / name for name in ("page/style.css", "explore/passages.css", "map/map.css")]
WAYS = {
    "html": ("This page as a file", "One HTML file with all that is shown, that opens without a server"),
    "csv": ("Hits as CSV", None),
}
WAYS["json"] = ("Hits as JSON", None)


def build(workspace) -> gr.HTML:
    """Lay out the row."""
    return html(
        value=str(_row()), js="page/elements export/export", elem_id="g-export", server_functions=answers(workspace)
    )


def _row() -> Safe:
    buttons = [
        tag("button", label, type="button", class_="g-button", data_save=kind, title=title)
        for kind, (label, title) in WAYS.items()
    ]
    return tag(
        "div",
        tag("span", "Save", class_="g-quiet"),
        *buttons,
        tag("span", class_="g-saved", role="status"),
        class_="g-export",
    )


def answers(workspace) -> list[Callable]:
    """``server.saved_hits`` and ``server.saved_style`` of the script."""

    @runs_model
    def saved_hits(data):
        return _hits(workspace, data)

    def saved_style(_data):
        css = "\n".join(path.read_text(encoding="utf-8") for path in [*STYLES, ROOM / "export.css"])
        return {"css": css}

    return server_functions({"saved_hits": saved_hits, "saved_style": saved_style})


def _hits(workspace, data: dict) -> dict:
    result = hits_of(workspace, data)
    kind = data.get("kind")
    text = (
        as_csv(result) if kind == "csv" else json.dumps(result, ensure_ascii=False, indent=1) if kind == "json" else ""
    )
    return {"text": text, "hits": [] if text else result["columns"], "collection": result["collection"]}
