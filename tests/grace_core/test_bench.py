"""Benchmarks run and report ratios; what they measure is not asserted."""

from __future__ import annotations

import json

import pytest

from benchmarks.encode import run
from grace_core.model import GraceModel


@pytest.fixture(scope="module")
def model(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    GraceModel.from_pretrained(tiny_folder, max_new_tokens=6).save_pretrained(folder)
    return folder


def test_encode_reports_ratios_to_both_peers(model):
    result = run(str(model), texts=10, runs=1, batch_size=4)
    assert result["ratios"].keys() == {"vs_generate", "vs_two_pass"}
    assert all(value > 0 for value in result["ratios"].values())
    assert result["tokens_per_second"].keys() >= {"one_pass", "generate", "two_pass"}
    assert (result["runs"], result["texts"], result["model"]) == (1, 10, str(model))


def test_the_command_prints_the_same_keys(grace, model):
    status, out, err = grace("bench", "encode", "--model", model, "--texts", 6, "--runs", 1, "--json")
    assert status == 0, err
    assert json.loads(out)["ratios"].keys() == {"vs_generate", "vs_two_pass"}
