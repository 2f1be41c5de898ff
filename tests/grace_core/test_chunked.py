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
    assert [
        (passage.id, passage.title, passage.metadata["_page"], passage.metadata["_heading"])
        for passage in corpus.documents
    ] == [
        ("a.md#1", "Rivers", None, None),
        ("a.md#2", "Rivers", None, "Deltas"),
        ("b.pdf#1", "b", 1, None),
        ("b.pdf#2", "b", 3, None),
        ("c.txt#1", "c", None, None),
    ]
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
    collection = Collection.create(chunked(read_corpus(folder), Chunk(9, 2)), tmp_path / "x")
    assert collection.chunk == Chunk(9, 2)
    assert collection.types == {
        "_parent": "string",
        "_begin": "int64",
        "_end": "int64",
        "_page": "int64",
        "_heading": "string",
    }
    assert collection.corpus.chunk == Chunk(9, 2)
    assert collection.corpus.documents == chunked(read_corpus(folder), Chunk(9, 2)).documents
    assert collection.passages == {"a.md": ["a.md#1", "a.md#2"], "b.pdf": ["b.pdf#1", "b.pdf#2"], "c.txt": ["c.txt#1"]}
    assert [collection.whole(name) for name in ("a.md", "b.pdf#2", "c.txt")] == read_corpus(folder).documents
    assert collection.mask("_page > 1").tolist() == [False, False, False, True, False]
    assert Collection.create(read_corpus(folder), tmp_path / "y").chunk is None


def test_metadata_goes_with_every_passage_and_clashing_names_are_told(tmp_path):
    row = {"id": "a", "text": "One two. Three four.", "year": 1999, "_page": "x", "tags": ["u", "v"]}
    path = write(tmp_path / "c.jsonl", json.dumps(row))
    corpus = chunked(read_corpus(path), Chunk(2))
    assert [passage.metadata["year"] for passage in corpus.documents] == [1999, 1999]
    assert corpus.fields == ["year", "source_page", "tags", *RESERVED]
    assert corpus.notes == [f"{path}: column '_page' is kept as metadata called 'source_page'"]
    collection = Collection.create(corpus, tmp_path / "x")
    assert collection.whole("a") == Document(
        "a", "", "One two. Three four.", {"year": 1999, "source_page": "x", "tags": ["u", "v"]}
    )


def test_the_longest_id_may_be_split(tmp_path):
    path = write(tmp_path / "c.jsonl", json.dumps({"id": "x" * 512, "text": "One. " * 1200}))
    collection = Collection.create(chunked(read_corpus(path), Chunk(1)), tmp_path / "x")
    assert len(collection.corpus.documents) == 1200
    assert collection.whole("x" * 512).text == "One. " * 1200


def test_judgements_are_of_whole_documents(tmp_path):
    write(
        tmp_path / "in" / "corpus.jsonl",
        "\n".join(json.dumps({"_id": name, "text": f"{name} one. {name} two."}) for name in "ab"),
    )
    write(tmp_path / "in" / "queries.jsonl", json.dumps({"_id": "q", "text": "one"}))
    write(tmp_path / "in" / "qrels.tsv", "query-id\tcorpus-id\tscore\nq\tb\t1\n")
    corpus = chunked(read_corpus(tmp_path / "in"), Chunk(2))
    collection = Collection.create(corpus, tmp_path / "x")
    assert collection.judgements.qrels == {"q": {"b": 1}}
    assert collection.corpus.notes == []


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
    assert [(passage.id, passage.text) for passage in passages] == [("a#1", ""), ("b#1", " \n")]
    assert [put_together([passage]) for passage in passages] == corpus


# Searched


@pytest.fixture(scope="module")
def world(tiny_folder, sentences, tmp_path_factory):
    """Forty documents of one to five sentences, a sentence a passage, with judgements of documents, built by
    a tiny model.
    """
    from grace_core.index import build
    from grace_core.model import GraceModel

    root, place = tmp_path_factory.mktemp("world"), 0
    rows = []
    for number in range(40):
        count = 1 + number % 5
        rows.append(
            {
                "_id": f"d{number}",
                "title": "",
                "text": " ".join(sentences[place : place + count]),
                "kind": "ab"[number % 2],
            }
        )
        place += count
    write(root / "in" / "corpus.jsonl", "\n".join(map(json.dumps, rows)))
    queries = [{"_id": f"q{number}", "text": sentences[number * 7]} for number in range(10)]
    write(root / "in" / "queries.jsonl", "\n".join(map(json.dumps, queries)))
    write(
        root / "in" / "qrels.tsv",
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{number}\td{number * 3}\t1\n" for number in range(10)),
    )
    collection = Collection.create(chunked(read_corpus(root / "in"), Chunk(16)), root / "x")
    model = GraceModel.from_pretrained(tiny_folder, max_new_tokens=4)
    return build(collection, model), model


