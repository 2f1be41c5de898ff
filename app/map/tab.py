"""The Map tab: two columns of a collection as linked maps.

See app/map/map.js for what the page does with the answers given here.

What is shown is state of the page; every question names it, and it is read and checked again each time
(:mod:`grace_app.map.view`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import gradio as gr
import numpy as np

from grace_app.explore import tab as explore
from grace_app.explore.results import render_empty
from grace_app.gate import runs_model
from grace_app.map.card import export, hint, render_card, render_change, render_found, render_selection, render_star
from grace_app.map.colours import packed
from grace_app.map.jobs import MapJobs
from grace_app.map.maps import Maps, Pair, place_query, pooling_of, sides_of
from grace_app.map.plotly_map import plotly_map
from grace_app.map.view import FIELD, MapView, mapped_columns, misfit, read_map, read_rows
from grace_app.workspace.answers import server_functions
from grace_app.workspace.shell import Shell
from grace_app.workspace.state import Workspace
from grace_app.workspace.view import MAX_ID, View, default_view
from grace_core.errors import GraceError

MAX_SELECTED = 200_000
MAX_POINTED = 200  # documents whose titles are asked for at once
LONGEST = 600  # characters of a text that are searched for


@dataclass
class MapTab:
    shell: Shell
    component: gr.HTML
    server: MapServer


def build(shell: Shell) -> MapTab:
    """Lay out the tab and wire it to Explore, which is built before."""
    server = MapServer(shell.workspace)
    with gr.Tab("Map", id="map"), gr.Column(elem_classes="g-page"):
        component = plotly_map(server.functions())
    tab = MapTab(shell, component, server)
    first = shell.built["explore"]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    explore.lead_here(first, component, lambda data: explored(server, data))
    for part in (first.results, first.detail):
        part.tomap(lambda: gr.Tabs(selected="map"), None, shell.tabs, **quiet)
    return tab


class MapServer:
    """The functions that the page calls.

    Each takes one object and gives one back, ``{"error": sentence}`` if it cannot.
    """

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.maps = Maps(workspace)
        self.jobs = MapJobs(self.maps)

    def functions(self) -> list[Callable]:
        return server_functions(
            {
                "map_open": self.open,
                "map_colour": self.colour,
                "map_change": self.change,
                "map_titles": self.titles,
                "map_card": self.card,
                "map_find": self.find,
                "map_star": self.star,
                "map_selection": self.selection,
                "map_export": self.export,
                "map_compute": self.compute,
                "map_progress": self.progress,
                "map_cancel": self.cancel,
            }
        )

    def asked(self, data: dict) -> tuple[MapView, Pair]:
        """The view that a question is about, and its maps."""
        view, _ = read_map(self.workspace, data.get("view"), strict=True)
        pair = self.maps.open(view)
        if data.get("documents") != len(pair.ids):
            raise GraceError("the collection changed since the page was opened: reload the page")
        return view, pair

    def open(self, data: dict) -> dict:
        try:
            view, problems = read_map(self.workspace, data.get("view"))
        except GraceError as error:
            nothing = str(render_empty(message="" if not self.workspace.collections() else str(error)))
            return {"empty": True, "html": nothing, "view": {}, "problems": []}
        pair = self.maps.open(view)
        there = [one["id"] for one in pair.colours()]
        if view.colour not in there:
            if view.colour.startswith(FIELD):
                problems.append(
                    f"{view.colour.removeprefix(FIELD)[:60]!r} has one value, or a different one for each document"
                )
            view = replace(view, colour=pair.default_colour())
        if view.point and view.point not in pair.charts[0].opened.rows.row:
            problems.append(
                f"{view.corpus} has no document {view.point[:100]!r} with a vector, so it has no place on the map"
            )
            view = replace(view, point="")
        sides = sides_of(pair)
        return {
            "empty": False,
            "view": view.params(),
            "problems": problems,
            "documents": len(pair.ids),
            "one": pair.one,
            "aligned": pair.aligned,
            "enough": enough(pair),
            "sides": sides,
            "corpora": self.workspace.collections(),
            "columns": choices(self.workspace, view.corpus),
            "colours": pair.colours(),
            "colour": pair.coded(view.colour).as_dict(),
            "notes": notes(pair),
            "job": self.jobs.job.as_dict() if self.jobs.job and self.jobs.job.state == "working" else None,
        }

    def colour(self, data: dict) -> dict:
        view, pair = self.asked(data)
        return {"colour": pair.coded(view.colour).as_dict()}

    def change(self, data: dict) -> dict:
        _, pair = self.asked(data)
        return {"html": str(render_change(pair))}

    def titles(self, data: dict) -> dict:
        _, pair = self.asked(data)
        rows = read_rows(data.get("rows"), len(pair.ids), MAX_POINTED)
        return {"documents": [hint(pair, row) for row in rows.tolist()]}

    def card(self, data: dict) -> dict:
        view, pair = self.asked(data)
        document = data.get("id")
        if isinstance(document, str):
            row = pair.row(document[:MAX_ID])
        else:
            (row,) = read_rows([data.get("row")], len(pair.ids), 1).tolist()
        html, rows = render_card(pair, row, star=bool(view.star))
        return {"html": str(html), "row": row, "id": pair.ids[row], **rows}

    def find(self, data: dict) -> dict:
        view, pair = self.asked(data)
        try:
            rows, wrong = pair.find(view.find), ""
        except GraceError as error:  # a filter that is being typed is no reason for an alarm
            rows, wrong = np.zeros(0, np.uint32), str(error)
        return {"rows": packed(rows), "html": str(render_found(pair, rows, view.find, wrong))}

    @runs_model
    def star(self, data: dict) -> dict:
        view, pair = self.asked(data)
        if not view.star:
            raise misfit()
        sides = place_query(view, pair)
        return {"sides": sides, "html": str(render_star(pair, view.star, sides))}

    def selection(self, data: dict) -> dict:
        _, pair = self.asked(data)
        rows = read_rows(data.get("rows"), len(pair.ids), MAX_SELECTED)
        return {"html": str(render_selection(pair, rows.tolist(), selected_terms(pair, rows)))}

    def export(self, data: dict) -> dict:
        _, pair = self.asked(data)
        if data.get("kind") not in ("csv", "json"):
            raise misfit()
        return {"text": export(pair, read_rows(data.get("rows"), len(pair.ids), MAX_SELECTED).tolist(), data["kind"])}

    @runs_model
    def compute(self, data: dict) -> dict:
        view, _ = self.asked(data)
        return {"job": self.jobs.start(view).as_dict()}

    def progress(self, data: dict) -> dict:
        return self.jobs.progress()

    def cancel(self, data: dict) -> dict:
        self.jobs.cancel()
        return self.progress(data)


def choices(workspace: Workspace, corpus: str) -> list[dict]:
    """What either map can be of, and what it cannot, as options of a list."""
    columns = [{"id": column.id, "label": column.label} for column in mapped_columns(workspace, corpus)]
    without = [("bm25", "BM25 (counts words)"), ("fusion", "fusions (put scores together)")]
    group = "No vectors, so no places on a map"
    return [*columns, *({"id": name, "label": label, "group": group, "disabled": True} for name, label in without)]


def notes(pair: Pair) -> list[str]:
    """What must be known to read these maps right."""
    lines = []
    if not enough(pair):
        lines.append(
            f"{len(pair.ids)} {'document is' if len(pair.ids) == 1 else 'documents are'} too few for UMAP: this is a PCA."
        )
    charts = pair.charts[: 1 if pair.one else 2]
    if any(chart.map is None and _outdated(chart) for chart in charts):
        lines.append("The saved map is older than the index, which has been updated since: compute it again.")
    for name, chart in zip("AB", charts, strict=False):
        if len(pair.ids) > 1 and float(chart.vectors.std(axis=0).max()) < 1e-6:
            lines.append(
                f"All documents have the same vector in column {name}: they stand on one spot, and which are neighbours is chance."
            )
    return lines


def _outdated(chart) -> bool:
    from grace_core.projection import outdated

    return outdated(chart.index, pooling_of(chart.column))


def enough(pair: Pair) -> bool:
    """Whether there are neighbourhoods that UMAP could lay out."""
    from grace_core.projection import FEW

    return len(pair.ids) >= FEW


def selected_terms(pair: Pair, rows) -> list[str]:
    """The terms that set the selected documents apart, by the right column's rationales."""
    from grace_core.projection import top_terms

    inside = set(rows.tolist())
    if not inside or len(inside) == len(pair.ids):
        return []
    side = 0 if pair.one else 1
    texts = [pair.text(side, row) for row in sorted(inside)]
    return top_terms(texts, [pair.text(side, row) for row in range(len(pair.ids)) if row not in inside])


def explored(server: MapServer, data: object) -> View:
    """The view of the Explore tab that an event of the page asks for: ``{"view": …, "doc": …, "what": "title"
    | "text" | "why"}``.
    """
    data = data if isinstance(data, dict) else {}
    what, document = data.get("what"), data.get("doc")
    if what not in ("title", "text", "why") or not isinstance(document, str):
        raise misfit()
    asked, _ = read_map(server.workspace, data.get("view"), strict=True)
    base = replace(default_view(server.workspace, asked.corpus), a=asked.left, b=asked.right)
    source = server.workspace.collection(asked.corpus).documents.get(document)
    if source is None:
        raise GraceError(f"{asked.corpus} has no document {document[:100]!r} any more")
    if what == "why":
        if not asked.star:
            raise misfit()
        return replace(base, query=asked.star, doc=document, panel="why", side="b")
    query = source.title if what == "title" and source.title else source.text or source.title
    return replace(base, query=" ".join(query.split())[:LONGEST] or source.id)
