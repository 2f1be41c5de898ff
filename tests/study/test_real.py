"""Ways to rank real collections, measured alike: with a tiny model and a small collection."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "grace_core"))

from columns_world import save_encoder

from grace_core.columns.encoder import Encoder
from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import Judged
from grace_study import real


@pytest.fixture(scope="module")
def collections(sentences, tmp_path_factory):
    """Two BEIR folders, one with splits."""
    root = tmp_path_factory.mktemp("real")
    for name, begin in (("one", 0), ("two", 60)):
        (root / name / "qrels").mkdir(parents=True)
        rows = [{"_id": f"d{i}", "text": sentences[begin + i]} for i in range(30)]
        (root / name / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        asked = [{"_id": f"q{i}", "text": " ".join(rows[i]["text"].split()[:3])} for i in range(6)]
        (root / name / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
        judged = "".join(f"q{i}\td{i}\t1\n" for i in range(6))
        (root / name / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return [root / "one", root / "two"]


def test_a_way_is_measured_once_and_goes_on_where_it_was(collections, new_model, tmp_path):
    loads = []

    def load():
        loads.append(1)
        return new_model("qwen2", max_new_tokens=6)

    real.run("tiny-seed0", load, collections[:1], tmp_path, queries=5, documents=20)
    real.run("tiny-seed0", load, collections, tmp_path, queries=5, documents=20)
    real.run("tiny-seed0", load, collections, tmp_path, queries=5, documents=20)
    real.run("bm25", load, collections, tmp_path, queries=5, documents=20)
    assert len(loads) == 2
    measured = real.Measured.read(tmp_path)
    assert set(measured.values) == {"tiny", "bm25"}
    columns = measured.values["tiny"][0]["one"]
    assert {"text raw", "rationale calibrated", "text raw + bm25"} <= set(columns)
    assert all(values.shape == (5,) and ((values >= 0) & (values <= 1 + 1e-9)).all() for values in columns.values())


def test_the_table_holds_means_and_paired_differences(collections, new_model, tmp_path):
    for seed in range(2):
        real.run(
            f"tiny-seed{seed}", lambda seed=seed: new_model("qwen2", seed=seed, max_new_tokens=6), collections, tmp_path
        )
    real.run("bm25", lambda: None, collections, tmp_path)
    measured = real.Measured.read(tmp_path)
    result = real.table(measured, trained_on=["one"], against=("bm25", "bm25"))
    row = result["columns"]["tiny text raw"]
    by_hand = np.mean([[seed[name]["text raw"].mean() for seed in measured.values["tiny"]] for name in ("one", "two")])
    assert row["seeds"] == 2
    assert row["all"]["mean"] == pytest.approx(by_hand)
    apart = result["differences"]["tiny text raw"]["unseen"]
    lexical = measured.values["bm25"][0]["two"]["bm25"].mean()
    assert apart["mean"] == pytest.approx(row["two"] - lexical)
    assert apart["ci95"][0] <= apart["mean"] <= apart["ci95"][1]
    text = real.markdown(result)
    assert "| tiny rationale calibrated |" in text
    assert text.count("\n|---") == 2


def test_a_sentence_encoder_is_a_way(collections, tmp_path, sentences):
    real.run(
        "small", lambda: Encoder.load(str(save_encoder(tmp_path / "encoder", sentences))), collections, tmp_path / "out"
    )
    columns = real.Measured.read(tmp_path / "out").values["small"][0]["one"]
    assert set(columns) == {"encoder", "encoder + bm25"}
    assert columns["encoder + bm25"].mean() > columns["encoder"].mean()  # a query is the first words of its document


def test_equal_ways_differ_by_nothing_and_intervals_widen_with_collections():
    rng = np.random.default_rng(0)
    values = [rng.random((1, 40)), rng.random((1, 40)) / 10]
    same = real.interval([collection - collection for collection in values])
    assert same == {"mean": 0.0, "ci95": [0.0, 0.0]}
    narrow, wide = real.interval(values, collections=False)["ci95"], real.interval(values)["ci95"]
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_standardised_scores():
    scores = real.standardised(np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    assert scores[0] == pytest.approx([-np.sqrt(1.5), 0, np.sqrt(1.5)])
    assert (scores[1] == 0).all()


def test_what_was_measured_on_other_queries_is_not_compared(collections, new_model, tmp_path):
    real.run("a", lambda: new_model("qwen2", max_new_tokens=4), collections[:1], tmp_path, queries=5)
    real.run("bm25", lambda: None, collections[:1], tmp_path, queries=4)
    with pytest.raises(GraceError, match="other queries than"):
        real.Measured.read(tmp_path)
    with pytest.raises(GraceError, match="holds nothing"):
        real.Measured.read(tmp_path / "none")


def test_a_query_of_unknown_words_has_a_score_of_zero_everywhere():
    judged = Judged({"q": "zzzz"}, {"a": "river stone", "b": "snow"}, {"q": {"b": 1}})
    assert (real.lexical_scores(judged) == 0).all()
