"""A collection takes in a changed corpus: only new texts are encoded, the outcome is that of a new build, and
nothing is half done.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from columns_world import save_encoder
from hypothesis import given, settings
from hypothesis import strategies as st

import grace_core.index
from grace_core.build import BuildStopped
from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.columns import encoded
from grace_core.columns.encoded import EncodedIndex
from grace_core.columns.encoder import Encoder
from grace_core.columns.opened import Columns
from grace_core.errors import GraceError
from grace_core.files import only_writer
from grace_core.index import GraceIndex, build
from grace_core.living import update
from grace_core.model import GraceModel
from grace_core.passages import Chunk
from grace_core.pooling import Pooling
from grace_core.projection import load_map, map_collection, outdated
from grace_core.readers import Corpus, Document, Judgements, read_corpus
from grace_core.readers.chunked import chunked
from grace_core.switching import NEXT

JUDGED = Judgements({"q1": "river", "q2": "snow"}, {"q1": {"d0": 2, "d3": 1}, "q2": {"d4": 1}}, {"q1": "test"})


def corpus_of(documents: list[Document], judgements: Judgements | None = JUDGED) -> Corpus:
    fields = list(dict.fromkeys(name for document in documents for name in document.metadata))
    return Corpus(documents, judgements, "made here", fields)


@pytest.fixture(scope="module")
def first(sentences) -> list[Document]:
    """Forty documents, of which d2 is empty and d7 has the text of d6."""
    texts = [" ".join(sentences[i : i + 1 + i % 3]) for i in range(40)]
    texts[2], texts[7] = "", texts[6]
    return [Document(f"d{i}", "A title" if i % 3 == 1 else "", text, {"number": i}) for i, text in enumerate(texts)]


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """Shards of 8 documents, so that there are several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grace_core.index, "SHARD", 8)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return RepresentationCache(tmp_path_factory.mktemp("cache") / "cache.sqlite")


@pytest.fixture(scope="module")
def model(tiny_folder, cache):
    return GraceModel.from_pretrained(tiny_folder, dtype="float32", device="cpu", max_new_tokens=4, cache=cache)


@pytest.fixture(scope="module")
def other(other_folder, cache):
    return GraceModel.from_pretrained(other_folder, dtype="float32", device="cpu", max_new_tokens=4, cache=cache)


@pytest.fixture(scope="module")
def built(first, model, other, tmp_path_factory) -> Path:
    """A collection with calibrated indexes of two models, to be left as it is."""
    collection = Collection.create(corpus_of(first), tmp_path_factory.mktemp("built") / "c")
    build(collection, model, geometry="calibrated")
    build(collection, other, geometry="calibrated", name="other")
    return collection.folder


@pytest.fixture
def folder(built, tmp_path) -> Path:
    return shutil.copytree(built, tmp_path / "c")


