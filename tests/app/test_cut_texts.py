"""What was cut to fit the prompt is shown: of the query, on every hit, in the opened document, after a build,
and in the API.
"""

from __future__ import annotations

import pytest
from test_html import Reader

from grace_app.api import encode_api, explain_api, search_api, what_if_api
from grace_app.corpus.builds import Build, Builds
from grace_app.corpus.render import render_job
from grace_app.explore.detail import render_detail
from grace_app.explore.results import render_results
from grace_app.explore.search import open_document, search
from grace_app.workspace.jobs import run
from grace_app.workspace.state import Workspace
from grace_app.workspace.view import Column, View
from grace_core.collection import Collection
from grace_core.index import build
from grace_core.model import GraceModel
from grace_core.readers import Corpus, Document

LIMIT = 120
LONG = ("river " * 300).strip()


@pytest.fixture(scope="module")
def workspace(new_model, sentences, tmp_path_factory):
    """A collection of a short text and a long one."""
    root = tmp_path_factory.mktemp("cut")
    new_model("qwen2", max_prompt_tokens=LIMIT, max_new_tokens=4).save_pretrained(root / "tiny")
    model = GraceModel.from_pretrained(root / "tiny", device="cpu")
    corpus = Corpus([Document("short", "", sentences[3], {}), Document("long", "", LONG, {})], None, "made here", [])
    build(Collection.create(corpus, root / "indexes" / "some"), model)
    return Workspace(root / "indexes", cache_path=root / "cache.sqlite")


def test_the_api_tells_cut_texts_apart_from_cut_rationales(workspace):
    index = workspace.index("some", "tiny")
    found = search_api(workspace, "a bridge", "some", "tiny", True, 2)
    assert {hit["id"]: hit["text_truncated"] for hit in found["hits"]} == {"short": False, "long": True}
    assert {hit["id"]: hit["truncated"] for hit in found["hits"]} == dict(zip(index.ids, index.truncated, strict=True))
    assert not found["text_truncated"]
    assert search_api(workspace, LONG, "some", "tiny", False, 1)["text_truncated"]
    for document, edited in (("long", "a river"), ("short", LONG)):
        explained = explain_api(workspace, "a bridge", "some", "tiny", document, True, "")
        edit = what_if_api(workspace, "a bridge", "some", "tiny", document, True, edited, None, False)
        assert (explained["text_truncated"], edit["text_truncated"]) == (document == "long", edited is LONG)
    made = encode_api(workspace, ["short", LONG], "tiny", False)
    assert (made["text_truncated"], made["truncated"]) == ([False, True], [False, False])


@pytest.mark.parametrize("rationale", [True, False])
def test_the_page_shows_how_much_of_a_text_was_read(workspace, rationale):
    builder = workspace.model_of(workspace.index("some", "tiny")).prompts
    column, room = Column("tiny", rationale), builder.room
    tokens = len(builder.tokenizer(LONG)["input_ids"])
    *_, shot = search(workspace, View("some", column, column, 5, "a bridge"))
    text = Reader(render_results(shot)).text
    assert text.count(f"text cut after {room} tokens") == 2  # once in each column
    assert "query cut" not in text

    *_, shot = search(workspace, View("some", column, column, 5, LONG))
    assert Reader(render_results(shot)).text.count(f"query cut after {room} of {tokens} tokens") == 2

    opened = {
        name: open_document(workspace, View("some", column, column, 5, "a bridge", doc=name))
        for name in ("short", "long")
    }
    assert f"tiny: text cut after {room} of {tokens} tokens" in Reader(render_detail(opened["long"])).text
    assert "text cut" not in Reader(render_detail(opened["short"])).text


def test_how_much_of_a_very_long_text_was_left_out_is_not_counted(workspace, monkeypatch):
    monkeypatch.setattr("grace_app.explore.search.COUNTED", len(LONG) - 1)
    column = Column("tiny", False)
    opened = open_document(workspace, View("some", column, column, 5, "a bridge", doc="long"))
    assert "tiny: text cut after" in Reader(render_detail(opened)).text
    assert opened.places[0].left_out is None


def test_a_build_tells_what_it_cut(workspace, tmp_path):
    builds = Builds(Workspace(tmp_path / "indexes", cache_path=tmp_path / "cache.sqlite"))
    job = Build("more", str(workspace.root.parent / "tiny"), notes=["one of the reader"])
    corpus = workspace.collection("some").corpus
    run(job, lambda job: builds._build(job, corpus, False, False))
    assert job.state == "done", job.message
    assert job.notes[0] == "one of the reader"
    assert "1 of 2 texts is cut to fit the prompt" in job.notes[1]
    assert "--max-prompt-tokens" in job.notes[1]
    assert job.notes[1] in Reader(render_job(job)).text