@pytest.mark.parametrize("where", [None, "kind = 'a'"])
@pytest.mark.parametrize("by", ["best", "sum"])
def test_hits_are_documents_by_their_passages(world, sentences, by, where):
    index, model = world
    vector = index.embed(model.represent([sentences[5]]))[0]
    scores, left = index.scores(vector), index.collection.mask(where) if where else [True] * len(index)
    own: dict[str, list[float]] = {}
    for document, score, counts in zip(index.document_ids, scores.tolist(), left, strict=True):
        if counts:
            own.setdefault(document, []).append(score)
    value = {document: max(all_) if by == "best" else sum(all_) for document, all_ in own.items()}
    expected = sorted(value, key=lambda document: -value[document])
    assert len(expected) == (20 if where else 40)
    hits = index.hits(vector, 12, where=where, by=by)
    assert [hit.document.metadata["_parent"] for hit in hits] == expected[:12]
    assert [hit.score for hit in hits] == pytest.approx([value[document] for document in expected[:12]], abs=1e-9)
    for hit in hits:
        assert hit.passages[0][0] == hit.document.id
        assert sorted(name for name, _ in hit.passages) == sorted(
            index.collection.passages[hit.document.metadata["_parent"]]
        )
        hit_json = hit.as_dict()
        assert hit_json["id"] == hit.document.metadata["_parent"]
        whole = index.collection.whole(hit_json["id"])
        assert whole.text[hit_json["passage"]["begin"] : hit_json["passage"]["end"]].strip() == hit_json["text"]
        assert hit_json["metadata"] == {"kind": whole.metadata["kind"]}
        json.dumps(hit_json)


def test_all_documents_are_found_and_no_more(world, sentences):
    index, model = world
    vector = index.embed(model.represent([sentences[5]]))[0]
    assert len(index.hits(vector, 100)) == 40
    assert [hit.document.id for hit in index.hits(vector, 3)] == [hit.document.id for hit in index.hits(vector, 40)][:3]
    assert index.hits(vector, 5, where="kind = 'c'") == []


def test_evaluations_are_of_documents(world):
    from grace_core.evaluation.retrieval import bm25, judged_queries, rankings_of, retrieve

    index, model = world
    queries = judged_queries(index.collection.judgements)
    rankings = retrieve(index, model, queries)
    for row in rankings.values():
        assert len(set(row.ranking)) == len(row.ranking) == 10
        assert set(row.ranking) <= set(index.collection.passages)
    vectors = index.embed(model.represent(list(queries.values())))
    by_hand = rankings_of(list(queries), vectors, index.document_ids, index.vectors())
    assert {name: tuple(ranking) for name, ranking in by_hand.items()} == {
        name: row.ranking for name, row in rankings.items()
    }
    assert all(len(set(ranking)) == 10 for ranking in bm25(index.collection.corpus, queries).values())


def test_columns_find_documents_too(world, sentences):
    from grace_core.columns.opened import Columns

    index, _ = world
    column = Columns(index.collection).open("bm25")
    hits = column.hits(sentences[5], 6)
    assert len({hit.document.metadata["_parent"] for hit in hits}) == 6
    scores = column.scores(sentences[5])
    documents = index.collection.documents_of(column.ids)
    best = {}
    for document, score in zip(documents, scores.tolist(), strict=True):
        best[document] = max(score, best.get(document, score))
    assert [hit.score for hit in hits] == sorted(best.values(), reverse=True)[:6]
    sums = column.hits(sentences[5], 3, by="sum")
    assert sums[0].score == pytest.approx(
        max(sum(scores[i] for i, parent in enumerate(documents) if parent == name) for name in best)
    )


def test_adding_a_document_with_fewer_passages_leaves_none_of_the_old_ones(folder, tmp_path):
    from grace_core.living import update

    out = tmp_path / "x"
    Collection.create(chunked(read_corpus(folder), Chunk(9)), out)
    write(folder / "a.md", "# Rivers\n\nShort now.\n")
    write(folder / "d.md", "# New\n\nOne more.\n")
    (folder / "b.pdf").unlink()
    with update(out, read_corpus(folder), add=True) as new:
        staged = new.collection
        assert staged.passages == {
            "a.md": ["a.md#1"],
            "b.pdf": ["b.pdf#1", "b.pdf#2"],
            "c.txt": ["c.txt#1"],
            "d.md": ["d.md#1"],
        }
        assert staged.whole("a.md").text == "\nShort now.\n"
        assert staged.chunk == Chunk(9)


@pytest.mark.slow
def test_a_thousand_markdown_files_with_a_model_that_ships(python, sentences, tmp_path, root):
    """From the folder to the hit, with the command; the last file's second section is asked for."""
    for number in range(1000):
        first, second = sentences[number % 300], sentences[(number * 7 + 1) % 300]
        write(
            tmp_path / "docs" / f"{number:04}.md",
            f"# Note {number}\n\n{first}\n\n## Part {number}\n\n{second} Zebra {number}.\n",
        )
    build = (
        "-m",
        "grace_cli",
        "index",
        "build",
        tmp_path / "docs",
        "--out",
        tmp_path / "x",
        "--model",
        "demo-base",
        "--no-rationale",
    )
    run = python(*build, "--chunk", 12, "--json")
    assert run.returncode == 0, run.stderr[-2000:]
    report = json.loads(run.stdout)
    assert report["passages"]["documents"] == 1000
    assert report["passages"]["number"] == report["models"]["demo-base"]["encoded"] >= 2000
    run = python("-m", "grace_cli", "search", tmp_path / "x", "zebra 999", "--model", "bm25", "-k", 5, "--json")
    hits = json.loads(run.stdout)
    assert (hits[0]["id"], hits[0]["passage"]["heading"]) == ("0999.md", "Part 999")
    assert len({hit["id"] for hit in hits}) == 5
