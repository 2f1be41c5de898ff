"""Buttons of other tabs that open the Mend tab; app/mending/link.js, among the part's scripts, listens to them."""

from __future__ import annotations

import json

from grace_app.page.html import Safe, tag


def mend_button(label: object, corpus: str, model: str, **asked: str) -> Safe:
    """A button that opens the Mend tab at what is ``asked``, parameters of :mod:`grace_app.mending.view`: a ``query`` by its
    id, with the ``judged`` split and the ``queries`` that are replayed, or a ``document``.
    """
    wanted = {"corpus": corpus, "model": model} | asked
    return tag("button", label, type="button", class_="g-button", data_mend=json.dumps(wanted))
