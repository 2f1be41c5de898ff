"""The workspace: what is open is shared, and several threads may use one model."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from explorer_world import QUERY, TOKENS

from grace_app.explore.search import open_document, search
from grace_app.workspace.shared import FairLock, QueryCache, share
from grace_app.workspace.state import Workspace
from grace_app.workspace.view import Column, View
from grace_core.cache import RepresentationCache
from grace_core.errors import GraceError

TEXT, FULL, OTHER = Column("tiny-a", False), Column("tiny-a", True), Column("tiny-b", True)


def last(workspace, view):
    *_, shot = search(workspace, view)
    return shot


def test_collections_and_their_judgements(workspace):
    assert workspace.collections() == ["plain", "world"]
    assert workspace.grades("world", f"  {QUERY.upper()} ") == {"d05": 2, "d11": 1}
    assert workspace.grades("world", "something else") is None
    assert workspace.grades("plain", QUERY) is None


def test_examples_prefer_the_test_split_and_fall_back_to_documents(workspace):
    assert workspace.examples("world") == [QUERY, "children dance around the fountain"]
    assert workspace.examples("world") == workspace.examples("world")
    assert 1 <= len(workspace.examples("plain")) <= 6


def test_what_is_open_is_shared(workspace):
    index = workspace.index("world", "tiny-a")
    assert workspace.index("world", "tiny-a") is index
    assert workspace.model_of(index) is workspace.model_of(index)
    assert workspace.load(index.manifest["model_id"]) is workspace.model_of(index)


@pytest.mark.parametrize("name", ["nope", "../world", "", ".hidden", "a/b"])
def test_unknown_collections_are_refused(workspace, name):
    with pytest.raises(GraceError):
        workspace.index(name, "tiny-a")


def test_models_of_programs_are_those_that_are_here(workspace):
    assert {"tiny-a", "tiny-b"} <= set(workspace.model_names())
    assert workspace.named_model("tiny-b").name == "tiny-b"
    for name in ("Qwen/Qwen2.5-0.5B-Instruct", "/etc", "tiny-c"):
        with pytest.raises(GraceError, match="there is no model"):
            workspace.named_model(name)


def test_a_search_agrees_with_the_library(workspace):
    shot = last(workspace, View("world", TEXT, OTHER, 5, QUERY))
    for side in shot.sides:
        index = workspace.index("world", side.column.model)
        encoded = workspace.model_of(index).represent([QUERY], rationale=side.column.rationale)
        (vector,) = index.embed(encoded, side.column.pooling)
        expected = index.hits(vector, 5, pooling=side.column.pooling)
        assert [hit.document.id for hit in side.hits] == [hit.document.id for hit in expected]
        assert np.allclose([hit.score for hit in side.hits], [hit.score for hit in expected], atol=1e-5)
        assert side.average == pytest.approx(float((index.vectors(side.column.pooling) @ vector).mean()), abs=1e-5)
    assert shot.a.rationale == ""
    assert shot.b.rationale
    assert shot.grades == {"d05": 2, "d11": 1}


def test_rationales_grow_and_text_columns_do_not_wait(workspace, monkeypatch):
    monkeypatch.setattr("grace_app.explore.search.FRAME", 0)
    seen = [
        (shot.a.hits is not None, shot.b.hits is not None, len(shot.b.rationale))
        for shot in search(workspace, View("world", TEXT, FULL, 5, "a query that nobody has asked before"))
    ]
    lengths = [length for a, b, length in seen if a and not b]
    assert len(set(lengths)) > TOKENS / 4
    assert seen[-1][:2] == (True, True)


def test_the_same_column_twice_is_represented_once(workspace, monkeypatch):
    model = workspace.model_of(workspace.index("world", "tiny-a"))
    calls, stream = [], model.stream
    monkeypatch.setattr(model, "stream", lambda text: calls.append(text) or stream(text))
    shot = last(workspace, View("world", FULL, FULL, 5, "twice the same"))
    assert calls == ["twice the same"]
    assert shot.a.hits == shot.b.hits
    assert shot.a.rationale == shot.b.rationale != ""


def test_repeats_come_from_the_cache(world):
    first = Workspace(world.indexes, cache_path=world.root / "repeat.sqlite")
    view = View("world", FULL, FULL, 5, "asked again and again")
    once = last(first, view)
    again = Workspace(world.indexes, cache_path=world.root / "repeat.sqlite")
    snapshots = list(search(again, view))
    assert snapshots[-1].a.rationale == once.a.rationale
    assert len(snapshots) <= 4  # no frame of writing


def test_a_cache_that_cannot_be_written_is_done_without(world, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    workspace = Workspace(world.indexes, cache_path=blocked / "cache.sqlite")
    assert workspace.cache().disk is None
    assert last(workspace, View("world", TEXT, FULL, 5, QUERY)).b.hits


def test_a_cache_that_breaks_is_let_go(tmp_path):
    disk = RepresentationCache(tmp_path / "cache.sqlite")
    cache = QueryCache(disk, size=2)
    disk.close()
    assert cache.get(["a"]) == {}
    assert cache.disk is None
    cache.put({"a": 1, "b": 2, "c": 3})
    assert cache.get(["a", "b", "c"]) == {"b": 2, "c": 3}


def test_texts_are_found_in_memory_and_on_disk(tmp_path):
    row = ([1, 2], np.ones((3, 4), np.float32), np.array([1, 2, 3]), False)
    cache = QueryCache(RepresentationCache(tmp_path / "cache.sqlite"), size=2)
    for number in range(3):
        cache.put({f"key {number}": row})
        cache.name_texts({f"name {number}": (f"key {number}", number == 0)})
    rows = cache.get_texts([f"name {number}" for number in range(4)])  # the first has left the memory
    assert {name: cut for name, (_, cut) in rows.items()} == {"name 0": True, "name 1": False, "name 2": False}
    assert rows["name 0"][0][0] == rows["name 2"][0][0] == [1, 2]


@pytest.mark.parametrize("column", [TEXT, FULL, OTHER])
def test_an_opened_document_has_the_rank_of_the_list(workspace, column):
    view = View("world", column, FULL, 20, QUERY)
    for hit in last(workspace, view).a.hits[::6]:
        opened = open_document(workspace, View("world", column, FULL, 20, QUERY, hit.document.id))
        assert opened.places[0].rank == hit.rank
        assert opened.places[0].score == pytest.approx(hit.score, abs=1e-6)
        assert opened.places[0].rationale == hit.rationale


def test_a_document_that_is_not_there_is_said(workspace):
    with pytest.raises(GraceError, match="no document 'nope'"):
        open_document(workspace, View("world", TEXT, FULL, 5, QUERY, "nope"))


def test_several_threads_get_what_one_gets(new_model, sentences):
    alone = new_model("qwen2", max_new_tokens=24)
    texts = [*sentences[:14], "with a <|im_end|> literal", "and <|im_start|> too"]
    expected = [alone.represent([text]).rationale_ids[0] for text in texts]
    shared = share(new_model("qwen2", max_new_tokens=24))
    with ThreadPoolExecutor(6) as pool:
        rationales = list(pool.map(lambda text: [*shared.stream(text)][-1][1].rationale_ids[0], texts))
    assert rationales == expected


def test_turns_are_taken_in_the_order_they_were_asked_for():
    turns, order, threads = FairLock(), [], []

    def take(number):
        with turns:
            order.append(number)

    with turns:
        for number in range(6):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while turns._next < number + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(6))


def test_a_thread_can_be_told_to_stop_and_others_go_on(new_model):
    model = share(new_model("qwen2", max_new_tokens=50, end_weight=0))

    class Enough(Exception):
        pass

    def check():
        raise Enough

    with pytest.raises(Enough), model.engine.interrupted_by(check):
        model.generate_rationales(["the river"])
    assert model.generate_rationales(["the river"])
