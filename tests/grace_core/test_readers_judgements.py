"""Queries and judgements, in the forms that are met: BEIR's, TREC's, and what people make of them."""

from __future__ import annotations

import gzip

import pytest
from reader_files import HEADER, beir, fails, jsonl, write

from grace_core import readers
from grace_core.readers import read_corpus


def test_beir_folder(tmp_path):
    corpus = read_corpus(beir(tmp_path, {"qrels.tsv": HEADER + "q1\td1\t1\n\nq1\td3\t0\r\nq2\td2\t2\nq2\tgone\t1\n"}))
    assert [d.id for d in corpus.documents] == ["d1", "d2", "d3"]
    assert corpus.fields == []
    assert corpus.judgements.queries == {"q1": "one", "q2": "two"}
    assert corpus.judgements.qrels == {"q1": {"d1": 1, "d3": 0}, "q2": {"d2": 2, "gone": 1}}
    assert corpus.judgements.splits == {"q1": "dev"}


def test_qrels_by_split(tmp_path):
    files = {"qrels/train.tsv": HEADER + "q1\td1\t1\n", "qrels/test.tsv": HEADER + "q2\td2\t1\n"}
    judgements = read_corpus(beir(tmp_path, files)).judgements
    assert judgements.qrels == {"q1": {"d1": 1}, "q2": {"d2": 1}}
    assert judgements.splits == {"q1": "dev", "q2": "test"}


def test_queries_without_judgements(tmp_path):
    for limit in (None, 1):
        judgements = read_corpus(beir(tmp_path, {}), limit=limit).judgements
        assert (list(judgements.queries), judgements.qrels) == (["q1", "q2"], {})


def test_folder_without_queries(tmp_path):
    beir(tmp_path, {"qrels.tsv": HEADER + "q1\td1\t1\n"})
    (tmp_path / "queries.jsonl").unlink()
    corpus = read_corpus(tmp_path)
    assert corpus.judgements is None
    assert has_note(corpus, "qrels.tsv: the judgements are left out, since there is no queries.jsonl")
    write(tmp_path / "queries.tsv", "q1\tone\n")
    assert has_note(read_corpus(tmp_path), "queries.tsv is not read")
    (tmp_path / "qrels.tsv").unlink()
    assert read_corpus(tmp_path).judgements is None


def test_limit_cuts_judgements(tmp_path):
    files = {"qrels/test.tsv": HEADER + "q1\td1\t1\nq1\td3\t1\nq2\td3\t1\n"}
    judgements = read_corpus(beir(tmp_path, files), limit=2).judgements
    assert judgements == readers.Judgements({"q1": "one"}, {"q1": {"d1": 1}}, {"q1": "dev"})


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("q1\td1", "query-id, corpus-id and score"),
        ("q1 0 d1 1", "query-id, corpus-id and score"),
        ("q1\td1\t1\tx", "query-id, corpus-id and score"),
        ("q1\t\t1", "query-id, corpus-id and score"),
        ("q1\td1\tgood", "expected a number"),
        ("q1\td1\tnan", "expected a number"),
        ("q1\td1\t" + "9" * 5000, "expected a number"),
    ],
)
def test_malformed_qrels(tmp_path, line, part):
    fails(beir(tmp_path, {"qrels.tsv": HEADER + "q1\td1\t1\n" + line + "\n"}), "qrels.tsv, line 3", part)


def test_qrels_other_errors(tmp_path):
    fails(beir(tmp_path, {"qrels.tsv": HEADER + "q1\td1\t1\nq1\td1\t2\n"}), "line 3", "'q1'", "'d1'", "two scores")
    fails(beir(tmp_path, {"qrels.tsv": HEADER.encode() + b"q1\t\xff\t1\n"}), "qrels.tsv, line 2", "UTF-8")
    fails(
        beir(tmp_path, {"qrels.tsv": "q1 Q0 d1 1 0.5 run\n"}),
        "qrels.tsv, line 1",
        "6 fields, as the run of a search has",
    )


def test_malformed_queries(tmp_path):
    assert read_corpus(beir(tmp_path, {}, [{"_id": "q1", "text": "x"}] * 2)).judgements.queries == {"q1": "x"}
    fails(beir(tmp_path, {}, [{"_id": "q1", "text": ["x"]}]), "queries.jsonl, line 1", "list")


