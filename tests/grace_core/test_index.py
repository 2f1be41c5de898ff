"""GraceIndex: what is written, what is found, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import grace_core.index
import grace_core.shards
from grace_core.build import FILES, BuildStopped
from grace_core.collection import Collection, collection_folder, find_collections
from grace_core.errors import GraceError
from grace_core.files import only_writer, sha256
from grace_core.index import GraceIndex, build
from grace_core.pooling import Pooling
from grace_core.readers import Corpus, Document, Judgements
from grace_core.shards import ShardWriter

TITLES = ("", "A title", "")


def make_corpus(texts: list[str], *, judged: bool = True) -> Corpus:
    documents = [Document(f"d{i}", TITLES[i % 3] if text else "", text, {"number": i}) for i, text in enumerate(texts)]
    judgements = Judgements(
        {"q1": "river", "q2": "snow"}, {"q1": {"d0": 2, "d3": 1}, "q2": {"d4": 1}}, {"q1": "test", "q2": "dev"}
    )
    return Corpus(documents, judgements if judged else None, "made here", ["number"])


@pytest.fixture(scope="module")
def corpus(sentences):
    """Sixty documents, of which d2 and d40 are empty."""
    texts = [" ".join(sentences[i : i + 1 + i % 3]) for i in range(60)]
    texts[2] = texts[40] = ""
    return make_corpus(texts)


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """Shards of 16 documents, so that these builds have four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grace_core.index, "SHARD", 16)
        yield


@pytest.fixture(scope="module")
def model(tiny_folder):
    from grace_core.model import GraceModel

    return GraceModel.from_pretrained(tiny_folder, dtype="float32", device="cpu", max_new_tokens=8)


@pytest.fixture(scope="module")
def built(corpus, model, tmp_path_factory):
    """A finished index, to be left as it is."""
    return build(
        Collection.create(corpus, tmp_path_factory.mktemp("indexes") / "built"), model, batch_size=7, geometry="raw"
    )


@pytest.fixture
def index_copy(built, tmp_path):
    """The folder of a copy of the finished collection, to be spoiled."""
    return shutil.copytree(built.collection.folder, tmp_path / "copy")


def content(folder) -> dict[str, bytes]:
    """All files of an index but the lock; the time that the build took is left out of the manifest."""
    files = {
        path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"
    }
    manifest = json.loads(files.pop("manifest.json"))
    return files | {"manifest": {key: value for key, value in manifest.items() if key not in ("seconds", "sha256")}}


# --- building
# ---------------------------------------------------------------------------------------------------------------


def test_files_have_the_layout_that_is_described(built, corpus, model):
    assert {path.name for path in built.folder.iterdir()} == {*FILES, "manifest.json", ".lock"}
    table = pq.read_table(built.folder / "rationales.parquet")
    assert table.column_names == [
        "_id",
        "rationale",
        "rationale_ids",
        "text_tokens",
        "template_tokens",
        "rationale_tokens",
        "truncated",
        "text_truncated",
    ]
    ids = [document.id for document in corpus.documents if document.content]
    assert table["_id"].to_pylist() == ids
    made = model.represent([document.content for document in corpus.documents if document.content])
    assert table["rationale"].to_pylist() == made.rationales
    assert table["rationale_ids"].to_pylist() == made.rationale_ids
    vectors = load_file(built.folder / "vectors.safetensors")
    assert vectors["sums"].dtype == np.float32
    np.testing.assert_array_equal(vectors["counts"], made.counts)
    np.testing.assert_allclose(built.vectors(), made.embeddings(), atol=1e-5)
    np.testing.assert_array_equal(table["rationale_tokens"].to_numpy(), made.counts[:, 2])


def test_manifest_tells_what_the_index_was_made_from(built, model):
    manifest = json.loads((built.folder / "manifest.json").read_text())
    assert manifest["files"] == {name: sha256(built.folder / name) for name in FILES}
    assert manifest["corpus_sha256"] == sha256(built.collection.folder / "corpus.parquet")
    assert manifest["model"] == {"sha256": model.fingerprint, "dim": 48}
    assert manifest["settings"]["max_new_tokens"] == 8
    assert manifest["counts"]["documents"] == 60
    assert manifest["counts"]["encoded"] == 58
    assert manifest["counts"]["empty"] == 2
    assert manifest["counts"]["rationale_tokens"] == int(built.counts[:, 2].sum())
    assert built.settings == model.settings


