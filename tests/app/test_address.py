"""What a link holds is declared once: the views write nothing else, and the scripts of the page get the same."""

from __future__ import annotations

import json
import re

from grace_app.evaluate.view import EvaluateView
from grace_app.map.view import MapView
from grace_app.mending.view import MendView
from grace_app.page.address import LONGEST, PARAMETERS, declarations
from grace_app.page.scripts import html
from grace_app.reasons.view import ReasonsView
from grace_app.workspace.view import Column, TrainingView, View

A, B = Column("tiny-a", True), Column("tiny-b", False)
VIEWS = {
    "explore": [
        View("world", A, B, 20, "river", "d01", panel, "b", "d04" * (panel == "why"), "year > 2000", "sum")
        for panel in ("why", "whatif")
    ],
    "map": [MapView("world", A, B, "overlap", "d01", "river", "water", (0.0, 1.0, 0.0, 1.0))],
    "reasons": [ReasonsView("world", "tiny-a", 8, 3, "river", True, ((3, 0.5),), "tiny-b", "test", True)],
    "mend": [MendView("world", "tiny-a", "test", True, "q1", "d01")],
    "evaluate": [EvaluateView("world", A, B, "test", True, (B,), "year > 2000")],
    "training": [TrainingView(("one", "two"), "two", 1, 0, 3)],
}


def test_a_full_view_writes_every_parameter_of_its_tab_and_no_other():
    for tab, views in VIEWS.items():
        written = {key for view in views for key, value in view.params().items() if value} - {"tab"}
        assert written == set(PARAMETERS[tab]), tab


def test_no_tab_shares_a_parameter_with_explore_whose_search_stays():
    others = {key for tab, keys in PARAMETERS.items() if tab != "explore" for key in keys}
    assert not others & set(PARAMETERS["explore"])
    assert "tab" not in others


def test_scripts_that_write_the_address_get_the_same_declarations():
    script = html(js="page/address reasons/reasons").js_on_load
    assert script.startswith(declarations())
    assert json.loads(re.search("PARAMETERS = (.*);", script)[1]) == {
        tab: list(keys) for tab, keys in PARAMETERS.items()
    }
    assert f"LONGEST_IN_ADDRESS = {LONGEST};" in script
    assert "PARAMETERS" not in (html(js="page/choices").js_on_load or "")
