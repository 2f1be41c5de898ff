"""Sentences and reasons of an index: made, stored, resumed, refused; small, Chinese and repetitive collections."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from reasons_world import KINDS, METAL, OPERA, RIVER, build_given, kinds_of, numbered_texts, stop_after

from grace_core.build import BuildStopped
from grace_core.errors import GraceError
from grace_core.index import GraceIndex
from grace_core.pooling import RATIONALE
from grace_core.reasons import sentences as sentences_module
from grace_core.reasons.clusters import agreement
from grace_core.reasons.collection import OTHERS, have_reasons, make_reasons, open_reasons
from grace_core.reasons.sentences import find_sentences, have_sentences, open_sentences, says_something

NUMBER = 48
FILES = ("sentences.safetensors", "sentences.parquet", "sentences.json")


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["qwen2"]


@pytest.fixture(scope="module")
def built(model, sentences, tmp_path_factory):
    """An index of three kinds of documents, whose rationales name the kind and add a sentence of their own."""
    rationales = [f"<think>{KINDS[kind]}</think> {sentences[11 * i % 300]}" for i, kind in enumerate(kinds_of(NUMBER))]
    return build_given(tmp_path_factory.mktemp("reasons") / "c", model, numbered_texts(sentences, NUMBER), rationales)


def copy_of(index: GraceIndex, folder) -> GraceIndex:
    import shutil

    shutil.copytree(index.collection.folder, folder)
    for path in [*(folder / index.model_name).glob("sentences.*"), *(folder / index.model_name).glob("reasons.*")]:
        path.unlink()
    return GraceIndex(folder, index.model_name)


# --- sentences
# --------------------------------------------------------------------------------------------------------------


def test_sentences_with_text_and_template_are_the_vector(built, model):
    found = find_sentences(built, model)
    parts = built.geometry.parts(built.sums[:], built.counts[:])
    parts[:, RATIONALE] = 0
    whole = parts.sum(axis=1)
    np.add.at(whole, found.rows, found.vectors())
    assert np.abs(whole - built.vectors()).max() <= 1e-5
    assert found.residual() <= 1e-5


def test_sentences_are_the_rationales_in_order(built, model):
    found = find_sentences(built, model)
    for row in range(NUMBER):
        numbers = list(found.of(row))
        assert "".join(found.texts[i] for i in numbers) == built.rationales[row]
        assert found.counts[numbers].sum() == len(built.rationale_ids[row]) == built.counts[row, RATIONALE]
        assert found.starts[numbers].tolist() == [0, *np.cumsum(found.counts[numbers])[:-1].tolist()]


def test_some_sentences_have_the_vectors_that_they_have_among_all(built, model):
    found = find_sentences(built, model)
    numbers = found.of_rows(np.array([40, 3]))
    assert set(found.rows[numbers].tolist()) == {3, 40}
    np.testing.assert_allclose(found.vectors(numbers), found.vectors()[numbers], atol=1e-12)


def test_tags_and_marks_say_nothing(built, model):
    found = find_sentences(built, model)
    assert {found.texts[i].strip() for i in np.flatnonzero(~found.speaking)} == {"<think>", "</think>"}
    assert says_something("中文")
    assert not says_something(" … <b>")


def test_stored_sentences_are_opened_without_a_model(built, model):
    find_sentences(built, model)
    assert have_sentences(built)
    again = open_sentences(GraceIndex(built.collection.folder, built.model_name))
    np.testing.assert_array_equal(again.sums, find_sentences(built).sums)


def test_a_stopped_run_goes_on_to_the_same_bytes(built, model, tmp_path, monkeypatch):
    monkeypatch.setattr(sentences_module, "SHARD", 8)
    whole, stopped = copy_of(built, tmp_path / "whole"), copy_of(built, tmp_path / "stopped")
    find_sentences(whole, model)
    with pytest.raises(BuildStopped, match="2 of 6"):
        find_sentences(stopped, model, should_stop=stop_after(2))
    assert len(list((stopped.folder / ".sentences").glob("*.safetensors"))) == 2
    seen = []
    find_sentences(stopped, model, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (NUMBER, NUMBER)
    for name in FILES:
        assert (stopped.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert not (stopped.folder / ".sentences").exists()


def test_a_killed_run_goes_on_after_its_last_whole_shard(built, model, tiny_folder, root, tmp_path, monkeypatch):
    monkeypatch.setattr(sentences_module, "SHARD", 4)
    whole, killed = copy_of(built, tmp_path / "whole"), copy_of(built, tmp_path / "killed")
    find_sentences(whole, model)
    code = (
        "import sys, time; from grace_core.index import GraceIndex; from grace_core.model import GraceModel;"
        "from grace_core.reasons import sentences; sentences.SHARD = 4;"
        "index = GraceIndex(sys.argv[1], sys.argv[2]); model = GraceModel.from_pretrained(sys.argv[3]);"
        "index.manifest['model']['sha256'] = model.fingerprint;"  # the same weights, from a folder instead of from memory
        "sentences.find_sentences(index, model, progress=lambda done, total: time.sleep(0.3))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, killed.collection.folder, killed.model_name, tiny_folder], cwd=root
    )
    limit = time.monotonic() + 120
    while len(list((killed.folder / ".sentences").glob("0*.safetensors"))) < 3 and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.kill()
    assert process.wait() < 0, "it ended before it was killed"
    assert not have_sentences(killed)
    kept = {path: path.stat().st_mtime_ns for path in (killed.folder / ".sentences").glob("0*.safetensors")}
    assert len(kept) >= 3
    finished = []
    find_sentences(
        killed,
        model,
        progress=lambda done, total: finished.append({p for p in kept if p.stat().st_mtime_ns == kept[p]}),
    )
    assert finished[0] == set(kept), "a finished shard was made again"
    for name in FILES:
        assert (killed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_shards_of_other_vectors_are_not_used(built, model, tmp_path, monkeypatch):
    monkeypatch.setattr(sentences_module, "SHARD", 8)
    index = copy_of(built, tmp_path / "c")
    with pytest.raises(BuildStopped):
        find_sentences(index, model, should_stop=stop_after(2))
    plan = json.loads((index.folder / ".sentences" / "plan.json").read_text())
    (index.folder / ".sentences" / "plan.json").write_text(json.dumps(plan | {"vectors": "others"}))
    with pytest.raises(BuildStopped, match="0 of 6"):
        find_sentences(index, model, should_stop=stop_after(0))


@pytest.mark.parametrize("name", ["sentences.safetensors", "sentences.parquet"])
def test_a_damaged_file_is_told(built, model, tmp_path, name):
    index = copy_of(built, tmp_path / "c")
    find_sentences(index, model)
    (index.folder / name).write_bytes((index.folder / name).read_bytes()[:-1])
    with pytest.raises(GraceError, match=f"{name} is missing or was changed"):
        open_sentences(index)


def test_a_collection_without_rationales_is_told(model, sentences, tmp_path):
    from grace_core.collection import Collection
    from grace_core.index import build
    from grace_core.readers import Corpus, Document

    documents = [Document(f"d{i}", "", text, {}) for i, text in enumerate(sentences[:6])]
    index = build(Collection.create(Corpus(documents, None, "test", []), tmp_path / "c"), model, rationale=False)
    for attempt in (find_sentences, make_reasons, open_sentences, open_reasons):
        with pytest.raises(GraceError, match="has no rationales"):
            attempt(index)


def test_another_model_is_refused(built, tiny_models, tmp_path):
    with pytest.raises(GraceError, match="built with another model"):
        find_sentences(copy_of(built, tmp_path / "c"), tiny_models["llama"])


# --- reasons
# ----------------------------------------------------------------------------------------------------------------


def test_the_kinds_are_found_again_and_named(demo_base, demo_collection, tmp_path):
    """Sixteen documents each of three kinds, with what a trained model wrote about them."""
    shipped = GraceIndex(demo_collection, "demo-base")
    words = ("river", "painter", "mineral")
    rows = [
        [row for row, said in enumerate(shipped.rationales) if f"tells of a {word}." in said][:16] for word in words
    ]
    rows = [row for some in zip(*rows, strict=True) for row in some]
    texts = [demo_collection.documents[shipped.ids[row]].content for row in rows]
    index = build_given(tmp_path / "c", demo_base, texts, [shipped.rationales[row] for row in rows])
    reasons = make_reasons(index, demo_base)
    grouping, kinds = reasons.at(reasons.sizes[-1]), kinds_of(len(rows))
    first = [next(i for i in reasons.sentences.of(row) if reasons.sentences.speaking[i]) for row in range(48)]
    for label in set(grouping.labels[first].tolist()):  # the sentence that names the kind
        reason = grouping.reasons[label]
        (kind,) = set(kinds[reason.documents].tolist())
        assert words[kind] in reason.name
        assert words[kind] in reasons.sentences.texts[reason.sentence]


def test_shares_add_up_to_one_at_every_size(built, model):
    reasons = make_reasons(built, model)
    for size in reasons.sizes:
        grouping = reasons.at(size)
        assert len(grouping) == size
        assert sum(reason.share for reason in grouping.reasons) + grouping.other_shares.sum() == pytest.approx(
            1, abs=1e-6
        )
        assert sum(reason.size for reason in grouping.reasons) == reasons.sentences.speaking.sum()
        np.testing.assert_allclose(grouping.totals.sum(axis=0), built.vectors().mean(axis=0), atol=1e-5)
        assert len({reason.name for reason in grouping.reasons}) == size


def test_shares_are_parts_of_the_variance(built, model):
    reasons = make_reasons(built, model)
    grouping, vectors = reasons.at(), reasons.sentences.vectors()
    whole = built.vectors().astype(np.float64)
    apart = whole - whole.mean(axis=0)
    for reason in grouping.reasons[:4]:
        added = np.zeros_like(whole)
        mine = grouping.labels == reason.number
        np.add.at(added, reasons.sentences.rows[mine], vectors[mine])
        assert reason.share == pytest.approx((added * apart).sum() / (apart**2).sum(), abs=1e-5)


def test_a_seed_gives_the_same_reasons(built, model, tmp_path):
    reasons = make_reasons(built, model)
    again = make_reasons(copy_of(built, tmp_path / "c"), model, seed=0)
    other = make_reasons(copy_of(built, tmp_path / "d"), model, seed=1)
    np.testing.assert_array_equal(again.at().labels, reasons.at().labels)
    assert [reason.name for reason in again.at().reasons] == [reason.name for reason in reasons.at().reasons]
    assert other.about["seed"] == 1
    size = str(reasons.default_size)
    told = agreement(reasons.hierarchy.cut(int(size)), other.hierarchy.cut(int(size)))
    assert reasons.about["agreement"][size] == pytest.approx(told, abs=1e-3)


def test_reasons_belong_to_a_geometry_and_sentences_do_not(built, model, tmp_path):
    index = copy_of(built, tmp_path / "c")
    make_reasons(index, model)
    before = (index.folder / "sentences.safetensors").stat().st_mtime_ns
    index.change_geometry("calibrated")
    assert have_sentences(index)
    assert not have_reasons(index)
    with pytest.raises(GraceError, match="no reasons of its sentences"):
        open_reasons(index)
    assert make_reasons(index).sentences.residual() <= 1e-5
    assert (index.folder / "sentences.safetensors").stat().st_mtime_ns == before
    assert have_reasons(index)


def test_damaged_reasons_are_told(built, model, tmp_path):
    index = copy_of(built, tmp_path / "c")
    make_reasons(index, model)
    (index.folder / "reasons.safetensors").write_bytes(b"")
    with pytest.raises(GraceError, match=r"reasons.safetensors is missing or was changed"):
        open_reasons(index)


@pytest.mark.parametrize("size", [0, 4_000, "10", None.__class__, 10.0, True], ids=str)
def test_a_size_that_there_is_not_is_refused(built, model, size):
    reasons = make_reasons(built, model)
    with pytest.raises(GraceError, match="sizes are"):
        reasons.at(size)


def test_five_documents(model, sentences, tmp_path):
    index = build_given(tmp_path / "c", model, numbered_texts(sentences, 5), [RIVER, METAL, OPERA, RIVER, METAL])
    reasons = make_reasons(index, model)
    grouping = reasons.at()
    assert 1 <= len(grouping) <= 6
    assert sum(reason.size for reason in grouping.reasons) == 10
    assert sum(reason.share for reason in grouping.reasons) + grouping.other_shares.sum() == pytest.approx(1, abs=1e-6)


def test_one_document(model, sentences, tmp_path):
    index = build_given(tmp_path / "c", model, [sentences[0]], [RIVER])
    grouping = make_reasons(index, model).at()
    assert [reason.documents.tolist() for reason in grouping.reasons] == [[0]]
    assert grouping.other_shares.tolist() == [0] * len(OTHERS)  # nothing sets a document alone apart


def test_one_sentence_for_all_is_one_reason(model, sentences, tmp_path):
    index = build_given(tmp_path / "c", model, numbered_texts(sentences, 30), ["A river flows."] * 30)
    reasons = make_reasons(index, model)
    assert reasons.sizes == [1]
    assert [(reason.name, len(reason.documents)) for reason in reasons.at().reasons] == [("river flows", 30)]


def test_copies_of_a_document_have_the_same_reasons(model, sentences, tmp_path):
    texts = numbered_texts(sentences, 12) * 3
    index = build_given(tmp_path / "c", model, texts, [KINDS[kind] for kind in kinds_of(12)] * 3)
    reasons = make_reasons(index, model)
    grouping = reasons.at()
    per_document = [grouping.labels[list(reasons.sentences.of(row))].tolist() for row in range(36)]
    assert per_document[:12] == per_document[12:24] == per_document[24:]


def test_rationales_that_say_nothing_are_told(model, sentences, tmp_path):
    index = build_given(tmp_path / "c", model, numbered_texts(sentences, 3), ["...", "</b>", "!!"])
    with pytest.raises(GraceError, match="says anything"):
        make_reasons(index, model)


def test_chinese(model, tmp_path):
    said = [
        "这段文字讲的是高血压。高血压会损害心脏。",
        "这段文字讲的是长江。长江流经十一个省。",
        "这段文字讲的是京剧。京剧在北京形成。",
    ]
    texts = [f"第{i}篇文章：{said[i % 3]}" for i in range(30)]
    index = build_given(tmp_path / "c", model, texts, [said[i % 3] for i in range(30)])
    reasons = make_reasons(index, model)
    assert all(len(reasons.sentences.of(row)) == 2 for row in range(30))
    assert len(reasons.at()) == 6
    names = " ".join(reason.name for reason in reasons.at().reasons)
    assert {word for word in ("高血压", "长江", "京剧") if word in names} == {"高血压", "长江", "京剧"}
    assert reasons.sentences.residual() <= 1e-5
