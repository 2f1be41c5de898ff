"""Corpora larger than memory: documents that are read again instead of kept, with the same outcome."""

from __future__ import annotations

import json
import tracemalloc

import pyarrow.parquet as pq
import pytest

import grace_core.corpus_table
from grace_benchmarks.search import SyntheticModel
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.index import build
from grace_core.readers import read_corpus, stream_corpus

ROWS = [
    {"_id": "a", "title": "One", "text": "first", "year": 1990, "weight": 1, "mixed": 1, "nothing": None},
    {"_id": "b", "text": "", "year": 2**60, "weight": 0.5, "mixed": "two", "ok": True},
    {"_id": "c", "text": "third\nline", "weight": 2, "mixed": 2.5},
    {"_id": "d", "text": "fourth", "year": None, "mixed": False, "ok": False},
    {"_id": "e", "text": "fifth"},
]


@pytest.fixture
def beir(tmp_path):
    """A folder with five documents, a query and two judgements."""
    folder = tmp_path / "beir"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "which"}))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\nq\te\t1\n")
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(grace_core.corpus_table, "BLOCK", 2)


@pytest.mark.parametrize("limit", [None, 3])
def test_a_stream_gives_the_documents_and_judgements_that_reading_gives(beir, limit):
    kept, streamed = read_corpus(beir, limit=limit), stream_corpus(beir, limit=limit)
    for _ in range(2):
        assert list(streamed.documents) == kept.documents
    assert (streamed.judgements, streamed.fields, streamed.source) == (kept.judgements, kept.fields, kept.source)


def test_a_collection_is_the_same_file_from_either(beir, tmp_path):
    kept = Collection.create(read_corpus(beir), tmp_path / "kept")
    streamed = Collection.create(stream_corpus(beir), tmp_path / "streamed")
    assert streamed.hash == kept.hash
    assert streamed.size == 5
    assert (
        list(streamed.contents())
        == [document.content for document in kept.corpus.documents]
        == [
            "One\nfirst",
            "",
            "third\nline",
            "fourth",
            "fifth",
        ]
    )
    assert Collection.create(stream_corpus(beir), tmp_path / "kept").hash == kept.hash


def test_columns_keep_their_type_and_mixed_ones_become_text(beir, tmp_path):
    collection = Collection.create(stream_corpus(beir), tmp_path / "c")
    table = pq.read_table(collection.folder / "corpus.parquet")
    assert {name: str(table.schema.field(name).type) for name in table.column_names[3:]} == {
        "year": "int64",
        "weight": "double",
        "mixed": "string",
        "nothing": "null",
        "ok": "bool",
    }
    assert table["mixed"].to_pylist() == ["1", "two", "2.5", "False", None]
    assert table["year"].to_pylist() == [1990, 2**60, None, None, None]


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[4].update(text="other"),
        lambda rows: rows.pop(),
        lambda rows: rows.append({"_id": "f", "text": "x"}),
        lambda rows: rows[0].update(year=1991),
        lambda rows: rows[0].update(place="north"),
    ],
    ids=["text", "shorter", "longer", "value", "column"],
)
def test_another_corpus_is_told_from_the_same(beir, tmp_path, change):
    Collection.create(stream_corpus(beir), tmp_path / "c")
    rows = [dict(row) for row in ROWS]
    change(rows)
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(GraceError, match=f"already holds another corpus \\(5 documents, got {len(rows)}\\)"):
        Collection.create(stream_corpus(tmp_path / "other.jsonl"), tmp_path / "c")


def test_what_is_wrong_is_told_before_anything_is_written(beir, grace, tmp_path):
    with open(beir / "corpus.jsonl", "a") as file:
        file.write('\n{"_id": "a", "text": "again"}\n')
    with pytest.raises(GraceError, match="the id 'a' is already that of line 1"):
        stream_corpus(beir)
    status, _, err = grace("index", "build", beir, "--out", tmp_path / "c", "--model", "demo-base")
    assert (status, (tmp_path / "c").exists()) == (2, False)
    assert "the id 'a' is already that of line 1" in err
    with pytest.raises(GraceError, match="limit is 0, expected at least 1"):
        stream_corpus(beir, limit=0)


def test_a_damaged_corpus_is_told(beir, tmp_path):
    collection = Collection.create(stream_corpus(beir), tmp_path / "c")
    path = collection.folder / "corpus.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(GraceError, match=r"corpus.parquet cannot be read .*restore it"):
        list(collection.contents())


def peak_of(count: int, tmp_path) -> int:
    """Bytes that Python and NumPy hold at most while a corpus of so many long documents becomes an index."""
    path = tmp_path / f"{count}.jsonl"
    path.write_text(
        "".join(
            json.dumps({"_id": str(number), "text": f"{number} " + "word " * 200}) + "\n" for number in range(count)
        )
    )
    model = SyntheticModel(4)
    tracemalloc.start()
    try:
        collection = Collection.create(stream_corpus(path), tmp_path / f"c{count}")
        build(collection, model, rationale=False, encode=model.encode)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(grace_core.corpus_table, "BLOCK", 256)
    monkeypatch.setattr("grace_core.shards.BLOCK", 256)
    peak_of(300, tmp_path)  # what is imported or made once
    few, many = peak_of(1000, tmp_path), peak_of(5000, tmp_path)
    assert (many - few) / 4000 < 350  # bytes a document, its text being 1,000: the ids, which are checked to be unique
