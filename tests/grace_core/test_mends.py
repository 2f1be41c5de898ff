"""The layer of mends: kept and reverted byte for byte, at any kill one of two states, carried by updates,
exported and imported.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mends_world import OTHER, build_kinds

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.geometry import Role
from grace_core.index import GraceIndex, build
from grace_core.living import update
from grace_core.mend_export import read_export, write_export
from grace_core.mend_layer import LIST, TENSORS, Layer
from grace_core.mends import Change, check, content_of, encoded, keep, revert
from grace_core.pooling import RATIONALE, TEMPLATE, TEXT
from grace_core.readers import Corpus, Document, Judgements

JUDGED = Judgements({"q1": "river", "q2": "snow"}, {"q1": {"d0": 2, "d3": 1}, "q2": {"d4": 1}}, {"q1": "test"})
LAYER = (LIST, TENSORS)


@pytest.fixture(scope="module")
def documents(sentences) -> list[Document]:
    """Twenty documents, of which d7 has the text of d6, and d5 none."""
    texts = [f"{sentences[i]} {sentences[i + 40]}" for i in range(20)]
    texts[7], texts[5] = texts[6], ""
    return [Document(f"d{i}", "", text, {}) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def built(documents, model, tmp_path_factory) -> Path:
    """Collections with a raw, and with a calibrated, index: to be left as they are."""
    return build_kinds(tmp_path_factory.mktemp("built"), corpus_of(documents), model)


@pytest.fixture
def raw(built, tmp_path) -> Path:
    return shutil.copytree(built / "raw", tmp_path / "c")


def opened(folder: Path) -> GraceIndex:
    return GraceIndex(folder, "tiny")


def content(folder: Path) -> dict[str, bytes]:
    """All files of the index but its layer."""
    return {path.name: path.read_bytes() for path in (folder / "tiny").iterdir() if path.name not in (".lock", *LAYER)}


def mend(folder: Path, model, document: str, rationale: str = OTHER) -> str:
    index = opened(folder)
    new = encoded(index, model, index.row[document], rationale)
    return keep(index, [Change(document, "edit" if rationale else "remove", new, "a note")])[0].id


def corpus_of(documents: list[Document]) -> Corpus:
    return Corpus(documents, JUDGED, "made here", [])


def test_a_kept_mend_is_what_the_model_makes_of_text_and_rationale(folder, model):
    before = opened(folder)
    row = before.row["d3"]
    mend(folder, model, "d3")
    after = opened(folder)
    made = model.represent_given([before.collection.documents["d3"].content], [after.rationale_ids[row]])
    assert after.rationales[row] == OTHER
    np.testing.assert_allclose(after.sums[row], made.sums[0], atol=1e-4)
    np.testing.assert_array_equal(after.counts[row], made.counts[0])
    np.testing.assert_array_equal(after.sums[row, [TEXT, TEMPLATE]], before.sums[row, [TEXT, TEMPLATE]])
    others = np.arange(len(before)) != row
    np.testing.assert_array_equal(after.vectors()[others], before.vectors()[others])
    assert not np.allclose(after.vectors()[row], before.vectors()[row], atol=1e-3)
    assert after.verify()["ok"]
    assert check(after) == {"ok": True, "in_force": 1, "reverted": 0, "stale": 0, "error": ""}
    assert after.manifest["counts"]["rationale_tokens"] == int(after.counts[:, RATIONALE].sum())


def test_reverting_restores_every_file_byte_for_byte(folder, model):
    before = content(folder)
    first, second, third = (
        mend(folder, model, "d3"),
        mend(folder, model, "d4", ""),
        mend(folder, model, "d3", "Snow lies deep."),
    )
    assert content(folder) != before
    with pytest.raises(GraceError, match=f"mend '{third}' of the same document 'd3' came later; revert that first"):
        revert(opened(folder), first)
    for each in (second, third, first):
        revert(opened(folder), each)
    assert content(folder) == before
    index = opened(folder)
    assert check(index) == {"ok": True, "in_force": 0, "reverted": 3, "stale": 0, "error": ""}
    assert [mend.new.rationale for mend in Layer.load(index.folder).mends] == [OTHER, "", "Snow lies deep."]
    with pytest.raises(GraceError, match="not in force: it is reverted"):
        revert(index, first)
    assert mend(folder, model, "d3") == "m4"


def test_several_mends_are_kept_at_one_moment(raw, model):
    index = opened(raw)
    changes = [Change(name, "edit", encoded(index, model, index.row[name], OTHER)) for name in ("d0", "d9")]
    assert [one.id for one in keep(index, changes)] == ["m1", "m2"]
    assert [opened(raw).rationales[index.row[name]] for name in ("d0", "d9")] == [OTHER, OTHER]


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_the_index_that_is_searched_follows(raw, model, kind):
    opened(raw).change_faiss(kind)
    mend(raw, model, "d3")
    index = opened(raw)
    scores, rows = index.search(index.vectors()[index.row["d3"]], 1)
    assert rows.tolist() == [[index.row["d3"]]]
    assert scores[0, 0] == pytest.approx(1)
    assert index.verify()["ok"]


def test_an_empty_rationale_is_none(folder, model):
    empty = opened(folder).manifest["counts"]["empty_rationales"]
    mend(folder, model, "d3", " ")
    index = opened(folder)
    row = index.row["d3"]
    assert (index.rationales[row], index.rationale_ids[row], index.counts[row, RATIONALE]) == ("", [], 0)
    np.testing.assert_array_equal(index.sums[row, RATIONALE], 0)
    assert index.manifest["counts"]["empty_rationales"] == empty + 1


def test_what_cannot_be_mended_is_refused_and_leaves_all_as_it_was(raw, model):
    before, index = content(raw), opened(raw)
    new = encoded(index, model, 0, OTHER)
    with pytest.raises(GraceError, match="holds no document 'nobody'"):
        keep(index, [Change("d0", "edit", new), Change("nobody", "edit", new)])
    with pytest.raises(GraceError, match="nothing to mend"):
        keep(index, [Change("d0", "edit", content_of(index, 0))])
    with pytest.raises(GraceError, match="finite"):
        keep(index, [Change("d0", "edit", replace(new, sums=np.full_like(new.sums, np.nan)))])
    with pytest.raises(GraceError, match="takes at most"):
        encoded(index, model, 0, "snow " * 3000)
    with pytest.raises(GraceError, match="no mend 'm1'; there are: none"):
        revert(index, "m1")
    assert content(raw) == before
    assert not (raw / ".mend").exists()
    keep(index, [Change("d0", "edit", new)])
    with pytest.raises(GraceError, match="was changed since it was opened here"):
        keep(index, [Change("d1", "edit", encoded(index, model, 1, OTHER))])


def test_a_damaged_layer_is_told(raw, model):
    mend(raw, model, "d3")
    index = opened(raw)
    (index.folder / TENSORS).write_bytes((index.folder / TENSORS).read_bytes()[:-1] + b"x")
    assert "was changed" in check(index)["error"]
    assert not check(index)["ok"]
    with pytest.raises(GraceError, match="was changed"):
        revert(index, "m1")


def test_an_index_that_lost_a_mend_is_told(raw, model):
    mend(raw, model, "d3")
    saved = {name: (raw / "tiny" / name).read_bytes() for name in LAYER}
    revert(opened(raw), "m1")
    for name, data in saved.items():
        (raw / "tiny" / name).write_bytes(data)
    assert "does not hold what mend m1 of document 'd3' wrote" in check(opened(raw))["error"]


def test_a_process_that_is_killed_leaves_the_old_state_or_the_new_one(python, raw, root, tmp_path):
    run = python(root / "tests" / "grace_core" / "killed_mends.py", raw, tmp_path / "out", "tiny")
    assert run.returncode == 0, run.stderr[-2000:]
    attempts = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(attempts) >= 10
    assert all(one["ok"] and one["in_force"] == one["mended"] for one in attempts), attempts
    assert {one["mended"] for one in attempts} == {True, False}
    assert sum(one["mended"] and ".next" in one["left"] for one in attempts) >= 2  # in the middle of the switch


@pytest.mark.parametrize("rebuild", [True, False], ids=["with the model", "without"])
def test_an_update_carries_mends_of_unchanged_texts(folder, model, documents, sentences, rebuild):
    for document in ("d3", "d6", "d8", "d9"):
        mend(folder, model, document)
    mend(folder, model, "d3", "Snow lies deep.")
    before = opened(folder)
    new = [replace(one, text=sentences[200]) if one.id == "d8" else one for one in documents if one.id != "d9"]
    new = [Document("n", "", documents[3].text, {}), *new, Document("m", "", documents[8].text, {})]
    with update(folder, corpus_of(new)) as changed:
        if rebuild:
            changed.build(model, name="tiny")
        changed.commit()
    assert any(
        "2 mends are no longer in force; 2 carried" in note and "m3 of 'd8': the text" in note for note in changed.notes
    )
    after = opened(folder)
    assert check(after) == {"ok": True, "in_force": 3, "reverted": 0, "stale": 2, "error": ""}
    assert after.verify()["ok"]
    held = {name: content_of(after, after.row[name]) for name in after.ids}
    assert (held["d3"].rationale, held["d6"].rationale) == ("Snow lies deep.", OTHER)
    assert held["d3"].equals(content_of(before, before.row["d3"]))
    first = Layer.load(before.folder).find("m1").old
    assert held["n"].equals(first)  # the same text under another id has the model's own rationale
    assert held["m"].rationale == Layer.load(after.folder).find("m3").old.rationale
    assert held["d7"].equals(content_of(before, before.row["d7"]))  # and so has the copy of d6
    reasons = {one.id: one.reason for one in Layer.load(after.folder).mends if one.state == "stale"}
    assert reasons == {"m3": "the text of its document changed", "m4": "its document is gone"}
    for each in ("m5", "m1", "m2"):
        revert(opened(folder), each)
    plain = opened(folder)
    assert content_of(plain, plain.row["d3"]).equals(first)


def test_reverted_after_an_update_the_index_is_that_of_an_update_without_mends(folder, model, documents, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    mend(folder, model, "d3")
    for each in (folder, other):
        with update(each, corpus_of(documents[:-1])) as changed:
            changed.build(model, name="tiny")
            changed.commit()
    revert(opened(folder), "m1")
    files = [
        {name: data for name, data in content(each).items() if name != "manifest.json"} for each in (folder, other)
    ]
    assert files[0] == files[1]


def test_an_index_that_is_behind_is_brought_up_with_its_mends(raw, model, documents, sentences):
    mend(raw, model, "d3")
    with update(raw, corpus_of([*documents, Document("n", "", sentences[201], {})])) as changed:
        changed.commit()
    assert opened(raw).behind == 1
    assert check(opened(raw))["in_force"] == 1
    with update(raw) as again:
        again.build(model, name="tiny")
    index = opened(raw)
    assert (index.behind, index.rationales[index.row["d3"]], check(index)["ok"]) == (0, OTHER, True)


def test_an_update_that_was_stopped_comes_first(raw, model, documents):
    with update(raw, corpus_of(documents[:-1])) as changed:
        changed.build(model, name="tiny")
    with pytest.raises(GraceError, match="was stopped half way; finish it first"):
        mend(raw, model, "d3")


def test_mends_go_into_another_index_of_the_same_model_without_encoding(folder, model, built, tmp_path):
    kind = opened(folder).geometry.kind
    mend(folder, model, "d3")
    mend(folder, model, "d4", "")
    assert write_export(opened(folder), tmp_path / "mends.json") == 2
    other = shutil.copytree(built / kind, tmp_path / "other")
    read = read_export(opened(other), tmp_path / "mends.json", model)
    assert (len(read.changes), read.encoded, read.left_out) == (2, 0, [])
    keep(opened(other), read.changes)
    assert content(other) == content(folder)
    assert [one.kind for one in Layer.load(other / "tiny").mends] == ["import", "import"]
    again = read_export(opened(other), tmp_path / "mends.json", model)
    assert not again.changes
    assert again.left_out == ["'d3': it has that rationale already", "'d4': it has that rationale already"]


def test_mends_go_into_another_model_s_index_encoded_anew(raw, model, tiny_models, documents, tmp_path, sentences):
    mend(raw, model, "d3")
    mend(raw, model, "d8")
    write_export(opened(raw), tmp_path / "mends.json")
    other, changed = (
        tiny_models["llama"],
        [replace(one, text=sentences[200]) if one.id == "d8" else one for one in documents],
    )
    index = build(Collection.create(corpus_of(changed), tmp_path / "other"), other, name="tiny")
    read = read_export(index, tmp_path / "mends.json", other)
    assert (read.encoded, read.left_out) == (1, ["'d8': its text is another one here"])
    assert read.changes[0].new.rationale == OTHER
    made = other.represent_given([documents[3].content], [read.changes[0].new.ids])
    np.testing.assert_allclose(read.changes[0].new.sums[RATIONALE], made.sums[0, RATIONALE], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ids", ["a"], "token ids"),
        ("ids", [10**6], "token ids below"),
        ("sum", "AAAAAA==", "finite numbers"),
        ("sum", "AAAA", "cannot be read"),
        ("sum", "!", "cannot be read"),
        ("document", 3, "must be a text"),
        ("rationale", None, "must be a text"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(raw, model, built, tmp_path, name, value, told):
    mend(raw, model, "d3")
    write_export(opened(raw), tmp_path / "mends.json")
    stored = json.loads((tmp_path / "mends.json").read_text())
    stored["mends"][0][name] = value
    (tmp_path / "mends.json").write_text(json.dumps(stored))
    with pytest.raises(GraceError, match=told):
        read_export(GraceIndex(built / "raw", "tiny"), tmp_path / "mends.json", model)


def test_files_that_hold_no_mends_are_refused(raw, model, tmp_path):
    with pytest.raises(GraceError, match="no mend in force"):
        write_export(opened(raw), tmp_path / "mends.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(GraceError, match="holds no mends of format 1"):
        read_export(opened(raw), tmp_path / "x.json", model)


def test_scores_of_other_documents_stay_to_the_bit(folder, model):
    before = opened(folder)
    asked = before.geometry.vectors(before.sums[:1], before.counts[:1], before.default_pooling, Role.QUERY)[0]
    mend(folder, model, "d3")
    apart = np.flatnonzero(opened(folder).scores(asked) != before.scores(asked))
    assert apart.tolist() == [before.row["d3"]]
