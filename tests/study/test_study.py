"""The study of ways to train: measuring, and the tables from what is measured."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.training.config import Evaluation, load_config
from grace_core.training.heldout import HeldOut
from grace_study import probes, report, study, tables
from grace_study.abilities import abilities
from grace_study.figures import COLOURS, trade_off, training_curves
from grace_study.study import WAYS, copy_results, make_run, measure, words_and_geometry


@pytest.fixture
def small_test_set(monkeypatch):
    (test_set,) = HeldOut.read(Evaluation(path="demo", split="test", queries=8, documents=40, probes=0))
    monkeypatch.setattr(study, "test_set", lambda: test_set)
    return test_set


@pytest.fixture
def fewer_things(monkeypatch, demo_entries):
    monkeypatch.setattr(study, "abilities", lambda model, _: abilities(model, demo_entries[::8]))


def write(runs, way: str, seed: int, values: list[float], *, decodings=("greedy",), accuracy: float = 0.5) -> None:
    folder = runs / f"{way}-seed{seed}"
    folder.mkdir(parents=True)
    metrics = dict.fromkeys(("ndcg@10", "recall@10", "mrr@10"), values)
    result = {"way": way, "seed": seed, "decodings": dict.fromkeys(decodings, metrics)}
    result["abilities"] = {"perplexity": 2.0 + seed, "fact_accuracy": accuracy}
    (folder / "measured.json").write_text(json.dumps(result), encoding="utf-8")


def test_all_ways_have_a_configuration_that_loads(root):
    for file, overrides in WAYS.values():
        if file:
            load_config(root / "configs" / file, overrides)


@pytest.mark.slow
def test_a_model_is_measured_in_every_decoding(small_test_set, fewer_things):
    result = measure(GraceModel.from_pretrained("demo-base", max_new_tokens=16), seed=0)
    assert set(result["decodings"]) == {"text", "greedy", "sampled"}
    for row in result["decodings"].values():
        assert len(row["ndcg@10"]) == len(row["kind"]) == len(result["queries"]) == 8
    assert result["decodings"]["greedy"]["query_tokens"] > 0
    assert result["abilities"]["perplexity"] > 1
    assert 0 <= result["abilities"]["fact_accuracy"] <= 1
    assert set(measure(GraceModel.from_pretrained("demo-base"), seed=0, rationale=False)["decodings"]) == {"text"}


@pytest.mark.slow
def test_a_measured_run_is_not_done_again(small_test_set, fewer_things, tmp_path, monkeypatch):
    lines = []
    first = make_run("base", 0, tmp_path, report=lines.append)
    monkeypatch.setattr(study, "measure", None)
    again = make_run("base", 0, tmp_path, report=lines.append)
    assert again["decodings"] == first["decodings"]
    assert len(lines) == 1


def test_the_lexical_baseline_is_measured_as_the_others(small_test_set, tmp_path):
    result = make_run("bm25", 0, tmp_path, report=lambda _: None)
    assert set(result["decodings"]) == {"text"}
    assert len(result["decodings"]["text"]["ndcg@10"]) == 8
    assert 0.3 < np.mean(result["decodings"]["text"]["ndcg@10"]) <= 1
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


def test_what_is_handed_on_does_not_say_where_it_was_made(tmp_path):
    folder, kept = tmp_path / "runs" / "symmetric-seed0", tmp_path / "kept" / "symmetric-seed0"
    write(folder.parent, "symmetric", 0, [0.1])
    (folder / "run.json").write_text(
        json.dumps({"config": {"out": str(folder)}, "best": {"path": f"{folder}/best"}}), encoding="utf-8"
    )
    (folder / "probes.jsonl").write_text("{}\n", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"large")
    copy_results(folder, kept)
    assert {path.name for path in kept.iterdir()} == {"measured.json", "probes.jsonl", "run.json"}
    assert json.loads((kept / "run.json").read_text()) == {
        "config": {"out": "symmetric-seed0"},
        "best": {"path": "symmetric-seed0/best"},
    }
    assert (kept / "measured.json").read_bytes() == (folder / "measured.json").read_bytes()


def test_tables_from_what_is_measured(tmp_path):
    for seed in range(3):
        write(tmp_path, "base", seed, [0.1, 0.3, 0.2, 0.4], decodings=("text", "greedy"), accuracy=0.8)
        write(tmp_path, "symmetric", seed, [0.4, 0.6, 0.5, 0.7], accuracy=0.4)
    figures = report.table(tmp_path)
    rows = {(row["way"], row["decoding"]): row for row in figures["rows"]}
    assert rows["base", "greedy"]["ndcg@10"] == 0.25
    assert rows["symmetric", "greedy"]["seeds"] == 3
    low, high = rows["symmetric", "greedy"]["ci95"]["ndcg@10"]
    assert 0.4 <= low < 0.55 < high <= 0.7
    (difference,) = (row for row in figures["differences"] if row["decoding"] == row["against"]["decoding"] == "greedy")
    assert (difference["way"], difference["against"]["way"]) == ("symmetric", "base")
    assert difference["difference"] == pytest.approx(0.3)
    assert difference["ci95"] == pytest.approx([0.3, 0.3])  # paired: every query gains the same
    text = tables.markdown(figures)
    assert "| symmetric | greedy | 3 | 0.550 [" in text
    assert "-50.0 %" in text


def test_a_way_whose_best_model_is_the_first_is_told_by_its_last(tmp_path):
    write(tmp_path, "reference", 0, [0.2] * 4)
    path = tmp_path / "reference-seed0" / "measured.json"
    result = json.loads(path.read_text())
    scores = dict.fromkeys(("ndcg@10", "recall@10", "mrr@10"), [0.1] * 4)
    last = {"step": 40, "decodings": {"greedy": scores}, "abilities": result["abilities"]}
    path.write_text(json.dumps(result | {"last": last}))
    (row,) = report.table(tmp_path)["rows"]
    assert (row["way"], row["ndcg@10"]) == ("reference, last step", 0.1)


def test_ablations_are_compared_with_what_they_change(tmp_path):
    write(tmp_path, "base", 0, [0.1, 0.3], decodings=("text", "greedy", "sampled"))
    write(tmp_path, "symmetric", 0, [0.5, 0.7], decodings=("text", "greedy", "sampled"))
    write(tmp_path, "symmetric-unsup", 0, [0.5, 0.9], decodings=("text", "greedy", "sampled"))
    write(tmp_path, "symmetric-no-kl", 0, [0.4, 0.6], decodings=("text", "greedy", "sampled"))
    figures = report.table(tmp_path)
    assert set(figures["ablations"]) == {"symmetric-no-kl"}
    assert figures["ablations"]["symmetric-no-kl"]["greedy"] == {
        "difference": -0.1,
        "ci95": pytest.approx([-0.1, -0.1]),
    }
    assert "(`symmetric-no-kl`) | 1 | -0.100 [-0.100, -0.100] |" in tables.tables(figures)["ablations"]
    main_table = tables.tables(figures)["main"]
    assert "symmetric-unsup | greedy" in main_table
    assert "no-kl" not in main_table
    assert "symmetric | text" not in main_table  # what it is without its rationales says nothing


def test_the_trade_off_goes_by_kl_and_weight(tmp_path):
    for way in ("base", "cl"):
        write(tmp_path, way, 0, [0.1, 0.3], decodings=("text",))
    for way in ("joint", "joint-kl-0.05", "symmetric", "joint-kl-0.05-w-1", "symmetric-kl-0.2", "symmetric-no-kl"):
        write(tmp_path, way, 0, [0.4, 0.6], decodings=("text", "greedy", "sampled"))
    ways = report.table(tmp_path)["trade_off"]
    assert [(row["kl"], row["weight"]) for row in ways.values()] == [
        (None, None),
        (None, None),
        (0.05, 0.0),
        (0.05, 0.3),
        (0.05, 1.0),
        (0.2, 0.0),
        (0.2, 0.3),
    ]
    drawing = trade_off(ways, tmp_path / "trade-off.svg").read_text(encoding="utf-8")
    assert all(f"stroke: {colour}" in drawing for colour in COLOURS[2:4])  # a line for each KL
    assert (
        trade_off(ways, tmp_path / "trade-off.svg").read_text(encoding="utf-8") == drawing
    )  # of the same figures the same file
    del ways["base"]
    with pytest.raises(GraceError, match="told against the base"):
        trade_off(ways, tmp_path / "none.svg")


def test_tables_are_put_into_their_places(tmp_path):
    write(tmp_path, "base", 0, [0.1, 0.3])
    figures, document = report.table(tmp_path), tmp_path / "results.md"
    document.write_text(
        "before\n<!-- study: main -->\nold\n<!-- study: end -->\nafter\n<!-- study: abilities -->\n<!-- study: end -->\n"
    )
    for _ in range(2):  # a second time changes nothing
        tables.fill(document, figures)
        text = document.read_text()
        assert "old" not in text
        assert text.startswith("before\n<!-- study: main -->\n\n| way |")
        assert "|\n\n<!-- study: end -->\nafter\n<!-- study: abilities -->\n\n| way | perplexity |" in text
        assert text.count("0.200 [") == 3
    unknown = "<!-- study: mian -->\n<!-- study: end -->"
    for content, complaint in (("no place", "has no place for a table"), (unknown, "has places for mian; write")):
        document.write_text(content)
        with pytest.raises(GraceError, match=complaint):
            tables.fill(document, figures)
        assert document.read_text() == content


@pytest.mark.slow
def test_the_documents_tables_are_those_of_the_kept_results(root, tmp_path):
    document, old = tmp_path / "results.md", (root / "docs" / "results.md").read_text(encoding="utf-8")
    document.write_text(old, encoding="utf-8")
    tables.fill(document, report.table(root / "docs" / "study"))
    number, new = re.compile(r"[-+]?\d+\.\d+"), document.read_text(encoding="utf-8")
    assert number.sub("", old) == number.sub("", new)
    for a, b in zip(number.findall(old), number.findall(new), strict=True):
        digits = len(a.split(".")[1])
        assert float(a) == pytest.approx(
            float(b), abs=1.1 * 10**-digits
        )  # on another processor the last one may be rounded otherwise


def test_seeds_that_disagree_widen_the_interval(tmp_path):
    for seed, level in enumerate((0.0, 0.5, 1.0)):
        write(tmp_path, "symmetric", seed, [level] * 50)
    (low, high) = report.table(tmp_path)["rows"][0]["ci95"]["ndcg@10"]
    assert low < 0.2
    assert high > 0.8


def vectors_of(demo_entries, noise: float) -> dict[str, np.ndarray]:
    """A vector for every passage and query: one direction for its kind, one for its thing, and noise."""
    rng = np.random.default_rng(0)
    kinds, vectors = {}, {}
    for entry in demo_entries:
        centre = kinds.setdefault(entry.kind.kind, rng.standard_normal(64)) + rng.standard_normal(64)
        for name in (f"{entry.slug}-1", f"{entry.slug}-2", f"q-{entry.slug}-1"):
            vector = centre + noise * rng.standard_normal(64)
            vectors[name] = vector / np.linalg.norm(vector)
    return vectors


def test_probes_tell_vectors_that_hold_kinds_and_things_from_noise(demo_entries):
    scores = {}
    for noise in (0.3, 100.0):
        vectors = vectors_of(demo_entries, noise)
        test = {entry.slug for entry in demo_entries if entry.split == "test"}
        queries = {name: vector for name, vector in vectors.items() if name.startswith("q-") and name[2:-2] in test}
        right = probes.kinds_right(demo_entries, queries, vectors)
        cosines = probes.similarities(demo_entries, vectors)
        assert len(right) == len(queries) == len(test) == len(cosines) / 3
        scores[noise] = right.mean(), probes.spearman(cosines)
    assert scores[0.3][0] > 0.9
    assert scores[0.3][1] > 0.8
    assert scores[100.0][0] < 0.15
    assert abs(scores[100.0][1]) < 0.15


def test_pairs_are_of_the_grades_that_they_stand_for(demo_entries):
    kind_of = {entry.slug: entry.kind.kind for entry in demo_entries}
    names = {f"{slug}-{n}" for slug in kind_of for n in (1, 2)}
    things = [[name.rsplit("-", 1)[0] for name in pair] for pair in probes.pairs(demo_entries, names)]
    for same, kind, different in zip(things[::3], things[1::3], things[2::3], strict=True):
        assert same[0] == same[1] == kind[0] == different[0]
        assert kind[1] != kind[0]
        assert kind_of[kind[0]] == kind_of[kind[1]] != kind_of[different[1]]


def test_probes_have_a_table_of_their_own(tmp_path):
    for seed in range(2):
        write(tmp_path, "base", seed, [0.1, 0.3])
        path = tmp_path / f"base-seed{seed}" / "measured.json"
        result = json.loads(path.read_text())
        result["decodings"]["greedy"] |= {"kind": [1.0, 0.0], "similarity": [0.9, 0.5, 0.1, 0.8, 0.6, 0.2]}
        path.write_text(json.dumps(result))
    (row,) = report.table(tmp_path)["probes"]
    assert row["kind_accuracy"] == 0.5
    assert row["similarity_spearman"] == pytest.approx(0.9562, abs=1e-3)
    assert "| base | greedy | 2 | 0.500 [" in tables.markdown(report.table(tmp_path))


def test_nothing_measured_is_an_error(tmp_path):
    with pytest.raises(GraceError, match="no measured run"):
        report.table(tmp_path)


def write_curves(runs, way: str, seed: int) -> None:
    folder = runs / f"{way}-seed{seed}"
    folder.mkdir(parents=True)
    step = {"reward_spread": 0.5, "distinct": 1.0, "rationale_tokens": 60.0, "truncated": 0.1, "entropy": 0.9}
    rows = [
        {"step": 0, "eval": {"ndcg@10": 0.2}},
        *({"step": n, **step} for n in (1, 2, 3)),
        {"step": 3, "eval": {"ndcg@10": 0.3}},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_curves_are_drawn_for_every_way_and_seed(tmp_path):
    for way, seed in (("reference", 0), ("symmetric", 0), ("symmetric", 1)):
        write_curves(tmp_path, way, seed)
    drawing = training_curves(tmp_path, ["reference", "symmetric"], tmp_path / "curves.svg").read_text(encoding="utf-8")
    first, second, third = (drawing.count(f"stroke: {colour}") for colour in COLOURS[:3])
    assert second > first > 6  # panels
    assert third == 0
    assert training_curves(tmp_path, ["symmetric"], tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_of_runs_that_are_not_there_are_refused(tmp_path):
    write_curves(tmp_path, "symmetric", 0)
    with pytest.raises(GraceError, match="holds no run of joint; there are runs of symmetric"):
        training_curves(tmp_path, ["symmetric", "joint"], tmp_path / "curves.svg")
    assert not (tmp_path / "curves.svg").exists()
