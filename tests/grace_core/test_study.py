"""The study of ways to train: measuring, and the tables from what is measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grace_core.demo import report, study
from grace_core.demo.figures import COLOURS, training_curves
from grace_core.demo.study import WAYS, measure, one, words_and_geometry
from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.training.config import Evaluation, load_config
from grace_core.training.heldout import HeldOut


@pytest.fixture
def small_test_set(monkeypatch):
    made = HeldOut.read(Evaluation(path="demo", split="test", queries=8, documents=24, probes=0))
    monkeypatch.setattr(study, "test_set", lambda: made)
    return made


@pytest.fixture
def fewer_things(monkeypatch, demo_entries):
    monkeypatch.setattr(study, "entries", lambda: demo_entries[::8])


def write(runs, way: str, seed: int, values: list[float], *, decodings=("greedy",), accuracy: float = 0.5) -> None:
    folder = runs / f"{way}-seed{seed}"
    folder.mkdir(parents=True)
    metrics = dict.fromkeys(("ndcg@10", "recall@10", "mrr@10"), values)
    made = {"way": way, "seed": seed, "decodings": dict.fromkeys(decodings, metrics)}
    made["abilities"] = {"perplexity": 2.0 + seed, "fact_accuracy": accuracy}
    (folder / "measured.json").write_text(json.dumps(made), encoding="utf-8")


def test_all_ways_have_a_configuration_that_loads(root):
    for file, overrides in WAYS.values():
        if file:
            load_config(root / "configs" / file, overrides)


@pytest.mark.slow
def test_a_model_is_measured_in_every_decoding(small_test_set, fewer_things):
    made = measure(GraceModel.from_pretrained("demo-base", max_new_tokens=16), seed=0)
    assert set(made["decodings"]) == {"text", "greedy", "sampled"}
    for row in made["decodings"].values():
        assert len(row["ndcg@10"]) == len(made["queries"]) == 8
    assert made["decodings"]["greedy"]["query_tokens"] > 0
    assert made["abilities"]["perplexity"] > 1
    assert 0 <= made["abilities"]["fact_accuracy"] <= 1
    assert set(measure(GraceModel.from_pretrained("demo-base"), seed=0, rationale=False)["decodings"]) == {"text"}


@pytest.mark.slow
def test_a_measured_run_is_not_done_again(small_test_set, fewer_things, tmp_path, monkeypatch):
    lines = []
    first = one("base", 0, tmp_path, report=lines.append)
    monkeypatch.setattr(study, "measure", None)
    again = one("base", 0, tmp_path, report=lines.append)
    assert again["decodings"] == first["decodings"]
    assert len(lines) == 1


def test_the_lexical_baseline_is_measured_as_the_others(small_test_set, tmp_path):
    made = one("bm25", 0, tmp_path, report=lambda _: None)
    assert set(made["decodings"]) == {"text"}
    assert len(made["decodings"]["text"]["ndcg@10"]) == 8
    assert 0.3 < np.mean(made["decodings"]["text"]["ndcg@10"]) <= 1
    write(tmp_path, "base", 0, [0.1] * 8)
    rows = report.table(tmp_path)["rows"]
    assert [(row["way"], row["decoding"]) for row in rows] == [("bm25", "text"), ("base", "greedy")]


def test_words_and_geometry_of_one_model_are_the_same_four_times(small_test_set):
    model = GraceModel.from_pretrained("demo-base", max_new_tokens=8)
    table = words_and_geometry(model, GraceModel.from_pretrained("demo-base", max_new_tokens=8))
    expected = table["base"]["base"]
    for words in ("base", "trained"):
        for geometry in ("base", "trained"):
            np.testing.assert_allclose(table[words][geometry], expected, atol=1e-6)


def test_tables_from_what_is_measured(tmp_path):
    for seed in range(3):
        write(tmp_path, "base", seed, [0.1, 0.3, 0.2, 0.4], decodings=("text", "greedy"), accuracy=0.8)
        write(tmp_path, "symmetric", seed, [0.4, 0.6, 0.5, 0.7], accuracy=0.4)
    made = report.table(tmp_path)
    rows = {(row["way"], row["decoding"]): row for row in made["rows"]}
    assert rows["base", "greedy"]["ndcg@10"] == 0.25
    assert rows["symmetric", "greedy"]["seeds"] == 3
    low, high = rows["symmetric", "greedy"]["ci95"]["ndcg@10"]
    assert 0.4 <= low < 0.55 < high <= 0.7
    difference = made["differences"]["symmetric greedy - base greedy"]
    assert difference["difference"] == pytest.approx(0.3)
    assert difference["ci95"] == pytest.approx([0.3, 0.3])  # paired: every query gains the same
    text = report.markdown(made)
    assert "| symmetric | greedy | 3 | 0.550 [" in text
    assert "-50.0 %" in text


def test_seeds_that_disagree_widen_the_interval(tmp_path):
    for seed, level in enumerate((0.0, 0.5, 1.0)):
        write(tmp_path, "symmetric", seed, [level] * 50)
    (low, high) = report.table(tmp_path)["rows"][0]["ci95"]["ndcg@10"]
    assert low < 0.2
    assert high > 0.8


def test_nothing_measured_is_an_error(tmp_path):
    with pytest.raises(GraceError, match="no measured run"):
        report.table(tmp_path)


def write_curves(runs, way: str, seed: int) -> None:
    folder = runs / f"{way}-seed{seed}"
    folder.mkdir(parents=True)
    step = {"reward_spread": 0.5, "distinct": 1.0, "rationale_tokens": 60.0, "truncated": 0.1, "entropy": 0.9}
    rows = [{"step": 0, "eval": {"ndcg@10": 0.2}}, *({"step": n, **step} for n in (1, 2, 3)), {"step": 3, "eval": {"ndcg@10": 0.3}}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_curves_are_drawn_for_every_way_and_seed(tmp_path):
    for way, seed in (("reference", 0), ("symmetric", 0), ("symmetric", 1)):
        write_curves(tmp_path, way, seed)
    drawing = training_curves(tmp_path, ["reference", "symmetric"], tmp_path / "curves.svg").read_text(encoding="utf-8")
    one, two, none = (drawing.count(f"stroke: {colour}") for colour in COLOURS[:3])
    assert two > one > 6  # panels
    assert none == 0
    assert training_curves(tmp_path, ["symmetric"], tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_of_runs_that_are_not_there_are_refused(tmp_path):
    write_curves(tmp_path, "symmetric", 0)
    with pytest.raises(GraceError, match="holds no run of joint; there are runs of symmetric"):
        training_curves(tmp_path, ["symmetric", "joint"], tmp_path / "curves.svg")
    assert not (tmp_path / "curves.svg").exists()