def test_queries_without_a_text_are_left_out_and_told(tmp_path):
    queries = [{"_id": "q1", "text": " "}, {"_id": "q2", "text": "x"}]
    corpus = read_corpus(beir(tmp_path, {"qrels.tsv": HEADER + "q1\td1\t1\nq2\td1\t1\n"}, queries))
    assert corpus.judgements.queries == {"q2": "x"}
    assert has_note(corpus, "queries without a text are left out: 1 query, in 'q1'")
    assert has_note(corpus, "judgements of queries that queries.jsonl lacks are left out: 1 judgement")
    corpus = read_corpus(beir(tmp_path, {}, []))
    assert corpus.judgements is None
    assert has_note(corpus, "queries.jsonl has no query")


def test_an_id_of_two_different_queries_is_left_out_and_told(tmp_path):
    folder = beir(tmp_path, {"qrels.tsv": HEADER + "q1\td1\t1\nq2\td2\t1\n"})
    rows = [("q1", "one"), ("q1", "another"), ("q2", "two"), ("q2", "two")]
    jsonl(folder / "queries.jsonl", *[{"_id": name, "text": text} for name, text in rows])
    corpus = read_corpus(folder)
    assert corpus.judgements.queries == {"q2": "two"}
    assert corpus.judgements.qrels == {"q2": {"d2": 1}}
    assert any("two different queries" in note and "'q1'" in note for note in corpus.notes)


def test_other_columns_of_queries_are_told(tmp_path):
    corpus = read_corpus(
        beir(tmp_path, {}, [{"_id": "q1", "text": "x", "metadata": {}, "topic": "rivers", "facets": ["a"]}])
    )
    left_out = "columns 'topic', 'facets' of the queries are left out: only id, text and split are kept"
    assert corpus.notes == [f"{tmp_path}/queries.jsonl: {left_out}"]


# Forms of judgements

QUERIES = [{"_id": "q1", "text": "one"}, {"_id": "q2", "text": "two"}]
WANTED = {"q1": {"d1": 1}, "q2": {"d2": 2, "d3": 0}}


def has_note(corpus: readers.Corpus, part: str) -> bool:
    return any(part in note for note in corpus.notes)


@pytest.mark.parametrize(
    "content",
    [
        HEADER + "q1\td1\t1\nq2\td2\t2\nq2\td3\t0\n",
        "q1\td1\t1\nq2\td2\t2\nq2\td3\t0",
        "q1\td1\t1\t\nq2\td2\t2\t\nq2\td3\t0\t\n",
        HEADER.replace("\n", "\t\r\n") + "q1\td1\t1\t\r\nq2\td2\t2\t\r\n\r\nq2\td3\t0\t\r\n",
        HEADER.replace("\n", "\r") + "q1\td1\t1\rq2\td2\t2\rq2\td3\t0\r",
        "q1 0 d1 1\nq2 0 d2 2\nq2 Q0 d3 0\n",
        "q1\t0\td1\t1\nq2\t0\td2\t2\nq2\t0\td3\t0\n",
        "q1  0   d1 1\n q2  0   d2 2\nq2 0 d3 0 \n",
        "query_id iteration doc_id relevance\nq1 0 d1 1\nq2 0 d2 2\nq2 0 d3 0\n",
        "q1 d1 1\nq2 d2 2\nq2 d3 0\n",
        HEADER + "q1 d1 1\nq2 d2 2\nq2 d3 0\n",
        "query-id,corpus-id,score\nq1,d1,1\nq2,d2,2\nq2,d3,0\n",
        "corpus-id\tquery-id\tscore\nd1\tq1\t1\nd2\tq2\t2\nd3\tq2\t0\n",
        HEADER + "q1\td1\t1.0\nq2\td2\t2e0\nq2\td3\t0.0\n",
        "\ufeff" + HEADER + "q1\td1\t1\nq1\td1\t1\nq2\td2\t2\nq2\td3\t0\n",
    ],
)
@pytest.mark.parametrize("name", ["qrels.tsv", "qrels/test.tsv"])
def test_judgements_in_many_forms(tmp_path, content, name):
    corpus = read_corpus(beir(tmp_path, {name: content}, QUERIES))
    assert corpus.judgements.qrels == WANTED
    assert corpus.notes == []


def test_grades_that_are_no_whole_numbers_and_negative_ones(tmp_path):
    qrels = read_corpus(
        beir(tmp_path, {"qrels.tsv": HEADER + "q1\td1\t0.5\nq1\td2\t-1\nq2\td2\t1.0\n"})
    ).judgements.qrels
    assert qrels == {"q1": {"d1": 0.5, "d2": -1}, "q2": {"d2": 1}}
    assert type(qrels["q2"]["d2"]) is int


