"""A real corpus of another subject: Cranfield abstracts with judged queries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grace_core.collection import Collection
from grace_core.evaluation.retrieval import bm25, judged_queries, per_query
from grace_core.index import GraceIndex
from grace_core.readers import read_corpus

CRANFIELD = Path(__file__).resolve().parents[3] / "shared" / "data" / "cranfield"

pytestmark = pytest.mark.skipif(not (CRANFIELD / "corpus.jsonl").exists(), reason=f"no Cranfield corpus in {CRANFIELD}")


@pytest.mark.slow
def test_two_hundred_abstracts_are_indexed_and_searched_from_the_command_line(grace, tmp_path):
    folder = tmp_path / "cranfield"
    options = ("--limit", 200, "--max-new-tokens", 16, "--json")
    status, out, err = grace("index", "build", CRANFIELD, "--out", folder, "--model", "demo-base", *options)
    assert status == 0, err
    assert json.loads(out)["models"]["demo-base"]["encoded"] == 200
    status, out, err = grace(
        "search", folder, "heat transfer in the boundary layer of a wing", "-m", "demo-base", "-k", 3, "--json"
    )
    assert status == 0, err
    hits = json.loads(out)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert {hit["id"] for hit in hits} <= {document.id for document in read_corpus(CRANFIELD, limit=200).documents}
    status, out, err = grace("eval", "retrieval", folder, "-m", "demo-base", "--bm25", "--json")
    assert status == 0, err
    assert json.loads(out)["bm25"]["ndcg@10"] > 0.3


def test_abstracts_without_text_are_left_out_and_counted(grace, tiny_folder, tmp_path):
    lines = (CRANFIELD / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    some = [line for line in lines if json.loads(line)["_id"] in ("470", "471", "472", "995", "996")]
    (tmp_path / "five.jsonl").write_text("\n".join(some), encoding="utf-8")
    options = ("--max-new-tokens", 4, "--json")
    status, out, err = grace(
        "index", "build", tmp_path / "five.jsonl", "--out", tmp_path / "five", "--model", tiny_folder, *options
    )
    assert status == 0, err
    counts = json.loads(out)["models"]["tiny"]
    assert (counts["documents"], counts["encoded"], counts["empty"]) == (5, 3, 2)
    index = GraceIndex(tmp_path / "five", "tiny")
    assert index.ids == ["470", "472", "996"]
    assert {"471", "995"} <= index.collection.documents.keys()


def test_bm25_ranks_the_whole_corpus_as_is_usual_for_it(tmp_path):
    collection = Collection.create(read_corpus(CRANFIELD), tmp_path / "cranfield")
    queries = judged_queries(collection.judgements)
    assert len(queries) > 150
    assert per_query(bm25(collection.corpus, queries), collection.judgements.qrels)["ndcg@10"].mean() > 0.3
