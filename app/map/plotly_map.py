"""The two linked maps as a component: its frame, the scripts that fill it, and where the browser finds plotly.js.

``gr.Plot`` tells Python of no click and no selection, so this is a ``gr.HTML`` whose scripts draw with plotly
and ask the server through ``server_functions``. A function and not a subclass: Gradio writes a ``.pyi``
beside the source file of every component class. The frame stands in the template, which holds no value, so
that nothing Python sends ever redraws it; texts come in through scripts, as text.

plotly.js (5 MB) is served from the installed package, and asked for when the tab is first shown. The package
itself is not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import gradio as gr

from grace_app.explore.results import letter
from grace_app.page.html import Safe, join, tag
from grace_app.page.scripts import html

SCRIPTS = (
    "page/elements page/ask page/address page/parts map/map_data map/map_draw map/map_overlay map/map_panel map/map"
)
MODES = {"pan": "Move", "lasso": "Lasso", "select": "Box"}
WORDS = (
    "Documents that stand together are mostly near each other for the model, too. How far apart two groups stand, how large or dense one "
    "is, and which way it lies says little: a map flattens hundreds of dimensions into two. What a document kept of its neighbours is "
    "therefore counted in the full space, not on the maps."
)


def plotly_map(functions: list[Callable]) -> gr.HTML:
    """The component, with the functions that its scripts call as ``server.name(data)``."""
    script = plotly_script()
    gr.set_static_paths([script])
    return html(js=SCRIPTS, elem_id="g-map", value="", html_template=str(frame(script)), server_functions=functions)


def plotly_script() -> Path:
    """plotly.js as the installed package has it."""
    spec = find_spec("plotly")
    if spec is None or not spec.origin:
        raise ModuleNotFoundError("plotly is not installed: pip install -r requirements.txt")
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").resolve()


def frame(script: Path) -> Safe:
    """Everything of the tab that does not depend on a collection."""
    return tag(
        "div",
        tag("div", class_="g-map-banner"),
        tag(
            "div",
            _select("corpus", "Collection"),
            _select("left", "Map A"),
            _select("right", "Map B"),
            _select("colour", "Colour"),
            class_="g-map-controls",
        ),
        tag("div", _asking(), _tools(), class_="g-map-tools"),
        tag("div", class_="g-map-legend", role="group", aria_label="Legend"),
        tag("div", class_="g-map-job", role="status"),
        tag(
            "div",
            tag("div", _chart("left"), _chart("right"), class_="g-map-charts"),
            tag("aside", class_="g-map-panel", aria_label="About the maps and the opened document", tabindex="-1"),
            class_="g-map-body",
        ),
        tag("section", class_="g-map-selection", aria_label="Selected documents", hidden=True),
        tag("p", WORDS, class_="g-words g-map-words"),
        tag("p", class_="g-spoken", role="status", data_part="spoken"),
        class_="g-map",
        data_script=str(script),
        data_busy=True,
    )


def _select(name: str, label: str) -> Safe:
    return tag("label", tag("span", label), tag("select", data_set=name), class_=f"g-map-field g-map-field-{name}")


def _asking() -> Safe:
    star = {"type": "text", "placeholder": "Place a query on the maps …", "aria_label": "Query to place on the maps"}
    find = {
        "type": "search",
        "placeholder": "Highlight words …",
        "title": "Words, or a filter: where: year > 2000",
        "aria_label": "Highlight documents that hold these words, or satisfy a filter",
    }
    return join(
        tag(
            "form",
            tag("input", data_part="star", **star),
            tag("button", "Place", class_="g-button", disabled=True),
            class_="g-map-star",
        ),
        tag(
            "div",
            tag("input", data_part="find", **find),
            tag("span", class_="g-quiet", data_part="found"),
            class_="g-map-find",
        ),
    )


def _tools() -> Safe:
    modes = [
        tag(
            "label",
            tag("input", type="radio", name_="g-map-mode", value=mode, checked=mode == "pan"),
            tag("span", label),
        )
        for mode, label in MODES.items()
    ]
    return tag(
        "div",
        tag("fieldset", tag("legend", "Dragging", class_="g-spoken"), *modes, class_="g-choice g-map-mode"),
        _button("whole", "Whole map", "Show the whole map again"),
        _button("glide", "A → B", "Let the points of map A glide to where map B has them", aria_pressed="false"),
        _button("names", "Names", "Write the names of the regions on the maps", aria_pressed="true"),
        _button("png", "PNG", "Save both maps as a PNG image"),
        _button("svg", "SVG", "Save both maps as an SVG image"),
        _button(
            "file",
            "Save as a file",
            "One HTML file with the maps and all that is told beside them, which opens without a server",
        ),
        tag("span", class_="g-quiet g-map-saved", role="status", data_part="saved"),
        class_="g-map-buttons",
    )


def _button(name: str, label: str, title: str, **attributes: str) -> Safe:
    return tag("button", label, type="button", class_="g-button", data_do=name, title=title, **attributes)


def _chart(side: str) -> Safe:
    name = "a" if side == "left" else "b"
    return tag(
        "section",
        tag(
            "header",
            letter(name),
            tag("h2", class_="g-map-title"),
            tag("span", class_="g-quiet g-map-method"),
            class_="g-map-head",
        ),
        tag(
            "div",
            tag("div", class_="g-map-canvas"),
            tag("canvas", class_="g-map-layer", aria_hidden="true"),
            tag("div", class_="g-map-layer g-map-marks", aria_hidden="true"),
            tag("div", class_="g-tip g-map-tip", role="tooltip", hidden=True),
            class_="g-map-plot",
        ),
        class_=f"g-map-chart g-column-{name}",
        data_side=side,
    )
