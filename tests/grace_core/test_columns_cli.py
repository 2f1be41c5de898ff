"""Columns on the command line: build, search, explain, evaluate, info and verify."""

from __future__ import annotations

import json

import pytest
from columns_world import QUERIES, make_collection, save_encoder


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_folder, sentences):
    """A collection without an index, and an encoder's folder."""
    root = tmp_path_factory.mktemp("columns-cli")
    collection = make_collection(root / "world", sentences, count=24)
    return collection.folder, save_encoder(root / "mini", sentences, limit=24), tiny_folder


@pytest.fixture
def built(world, grace):
    """The collection with a model and an encoder, built by one command."""
    folder, encoder, model = world
    if not (folder / "st-mini").exists():
        status, out, err = grace(
            "index",
            "build",
            folder,
            "--out",
            folder,
            "--model",
            model,
            "--model",
            f"st:{encoder}",
            "--max-new-tokens",
            8,
            "--json",
        )
        assert status == 0, err
        told = json.loads(out)
        assert set(told["models"]) == {"tiny"}
        assert told["encoders"]["mini"]["encoded"] == told["models"]["tiny"]["encoded"] == 30
        assert any("longer than the 24 tokens" in note for note in told["notes"])
    return folder


def result(run) -> dict:
    status, out, err = run
    assert status == 0, err
    return json.loads(out)


def test_info_and_verify_know_of_the_encoder(built, grace):
    info = result(grace("index", "info", built, "--json"))
    assert info["encoders"]["mini"]["counts"]["encoded"] == 30
    assert list(info["models"]) == ["tiny"]
    assert "st:mini" in grace("index", "info", built)[1]
    assert [one["model"] for one in result(grace("index", "verify", built, "--json"))["models"]] == ["tiny", "st:mini"]


@pytest.mark.parametrize("name", ["bm25", "st:mini", "tiny:text", "0.7*bm25+0.3*tiny", "rrf(bm25,st:mini)"])
def test_any_column_is_searched_and_explained(built, grace, name):
    hits = result(grace("search", built, QUERIES[0], "-m", name, "-k", 3, "--json"))
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    told = result(grace("explain", built, QUERIES[0], hits[1]["id"], "-m", name, "--json"))
    assert told["score"] == pytest.approx(hits[1]["score"], abs=1e-5)
    assert abs(told["residual"]) < 1e-5
    assert told["rank"] == 2
    text = grace("explain", built, QUERIES[0], hits[1]["id"], "-m", name)[1]
    assert f"score {told['score']:.6f}" in text


def test_hits_without_a_word_of_the_query_are_told(built, grace):
    assert (
        "note: 3 of these hits hold no word of the query" in grace("search", built, "zebra", "-m", "bm25", "-k", 3)[1]
    )
    assert "no word of the query" not in grace("search", built, QUERIES[0], "-m", "bm25", "-k", 1)[1]


@pytest.mark.parametrize("name", ["bm25", "tiny"])
def test_a_blank_query_is_told_the_same_by_every_column(built, grace, name):
    status, _, err = grace("search", built, " \t", "-m", name)
    assert (status, err.strip()) == (2, "error: the query is empty: give a few words")


def test_a_filter_and_what_ifs(built, grace):
    hits = result(grace("search", built, "river", "-m", "bm25", "--where", "kind = 'odd'", "--json"))
    assert {hit["id"][:3] for hit in hits} == {"odd"}
    options = ("--versus", "d07", "--leave-one-out", "--with-text", "river mountains", "--json")
    told = result(grace("explain", built, "river in the mountains", "d08", "-m", "bm25+st:mini", *options))
    assert told["totals"].keys() >= {"terms", "text", "template", "average document"}
    assert told["versus"]["sum"] == pytest.approx(told["versus"]["score"], abs=1e-9)
    assert told["what_if"]["rank"] < told["what_if"]["old_rank"]
    assert len(told["leave_one_out"]) >= 2
    fused = result(grace("explain", built, "river", "d08", "-m", "bm25+tiny", "--with-rationale-of", "d01", "--json"))
    assert fused["what_if"]["score"] != fused["what_if"]["old_score"]


def test_one_table_of_columns_with_differences(built, grace):
    names = ("bm25", "st:mini", "tiny", "bm25+st:mini")
    options = [part for name in names for part in ("-m", name)]
    told = result(grace("eval", "retrieval", built, *options, "--against", "bm25", "--json"))
    assert list(told) == ["bm25", "st:mini", "tiny:text", "tiny", "bm25+st:mini"]
    row = told["bm25+st:mini"]
    assert row["difference"]["against"] == "bm25"
    assert row["difference"]["ndcg@10"] == pytest.approx(row["ndcg@10"] - told["bm25"]["ndcg@10"], abs=2e-4)
    assert "difference" not in told["bm25"]
    alone = result(grace("eval", "retrieval", built, "-m", "tiny:text", "--bm25", "--json"))
    assert alone["bm25"]["ndcg@10"] == told["bm25"]["ndcg@10"]
    assert alone["tiny:text"] == {key: value for key, value in told["tiny:text"].items() if key != "difference"}
    narrow = result(grace("eval", "retrieval", built, "-m", "bm25", "--where", "year < 1915", "--json"))
    assert narrow["bm25"]["queries"] < told["bm25"]["queries"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("search", "WORLD", "river", "-m", "bm25", "--engine", "vllm"), "are for a model"),
        (("search", "WORLD", "river", "-m", "0*bm25+tiny"), "above 0"),
        (("search", "WORLD", " ", "-m", "bm25"), "query is empty"),
        (("search", "WORLD", "river", "-m", "st:nobody"), "no vectors of the encoder"),
        (("explain", "WORLD", "river", "d01", "-m", "bm25", "--against", "tiny"), "compares two models"),
        (("explain", "WORLD", "river", "d01", "-m", "bm25", "--with-rationale", "x"), "reads no rationale"),
        (("eval", "retrieval", "WORLD", "-m", "bm25", "--against", "tiny"), "one of the rows"),
        (("index", "build", "WORLD", "--out", "WORLD", "--model", "bm25"), "needs no index"),
        (
            ("index", "build", "WORLD", "--out", "WORLD", "--model", "st:/nowhere"),
            "no folder of a sentence-transformers model",
        ),
    ],
)
def test_what_cannot_be_is_told_in_a_line(built, grace, args, told):
    status, _, err = grace(*(built if arg == "WORLD" else arg for arg in args))
    assert status == 2
    assert told in err
    assert "Traceback" not in err
