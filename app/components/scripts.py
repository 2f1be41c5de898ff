"""``gr.HTML`` with scripts from app/assets: how every part of the page that is not one of Gradio's own gets there."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

ASSETS = Path(__file__).parent.parent / "assets"


def html(*, js: str = "", value: str = "", **options) -> gr.HTML:
    """A ``gr.HTML`` without Gradio's own styles, with the scripts ``js`` from app/assets one after another in one scope."""
    script = "\n".join((ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in js.split()) or None
    return gr.HTML(value, apply_default_css=False, js_on_load=script, **options)
