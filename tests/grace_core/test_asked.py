"""Queries that a collection is asked: kept only where that is wanted, and used only where they are given."""

from __future__ import annotations

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from grace_core.asked import FILE, MOST, asked_queries, keep_query
from grace_core.collection import Collection
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.readers import Corpus, Document
from grace_core.serving.app import create_app


def test_each_query_is_kept_once_on_a_line(tmp_path):
    for query in ("one two", " one\n two ", "three", "", "  ", "half \ud800 pair"):
        keep_query(tmp_path, query)
    assert asked_queries(tmp_path) == ["one two", "three", "half ? pair"]
    (tmp_path / FILE).write_bytes(b"caf\xe9\n")  # as an editor may leave it
    keep_query(tmp_path, "four")
    assert asked_queries(tmp_path) == ["caf\ufffd", "four"]


def test_many_clients_and_no_more_than_the_most(tmp_path):
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda i: keep_query(tmp_path, f"query {i % (MOST + 5)}"), range(2 * MOST)))
    kept = asked_queries(tmp_path)
    assert len(kept) == len(set(kept)) == MOST


def test_a_search_goes_on_where_nothing_can_be_written(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        keep_query(tmp_path / "nowhere", "one")
    assert "the query is not kept in" in caplog.text
    assert not (tmp_path / "nowhere").exists()


@pytest.fixture(scope="module")
def world(tiny_folder, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked") / "world"
    documents = [Document(f"d{i}", "", text, {}) for i, text in enumerate(sentences[:32])]
    collection = Collection.create(Corpus(documents, None, "made here", []), folder)
    build(collection, GraceModel.from_pretrained(tiny_folder, max_new_tokens=3), geometry="calibrated")
    return folder


@pytest.fixture
def folder(world, tmp_path):
    return shutil.copytree(world, tmp_path / "world")


def served(folder, **options) -> TestClient:
    index = GraceIndex.of_model(folder, Collection(folder).models[0])
    return TestClient(create_app(index.load_model(), index=index, **options))


def test_the_server_keeps_what_search_is_asked_and_scores_stay_until_it_is_given(folder, grace):
    with served(folder, keep_queries=True) as client:
        first = client.post("/search", json={"query": "river water"}).json()["results"]
        client.post("/search", json={"query": "summer\nice"})
        client.post("/search", json={"query": "no such k", "k": 10**9})  # refused
        assert client.post("/search", json={"query": "river water"}).json()["results"] == first
    assert asked_queries(folder) == ["river water", "summer ice"]
    status, out, _ = grace("index", "info", folder)
    assert status == 0
    assert f"2 queries that it was asked are kept in {FILE}" in out
    assert json.loads(grace("index", "info", folder, "--json")[1])["asked"] == 2
    status, out, err = grace("index", "geometry", folder, "--kind", "calibrated", "--queries", folder / FILE)
    assert status == 0, err
    assert "2 queries of the collection" in out
    with served(folder) as client:
        assert client.post("/search", json={"query": "river water"}).json()["results"] != first
    assert grace("index", "verify", folder)[0] == 0


def test_nothing_is_kept_unless_it_is_wanted(folder, grace):
    with served(folder) as client:
        assert client.post("/search", json={"query": "river water"}).status_code == 200
    assert not (folder / FILE).exists()
    assert "asked" not in json.loads(grace("index", "info", folder, "--json")[1])
    status, _, err = grace("serve", "--model", "demo-base", "--keep-queries", "--port", 0)
    assert status == 2
    assert "give --collection" in err
