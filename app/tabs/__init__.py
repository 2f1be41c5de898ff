"""The tabs. Each module has ``build(shell)``, which lays out one ``gr.Tab`` and wires it; :mod:`app.main` lists them in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from app.runs import Runs
from app.state import Workspace

ASSETS = Path(__file__).parent.parent / "assets"


@dataclass
class Shell:
    """What tabs share: the workspace, the training runs, the row of tabs, and each other by name, as far as they are built."""

    workspace: Workspace
    runs: Runs
    tabs: gr.Tabs
    built: dict[str, Any] = field(default_factory=dict)


def html(*, js: str = "", value: str = "", **options) -> gr.HTML:
    """A ``gr.HTML`` without Gradio's own styles, with the scripts ``js`` from app/assets one after another in one scope."""
    script = "\n".join((ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in js.split()) or None
    return gr.HTML(value, apply_default_css=False, js_on_load=script, **options)
