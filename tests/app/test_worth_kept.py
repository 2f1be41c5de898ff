"""Was it worth writing?, in the Evaluate tab: what was kept of a model, in words and as curves; nothing where nothing was."""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from pathlib import Path

import pytest
from explorer_world import make_world

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grace_core"))

from worth_world import ABOUT, random_summary

from grace_app.evaluate.view import read_evaluate
from grace_app.evaluate.worth import render_worth
from grace_app.workspace.state import Workspace
from grace_core.evaluation import stored_worth


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, new_model, sentences) -> Workspace:
    world = make_world(tmp_path_factory.mktemp("kept"), new_model, sentences)
    return Workspace(world.indexes, preferred="world", cache_path=world.root / "cache.sqlite")


def rendered(workspace, **columns) -> str:
    view, problems = read_evaluate(workspace, {"on": "world"} | columns)
    assert problems == []
    return str(render_worth(workspace, view))


def test_nothing_is_shown_where_nothing_was_kept(workspace):
    assert rendered(workspace, x="tiny-b:text", y="bm25") == ""


@pytest.mark.parametrize("gate", [True, False])
def test_the_curves_and_the_words_are_those_that_were_measured(workspace, gate):
    result = random_summary(gate=gate)
    stored_worth.save(workspace.index("world", "tiny-a"), ABOUT, result)
    html = rendered(workspace, x="tiny-a:text", y="tiny-a:rationale")
    assert html.count("<details") == 1
    curves = json.loads(unescape(re.search(r'data-curves="([^"]*)"', html)[1]))
    assert curves == json.loads(json.dumps(stored_worth.curves(result)))
    most, none = result["budgets"]["both"][128], result["budgets"]["both"][0]
    assert f"nDCG@10 is {most['mean']:.3f}, by the text alone {none['mean']:.3f}" in html
    assert most["over_none"]["ci95"][0] > 0
    assert "Writing was worth it: with rationales of at most 128 tokens (50 on the mean" in html
    assert "40 judged queries of the split test and 160 documents" in html
    assert ("A gate that lets" in html) == gate
    if gate:
        assert f"gives {result['gate'][128]['gated']['mean']:.3f}" in html


def test_the_verdict_follows_the_interval(workspace):
    result = random_summary(gate=False)
    told = {}
    for name, (low, high) in {"good": (0.01, 0.1), "open": (-0.01, 0.1), "bad": (-0.1, -0.01)}.items():
        result["budgets"]["both"][128]["over_none"] = {"mean": (low + high) / 2, "ci95": [low, high]}
        stored_worth.save(workspace.index("world", "tiny-a"), ABOUT, result)
        told[name] = rendered(workspace, x="tiny-a:text", y="tiny-a:rationale")
    assert "Writing was worth it" in told["good"]
    assert "Whether it helps is not told" in told["open"]
    assert "Writing did harm" in told["bad"]


def test_what_fits_no_more_is_a_line(workspace):
    index = workspace.index("world", "tiny-b")
    stored_worth.save(index, ABOUT, random_summary())
    path = index.folder / stored_worth.FILE
    kept = json.loads(path.read_text(encoding="utf-8"))
    kept["index"]["corpus"] = "<script>"
    path.write_text(json.dumps(kept), encoding="utf-8")
    html = rendered(workspace, x="tiny-b:text", y="bm25")
    assert "g-eval-worth-stale" in html
    assert "measure again: grace eval worth" in html
    assert "<details" not in html
    path.unlink()