def content(index: GraceIndex) -> dict:
    """All files of an index but the lock; in the manifest, what the clock and the way decide is left out."""
    paths = [path for path in sorted(index.folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    files = {path.name: path.read_bytes() for path in paths}
    manifest = json.loads(files.pop("manifest.json"))
    return files | {
        "manifest": {key: value for key, value in manifest.items() if key not in ("seconds", "sha256", "history")}
    }


def everything(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def changed(documents: list[Document], kind: str, sentences: list[str]) -> list[Document]:
    """The documents of a next version."""
    new = [Document(f"n{i}", "", sentences[100 + i], {"number": 100 + i}) for i in range(12)]
    some = list(documents)
    if kind == "new ones between":
        return [*some[:5], *new[:2], *some[5:], *new[2:]]
    if kind == "gone":
        return [*some[1:5], *some[8:-1]]
    if kind == "changed":
        return [
            replace(document, text=new[i // 3].text) if i in (0, 6, 30) else document for i, document in enumerate(some)
        ]
    if kind == "in another order":
        return some[::-1]
    if kind == "other metadata":
        return [replace(document, metadata={"number": -i, "kind": "x"}) for i, document in enumerate(some)]
    if kind == "no metadata":
        return [replace(document, metadata={}) for document in some]
    if kind == "other ids":
        return [replace(document, id=str(i)) for i, document in enumerate(some)]
    if kind == "a text is lost":
        return [replace(document, title="", text="") if i in (0, 39) else document for i, document in enumerate(some)]
    if kind == "an empty one gets a text":
        return [replace(document, text=new[0].text) if i == 2 else document for i, document in enumerate(some)]
    if kind == "texts that are known already":
        return [*some, *(replace(document, id=f"again {document.id}") for document in some[:9])]
    if kind == "a text that changes places":
        return [replace(document, title=some[39 - i].title, text=some[39 - i].text) for i, document in enumerate(some)]
    return [
        *new[:3],
        *some[20:35][::-1],
        *(replace(document, text=new[9].text) for document in some[3:5]),
        *some[8:20],
        *new[3:],
    ]


KINDS = [
    "new ones between",
    "gone",
    "changed",
    "in another order",
    "other metadata",
    "no metadata",
    "other ids",
    "a text is lost",
    "an empty one gets a text",
    "texts that are known already",
    "a text that changes places",
    "all at once",
]
ENCODED = {"new ones between": 12, "changed": 3, "an empty one gets a text": 1, "all at once": 14}


def counting(model: GraceModel, texts: list[str]):
    """Encodes with the model, and writes down what."""

    def encode(jobs, tick):
        for number, shard in jobs:
            texts.extend(shard)
            yield number, model.represent(shard)

    return encode


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_gives_what_a_new_build_gives(kind, first, folder, model, sentences, tmp_path):
    documents, encoded = changed(first, kind, sentences), []
    with update(folder, corpus_of(documents), remove=True) as new:
        new.build(model, encode=counting(model, encoded))
        new.commit()
    known = {document.content for document in first}
    assert len(encoded) == ENCODED.get(kind, 0)
    assert set(encoded) == {document.content for document in documents} - known - {""}
    fresh = build(Collection.create(corpus_of(documents), tmp_path / "fresh"), model, geometry="calibrated")
    index = GraceIndex(folder, model.name)
    assert content(index) == content(fresh)
    assert (folder / "corpus.parquet").read_bytes() == (tmp_path / "fresh" / "corpus.parquet").read_bytes()
    assert index.verify()["ok"]
    query = model.encode(["a river"], role="query")
    for mine, theirs in zip(index.search(query, 50), fresh.search(query, 50), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "corpus.parquet",
        "queries.jsonl",
        "qrels.tsv",
        "other",
        model.name,
    }


def test_the_history_tells_what_happened(first, folder, model, sentences):
    with update(folder, corpus_of(changed(first, "all at once", sentences))) as new:
        assert str(new.changes) == "12 new ('n0', 'n1', 'n2', …), 2 changed ('d3', 'd4'), 11 gone ('d0', 'd1', 'd2', …)"
        new.build(model)
        new.commit()
    (entry,) = GraceIndex(folder, model.name).history
    assert entry.pop("when").endswith("+00:00")
    assert entry.pop("seconds") is None  # of 39 documents 26 were not encoded, so that it measures nothing
    assert entry == {"added": 12, "changed": 2, "removed": 11, "metadata": 0, "kept": 27, "encoded": 14}
    with update(folder, corpus_of(first), remove=True) as new:
        new.build(model)
        new.commit()
    assert [entry["removed"] for entry in GraceIndex(folder, model.name).history] == [11, 12]


def test_other_models_are_behind_until_they_are_brought_up(first, folder, model, other, sentences, tmp_path):
    documents = changed(first, "all at once", sentences)
    before = GraceIndex(folder, "other")
    with update(folder, corpus_of(documents)) as new:
        new.build(model)
        assert new.commit() == {"other": 14}
    left = GraceIndex(folder, "other")
    kept = [document.id for document in documents if document in first]
    assert left.ids == kept
    assert left.behind == Collection(folder).behind["other"] == 14
    with pytest.raises(GraceError, match=f"bring up its index: `grace index update {folder} --model other`"):
        Columns(Collection(folder)).open("bm25+other")
    assert left.verify()["ok"]
    np.testing.assert_array_equal(left.sums, before.sums[[before.row[document_id] for document_id in kept]])
    assert [left.rationales[left.row[i]] for i in kept] == [before.rationales[before.row[i]] for i in kept]
    query = other.encode(["a river"], role="query")
    assert {hit.document.id for hit in left.hits(query[0], 100)} == set(kept)
    assert [hit.document.metadata["number"] for hit in left.hits(query[0], 9, where="number < 25")] != []
    with update(folder) as new:
        assert new.changes is None
        encoded = []
        new.build(other, name="other", encode=counting(other, encoded))
        assert new.commit() == {}
    assert len(encoded) == 14
    fresh = build(
        Collection.create(corpus_of(documents), tmp_path / "fresh"), other, geometry="calibrated", name="other"
    )
    assert content(GraceIndex(folder, "other")) == content(fresh)
    assert GraceIndex(folder, model.name).behind == 0


def test_a_behind_index_keeps_its_kinds_for_later(first, folder, model, other):
    """Too few documents for a geometry give raw for the time being."""
    few = [
        document if i < 5 else replace(document, text=f"{document.text} And more.") for i, document in enumerate(first)
    ]
    with update(folder, corpus_of(few)) as new:
        new.build(model)
        with pytest.warns(UserWarning, match="geometry raw, since calibrated is not possible"):
            new.commit()
    assert GraceIndex(folder, "other").geometry.kind == "raw"
    with update(folder) as new:
        new.build(other, name="other")
        new.commit()
    assert GraceIndex(folder, "other").geometry.kind == "calibrated"


def test_an_index_of_which_nothing_is_left_is_taken_away(first, folder, model, other):
    texts = [replace(document, text=f"{document.text} And more.") for document in first]
    with update(folder, corpus_of(texts)) as new:
        new.build(model)
        new.commit()
        assert new.notes == [
            "other: none of its documents is left with the same text; its index is taken away: build it again"
        ]
    assert Collection(folder).models == [model.name]
    assert build(Collection(folder), other, name="other").behind == 0


def test_kinds_and_weights_stay(first, folder, model, sentences):
    index = GraceIndex(folder, model.name)
    index.change_geometry("centred", queries=model.represent(["a river", "snow", "music"]), weight=0.5)
    index.change_faiss("hnsw")
    with update(folder, corpus_of(changed(first, "all at once", sentences))) as new:
        new.build(model)
        new.commit()
    after = GraceIndex(folder, model.name)
    assert after.faiss_kind == "hnsw"
    assert (after.geometry.kind, after.geometry.weights, after.manifest["geometry"]["queries"]) == (
        "centred",
        (1.0, 1.0, 0.5),
        3,
    )
    assert len([path for path in after.folder.iterdir() if path.name.startswith("geometry-")]) == 1


def test_added_documents_follow_and_replace_by_id(first, folder, model, sentences):
    judgements = Judgements({"q2": "ice", "q3": "bread"}, {"q3": {"n1": 1}}, {})
    more = [Document("n1", "", sentences[120], {"kind": "bread"}), replace(first[3], text=sentences[121])]
    with update(folder, corpus_of(more, judgements), add=True) as new:
        assert (new.changes.added, new.changes.changed, new.changes.removed) == (["n1"], ["d3"], [])
        new.build(model)
        new.commit()
    collection = Collection(folder)
    assert list(collection.documents) == [*(document.id for document in first), "n1"]
    assert collection.documents["d3"].text == sentences[121]
    assert collection.documents["n1"].metadata["kind"] == "bread"
    assert collection.judgements == Judgements(
        {"q1": "river", "q2": "ice", "q3": "bread"}, {**JUDGED.qrels, "q3": {"n1": 1}}, {"q1": "test"}
    )
    assert GraceIndex(collection, model.name).history[-1]["encoded"] == 2


def test_judgements_come_with_the_corpus(first, folder, model, sentences):
    judgements = Judgements({"q9": "stream"}, {"q9": {"n0": 1}}, {})
    with update(folder, corpus_of(changed(first, "new ones between", sentences), judgements)) as new:
        assert new.notes == [f"{folder}: the queries and judgements that were there are replaced"]
        assert Collection(folder).judgements == JUDGED
        new.build(model)
        new.commit()
    assert Collection(folder).judgements == judgements
    with update(folder, corpus_of(first, None)) as new:
        new.build(model)
        new.commit()
    assert Collection(folder).judgements == judgements  # a corpus that comes without any takes none away


REFUSED = ["most would go", "no text", "other settings", "nothing is built", "an update is on", "an index is written"]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_leaves_all_as_it_was(kind, first, folder, model, tiny_folder, sentences):
    before, more = everything(folder), corpus_of(changed(first, "new ones between", sentences))
    if kind == "most would go":
        told = r"lacks 35: 35 gone .*nothing was changed: add to the collection"
        with pytest.raises(GraceError, match=told), update(folder, corpus_of(first[:5])):
            pass
    elif kind == "no text":
        empty = corpus_of([replace(document, title="", text=" ") for document in first])
        with (
            pytest.raises(GraceError, match="none of the 40 documents of made here has any text"),
            update(folder, empty),
        ):
            pass
    elif kind == "other settings":
        longer = GraceModel.from_pretrained(tiny_folder, dtype="float32", device="cpu", max_new_tokens=5)
        with pytest.raises(GraceError, match="made with max_new_tokens = '4', got '5'"), update(folder, more) as new:
            new.build(longer)
    elif kind == "nothing is built":
        with update(folder, more):
            pass
    elif kind == "an update is on":
        with only_writer(folder), pytest.raises(GraceError, match="another process is building"), update(folder, more):
            pass
    else:
        with only_writer(folder / "other"), update(folder, more) as new:
            new.build(model)
            with pytest.raises(GraceError, match="another process is building"):
                new.commit()
        assert Collection(folder).updating
        shutil.rmtree(folder / NEXT)
    assert everything(folder) == before


def test_an_update_that_was_stopped_goes_on(first, folder, model, sentences):
    more, before, encoded = corpus_of(changed(first, "new ones between", sentences)), everything(folder), []
    with pytest.raises(BuildStopped), update(folder, more) as new:
        new.build(model, encode=counting(model, encoded), should_stop=lambda: len(encoded) > 0)
    assert len(encoded) == 8
    assert Collection(folder).updating
    assert {name: data for name, data in everything(folder).items() if not name.startswith(NEXT)} == before
    assert GraceIndex(folder, model.name).verify()["ok"]
    with update(folder, more) as new:
        new.build(model, encode=counting(model, encoded))
        new.commit()
    assert len(encoded) == 12
    assert not Collection(folder).updating


def test_an_update_that_was_stopped_gives_way_to_another(first, folder, model, sentences):
    encoded = []
    with pytest.raises(BuildStopped), update(folder, corpus_of(changed(first, "new ones between", sentences))) as new:
        new.build(model, encode=counting(model, encoded), should_stop=lambda: len(encoded) > 0)
    documents = changed(first, "changed", sentences)
    with update(folder, corpus_of(documents)) as new:
        new.build(model)
        new.commit()
    assert Collection(folder).corpus.documents == documents
    assert GraceIndex(folder, model.name).history[-1]["encoded"] == 3


def test_shards_of_an_update_are_not_taken_for_those_of_another(first, folder, model, sentences):
    """The index that was known is gone when the update goes on: all is encoded, and the shards of the new
    texts are made again.
    """
    more, encoded = corpus_of(changed(first, "new ones between", sentences)), []
    with pytest.raises(BuildStopped), update(folder, more) as new:
        new.build(model, encode=counting(model, encoded), should_stop=lambda: len(encoded) > 0)
    shutil.rmtree(folder / model.name)
    with update(folder, more) as new:
        new.build(model, geometry="calibrated")
        new.commit()
    index = GraceIndex(folder, model.name)
    made = model.represent([Collection(folder).documents[document_id].content for document_id in index.ids])
    np.testing.assert_allclose(index.sums, made.sums, atol=1e-3)


def test_stopped_builds_of_the_old_corpus_begin_anew(first, folder, model, new_model, sentences):
    third, encoded = new_model("llama", max_new_tokens=4), []
    with pytest.raises(BuildStopped):
        build(Collection(folder), third, encode=counting(third, encoded), should_stop=lambda: len(encoded) > 0)
    with update(folder, corpus_of(changed(first, "new ones between", sentences))) as new:
        new.build(model)
        new.commit()
        assert new.notes[-1].startswith("tiny-llama: its build was stopped, and begins again")
    assert build(Collection(folder), third).verify()["ok"]


def test_a_new_model_comes_with_a_new_corpus(first, folder, model, new_model, sentences):
    third = new_model("llama", max_new_tokens=4)
    with update(folder, corpus_of(changed(first, "new ones between", sentences))) as new:
        new.build(third)
        assert new.commit() == {"other": 12, model.name: 12}
    assert len(GraceIndex(folder, "tiny-llama")) == 51
    assert GraceIndex(folder, "tiny-llama").history == []


def test_what_is_open_stays_the_old_state(first, folder, model, sentences):
    old, loaded = GraceIndex(folder, model.name), GraceIndex(folder, model.name)
    assert loaded.collection.documents
    query = model.encode(["a river"], role="query")
    wanted = GraceIndex(folder, model.name).search(query, 5)
    with update(folder, corpus_of(changed(first, "all at once", sentences))) as new:
        new.build(model)
        new.commit()
    for got, right in zip(old.search(query, 5), wanted, strict=True):
        np.testing.assert_array_equal(got, right)
    assert old.ids == [document.id for document in first if document.content]
    assert loaded.hits(query[0], 3)[0].document.id in loaded.ids
    with pytest.raises(GraceError, match="changed since it was opened here, by an update; open the collection again"):
        old.hits(query[0], 3)
    with pytest.raises(GraceError, match="open the collection again"):
        GraceIndex(old.collection, model.name)


def test_maps_stay_beside_an_index_and_are_not_taken_for_new_ones(first, model, sentences, tmp_path):
    first, folder = first[:8], tmp_path / "c"
    build(Collection.create(corpus_of(first), folder), model)
    map_collection(folder, [(model.name, "text")])
    assert load_map(GraceIndex(folder, model.name), "text")
    with update(folder, corpus_of(changed(first, "other metadata", sentences))) as new:
        new.build(model)
        new.commit()
    assert load_map(GraceIndex(folder, model.name), "text")  # no vector has changed
    with update(folder, corpus_of(changed(first, "changed", sentences))) as new:
        new.build(model)
        new.commit()
    index = GraceIndex(folder, model.name)
    assert (index.folder / "map-text.parquet").exists()
    with pytest.warns(UserWarning, match="older than the index"):
        assert load_map(index, "text") is None
    assert outdated(index, Pooling.TEXT)
    assert not outdated(index, Pooling.FULL)


def test_vectors_of_an_encoder_are_brought_up_or_refused(first, folder, model, sentences, tmp_path, grace):
    encoder = Encoder.load(str(save_encoder(tmp_path / "encoder", sentences)), device="cpu")
    with update(folder) as new:
        before = new.encode(encoder, name="small")
    more = corpus_of(changed(first, "all at once", sentences))
    with update(folder, more) as new:
        new.build(model)
        new.encode(encoder, name="small")
        new.commit()
    after, fresh = (
        EncodedIndex(Collection(folder), "small"),
        encoded.build(Collection.create(more, tmp_path / "fresh"), encoder, name="small"),
    )
    np.testing.assert_allclose(after.vectors, fresh.vectors, atol=1e-6)
    kept = [document for document in more.documents if document in first and document.content]
    places = {document.id: row for row, document in enumerate(document for document in first if document.content)}
    rows = {
        document.id: row for row, document in enumerate(document for document in more.documents if document.content)
    }
    np.testing.assert_array_equal(
        after.vectors[[rows[document.id] for document in kept]],
        before.vectors[[places[document.id] for document in kept]],
    )
    with update(folder, corpus_of(first), remove=True) as new:
        new.build(model)
        assert list(new.commit()) == ["other"]
    remedy = f"`grace index update {folder} --model st:small` encodes what is new"
    with pytest.raises(GraceError, match=f"changed after st:small was built: {remedy}"):
        EncodedIndex(Collection(folder), "small")
    assert f"st:small: the corpus changed after it was built: {remedy}" in grace("index", "info", folder)[1]
    status, out, _ = grace("index", "update", folder, "--model", "st:small", "--json")
    assert (status, json.loads(out)["models"]) == (0, {"st:small": {"documents": 39}})
    np.testing.assert_allclose(EncodedIndex(Collection(folder), "small").vectors, before.vectors, atol=1e-6)


def test_added_documents_replace_all_passages_of_their_document(sentences, model, tmp_path):
    folder, texts = tmp_path / "c", [" ".join(sentences[10 * i : 10 * i + 10]) for i in range(4)]
    whole = [Document(f"d{i}", "", text, {}) for i, text in enumerate(texts)]
    build(Collection.create(chunked(corpus_of(whole, None), Chunk(40)), folder), model)
    assert len(Collection(folder).passages["d1"]) > 2
    with update(
        folder, corpus_of([replace(whole[1], text=sentences[200]), Document("d9", "", texts[0], {})], None), add=True
    ) as new:
        new.build(model)
        new.commit()
    collection = Collection(folder)
    assert {name: len(passages) for name, passages in collection.passages.items() if name in ("d1", "d9")} == {
        "d1": 1,
        "d9": len(collection.passages["d0"]),
    }
    assert [collection.whole(f"d{i}").text for i in (0, 1, 2, 3, 9)] == [
        texts[0],
        sentences[200],
        texts[2],
        texts[3],
        texts[0],
    ]
    assert GraceIndex(folder, model.name).history[-1]["encoded"] == 1  # the passages of d9 are known
    assert GraceIndex(folder, model.name).verify()["ok"]


VERSION = st.lists(
    st.tuples(st.integers(0, 9), st.integers(-1, 12)), min_size=1, max_size=8, unique_by=lambda row: row[0]
)


@given(versions=st.lists(VERSION, min_size=2, max_size=4))
@settings(max_examples=15, deadline=None)
def test_any_sequence_of_updates_ends_as_a_new_build_of_the_last(versions, model, sentences, tmp_path_factory):
    """Documents of a version: ids, and numbers of their texts, -1 for none."""
    folder = tmp_path_factory.mktemp("any")
    corpora = [
        corpus_of([Document(f"d{i}", "", sentences[text] if text >= 0 else "", {}) for i, text in rows], None)
        for rows in versions
        if any(text >= 0 for _, text in rows)
    ]
    if not corpora:
        return
    build(Collection.create(corpora[0], folder / "c"), model, geometry="raw")
    for corpus in corpora[1:]:
        with update(folder / "c", corpus, remove=True) as new:
            new.build(model)
            new.commit()
    fresh = build(Collection.create(corpora[-1], folder / "fresh"), model, geometry="raw")
    assert content(GraceIndex(folder / "c", model.name)) == content(fresh)


@pytest.mark.slow
def test_an_update_that_is_killed_leaves_the_old_state_or_the_new_one(
    python, tiny_folder, other_folder, sentences, tmp_path, root
):
    model = tmp_path / "tiny"
    GraceModel.from_pretrained(tiny_folder, max_new_tokens=4).save_pretrained(model)
    rows = [{"_id": f"d{i}", "text": sentences[i % len(sentences)] + f" {i}"} for i in range(300)]
    corpus = tmp_path / "corpus"
    corpus.mkdir()

    def write(some: list[dict], query: str) -> Corpus:
        (corpus / "corpus.jsonl").write_text("\n".join(map(json.dumps, some)))
        (corpus / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": query}))
        (corpus / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\td9\t1\n")
        return read_corpus(corpus)

    collection = Collection.create(write(rows, "river"), tmp_path / "before")
    build(collection, GraceModel.from_pretrained(model, max_new_tokens=4))
    build(collection, GraceModel.from_pretrained(other_folder, max_new_tokens=4), name="other")
    write([*rows[50:], *({"_id": f"n{i}", "text": sentences[i] + f" new {i}"} for i in range(200))], "snow")
    run = python(
        root / "tests" / "grace_core" / "killed_updates.py", corpus, tmp_path / "before", tmp_path / "out", model
    )
    assert run.returncode == 0, run.stderr[-2000:]
    attempts = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(attempts) >= 20
    assert [attempt for attempt in attempts if attempt["state"] != attempt["corpus"]] == []
    assert {attempt["state"] for attempt in attempts} == {"old", "new"}
    half = sum(attempt["state"] == "new" and ".next" in attempt["left"] for attempt in attempts)
    assert half >= 5  # in the middle of a switch


def test_bringing_up_an_index_that_is_killed_half_way_is_finished_by_the_next_who_opens_it(
    folder, first, model, other, monkeypatch
):
    with update(folder, corpus_of([*first, Document("n", "", "A new river.", {"number": 99})])) as new:
        new.build(model)
        new.commit()
    moved, calls = os.replace, []

    def killed(source, target):
        if Path(target).name.startswith(".old-"):
            calls.append(target)
        if calls:
            raise KeyboardInterrupt
        moved(source, target)

    with monkeypatch.context() as patch, update(folder) as again:
        patch.setattr(os, "replace", killed)  # the corpus is the same file there: moving it changes nothing
        with pytest.raises(KeyboardInterrupt):
            again.build(other, name="other")
    assert (folder / NEXT).exists()
    assert not (folder / NEXT / "corpus.parquet").exists()
    assert GraceIndex(Collection(folder), "other").behind == 0
    assert not (folder / NEXT).exists()
