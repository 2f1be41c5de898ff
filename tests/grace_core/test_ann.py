"""The kinds of FAISS index: what they find, how their recall is measured, and that scores are cosines
whatever the kind.
"""

from __future__ import annotations

import json

import faiss
import numpy as np
import pytest
from safetensors.numpy import load_file, save

from grace_benchmarks.search import Numbered, SyntheticModel
from grace_core import ann
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.index import GraceIndex, build
from grace_core.pooling import Pooling, embeddings
from grace_core.readers import Corpus
from grace_core.tensors import PooledVectors, create_tensors, map_tensors

COUNT, DIM = 10_240, 32


@pytest.fixture(scope="module")
def synthetic():
    return SyntheticModel(DIM)


@pytest.fixture(scope="module")
def vectors(synthetic):
    return synthetic.vectors(COUNT, seed=7)


@pytest.fixture(scope="module")
def queries(synthetic):
    return synthetic.vectors(40, seed=8)


@pytest.fixture(scope="module")
def approximate(vectors):
    """Kind to index and quality."""
    indexes = {kind: ann.make(vectors, kind) for kind in ("hnsw", "ivfpq")}
    return {kind: (index, ann.tune(index, kind, vectors)) for kind, index in indexes.items()}


@pytest.fixture
def index(synthetic, tmp_path):
    """A flat index of 300 made-up vectors."""
    corpus = Corpus(Numbered(300), None, "synthetic", [])
    return build(Collection.create(corpus, tmp_path / "c"), synthetic, rationale=False, encode=synthetic.encode)


# --- what the kinds find
# ----------------------------------------------------------------------------------------------------


def test_exact_search_by_blocks_equals_flat(vectors, queries, monkeypatch):
    monkeypatch.setattr(ann, "BLOCK", 1000)
    scores, rows = ann.search(ann.make(vectors), "flat", vectors, queries, 10)
    again, same = ann.exact(vectors, queries, 10)
    np.testing.assert_array_equal(rows, same)
    np.testing.assert_allclose(scores, again, atol=1e-6)


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_scores_are_cosines_of_the_vectors_best_first(approximate, vectors, queries, kind):
    index, quality = approximate[kind]
    scores, rows = ann.search(index, kind, vectors, queries, 10, effort=quality.effort)
    assert rows.min() >= 0
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(hits)) == 10 for hits in rows.tolist())


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_recall_is_what_a_count_of_found_neighbours_gives(approximate, vectors, kind):
    index, quality = approximate[kind]
    own = np.unique(np.linspace(0, COUNT - 1, ann.SAMPLE).astype(int))
    asked = vectors[own] + vectors[np.roll(own, 100)]
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    exact = asked.astype(np.float64) @ vectors.T.astype(np.float64)
    # the two documents that a query is the mean of score the same, up to rounding: either may be the tenth
    near = [set(np.flatnonzero(row >= np.sort(row)[-10] - 1e-6).tolist()) for row in exact]
    hits = ann.search(index, kind, vectors, asked, 10, effort=quality.effort)[1].tolist()
    assert quality.recall == pytest.approx(
        np.mean([len(a & {*b}) / 10 for a, b in zip(near, hits, strict=True)]), abs=0.003
    )
    assert quality.recall >= ann.TARGET
    assert quality.queries == 200
    assert ann.recall(index, kind, vectors, quality.effort) == pytest.approx(quality.recall, abs=1e-4)


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_the_recall_that_is_told_is_that_of_new_queries(approximate, vectors, synthetic, kind):
    index, quality = approximate[kind]
    new = synthetic.vectors(300, seed=9)
    scores = ann.search(index, kind, vectors, new, 10, effort=quality.effort)[0]
    recall = (scores >= ann.exact(vectors, new, 10)[0][:, -1:] - 1e-6).mean()
    assert recall == pytest.approx(quality.recall, abs=0.05)


def test_the_effort_is_the_least_that_reaches_the_target(approximate, vectors):
    index, quality = approximate["ivfpq"]
    ladder = ann.LADDERS["ivfpq"]
    lower = ladder[ladder.index(quality.effort) - 1]
    assert quality.effort > ladder[0]
    assert ann.recall(index, "ivfpq", vectors, lower) < ann.TARGET


def test_duplicates_count_as_found(queries):
    twice = np.repeat(queries, 20, axis=0)
    assert ann.tune(ann.make(twice, "hnsw"), "hnsw", twice).recall == 1.0


def test_one_vector_and_opposite_ones_can_be_asked_for(queries):
    for few in (queries[:1], np.concatenate([queries[:1], -queries[:1]])):
        assert ann.tune(ann.make(few, "hnsw"), "hnsw", few).recall == 1.0


