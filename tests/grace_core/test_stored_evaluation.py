"""Evaluations kept beside an index: read back as they were made, and not used for anything else; paired differences."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.evaluation import stored
from grace_core.evaluation.retrieval import Retrieved, difference, evaluate_index, judged_queries, retrieve, summary
from grace_core.files import only_writer
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_core.readers import Corpus, Document, Judgements


@pytest.fixture(scope="module")
def world(tiny_folder, sentences, tmp_path_factory):
    """A built collection with four judged queries, and its model."""
    documents = [Document(f"d{i}", f"Number {i}", sentences[i], {}) for i in range(16)]
    queries = {f"q{i}": sentences[3 * i] for i in range(4)}
    judgements = Judgements(
        queries, {name: {f"d{3 * i}": 2, "d1": 1} for i, name in enumerate(queries)}, dict.fromkeys(queries, "test")
    )
    collection = Collection.create(
        Corpus(documents, judgements, "made here", []), tmp_path_factory.mktemp("stored") / "c"
    )
    model = GraceModel.from_pretrained(tiny_folder, max_new_tokens=4)
    build(collection, model)
    return collection.folder, model


@pytest.fixture
def index(world, tmp_path):
    folder, model = world
    shutil.copytree(folder, tmp_path / "c")
    return GraceIndex(tmp_path / "c", model.name)


@pytest.fixture
def made(index, world):
    return {
        pooling: retrieve(index, world[1], judged_queries(index.collection.judgements), pooling) for pooling in Pooling
    }


def test_what_is_stored_is_read_back(index, made, world):
    assert stored.load(index) == {pooling: {} for pooling in Pooling}
    stored.save(index, made)
    assert stored.load(index) == made
    row = made[Pooling.FULL]["q1"]
    queries = judged_queries(index.collection.judgements)
    assert list(row.ranking) == evaluate_index(index, world[1], queries)["q1"]
    assert row.rationale == world[1].generate_rationales([queries["q1"]])[0]
    assert made[Pooling.TEXT]["q1"].rationale == ""
    assert not list(index.folder.glob(".*.tmp"))


def test_parts_add_up_and_newer_rows_replace_older_ones(index, made):
    full = made[Pooling.FULL]
    stored.save(index, {Pooling.FULL: {"q0": full["q0"], "q1": Retrieved(full["q1"].query, ("d5",))}})
    stored.save(index, {Pooling.FULL: {"q1": full["q1"]}, Pooling.TEXT: {"q2": made[Pooling.TEXT]["q2"]}})
    assert stored.load(index) == {
        Pooling.FULL: {"q0": full["q0"], "q1": full["q1"]},
        Pooling.TEXT: {"q2": made[Pooling.TEXT]["q2"]},
    }


def test_queries_that_read_otherwise_now_are_left_out(index, made):
    stored.save(index, made)
    lines = (index.collection.folder / "queries.jsonl").read_text().splitlines()
    changed = [json.dumps({**json.loads(lines[0]), "text": "another question"}), *lines[1:]]
    (index.collection.folder / "queries.jsonl").write_text("\n".join(changed) + "\n")
    again = stored.load(GraceIndex(index.collection.folder, index.model_name))
    assert [sorted(rows) for rows in again.values()] == [["q1", "q2", "q3"]] * 2


def test_an_evaluation_of_another_index_is_refused_and_replaced(index, made, world, tmp_path):
    stored.save(index, made)
    collection = Collection.create(index.collection.corpus, tmp_path / "other")
    other = build(collection, GraceModel.from_pretrained(world[1].source, max_new_tokens=5))
    shutil.copy(index.folder / stored.FILE, other.folder)
    with pytest.raises(
        GraceError,
        match="was made with another index, or is older than this one, which has been built or updated since; evaluate",
    ):
        stored.load(other)
    stored.save(other, {Pooling.FULL: {"q0": made[Pooling.FULL]["q0"]}})
    assert list(stored.load(other)[Pooling.FULL]) == ["q0"]


def test_a_damaged_file_is_said(index, made):
    path = index.folder / stored.FILE
    stored.save(index, made)
    whole = path.read_bytes()
    for content in (b"", b"PAR1 nothing of the kind", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(GraceError, match=r"evaluation\.parquet cannot be read .* remove it and evaluate again"):
            stored.load(index)
    stored.save(index, {Pooling.FULL: {"q0": Retrieved(made[Pooling.FULL]["q0"].query, ("nowhere",))}})
    with pytest.raises(GraceError, match="was damaged or edited"):
        stored.load(index)


def test_only_one_writes_at_a_time(index, made):
    with only_writer(index.folder), pytest.raises(GraceError, match="another process"):
        stored.save(index, made)
    assert not (index.folder / stored.FILE).exists()


def test_the_command_keeps_what_it_evaluates(grace, index, world):
    asked = ("eval", "retrieval", index.collection.folder, "--model", world[1].source)
    status, out, _ = grace(*asked, "--json")
    assert status == 0
    assert not (index.folder / stored.FILE).exists()
    status, kept, _ = grace(*asked, "--save", "--json")
    assert (status, json.loads(kept)) == (0, json.loads(out))
    assert [sorted(rows) for rows in stored.load(index).values()] == [["q0", "q1", "q2", "q3"]] * 2
    status, _, err = grace(*asked, "--save", "--temperature", "1")
    assert status == 2
    assert "only an evaluation with the index's own settings is kept: leave out --save, or temperature" in err


def test_a_paired_difference_is_that_of_the_same_queries():
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    a = {"ndcg@10": hard, "mrr@10": hard}
    b = {"ndcg@10": np.clip(hard + 0.05, 0, 1), "mrr@10": hard}
    found = difference(a, b)
    assert found["ndcg@10"] == pytest.approx((b["ndcg@10"] - hard).mean(), abs=1e-4)
    low, high = found["ci95"]["ndcg@10"]
    wide = summary(a)["ci95"]["ndcg@10"]
    assert 0 < low < found["ndcg@10"] < high
    assert high - low < (wide[1] - wide[0]) / 5  # how hard a query is falls out
    assert (found["mrr@10"], found["ci95"]["mrr@10"]) == (0, [0, 0])
    assert (found["better"], found["equal"], found["worse"]) == (400, 0, 0)
    back = difference(b, a)
    assert (back["ndcg@10"], back["worse"]) == (-found["ndcg@10"], 400)
    with pytest.raises(GraceError, match="got 400 and 3"):
        difference(a, {"ndcg@10": hard[:3], "mrr@10": hard[:3]})


def test_the_evaluations_that_ship_fit_their_indexes(demo_collection):
    there = [GraceIndex(demo_collection, path.parent.name) for path in demo_collection.folder.glob(f"*/{stored.FILE}")]
    assert {index.model_name for index in there} == set(demo_collection.models)
    for index in there:
        found = stored.load(index)[index.default_pooling]
        assert {demo_collection.judgements.splits[name] for name in found} <= {"dev", "test"}
        asked = {name: found[name].query for name in sorted(found)[::200]}
        for name, row in retrieve(index, index.load_model(), asked).items():
            assert (row.rationale, row.ranking[0]) == (found[name].rationale, found[name].ranking[0])
