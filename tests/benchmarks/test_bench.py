"""Benchmarks run and report ratios; what they measure is not asserted."""

from __future__ import annotations

import json

import pytest

from grace_benchmarks.encode import run
from grace_benchmarks.table import LINES, table
from grace_benchmarks.table import run as run_all
from grace_core.model import GraceModel


@pytest.fixture(scope="module")
def model(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    GraceModel.from_pretrained(tiny_folder, max_new_tokens=6).save_pretrained(folder)
    return folder


def test_encode_reports_ratios_to_both_peers(model):
    result = run(str(model), texts=10, runs=1, batch_size=4)
    assert result["ratios"].keys() == {"vs_generate", "vs_two_pass", "busy"}
    assert all(value > 0 for value in result["ratios"].values())
    assert result["tokens_per_second"].keys() >= {"one_pass", "generate", "two_pass"}
    assert (result["runs"], result["texts"], result["model"]) == (1, 10, str(model))


def test_the_command_prints_the_same_keys(grace, model):
    status, out, err = grace("bench", "encode", "--model", model, "--texts", 6, "--runs", 1, "--json")
    assert status == 0, err
    assert json.loads(out)["ratios"].keys() == {"vs_generate", "vs_two_pass", "busy"}


def test_embedding_texts_is_compared_with_sentence_transformers(grace, model):
    status, out, err = grace("bench", "text", "--model", model, "--texts", 6, "--runs", 1, "--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["ratios"].keys() == {"vs_sentence_transformers", "vs_bare_text"}
    assert all(value > 0 for value in result["ratios"].values())


def test_a_cold_start_is_told_in_parts(grace, model, sentences, tmp_path):
    (tmp_path / "c.txt").write_text("\n".join(sentences[:5]))
    assert grace("index", "build", tmp_path / "c.txt", "--out", tmp_path / "x", "--model", model)[0] == 0
    status, out, err = grace("bench", "start", tmp_path / "x", "--model", "tiny", "--runs", 1, "--json")
    assert status == 0, err
    seconds = json.loads(out)["seconds"]
    total = seconds.pop("total")
    assert set(seconds) == {"imports", "index", "weights", "first_token", "rationale", "answer"}
    assert 0 < sum(seconds.values()) < total


def test_the_table_has_a_line_for_each_ratio_that_was_measured():
    ratios = {"vs_sentence_transformers": 1.234, "vs_bare_text": 0.9}
    results = {"text": {"ratios": ratios}, "start": {"seconds": {"imports": 1.5}, "model": "m"}}
    lines = table(results).splitlines()
    assert lines[2:4] == [
        "| embeddings without rationales | sentence-transformers, same weights and tokens | ≥ 1 | 1.23 × |",
        "| embeddings without rationales | sentence-transformers, texts without the prompt |  | 0.90 × |",
    ]
    assert lines[-1] == "| m | 1.50 |"


def test_what_was_measured_is_kept_and_not_measured_again(grace, tmp_path):
    kept = {name: {"ratios": {"made_up": 1.0}} for name in (*{line.benchmark for line in LINES}, "start")}
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    assert run_all(out=tmp_path / "kept.json") == kept
    status, _, err = grace("bench", "all", "--only", "speed")
    assert (status, "there is no benchmark 'speed'; there are encode, vllm, text" in err) == (2, True)