@pytest.mark.parametrize("name", ["validation.tsv", "holdout.tsv", "dev.txt", "test.qrels", "odd"])
def test_every_file_of_qrels_is_a_split(tmp_path, name):
    judgements = read_corpus(beir(tmp_path, {f"qrels/{name}": HEADER + "q1\td1\t1\nq2\td2\t1\n"})).judgements
    assert judgements.splits == {"q1": "dev", "q2": name.split(".")[0]}


def test_packed_folders(tmp_path):
    beir(tmp_path, {})
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
    write(tmp_path / "qrels" / "test.tsv.gz", gzip.compress(HEADER.encode() + b"q2\td1\t1\n"))
    corpus = read_corpus(tmp_path)
    assert len(corpus.documents) == 3
    assert corpus.judgements == readers.Judgements(
        {"q1": "one", "q2": "two"}, {"q2": {"d1": 1}}, {"q1": "dev", "q2": "test"}
    )


def test_what_does_not_fit_together_is_counted_and_told(tmp_path):
    content = HEADER + "q1\td1\t1\nq9\td1\t1\nq8\td2\t1\nq1\tgone\t1\n"
    corpus = read_corpus(beir(tmp_path, {"qrels/test.tsv": content}, QUERIES))
    assert corpus.judgements.qrels == {"q1": {"d1": 1, "gone": 1}}
    path = tmp_path / "qrels" / "test.tsv"
    assert corpus.notes == [
        f"{path}: 1 judgement of documents that the corpus lacks (the first 'gone'): where relevant, they count as not found",
        f"{path}: 1 query without a relevant document (the first 'q2'): kept, and left out of evaluations",
        f"{path}: judgements of queries that queries.jsonl lacks are left out: 2 judgements, the first in line 3",
    ]


def test_judgements_of_no_document_at_all_do_not_stop_a_build(tmp_path):
    corpus = read_corpus(beir(tmp_path, {"qrels.tsv": HEADER + "q1\tx1\t1\n"}))
    assert corpus.judgements.qrels == {"q1": {"x1": 1}}
    assert has_note(corpus, "qrels.tsv: none of the 1 judgements is of a document of the corpus: use the ids")


def test_judgements_of_empty_documents_are_told(tmp_path):
    beir(tmp_path, {"qrels.tsv": HEADER + "q1\te\t1\nq2\td\t1\n"})
    jsonl(tmp_path / "corpus.jsonl", {"_id": "d", "text": "x"}, {"_id": "e", "text": " "})
    assert has_note(read_corpus(tmp_path), "1 judgement of documents without a text (the first 'e')")


def test_files_that_are_not_read_are_told(tmp_path):
    beir(tmp_path, {"qrels.tsv": HEADER + "q1\td1\t1\n", "qrels/test.tsv": HEADER + "q2\td2\t1\n"})
    assert has_note(read_corpus(tmp_path), "qrels is not read, since there is qrels.tsv")
    (tmp_path / "qrels.tsv").unlink()
    write(tmp_path / "qrels" / "train.parquet", b"PAR1")
    corpus = read_corpus(tmp_path)
    assert corpus.judgements.qrels == {"q2": {"d2": 1}}
    assert has_note(corpus, "qrels: train.parquet not read")
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress((tmp_path / "corpus.jsonl").read_bytes()))
    assert has_note(read_corpus(tmp_path), "corpus.jsonl is read, and corpus.jsonl.gz is not")


def test_a_query_of_two_splits_stays_in_the_first(tmp_path):
    files = {"qrels/test.tsv": HEADER + "q2\td1\t1\n", "qrels/train.tsv": HEADER + "q2\td2\t1\nq2\td3\t1\n"}
    corpus = read_corpus(beir(tmp_path, files, QUERIES))
    assert corpus.judgements.splits["q2"] == "test"
    assert has_note(
        corpus, "train.tsv: queries that are judged here and belong to another split stay in that: 1 query, in line 2"
    )


def test_a_limit_tells_what_it_leaves_out(tmp_path):
    corpus = read_corpus(beir(tmp_path, {"qrels.tsv": HEADER + "q1\td1\t1\nq2\td3\t1\n"}), limit=1)
    assert has_note(corpus, "limit: 1 query without a judged document among those that are kept left out")