def test_new_judgements_replace_old_ones(corpus, tmp_path):
    Collection.create(corpus, tmp_path / "c")
    changed = replace(corpus, judgements=replace(corpus.judgements, queries={"q1": "stream", "q2": "snow"}))
    assert Collection.create(changed, tmp_path / "c").judgements.queries["q1"] == "stream"
    without = Collection.create(replace(corpus, judgements=None), tmp_path / "c")
    assert without.judgements.queries["q1"] == "stream"


def test_a_collection_keeps_corpus_queries_and_judgements(built, corpus):
    read = Collection(built.collection.folder)
    assert read.corpus.documents == corpus.documents
    assert read.judgements == corpus.judgements
    assert read.models == ["tiny"]
    assert read.unfinished == []
    assert find_collections(built.collection.folder.parent) == ["built"]


def test_a_collection_is_listed_once_a_build_has_begun(corpus, tmp_path):
    for name in ("bare", "begun", "done"):
        Collection.create(corpus, tmp_path / name)
    for path in (tmp_path / "begun" / "m" / ".build" / "plan.json", tmp_path / "done" / "m" / "manifest.json"):
        path.parent.mkdir(parents=True)
        path.touch()
    assert find_collections(tmp_path) == ["begun", "done"]
    assert find_collections(tmp_path, finished=True) == ["done"]


def test_files_do_not_depend_on_batch_size_or_interruptions(built, corpus, model, tmp_path):
    collection = Collection.create(corpus, tmp_path / "again")
    stops = 0
    while True:
        asked = iter([False, True])
        try:
            build(collection, model, batch_size=7, geometry="raw", should_stop=lambda asked=asked: next(asked, True))
            break
        except BuildStopped:
            stops += 1
            assert collection.unfinished == ["tiny"]
            assert collection.models == []
            with pytest.raises(GraceError, match="build again to go on"):
                GraceIndex(collection, "tiny")
    assert stops == 3
    assert content(collection.folder / "tiny") == content(built.folder)
    assert collection.unfinished == []


