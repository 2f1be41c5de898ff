"""Explore keeps queries where that is wanted, and the page says so."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from grace_app.explore.search import search
from grace_app.main import KEPT, build_app
from grace_app.workspace.state import Workspace
from grace_app.workspace.view import default_view
from grace_core.asked import FILE, asked_queries


@pytest.mark.parametrize("keep", [True, False])
def test_what_explore_is_asked(world, tmp_path, keep):
    indexes = shutil.copytree(world.indexes, tmp_path / "indexes")
    workspace = Workspace(indexes, preferred="plain", cache_path=tmp_path / "c.sqlite", keep_queries=keep)
    view = replace(default_view(workspace), query="a river")
    for _ in range(2):
        assert list(search(workspace, view))[-1].done
    assert asked_queries(indexes / "plain") == ["a river"] * keep
    assert (indexes / "plain" / FILE).exists() is keep


@pytest.mark.parametrize("keep", [True, False])
def test_the_page_says_that_queries_are_kept(tmp_path, keep):
    demo = build_app(tmp_path / "none", keep_queries=keep)
    header = next(block for block in demo.blocks.values() if getattr(block, "elem_id", "") == "g-header")
    assert (KEPT in header.value) is keep
