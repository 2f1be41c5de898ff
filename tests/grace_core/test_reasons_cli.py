"""``grace reasons``: what it prints, and what it refuses."""

from __future__ import annotations

import json

import pytest
from reasons_world import KINDS, build_given, kinds_of, numbered_texts

from grace_core.model import GraceModel
from grace_core.readers import Judgements

NUMBER = 24


@pytest.fixture(scope="module")
def collection(tiny_folder, other_folder, sentences, tmp_path_factory):
    """A judged collection with the indexes of two models, tiny and other."""
    from grace_core.index import build

    folder, texts = tmp_path_factory.mktemp("cli") / "c", numbered_texts(sentences, NUMBER)
    queries = {f"q{i}": " ".join(texts[i].split()[:4]) for i in range(12)}
    judgements = Judgements(queries, {f"q{i}": {f"d{i}": 1} for i in range(12)}, dict.fromkeys(queries, "test"))
    rationales = [f"{KINDS[kind]} {sentences[11 * i % 300]}" for i, kind in enumerate(kinds_of(NUMBER))]
    index = build_given(
        folder, GraceModel.from_pretrained(tiny_folder, device="cpu"), texts, rationales, judgements=judgements
    )
    build(index.collection, GraceModel.from_pretrained(other_folder, device="cpu"), name="other")
    return folder


def test_reasons_a_query_steered_and_both_measures_as_json(grace, collection):
    status, out, err = grace(
        "reasons",
        collection,
        "-m",
        "tiny",
        "--query",
        "the river",
        "-k",
        5,
        "--steer",
        "0=0.5",
        "--faithfulness",
        "--against",
        "other",
        "--json",
    )
    assert status == 0, err
    found = json.loads(out)
    assert len(found["reasons"]) == found["size"]
    assert sum(one["share"] for one in found["reasons"]) + sum(found["other_shares"].values()) == pytest.approx(
        1, abs=1e-6
    )
    assert found["residual"] <= 1e-5
    assert found["query"]["max_residual"] <= 1e-5
    assert len(found["query"]["hits"]) == 5
    for hit in found["query"]["hits"]:
        assert sum(one["contribution"] for one in hit["reasons"]) + sum(hit["others"].values()) == pytest.approx(
            hit["score"], abs=1e-5
        )
        assert hit["steering"]["query"] + sum(hit["steering"]["reasons"]) == pytest.approx(hit["score"], abs=1e-5)
    assert found["against"]["queries"] == 12
    assert found["faithfulness"]["queries"] == 12


def test_reasons_as_text(grace, collection):
    status, out, _ = grace("reasons", collection, "-m", "tiny", "--query", "the river")
    assert status == 0
    assert "reasons in" in out
    assert "adjusted Rand index" in out
    assert "moved most by" in out
    assert "largest residual" in out


def test_a_models_text_alone_as_json_and_as_text(grace, collection):
    options = ("reasons", collection, "-m", "tiny", "--against", "tiny:text", "--queries", 5)
    status, out, err = grace(*options, "--json")
    assert status == 0, err
    found = json.loads(out)["against"]
    assert (found["model"], found["against"], found["queries"]) == ("tiny", "tiny:text", 5)
    assert found["ndcg@10"].keys() == {"text", "own"}
    status, out, err = grace(*options)
    assert status == 0, err
    assert "tiny against tiny:text over 5 queries; nDCG@10: text" in out
    assert "what moves can only move by words" in out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--size", 7], "sizes are"),
        (["--steer", "0=1"], "give it with --query"),
        (["--query", "x", "--steer", "0"], "expected a reason's number and a strength"),
        (["--query", "x", "--steer", "0=9"], "from -4 to 4"),
        (["--query", "x", "--steer", "400=1"], "there is no reason"),
        (["--faithfulness", "--split", "dev"], "no split 'dev'"),
        (["--against", "gone"], "no index of model 'gone'"),
        (["--against", "other:text"], "with its own text alone, tiny:text"),
    ],
    ids=["size", "no query", "no strength", "too strong", "no reason", "no split", "no model", "other's text"],
)
def test_what_does_not_fit_is_told_in_one_line(grace, collection, options, told):
    status, out, err = grace("reasons", collection, "-m", "tiny", *options)
    assert status == 2
    assert told in err.splitlines()[-1]
    assert not out