@pytest.mark.parametrize("quick", [0.0, 60.0])
def test_a_resumed_build_encodes_nothing_twice(corpus, model, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(grace_core.shards, "QUICK", quick)
    collection = Collection.create(corpus, tmp_path / "again")
    seen = []
    original = model.represent
    monkeypatch.setattr(model, "represent", lambda texts, **options: seen.extend(texts) or original(texts, **options))
    asked = iter([False, False, True])
    with pytest.raises(BuildStopped, match="32 of 58"):
        build(collection, model, should_stop=lambda: next(asked))
    build(collection, model)
    assert sorted(seen) == sorted(document.content for document in corpus.documents if document.content)
    build(collection, model)
    assert len(seen) == 58


def test_quick_shards_of_a_killed_build_are_made_again(corpus, model, built, tmp_path, monkeypatch):
    monkeypatch.setattr(grace_core.shards, "QUICK", 60.0)
    monkeypatch.setattr(ShardWriter, "keep", lambda self: None)  # as a process that is killed does not
    collection = Collection.create(corpus, tmp_path / "again")
    asked = iter([False, False, True])
    with pytest.raises(BuildStopped, match="32 of 58"):
        build(collection, model, batch_size=7, should_stop=lambda: next(asked))
    work = collection.folder / "tiny" / ".build"
    assert len(list(work.glob("*.quick.safetensors"))) == len(list(work.glob("*.safetensors"))) == 2
    seen = []
    build(collection, model, batch_size=7, geometry="raw", progress=lambda done, total: seen.append(done))
    assert seen[0] == 0
    assert content(collection.folder / "tiny") == content(built.folder)


def test_a_build_is_not_gone_on_with_by_another_engine(corpus, model, tmp_path):
    collection = Collection.create(corpus, tmp_path / "again")
    asked = iter([False, True])
    with pytest.raises(BuildStopped):
        build(collection, model, should_stop=lambda: next(asked))
    with pytest.raises(GraceError, match="was made with engine = 'transformers', got 'vllm'"):
        build(collection, model, engine="vllm")
    assert len(build(collection, model)) == 58


def test_progress_goes_up_to_all_documents(corpus, model, tmp_path):
    seen = []
    build(
        Collection.create(corpus, tmp_path / "again"),
        model,
        batch_size=5,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (58, 58)


def test_leftovers_of_a_killed_build_are_removed(index_copy, model):
    left = index_copy / "tiny" / ".build"
    left.mkdir()
    (left / "000000.safetensors").write_bytes(b"")
    build(Collection(index_copy), model)
    assert not left.exists()


def test_an_index_without_rationales_searches_texts(corpus, model, tmp_path):
    index = build(Collection.create(corpus, tmp_path / "texts"), model, rationale=False, geometry="raw")
    assert index.default_pooling is Pooling.TEXT
    assert not index.counts[:, 2].any()
    assert index.rationales == [""] * 58
    expected = model.encode([index.collection.documents[i].content for i in index.ids], rationale=False)
    np.testing.assert_allclose(index.vectors(), expected, atol=1e-5)
    with pytest.raises(GraceError, match="built without rationales"):
        index.search(expected[:1], pooling=Pooling.FULL)


def test_a_corpus_without_any_text_leaves_no_index(model, tmp_path):
    with pytest.raises(GraceError, match=r"none of the 5 documents of .* has any text"):
        build(Collection.create(make_corpus(["", "", "", "", ""], judged=False), tmp_path / "empty"), model)
    assert not (tmp_path / "empty" / "corpus.parquet").exists()


def test_a_model_whose_states_are_not_finite_finishes_nothing(corpus, new_model, tmp_path):
    broken = new_model("qwen2")
    with torch.no_grad():
        broken.model.model.norm.weight[3] = float("inf")
    collection = Collection.create(corpus, tmp_path / "broken")
    with pytest.raises(GraceError, match="not finite"):
        build(collection, broken)
    assert collection.models == []
    assert not list((collection.folder / broken.name / ".build").glob("*.safetensors"))


def test_rows_of_a_corpus_with_uneven_fields_do_not_hinder_a_second_build(model, tmp_path, sentences):
    fields = [{"year": 1990}, {"place": "north"}, {"year": "old", "ok": True}]
    rows = [{"text": text} | more for text, more in zip(sentences, fields, strict=False)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    from grace_core.readers import read_corpus

    first = Collection.create(read_corpus(tmp_path / "c.jsonl"), tmp_path / "out")
    build(first, model)
    again = Collection.create(read_corpus(tmp_path / "c.jsonl"), tmp_path / "out")
    assert again.hash == first.hash
    itself = Collection.create(read_corpus(tmp_path / "out"), tmp_path / "out")
    assert itself.hash == first.hash


# --- refusing
# ---------------------------------------------------------------------------------------------------------------


def test_another_model_of_the_same_name_is_refused(index_copy, other_folder):
    from grace_core.model import GraceModel

    other = GraceModel.from_pretrained(other_folder, max_new_tokens=8)
    with pytest.raises(
        GraceError, match=r"made with sha256 = .* cannot be mixed: use the same ones, give another --out, or remove"
    ):
        build(Collection(index_copy), other)


@pytest.mark.parametrize(("key", "value"), [("max_new_tokens", 7), ("system", "Another prompt."), ("temperature", 1.0)])
def test_other_settings_are_refused(index_copy, tiny_folder, key, value):
    from grace_core.model import GraceModel

    changed = GraceModel.from_pretrained(tiny_folder, **{"max_new_tokens": 8, key: value})
    with pytest.raises(GraceError, match=f"made with {key} = .*remove that folder"):
        build(Collection(index_copy), changed)


def test_with_and_without_rationale_are_not_mixed(index_copy, model):
    with pytest.raises(GraceError, match="made with rationale = 'True'"):
        build(Collection(index_copy), model, rationale=False)


def test_other_settings_are_refused_for_a_stopped_build_too(corpus, model, tiny_folder, tmp_path):
    from grace_core.model import GraceModel

    collection = Collection.create(corpus, tmp_path / "stopped")
    asked = iter([False, True])
    with pytest.raises(BuildStopped):
        build(collection, model, should_stop=lambda: next(asked))
    with pytest.raises(GraceError, match="max_new_tokens"):
        build(collection, GraceModel.from_pretrained(tiny_folder, max_new_tokens=9))


def test_another_corpus_is_refused(built, corpus, index_copy):
    changed = Corpus([*corpus.documents[:-1], Document("d59", "", "changed", {"number": 59})], None, "x", ["number"])
    with pytest.raises(GraceError, match=r"already holds another corpus .*give another --out"):
        Collection.create(changed, index_copy)
    assert Collection.create(corpus, index_copy).hash == built.collection.hash


def test_a_second_writer_is_refused(corpus, model, tmp_path):
    collection = Collection.create(corpus, tmp_path / "busy")
    with only_writer(collection.folder / "tiny"), pytest.raises(GraceError, match="another process is building"):
        build(collection, model)
    build(collection, model)


def test_edited_rationales_are_noticed(index_copy):
    path = index_copy / "tiny" / "rationales.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "rationale", [["nicer words"] * len(table)]), path)
    with pytest.raises(GraceError, match=r"rationales.parquet is missing or was changed .*build again"):
        GraceIndex(index_copy, "tiny")


def test_edited_vectors_are_noticed(index_copy):
    path = index_copy / "tiny" / "vectors.safetensors"
    vectors = load_file(path)
    vectors["sums"][0, 0, 0] += 1e-3
    save_file(vectors, path)
    with pytest.raises(GraceError, match=r"vectors.safetensors is missing or was changed"):
        GraceIndex(index_copy, "tiny")


@pytest.mark.parametrize("name", ["rationales.parquet", "vectors.safetensors"])
def test_a_lost_file_is_noticed(index_copy, name):
    (index_copy / "tiny" / name).unlink()
    with pytest.raises(GraceError, match=f"{name} is missing"):
        GraceIndex(index_copy, "tiny")


def test_an_edited_corpus_is_noticed(index_copy):
    path = index_copy / "corpus.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "title", [["new"] * len(table)]), path)
    with pytest.raises(GraceError, match=r"corpus.parquet changed after tiny was built; restore it, or build again"):
        GraceIndex(index_copy, "tiny")


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["settings"].update(temperature=1.0),
        lambda m: m["model"].update(sha256="0" * 64),
        lambda m: m["files"].update({"index.faiss": "0" * 64}),
        lambda m: m["counts"].update(encoded=59),
        lambda m: m.update(model_id="another/model"),
        lambda m: m.update(schema=99),
        lambda m: m.pop("files"),
        lambda m: m.clear(),
    ],
    ids=["settings", "model", "files", "counts", "model_id", "schema", "lost files", "empty"],
)
def test_an_edited_manifest_is_noticed(index_copy, edit):
    path = index_copy / "tiny" / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(GraceError, match="again"):
        GraceIndex(index_copy, "tiny")


@pytest.mark.parametrize("text", ["{", "[]", "", "null"])
def test_a_damaged_manifest_is_noticed(index_copy, text):
    (index_copy / "tiny" / "manifest.json").write_text(text)
    with pytest.raises(GraceError, match=r"manifest\.json"):
        GraceIndex(index_copy, "tiny")


@pytest.mark.parametrize("damage", ["lost", "cut", "other"])
def test_a_damaged_faiss_file_is_made_again_from_the_vectors(index_copy, built, damage):
    path = index_copy / "tiny" / "index.faiss"
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if damage == "cut" else b"x" * 1000)
    queries = built.vectors()[:5]
    with pytest.warns(UserWarning, match="using one made from the vectors"):
        index = GraceIndex(index_copy, "tiny")
    assert index.damaged == ["index.faiss"]
    assert not index.verify()["ok"]
    np.testing.assert_array_equal(index.search(queries)[1], built.search(queries)[1])
    index.repair()
    again = GraceIndex(index_copy, "tiny")
    assert again.verify()["ok"]
    assert path.read_bytes() == (built.folder / "index.faiss").read_bytes()