def test_ivfpq_is_as_small_as_it_should_be_and_mapped(approximate, vectors, tmp_path):
    index, quality = approximate["ivfpq"]
    ann.write(index, tmp_path / "i")
    cells = index.nlist * DIM * 4
    assert (
        (tmp_path / "i").stat().st_size < COUNT * (DIM // 4 + 8) + cells + 256 * DIM * 4 + 64 * 1024 < COUNT * DIM * 4
    )
    mapped = ann.read(tmp_path / "i")
    for opened in (index, mapped):
        opened.nprobe = 1  # not what the search uses
    np.testing.assert_array_equal(
        ann.search(mapped, "ivfpq", vectors, vectors[:5], 10, effort=quality.effort)[1],
        ann.search(index, "ivfpq", vectors, vectors[:5], 10, effort=quality.effort)[1],
    )


def test_hnsw_is_the_same_bytes_again_with_one_thread(vectors, tmp_path):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        for name in "ab":
            ann.write(ann.make(vectors[:2000], "hnsw"), tmp_path / name)
    finally:
        faiss.omp_set_num_threads(before)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_too_few_vectors_and_unknown_kinds_are_refused(queries):
    with pytest.raises(GraceError, match=r"ivfpq needs at least 9,984 documents to be trained on, got 40; use flat"):
        ann.make(queries, "ivfpq")
    with pytest.raises(GraceError, match="the FAISS kind is 'ivf', expected one of flat, hnsw, ivfpq"):
        ann.make(queries, "ivf")


# --- in an index
# ------------------------------------------------------------------------------------------------------------


def test_the_kind_is_changed_without_encoding_and_told_in_the_manifest(index, queries):
    vectors = (index.folder / "vectors.safetensors").read_bytes()
    exact = index.search(queries, 5)
    index.change_faiss("hnsw")
    again = GraceIndex(index.collection, index.model_name)
    about = json.loads((index.folder / "manifest.json").read_text())["faiss"]
    assert about == {
        "kind": "hnsw",
        "efSearch": 16,
        "recall@10": about["recall@10"],
        "recall_queries": 200,
        "copies": 0,
    }
    assert about["recall@10"] >= ann.TARGET
    for opened in (index, again):
        assert opened.faiss_kind == "hnsw"
        assert opened.verify() == {
            "model": "synthetic",
            "ok": True,
            "documents": 300,
            "damaged": [],
            "faiss": about,
            "faiss_matches_vectors": True,
        }
        np.testing.assert_allclose(opened.search(queries, 5)[0], exact[0], atol=1e-5)
    assert (index.folder / "vectors.safetensors").read_bytes() == vectors
    index.change_faiss("flat")
    np.testing.assert_array_equal(GraceIndex(index.collection, "synthetic").search(queries, 5)[1], exact[1])


def test_a_build_of_a_finished_index_changes_its_kind_only_when_told(index, synthetic):
    def never(jobs, tick):
        raise AssertionError("nothing is to be encoded")
        yield

    for asked, kind in (("hnsw", "hnsw"), (None, "hnsw"), ("flat", "flat")):
        assert build(index.collection, synthetic, rationale=False, encode=never, faiss=asked).faiss_kind == kind


def test_every_document_is_found_when_all_are_asked_for(index, queries):
    index.change_faiss("hnsw")
    scores, rows = index.search(queries, 1000)
    assert scores.shape == (40, 300)
    assert all(sorted(hits) == list(range(300)) for hits in rows.tolist())
    np.testing.assert_allclose(scores, ann.exact(index.vectors(), queries, 300)[0], atol=1e-5)


def test_a_short_search_is_completed_exactly(vectors, queries, synthetic, tmp_path):
    """Cells that are looked into hold fewer than so many documents."""
    corpus = Corpus(Numbered(COUNT), None, "synthetic", [])
    index = build(
        Collection.create(corpus, tmp_path / "c"), synthetic, rationale=False, encode=synthetic.encode, faiss="ivfpq"
    )
    assert ann.search(index.faiss_index(), "ivfpq", index.stored(), queries[:2], 9000, effort=4)[1].min() == -1
    _check_the_file_of_vectors(index, queries)
    scores, rows = index.search(queries[:2], 9000)
    assert rows.min() >= 0
    np.testing.assert_allclose(scores, ann.exact(index.stored(), queries[:2], 9000)[0], atol=1e-5)
    assert index.verify()["ok"]


def _check_the_file_of_vectors(index, queries):
    """Beside an ivfpq index: it gives what the sums give, to the bit, is not believed when it is another, and goes with it."""
    path = index.folder / "exact.safetensors"
    expected = index.search(queries, 10)
    assert isinstance(index._open(None).vectors, np.ndarray)
    for spoil in (lambda: path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1"), path.unlink):
        spoil()
        without = GraceIndex(index.collection, "synthetic")
        assert not isinstance(without._open(None).vectors, np.ndarray)
        for one, other in zip(without.search(queries, 10), expected, strict=True):
            np.testing.assert_array_equal(one, other)
        assert not without.verify()["ok"]
    index.repair()
    np.testing.assert_array_equal(np.asarray(index._open(None).vectors), index.vectors())
    assert GraceIndex(index.collection, "synthetic").verify()["ok"]
    index.change_geometry("centred")
    np.testing.assert_array_equal(np.asarray(index._open(None).vectors), index.vectors())
    index.change_geometry("raw")
    index.change_faiss("flat")
    assert not path.exists()
    index.change_faiss("ivfpq")


def test_a_damaged_hnsw_index_is_searched_exactly_and_repaired_as_hnsw(index, queries):
    index.change_faiss("hnsw")
    path = index.folder / "index.faiss"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="using one made from the vectors"):
        again = GraceIndex(index.collection, "synthetic")
    assert not again.verify()["ok"]
    np.testing.assert_array_equal(again.search(queries, 5)[1], ann.exact(index.vectors(), queries, 5)[1])
    again.repair()
    assert again.faiss_kind == "hnsw"
    assert GraceIndex(index.collection, "synthetic").verify()["ok"]


def test_verify_finds_an_hnsw_index_of_other_vectors(index, queries):
    from grace_core.build import write_manifest
    from grace_core.files import sha256

    index.change_faiss("hnsw")
    ann.write(ann.make(np.ascontiguousarray(index.vectors()[::-1]), "hnsw"), index.folder / "index.faiss")
    files = index.manifest["files"] | {"index.faiss": sha256(index.folder / "index.faiss")}
    write_manifest(index.folder, index.manifest | {"files": files})
    assert not GraceIndex(index.collection, "synthetic").verify()["ok"]


def test_a_kind_that_cannot_be_made_leaves_the_index_as_it_was(index):
    before = {path.name: path.read_bytes() for path in index.folder.iterdir()}
    with pytest.raises(GraceError, match="ivfpq needs at least"):
        index.change_faiss("ivfpq")
    assert {path.name: path.read_bytes() for path in index.folder.iterdir()} == before


def test_the_commands_take_a_kind_and_show_its_recall(grace, tiny_folder, sentences, tmp_path):
    (tmp_path / "c.txt").write_text("\n".join(sentences[:40]))
    options = ("--model", tiny_folder, "--max-new-tokens", 2, "--no-rationale", "--faiss", "hnsw")
    status, out, err = grace("index", "build", tmp_path / "c.txt", "--out", tmp_path / "c", *options)
    assert status == 0, err
    assert "hnsw: recall@10 1.000 against flat, on 40 queries" in out
    status, out, err = grace("index", "faiss", tmp_path / "c", "--model", tiny_folder, "--kind", "flat", "--json")
    assert (status, json.loads(out)["models"]) == (0, {"tiny": {"kind": "flat"}}), err
    assert grace("index", "verify", tmp_path / "c")[0] == 0
    status, _, err = grace("index", "faiss", tmp_path / "c", "--model", tiny_folder, "--kind", "ivfpq")
    assert status == 2
    assert "error: ivfpq needs at least 9,984 documents to be trained on, got 40" in err


# --- vectors on disk
# --------------------------------------------------------------------------------------------------------


def test_created_tensors_are_safetensors_to_the_byte(tmp_path):
    rng = np.random.default_rng(0)
    counts, sums = rng.integers(0, 9, (5, 3)), rng.standard_normal((5, 3, 7)).astype(np.float32)
    out = create_tensors(tmp_path / "v", {"counts": ("I64", counts.shape), "sums": ("F32", sums.shape)})
    out["counts"][:], out["sums"][:] = counts, sums
    for array in out.values():
        array.flush()
    assert (tmp_path / "v").read_bytes() == save({"sums": sums, "counts": counts})
    mapped = map_tensors(tmp_path / "v")
    for name, array in load_file(tmp_path / "v").items():
        np.testing.assert_array_equal(mapped[name], array)
    with pytest.raises(ValueError, match="read-only"):
        mapped["sums"][0] = 1


@pytest.mark.parametrize(
    "content", [b"", b"\1", b"\xff" * 8 + b"x", b"\2" + bytes(7) + b"[]", b"\7" + bytes(7) + b'{"a":1}']
)
def test_files_that_hold_no_tensors_are_refused(tmp_path, content):
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(GraceError, match=r"v holds no vectors that can be read .* build again"):
        map_tensors(tmp_path / "v")


@pytest.mark.parametrize("pooling", Pooling)
def test_pooled_vectors_give_the_same_by_rows_as_at_once(pooling, monkeypatch):
    rng = np.random.default_rng(0)
    sums, counts = rng.standard_normal((50, 3, 8)).astype(np.float32), rng.integers(1, 9, (50, 3))
    monkeypatch.setattr("grace_core.tensors.BLOCK", 16)
    stored, whole = PooledVectors(sums, counts, pooling), embeddings(sums, counts, pooling)
    assert (len(stored), stored.shape) == (50, (50, 8))
    np.testing.assert_array_equal(stored.all(), whole)
    np.testing.assert_array_equal(stored[np.array([7, 3])], whole[[7, 3]])
    np.testing.assert_array_equal(stored[10:20], whole[10:20])
