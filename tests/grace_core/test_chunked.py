"""Collections of passages: built, opened, judged, searched and changed."""

from __future__ import annotations

import json

import pytest
from pdf_files import pdf
from reader_files import write

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.passages import RESERVED, Chunk
from grace_core.readers import Document, read_corpus, stream_corpus
from grace_core.readers.chunked import chunked, put_together, whole_corpus

BOOK = "# Rivers\n\nRivers flow to the sea. They carry silt.\n\n## Deltas\n\nDeltas grow slowly. Some sink again.\n"


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "docs" / "a.md", BOOK)
    write(tmp_path / "docs" / "b.pdf", pdf(["First page tells of bells.", None, "Third page tells of towers."]))
    write(tmp_path / "docs" / "c.txt", "")
    return tmp_path / "docs"


@pytest.mark.parametrize("read", [read_corpus, stream_corpus], ids=["read", "streamed"])
def test_passages_of_a_corpus(folder, read):
    corpus = chunked(read(folder), Chunk(9))
    assert [(one.id, one.title, one.metadata["_page"], one.metadata["_heading"]) for one in corpus.documents] == [
        ("a.md#1", "Rivers", None, None), ("a.md#2", "Rivers", None, "Deltas"),
        ("b.pdf#1", "b", 1, None), ("b.pdf#2", "b", 3, None), ("c.txt#1", "c", None, None),
    ]  # fmt: skip
    assert corpus.fields == list(RESERVED)
    assert corpus.chunk == Chunk(9)


@pytest.mark.parametrize("overlap", [0, 3])
def test_put_together_they_are_the_documents(folder, overlap):
    corpus = read_corpus(folder)
    passages = chunked(corpus, Chunk(5, overlap))
    assert len(passages.documents) > len(corpus.documents)
    assert whole_corpus(passages).documents == corpus.documents
    assert whole_corpus(passages).fields == corpus.fields
    assert chunked(passages, Chunk(9)).documents == chunked(corpus, Chunk(9)).documents


def test_a_collection_knows_how_it_is_split(folder, tmp_path):
    made = Collection.create(chunked(read_corpus(folder), Chunk(9, 2)), tmp_path / "x")
    assert made.chunk == Chunk(9, 2)
    assert made.types == {"_parent": "string", "_begin": "int64", "_end": "int64", "_page": "int64", "_heading": "string"}
    assert made.corpus.chunk == Chunk(9, 2)
    assert made.corpus.documents == chunked(read_corpus(folder), Chunk(9, 2)).documents
    assert made.passages == {"a.md": ["a.md#1", "a.md#2"], "b.pdf": ["b.pdf#1", "b.pdf#2"], "c.txt": ["c.txt#1"]}
    assert [made.whole(name) for name in ("a.md", "b.pdf#2", "c.txt")] == read_corpus(folder).documents
    assert made.mask("_page > 1").tolist() == [False, False, False, True, False]
    assert Collection.create(read_corpus(folder), tmp_path / "y").chunk is None


def test_metadata_goes_with_every_passage_and_clashing_names_are_told(tmp_path):
    row = {"id": "a", "text": "One two. Three four.", "year": 1999, "_page": "x", "tags": ["u", "v"]}
    path = write(tmp_path / "c.jsonl", json.dumps(row))
    corpus = chunked(read_corpus(path), Chunk(2))
    assert [one.metadata["year"] for one in corpus.documents] == [1999, 1999]
    assert corpus.fields == ["year", "source_page", "tags", *RESERVED]
    assert corpus.notes == [f"{path}: column '_page' is kept as metadata called 'source_page'"]
    made = Collection.create(corpus, tmp_path / "x")
    assert made.whole("a") == Document("a", "", "One two. Three four.", {"year": 1999, "source_page": "x", "tags": ["u", "v"]})


def test_the_longest_id_may_be_split(tmp_path):
    path = write(tmp_path / "c.jsonl", json.dumps({"id": "x" * 512, "text": "One. " * 1200}))
    made = Collection.create(chunked(read_corpus(path), Chunk(1)), tmp_path / "x")
    assert len(made.corpus.documents) == 1200
    assert made.whole("x" * 512).text == "One. " * 1200


def test_judgements_are_of_whole_documents(tmp_path):
    write(tmp_path / "in" / "corpus.jsonl", "\n".join(json.dumps({"_id": name, "text": f"{name} one. {name} two."}) for name in "ab"))
    write(tmp_path / "in" / "queries.jsonl", json.dumps({"_id": "q", "text": "one"}))
    write(tmp_path / "in" / "qrels.tsv", "query-id\tcorpus-id\tscore\nq\tb\t1\n")
    corpus = chunked(read_corpus(tmp_path / "in"), Chunk(2))
    made = Collection.create(corpus, tmp_path / "x")
    assert made.judgements.qrels == {"q": {"b": 1}}
    assert made.corpus.notes == []


def test_another_way_to_split_is_refused_and_none_takes_the_one_that_is_there(folder, tmp_path):
    out = tmp_path / "x"
    Collection.create(chunked(read_corpus(folder), Chunk(9)), out)
    with pytest.raises(GraceError) as caught:
        Collection.create(chunked(read_corpus(folder), Chunk(8)), out)
    assert "is of passages of at most 9 words, got passages of at most 8 words; leave out --chunk" in str(caught.value)
    again = read_corpus(folder)
    assert Collection.create(again, out).chunk == Chunk(9)
    assert again.notes[-1] == f"{out}: documents are split as those that are there: passages of at most 9 words"
    Collection.create(read_corpus(folder), tmp_path / "whole")
    with pytest.raises(GraceError, match="is of whole documents, got passages of at most 9 words"):
        Collection.create(chunked(read_corpus(folder), Chunk(9)), tmp_path / "whole")


def test_a_collection_of_passages_can_be_a_corpus(folder, tmp_path):
    Collection.create(chunked(read_corpus(folder), Chunk(9)), tmp_path / "x")
    again = stream_corpus(tmp_path / "x")
    assert again.chunk == Chunk(9)
    assert list(chunked(again, Chunk(4)).documents) == chunked(read_corpus(folder), Chunk(4)).documents
    assert Collection.create(again, tmp_path / "y").hash == Collection(tmp_path / "x").hash


def test_no_passage_means_no_document():
    corpus = [Document("a", "T", "", {}), Document("b", "", " \n", {})]
    from grace_core.readers import Corpus

    passages = chunked(Corpus(corpus, None, "x", []), Chunk(5)).documents
    assert [(one.id, one.text) for one in passages] == [("a#1", ""), ("b#1", " \n")]
    assert [put_together([one]) for one in passages] == corpus