def test_verify_finds_a_sound_index_sound(built):
    assert built.verify() == {
        "model": "tiny",
        "ok": True,
        "documents": 58,
        "damaged": [],
        "faiss": {"kind": "flat"},
        "faiss_matches_vectors": True,
    }


def test_the_model_is_found_again_with_its_settings(built, sentences):
    loaded = built.load_model(device="cpu", dtype="float32")
    assert loaded.settings == built.settings
    index = build(Collection(built.collection.folder), loaded)
    assert index.ids == built.ids


def test_a_model_whose_weights_changed_is_refused(corpus, tiny_folder, tmp_path):
    from grace_core.model import GraceModel

    moving = shutil.copytree(tiny_folder, tmp_path / "tiny")
    index = build(Collection.create(corpus, tmp_path / "out"), GraceModel.from_pretrained(moving, max_new_tokens=2))
    weights = load_file(moving / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, moving / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GraceError, match="built with other weights"):
        index.load_model()


def test_unknown_models_and_folders_are_refused(built, tmp_path):
    with pytest.raises(GraceError, match="has no index of model 'other', there are: tiny"):
        GraceIndex(built.collection, "other")
    with pytest.raises(GraceError, match=r"is no collection.*grace index build"):
        Collection(tmp_path)


@given(
    name=st.one_of(
        st.text(max_size=120), st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "\0", "~"])).map("".join)
    )
)
def test_a_collection_s_name_cannot_lead_elsewhere(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp()
    try:
        folder = collection_folder(root, name)
    except GraceError:
        pass
    else:
        assert folder.resolve().parent == root.resolve()
        assert folder.name == name


# --- searching
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", Pooling)
def test_search_equals_brute_force_on_a_thousand_queries(built, pooling):
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((1000, 48)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    sums, counts = built.sums.astype(np.float64), built.counts
    means = sums[:, 0] / counts[:, :1] if pooling is Pooling.TEXT else sums.sum(1) / counts.sum(1, keepdims=True)
    cosines = queries @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :10]
    scores, rows = built.search(queries, 10, pooling=pooling)
    np.testing.assert_array_equal(rows, best)
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, best, 1), rtol=0, atol=1e-5)


