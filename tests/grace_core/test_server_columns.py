"""Columns in the server: /search and /explain by the names of the command line, with its scores."""

from __future__ import annotations

import json
import threading
import time

import httpx
import pytest
from columns_world import QUERIES, make_collection, save_encoder
from live_server import SMALL, live

from grace_core.columns import encoded
from grace_core.columns.encoder import Encoder
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.serving.app import create_app
from grace_core.serving.limits import Limits
from grace_core.serving.run import listen, make_server, url_of
from grace_core.serving.several import serve_several

COLUMNS = ("tiny", "tiny:text", "bm25", "st:mini", "0.7*bm25+0.3*tiny", "st:mini+tiny:text", "rrf(bm25,st:mini,tiny)")


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory, sentences):
    """A collection with an encoder and two models, of which the second is not served but by a test of its own."""
    root = tmp_path_factory.mktemp("served-columns")
    collection = make_collection(root / "world", sentences, count=24)
    build(collection, GraceModel.from_pretrained(tiny_folder, device="cpu", max_new_tokens=8))
    second = GraceModel.from_pretrained(tiny_folder, device="cpu", max_new_tokens=6)
    build(collection, second, name="second", rationale=False)
    encoded.build(collection, Encoder.load(str(save_encoder(root / "encoders" / "mini", sentences, limit=24))))
    return collection.folder


@pytest.fixture(scope="module")
def server(folder):
    index = GraceIndex(folder, "tiny")
    with live(index.load_model(device="cpu"), index=index) as running:
        yield running


def printed(run) -> dict:
    status, out, err = run
    assert status == 0, err
    return json.loads(out)


@pytest.mark.parametrize("name", COLUMNS)
def test_search_and_explain_are_those_of_the_command_line(server, folder, grace, name):
    for query in QUERIES[:2]:
        hits = printed(grace("search", folder, query, "-m", name, "-k", 5, "--json"))
        status, answer = server.ask("/search", {"query": query, "k": 5, "column": name})
        assert status == 200, answer
        assert [hit["id"] for hit in answer["results"]] == [hit["id"] for hit in hits]
        for mine, theirs in zip(answer["results"], hits, strict=True):
            assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
            assert {**mine, "score": 0} == {**theirs, "score": 0}
    chosen = hits[2]
    status, ledger = server.ask("/explain", {"query": query, "id": chosen["id"], "column": name, "tokens": True})
    assert status == 200, ledger
    assert (ledger["id"], ledger["rank"], ledger["column"]) == (chosen["id"], 3, answer["column"])
    assert ledger["score"] == pytest.approx(chosen["score"], abs=1e-5)
    assert abs(ledger["score"] - sum(line["value"] for line in ledger["lines"])) < 1e-5
    assert abs(ledger["residual"]) < 1e-5
    assert ledger["largest_residual"] < 1e-5
    theirs = printed(grace("explain", folder, query, chosen["id"], "-m", name, "--json"))
    assert ledger["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_without_a_column_the_served_model_ranks_and_says_its_column(server):
    status, answer = server.ask("/search", {"query": QUERIES[0], "k": 3})
    assert (status, answer["model"], answer["column"]) == (200, "tiny", "tiny:rationale")
    _, same = server.ask("/search", {"query": QUERIES[0], "k": 3, "column": "tiny"})
    assert same["results"] == answer["results"]
    assert (same["rationale"], same["usage"]) == (answer["rationale"], answer["usage"])
    assert "model" not in same
    status, ledger = server.ask("/explain", {"query": QUERIES[0], "id": answer["results"][1]["id"], "pooling": "text"})
    assert (status, ledger["model"], ledger["column"]) == (200, "tiny:text", "tiny:text")


def test_a_filter_and_a_query_that_is_cut(server):
    status, answer = server.ask("/search", {"query": "river", "column": "bm25+st:mini", "filter": "kind = 'odd'"})
    assert (status, answer["filtered"]) == (200, 7)
    assert {hit["id"][:3] for hit in answer["results"]} == {"odd"}
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    long = "river mountain " * 20
    status, answer = server.ask("/search", {"query": long, "column": "bm25+st:mini"})
    assert (status, answer["error"]["param"]) == (400, "query")
    assert "longer than what st:mini reads, by" in answer["error"]["message"]
    status, answer = server.ask("/search", {"query": long, "column": "bm25+st:mini", "truncate": True})
    assert (status, answer["text_truncated"]) == (200, True)
    assert server.ask("/search", {"query": long, "column": "bm25"})[1]["text_truncated"] is False


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"column": "bm25+"}, 400, "column", "is no name of a column"),
        ({"column": "0*bm25+tiny"}, 400, "column", "must be above 0"),
        ({"column": "bm25+bm25"}, 400, "column", "stands twice"),
        ({"column": "tiny+tiny:rationale"}, 400, "column", "stands twice"),
        (
            {"column": "nobody"},
            404,
            "column",
            "has no column 'nobody'; there are tiny:text, tiny:rationale, bm25, st:mini",
        ),
        ({"column": "rrf(bm25,st:nobody)"}, 404, "column", "has no column 'st:nobody'"),
        ({"column": "/etc/passwd"}, 404, "column", "has no column '/etc/passwd'"),
        ({"column": "second:text"}, 404, "column", "which is not served here; start the server with --model second"),
        ({"column": "bm25", "model": "tiny"}, 400, "model", "leave model out"),
        ({"column": "tiny", "pooling": "text"}, 400, "pooling", "leave pooling out"),
        ({"column": 3}, 400, "column", "string"),
        ({"column": "bm25", "query": " "}, 400, "query", "the text is empty"),
        ({"column": "bm25", "query": "x" * 2001}, 400, "query", "at most 2,000"),
        ({"column": "bm25", "k": 1001}, 400, "k", "at most 1000"),
        ({"column": "bm25", "filter": "nothing = 1"}, 400, "filter", "there is no column 'nothing'"),
        ({"column": "bm25", "by": "sum"}, 400, "by", "is of whole documents"),
        ({"column": "bm25", "by": "worst"}, 400, "by", "'best' or 'sum'"),
    ],
)
def test_what_cannot_be_searched_is_told(server, body, status, param, message):
    got, answer = server.ask("/search", {"query": "river"} | body)
    assert (got, answer["error"]["param"]) == (status, param)
    assert message in answer["error"]["message"]


