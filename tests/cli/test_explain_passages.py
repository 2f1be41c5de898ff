"""A document that is split: explained by its best passage or by all of them, alike in search, explain and the server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "grace_core"))

from columns_world import QUERIES, save_encoder
from live_server import live

NAMES = ("tiny", "tiny:text", "bm25", "st:mini", "bm25+st:mini+tiny", "rrf(bm25,st:mini)")


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory, sentences):
    """Ten documents of one to four passages, and of many."""
    from grace_core.collection import Collection
    from grace_core.columns import encoded
    from grace_core.columns.encoder import Encoder
    from grace_core.index import build
    from grace_core.model import GraceModel
    from grace_core.passages import Chunk
    from grace_core.readers import Corpus, Document
    from grace_core.readers.chunked import chunked

    root = tmp_path_factory.mktemp("passages")
    texts = [" ".join(sentences[5 * i : 5 * i + 1 + (3 * i) % 4]) for i in range(10)]
    texts[9] = " ".join(sentences[60:72])
    corpus = Corpus([Document(f"d{i}", f"Book {i}", text, {}) for i, text in enumerate(texts)], None, "here", [])
    collection = Collection.create(chunked(corpus, Chunk(12)), root / "books")
    build(collection, GraceModel.from_pretrained(tiny_folder, device="cpu", max_new_tokens=8))
    encoded.build(collection, Encoder.load(str(save_encoder(root / "encoders" / "mini", sentences))))
    return collection.folder


@pytest.fixture(scope="module")
def server(folder):
    from grace_core.index import GraceIndex

    index = GraceIndex(folder, "tiny")
    with live(index.load_model(device="cpu"), index=index, max_texts=5) as running:
        yield running


def printed(run):
    status, out, err = run
    assert status == 0, err
    return json.loads(out)


@pytest.mark.parametrize("by", ["best", "sum"])
@pytest.mark.parametrize("name", NAMES)
def test_search_explain_and_the_server_agree(server, folder, grace, name, by):
    hits = printed(grace("search", folder, QUERIES[0], "-m", name, "-k", 10, "--by", by, "--json"))
    assert len(hits) == 10
    status, answer = server.ask("/search", {"query": QUERIES[0], "column": name, "by": by})
    assert status == 200, answer
    assert [(hit["id"], hit["passage"]["id"]) for hit in answer["results"]] == [
        (hit["id"], hit["passage"]["id"]) for hit in hits
    ]
    assert [hit["score"] for hit in answer["results"]] == pytest.approx([hit["score"] for hit in hits], abs=1e-5)
    hit = max((one for one in hits if len(one["passages"]) <= 5), key=lambda one: len(one["passages"]))
    assert len(hit["passages"]) > 1
    told = printed(grace("explain", folder, QUERIES[0], hit["id"], "-m", name, "--by", by, "--json"))
    status, answer = server.ask("/explain", {"query": QUERIES[0], "column": name, "id": hit["id"], "by": by})
    assert status == 200, answer
    for ledger in (told, answer):
        assert (ledger["id"], ledger["rank"]) == (hit["id"], hit["rank"])
        assert ledger["passages"] == [one["id"] for one in hit["passages"]]
        assert ledger["score"] == pytest.approx(hit["score"], abs=1e-5)
        assert abs(ledger["residual"]) < 1e-5
    if by == "best":
        assert told["passage"]["id"] == answer["passage"]["id"] == hit["passage"]["id"]
        alone = printed(grace("explain", folder, QUERIES[0], hit["passage"]["id"], "-m", name, "--json"))
        assert told["score"] == alone["score"]
        assert told["passage"]["rank"] == answer["passage"]["rank"] == alone["rank"]
    else:
        for ledger in (told, answer):
            assert {line["name"]: line["value"] for line in ledger["lines"]} == pytest.approx(
                {one["id"]: one["score"] for one in hit["passages"]}, abs=1e-5
            )
            assert ledger["largest_residual"] < 1e-5
            assert all(line["kind"] == "passage" and line["parts"] for line in ledger["lines"])


def test_the_command_says_which_passage_it_explains(folder, grace):
    for name in ("tiny", "bm25"):
        hit = printed(grace("search", folder, QUERIES[0], "-m", name, "--json"))[1]
        text = grace("explain", folder, QUERIES[0], hit["id"], "-m", name)[1]
        many = len(hit["passages"])
        assert text.startswith(
            f"{hit['id']}: rank 2 of 10 documents, {many} passage{'s' * (many > 1)} in all, of which the best"
        )
        assert f"\n{hit['passage']['id']}  Book" in text
        whole = grace("explain", folder, QUERIES[0], hit["id"], "-m", name, "--by", "sum")[1]
        assert whole.count(f"  {hit['id']}#") == many


def test_another_document_and_what_ifs_go_by_best_passages_too(folder, grace):
    for name in ("tiny", "bm25+st:mini"):
        options = ("--versus", "d5", "--leave-one-out", "--with-text", "a river", "--json")
        told = printed(grace("explain", folder, QUERIES[0], "d3", "-m", name, *options))
        other = printed(grace("explain", folder, QUERIES[0], "d5", "-m", name, "--json"))
        assert told["versus"]["id"] == other["passage"]["id"]
        assert told["versus"]["score"] == pytest.approx(told["score"] - other["score"], abs=1e-6)
        assert told["what_if"]["old_score"] == pytest.approx(told["score"], abs=1e-6)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("d3", "-m", "bm25", "--by", "worst"), "expected best or sum"),
        (("d3", "-m", "tiny", "--by", "sum", "--versus", "d5"), "explains all passages of a document"),
        (("d3", "-m", "bm25", "--by", "sum", "--leave-one-out"), "take one passage by its id"),
        (("d3#1", "-m", "bm25", "--by", "sum"), "is none that is split"),
        (("d99", "-m", "bm25"), "has no document 'd99'"),
        (
            ("d3", "-m", "tiny", "--with-rationale-of", "d5"),
            "it is split into passages: take one of them, such as 'd5#1'",
        ),
    ],
)
def test_what_cannot_be_explained_is_told(folder, grace, args, message):
    status, _, err = grace("explain", folder, QUERIES[0], *args)
    assert status == 2
    assert message in err


def test_the_server_refuses_sums_that_it_cannot_explain(server, folder):
    from grace_core.collection import Collection

    long = next(name for name, passages in Collection(folder).passages.items() if len(passages) > 5)
    for document, message in (("d3#1", "has none; give a document's id"), (long, "at most 5 passages of a document")):
        status, answer = server.ask("/explain", {"query": "river", "column": "bm25", "id": document, "by": "sum"})
        assert (status, answer["error"]["param"]) == (400, "by")
        assert message in answer["error"]["message"]
