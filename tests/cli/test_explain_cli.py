"""``grace explain``, ``grace eval faithfulness`` and ``grace bench explain``."""

from __future__ import annotations

import json
import shutil

import pytest

from grace_core.collection import Collection
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.readers import read_corpus

QUERY = "snow on the roads"


@pytest.fixture(scope="module")
def collection(sentences, tiny_folder, other_folder, tmp_path_factory):
    """Twelve documents, four judged queries, and an index each of two models that write short rationales."""
    folder = tmp_path_factory.mktemp("explained-cli")
    (folder / "beir" / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{i}", "title": f"Number {i}", "text": sentences[i]} for i in range(12)]
    (folder / "beir" / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    queries = [{"_id": f"q{i}", "text": sentences[i], "split": "test" if i < 3 else "dev"} for i in range(4)]
    (folder / "beir" / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    for split, numbers in (("test", (0, 1, 2)), ("dev", (3,))):
        lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in numbers)]
        (folder / "beir" / "qrels" / f"{split}.tsv").write_text("\n".join(lines))
    made = Collection.create(read_corpus(folder / "beir"), folder / "x")
    for name, source in (("first", tiny_folder), ("second", other_folder)):
        shutil.copytree(source, folder / name)
        GraceModel.from_pretrained(source, max_new_tokens=12).save_pretrained(folder / name)
        build(made, GraceModel.from_pretrained(folder / name))
    return made.folder


def asked(grace, collection, *options) -> dict:
    status, out, err = grace("explain", collection, QUERY, "d3", "--model", "first", *options, "--json")
    assert status == 0, err
    return json.loads(out)


def test_an_explanation_adds_up_to_the_score_of_the_search(grace, collection):
    status, out, err = grace("search", collection, QUERY, "--model", "first", "-k", 12, "--json")
    assert status == 0, err
    hit = next(hit for hit in json.loads(out) if hit["id"] == "d3")
    found = asked(grace, collection, "--tokens")
    assert found.keys() >= {"score", "sum", "residual", "blocks", "sentences", "above_corpus", "tokens", "query_tokens"}
    assert found["score"] == pytest.approx(hit["score"], abs=1e-6)
    assert found["rank"] == hit["rank"]
    assert abs(found["residual"]) < 1e-5
    for parts in (
        found["blocks"].values(),
        *([row["contribution"] for row in found[name]] for name in ("sentences", "tokens")),
    ):
        assert sum(parts) == pytest.approx(found["score"], abs=1e-5)
    assert found["above_corpus"]["sum"] == pytest.approx(found["above_corpus"]["score"], abs=1e-5)


def test_the_score_of_the_texts_alone(grace, collection):
    status, out, _ = grace("search", collection, QUERY, "--model", "first", "-k", 12, "--no-rationale", "--json")
    assert status == 0
    hit = next(hit for hit in json.loads(out) if hit["id"] == "d3")
    found = asked(grace, collection, "--text-only")
    assert found["score"] == pytest.approx(hit["score"], abs=1e-6)
    assert list(found["blocks"]) == ["text × text"]


def test_against_another_document_and_another_model(grace, collection):
    found = asked(grace, collection, "--versus", "d4", "--against", "second")
    status, out, _ = grace("explain", collection, QUERY, "d4", "--model", "first", "--json")
    other_document = json.loads(out)
    status, out, _ = grace("explain", collection, QUERY, "d3", "--model", "second", "--json")
    other_model = json.loads(out)
    assert status == 0
    for name, other in (("versus", other_document), ("against", other_model)):
        assert found[name]["score"] == pytest.approx(found["score"] - other["score"], abs=1e-6)
        assert abs(found[name]["residual"]) < 1e-5
        assert sum(found[name]["blocks"].values()) == pytest.approx(found[name]["score"], abs=1e-5)
    assert found["versus"]["query_sentences"]
    assert (found["versus"]["id"], found["against"]["model"]) == ("d4", "second")


def test_what_ifs(grace, collection):
    found = asked(
        grace, collection, "--with-rationale", "", "--with-text", "Snow lies deep on roads.", "--leave-one-out"
    )
    assert found["what_if"]["old_score"] == pytest.approx(found["score"], abs=1e-6)
    assert found["what_if"]["score"] != pytest.approx(found["score"], abs=1e-4)
    sentences = [(row["part"], row["text"]) for row in found["above_corpus"]["sentences"] if row["part"] != "template"]
    assert [(row["part"], row["text"]) for row in found["leave_one_out"]] == sentences
    for row in found["leave_one_out"]:
        assert row["effect"] == pytest.approx(found["score"] - row["score"])
    own = asked(grace, collection, "--with-rationale-of", "d3")["what_if"]
    assert (own["score"], own["rank"]) == (own["old_score"], own["old_rank"])
    borrowed = asked(grace, collection, "--with-rationale-of", "d7")["what_if"]
    index = GraceIndex(collection, "first")
    assert borrowed["rationale"] == index.rationales[index.row["d7"]]


def test_readable_text(grace, collection):
    status, out, _ = grace(
        "explain",
        collection,
        QUERY,
        "d3",
        "-m",
        "first",
        "--versus",
        "d4",
        "--with-rationale",
        "",
        "--leave-one-out",
        "--tokens",
    )
    assert status == 0
    for words in (
        "residual",
        "rationale × rationale",
        "d3 above d4",
        "what if (encoded again)",
        "relative to the mean of the corpus",
    ):
        assert words in out


def refusal(result: tuple[int, str, str]) -> str:
    status, out, err = result
    assert (status, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("d99",), "no document 'd99'"),
        (("d3", "--versus", "d99"), "no document 'd99'"),
        (("d3", "--with-rationale-of", "d99"), "no document 'd99'"),
        (("d3", "--against", "third"), "no index of model 'third'"),
        (("d3", "--with-text", " "), "edited text is empty"),
        (("d3", "--with-rationale", "river " * 10_000), "shorten it"),
        (("d3", "--with-rationale", "a", "--with-rationale-of", "d4"), "give one of them"),
    ],
)
def test_what_cannot_be_explained_is_told_in_one_line(grace, collection, options, told):
    assert told in refusal(grace("explain", collection, QUERY, *options, "--model", "first", "--json"))


