"""The Reasons and the Mend tab over a folder that cannot be written: what can be read is shown, and a line says the rest."""

from __future__ import annotations

import shutil
import time

import pytest
from explorer_world import make_world
from read_only_folder import read_only

from grace_app.mending.server import MendServer
from grace_app.reasons.server import ReasonsServer
from grace_app.workspace.state import Workspace

VIEW = {"corpus": "world", "model": "tiny-a"}
MEND = VIEW | {"judged": "all", "queries": "all"}


@pytest.fixture(scope="module")
def world(tmp_path_factory, new_model, sentences):
    return make_world(tmp_path_factory.mktemp("readonly"), new_model, sentences)


@pytest.fixture
def workspace(world, tmp_path) -> Workspace:
    indexes = shutil.copytree(world.indexes, tmp_path / "indexes")
    return Workspace(indexes, preferred="world", cache_path=world.root / "cache.sqlite")


def finish(server) -> dict:
    limit = time.monotonic() + 240
    while (job := server.progress({})["job"])["state"] == "working":
        assert time.monotonic() < limit
        time.sleep(0.05)
    return job


def asking(server) -> dict:
    return {function.__name__: function for function in server.functions()}


def test_reasons_that_are_there_are_shown_and_none_are_offered(workspace):
    server = ReasonsServer(workspace)
    folder = workspace.collection("world").folder
    with read_only(folder):
        answer = server.open({"view": VIEW})
        assert (answer["empty"], answer["offer"]) == (True, False)
        assert "tiny-a cannot be written, and reasons are kept there" in answer["html"]
        asking(server)["reasons_make"]({"view": VIEW})  # as a page that was open before would
        job = finish(server)
        assert job["state"] == "failed"
        assert "cannot be written" in job["message"]
    server.make({"view": VIEW})
    assert finish(server)["state"] == "done"
    with read_only(folder):
        assert not server.open({"view": VIEW})["empty"]
        assert "g-split-hit" in server.ask({"view": VIEW | {"ask": "river"}})["html"]
        answer = server.compare({"view": VIEW | {"against": "tiny-b", "judged": "test"}})
        assert not answer["offer"]
        assert "tiny-b cannot be written, and the sentences of its rationales are kept there" in answer["html"]
        text = VIEW | {"against": "tiny-a:text", "judged": "test"}
        assert server.compare({"view": text})["offer"]
        server.make_comparison({"view": text})
        assert finish(server)["state"] == "done"
        assert "its text alone" in server.compare({"view": text})["html"]


def test_mends_are_tried_and_not_kept(workspace):
    server = MendServer(workspace)
    ask = asking(server)
    document = {"view": MEND | {"document": "d05"}}
    tried = ask["mend_try"](document | {"kind": "remove"})
    assert tried["token"]
    with read_only(workspace.collection("world").folder):
        opened = ask["mend_open"]({"view": MEND})
        assert opened["refusal"] == ""
        assert "Nothing can be kept or reverted here, only tried" in opened["history"]
        assert "g-mend" in ask["mend_failing"]({"view": MEND})["html"]
        assert "html" in ask["mend_query"]({"view": MEND | {"query": "q1"}})
        assert "html" in ask["mend_document"](document)
        again = ask["mend_try"](document | {"kind": "remove"})
        assert again["token"] == ""
        assert "cannot be written, and mends are kept there" in again["html"]
        assert "<form" not in again["html"]
        kept = ask["mend_keep"](document | {"token": tried["token"], "note": ""})
        assert "cannot be written, and mends are kept there" in kept["error"]
    assert ask["mend_open"]({"view": MEND})["history"].count("Nothing was mended here yet") == 1
    assert ask["mend_keep"](document | {"token": tried["token"], "note": ""})["document"] == "d05"
