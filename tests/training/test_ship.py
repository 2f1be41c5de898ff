"""From a configuration to the model that ships."""

from __future__ import annotations

import json

import torch
import yaml
from safetensors.torch import load_file

from grace_core.model import GraceModel
from grace_study import ship


def test_a_shipped_model_is_trained_exported_and_not_trained_twice(make_config, tmp_path, monkeypatch):
    config = make_config("runs/somewhere/else").model_dump(exclude_none=True)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.setattr(ship, "CONFIGS", tmp_path)
    monkeypatch.setattr(ship, "SHIPPED", {"demo-small": "small.yaml"})
    lines = []
    first = ship.train_shipped("demo-small", runs=tmp_path / "runs", out=tmp_path / "models", report=lines.append)
    assert first["state"] == "finished"
    weights = load_file(tmp_path / "models" / "demo-small" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert GraceModel.from_pretrained(tmp_path / "models" / "demo-small").settings.max_new_tokens == 8
    about = json.loads((tmp_path / "models" / "demo-small" / "training.json").read_text())
    assert about["config"]["out"] == "demo-small"

    again = ship.train_shipped("demo-small", runs=tmp_path / "runs", out=tmp_path / "models", report=lines.append)
    assert again["steps"] == first["steps"]
    after = load_file(tmp_path / "models" / "demo-small" / "model.safetensors")
    assert all(torch.equal(after[name], weights[name]) for name in weights)