def test_faithfulness_of_two_models(grace, collection):
    options = ("--model", "first", "--model", "second", "--split", "test", "--queries", 2)
    status, out, err = grace("eval", "faithfulness", collection, *options, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert set(found) == {"first", "second"}
    for row in found.values():
        assert row["queries"] == 2
        assert row["max_residual"] <= 1e-5
        assert set(row["ndcg@10"]) == {"own", "swapped", "empty", "shuffled", "words"}
        assert row.keys() >= {"swap_cosine", "deletion_gap", "insertion_gap", "agreement", "ci95", "roles"}
    assert "swapped and shuffled" in err
    status, out, _ = grace("eval", "faithfulness", collection, "-m", "first", "--split", "dev")
    assert status == 0
    assert "nDCG@10 swapped" in out
    assert "nDCG@10 words" in out
    assert ", lost " in out
    assert "no split 'validation'" in refusal(
        grace("eval", "faithfulness", collection, "-m", "first", "--split", "validation")
    )


def test_the_cost_of_why(grace, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    GraceModel.from_pretrained(tiny_folder, max_new_tokens=6).save_pretrained(tmp_path / "tiny")
    status, out, err = grace("bench", "explain", "--model", tmp_path / "tiny", "--hits", 3, "--runs", 1, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["ratios"].keys() == {"vs_encoding", "vs_text_only"}
    assert all(value > 0 for value in found["ratios"].values())
    assert (found["hits"], found["runs"]) == (3, 1)