def test_a_document_that_there_is_not_has_no_explanation(server):
    status, answer = server.ask("/explain", {"query": "river", "id": "d99", "column": "bm25"})
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (404, "id", "document_not_found")
    assert server.ask("/explain", {"query": "river", "id": "d20", "column": "bm25"})[0] == 404  # it has no text
    assert server.ask("/explain", {"query": "river", "column": "bm25"})[0] == 400


def test_openapi_knows_the_fields(server):
    schemas = server.ask("/openapi.json")[1]
    assert {"/search", "/explain"} <= schemas["paths"].keys()
    assert {"column", "by", "filter", "model"} <= schemas["components"]["schemas"]["SearchRequest"]["properties"].keys()
    assert schemas["components"]["schemas"]["ExplainRequest"]["required"] == ["query", "id"]


def test_without_a_collection_there_is_nothing_to_search(tiny_folder):
    with live(GraceModel.from_pretrained(tiny_folder, device="cpu", max_new_tokens=8)) as running:
        for path, body in (("/search", {}), ("/explain", {"id": "d01"})):
            status, answer = running.ask(path, {"query": "river", "column": "bm25"} | body)
            assert (status, answer["error"]["code"]) == (404, "no_collection")


def test_models_that_are_served_together_are_fused(folder, grace):
    limits = Limits(**SMALL)
    indexes = [GraceIndex(folder, name) for name in ("tiny", "second")]
    apps = [create_app(index.load_model(device="cpu"), index=index, limits=limits) for index in indexes]
    for app, name in zip(apps, ("tiny", "second"), strict=True):
        app.state.served.model.name = name
        app.state.served.model.source = name
    app = serve_several(apps, limits)
    server, bound = make_server(app, limits), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        body = {"query": QUERIES[0], "k": 3, "column": "tiny+2*second"}
        answer = httpx.post(f"{url_of(bound)}/search", json=body, timeout=60, trust_env=False).json()
        assert answer["column"] == "tiny:rationale+2*second:text"
        hits = printed(grace("search", folder, QUERIES[0], "-m", "tiny+2*second", "-k", 3, "--json"))
        assert [hit["id"] for hit in answer["results"]] == [hit["id"] for hit in hits]
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
