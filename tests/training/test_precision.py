"""``precision: auto`` is decided once for a run, by the machine."""

from __future__ import annotations

import pytest
import torch

from grace_core.files import read_json, write_json
from grace_core.precision import default_dtype
from grace_core.training import run

OTHER = {"float32": "bfloat16", "bfloat16": "float32"}


def test_a_run_takes_what_the_machine_multiplies_and_records_it(make_config, tmp_path):
    notes = []
    run.train(make_config(tmp_path / "run", precision="auto", steps=1, evaluation=None), report=notes.append)
    expected = default_dtype("cuda" if torch.cuda.is_available() else "cpu")
    assert read_json(tmp_path / "run" / "run.json")["config"]["precision"] == expected
    assert any(f"precision auto: {expected}" in note for note in notes)


def test_a_resumed_run_stays_in_the_precision_that_it_was_begun_in(make_config, tmp_path):
    config = make_config(tmp_path, precision="auto")
    fresh = run.with_precision(config, tmp_path, report=lambda _: None).precision
    write_json(tmp_path / "run.json", {"config": {"precision": OTHER[fresh]}})
    assert run.with_precision(config, tmp_path, report=lambda _: None).precision == OTHER[fresh]
    assert run.with_precision(config, None, report=lambda _: None).precision == fresh  # begun anew


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_named_precision_is_taken_as_it_is(make_config, tmp_path, precision):
    config = make_config(tmp_path, precision=precision)
    assert run.with_precision(config, None, report=pytest.fail) is config