def test_scores_of_hits_are_cosines_of_the_stored_vectors(built, model):
    query = model.encode(["snow lies deep on the mountains"])[0]
    hits = built.hits(query, 7)
    assert [hit.rank for hit in hits] == list(range(1, 8))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        row = built.row[hit.document.id]
        assert hit.row == row
        assert hit.score == pytest.approx(float(built.vectors()[row] @ query), abs=1e-5)
        assert hit.rationale == built.rationales[row]
        assert hit.as_dict()["metadata"] == {"number": int(hit.document.id[1:])}


def test_a_document_finds_itself(built):
    scores, rows = built.search(built.vectors(), 1)
    np.testing.assert_allclose(scores, 1, atol=1e-5)
    assert (built.vectors()[rows[:, 0]] * built.vectors()).sum(1).min() > 1 - 1e-6


def test_k_is_cut_to_the_number_of_documents(built):
    scores, rows = built.search(built.vectors()[:2], 1000)
    assert scores.shape == rows.shape == (2, 58)
    assert sorted(rows[0]) == list(range(58))


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(built, k):
    with pytest.raises(GraceError, match="k must be at least 1"):
        built.search(built.vectors()[:1], k)


def test_queries_of_another_width_are_refused(built):
    with pytest.raises(GraceError, match="the queries have 47 dimensions"):
        built.search(np.ones((2, 47)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_queries_that_are_not_finite_are_refused(built, value):
    query = built.vectors()[:1].copy()
    query[0, 3] = value
    with pytest.raises(GraceError, match="NaN or infinity"):
        built.search(query)
