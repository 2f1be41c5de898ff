"""The gate that decides who writes: against loops, and on a real index with a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grace_core import gating
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.gating import ALWAYS, NEVER, Gate
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_core.readers import read_corpus


def test_margins():
    np.testing.assert_allclose(
        gating.margins(np.array([[0.9, 0.7, 0.1], [0.5, 0.5, 0.4], [0.3, 0.3, 0.3]])), [0.25, 0.0, 0.0]
    )
    for few in ([[0.9], [0.5]], [[0.9, 0.8], [0.5, 0.5]]):  # nothing to bring forward, so nothing to write
        np.testing.assert_allclose(gating.margins(np.array(few)), [1, 1])
    rows = -np.sort(-np.random.default_rng(0).random((5, 30)), axis=1)
    np.testing.assert_allclose(gating.margins(rows), [(row[0] - row[1]) / (row[0] - row[9]) for row in rows])
    np.testing.assert_allclose(
        gating.margins(rows), gating.margins(100 + 7 * rows)
    )  # whatever the spread of the cosines


def test_the_curve_against_a_loop():
    rng = np.random.default_rng(0)
    margin = rng.integers(0, 6, 20) / 10  # with equal ones, which write together
    without, written = rng.random(20), rng.random(20)
    gates = gating.curve(margin, without, written)
    assert (gates.shares[0], gates.shares[-1]) == (0, 1)
    assert gates.values[0] == pytest.approx(without.mean())
    assert gates.values[-1] == pytest.approx(written.mean())
    assert len(gates.shares) == len(np.unique(margin)) + 1
    for threshold, share, value in zip(gates.thresholds, gates.shares, gates.values, strict=True):
        writes = [m < threshold for m in margin]
        assert share == pytest.approx(sum(writes) / 20)
        assert value == pytest.approx(
            np.mean([w if writes_ else t for w, t, writes_ in zip(written, without, writes, strict=True)])
        )
    assert (np.diff(gates.shares) > 0).all()


def test_the_gate_that_is_chosen_writes_where_it_helps_and_not_too_often():
    margin = np.arange(10) / 10
    helps = np.where(margin < 0.35, 1.0, -1.0)  # the four least sure
    without = np.full(10, 0.5)
    gate = gating.choose(margin, without, without + 0.3 * helps)
    assert gate.writes(margin).tolist() == [True] * 4 + [False] * 6
    assert gating.choose(margin, without, without + 0.3 * helps, share=0.2).writes(margin).sum() == 2
    assert gating.choose(margin, without, without - 0.1).threshold == NEVER
    assert gating.choose(margin, without, without + 0.1, share=1.0).threshold == ALWAYS
    assert gating.choose(margin, without, without).threshold == NEVER  # nothing gained, nothing written


def test_never_and_always():
    margin = np.array([0.0, 0.3, 1.0])
    assert not Gate(NEVER).writes(margin).any()
    assert Gate(ALWAYS).writes(margin).all()


@pytest.mark.parametrize("lengths", [(0, 0, 0), (3, 2, 3), (3, 3, 2)], ids=str)
def test_what_cannot_be_judged_is_refused(lengths):
    with pytest.raises(GraceError, match="at least one query, each with its margin"):
        gating.curve(*(np.zeros(n) for n in lengths))


@pytest.fixture(scope="module")
def world(new_model, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gated")
    rows = [{"_id": f"d{i}", "text": f"{i} {sentences[i]}"} for i in range(30)]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = new_model("qwen2", max_new_tokens=8)
    collection = Collection.create(read_corpus(folder / "c.jsonl"), folder / "x")
    return model, build(collection, model), [" ".join(text.split()[:4]) for text in sentences[:12]]


def test_a_gated_search_is_either_search_query_by_query(world):
    model, index, queries = world
    read = model.represent(queries, rationale=False)
    plain = index.search(index.embed(read, Pooling.TEXT), 5)
    full = index.search(index.embed(model.represent(queries)), 5)
    margin = gating.margins(index.search(index.embed(read, Pooling.TEXT), 10)[0])
    middle = float(np.median(margin))
    for threshold in (NEVER, middle, ALWAYS):
        gated = gating.search(index, model, queries, Gate(threshold), 5)
        np.testing.assert_allclose(gated.margins, margin, atol=1e-6)
        assert gated.wrote.sum() == len(gated.written) == {NEVER: 0, middle: 6, ALWAYS: 12}[threshold]
        for i, wrote in enumerate(gated.wrote):
            scores, rows = full if wrote else plain
            np.testing.assert_allclose(gated.scores[i], scores[i], atol=1e-5)
            assert gated.rows[i].tolist() == rows[i].tolist()


def test_one_document_is_asked_for(world):
    model, index, queries = world
    gated = gating.search(index, model, queries, Gate(ALWAYS), 1)
    assert gated.scores.shape == gated.rows.shape == (12, 1)


def test_an_index_without_rationales_is_refused(world, tmp_path):
    model, index, queries = world
    bare = build(Collection.create(index.collection.corpus, tmp_path / "x"), model, rationale=False)
    with pytest.raises(GraceError, match="built without rationales, so that a query needs none"):
        gating.search(bare, model, queries, Gate(0.1))


def test_grace_search_writes_where_the_gate_lets_it(grace, tiny_folder, sentences, tmp_path):
    rows = [{"_id": f"d{i}", "text": f"{i} {sentences[i]}"} for i in range(12)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status, _, err = grace(
        "index", "build", tmp_path / "c.jsonl", "--out", tmp_path / "x", "--model", tiny_folder, "--max-new-tokens", 6
    )
    assert status == 0, err
    model, hits = GraceModel.from_pretrained(tiny_folder, device="cpu", max_new_tokens=6), {}
    index = GraceIndex(Collection(tmp_path / "x"), "tiny")
    for gate in (NEVER, ALWAYS):
        status, out, err = grace(
            "search", tmp_path / "x", "old town", "--model", "tiny", "-k", 4, "--gate", gate, "--json"
        )
        assert status == 0, err
        hits[gate] = [(hit["id"], hit["score"]) for hit in json.loads(out)]
        expected = gating.search(index, model, ["old town"], Gate(gate), 4)
        assert [index.row[name] for name, _ in hits[gate]] == expected.rows[0].tolist()
        np.testing.assert_allclose([score for _, score in hits[gate]], expected.scores[0], atol=1e-4)
        assert f"less than {gate:g}: {'a' if gate else 'no'} rationale was written" in err
    assert hits[NEVER] != hits[ALWAYS]
    status, _, err = grace("search", tmp_path / "x", "old town", "--model", "tiny", "--gate", 0.1, "--no-rationale")
    assert status == 2
    assert "there is to be none; leave one of them out" in err
