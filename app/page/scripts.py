"""``gr.HTML`` with scripts from the rooms of the app: how every part of the page that is not one of Gradio's
own gets there.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from grace_app.page import address

ROOMS = Path(__file__).parent.parent


def html(*, js: str = "", value: str = "", **options) -> gr.HTML:
    """A ``gr.HTML`` without Gradio's own styles, with the scripts ``js`` one after another in one scope.

    "explore/why" is app/explore/why.js.
    """
    scripts = [(ROOMS / f"{name}.js").read_text(encoding="utf-8") for name in js.split()]
    if "page/address" in js.split():
        scripts.insert(0, address.declarations())
    return gr.HTML(value, apply_default_css=False, js_on_load="\n".join(scripts) or None, **options)
