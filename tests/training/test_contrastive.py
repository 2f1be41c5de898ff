"""CL and SimCSE: runs complete, resume in order and leave a model; pooling and loss are those of serving and
of the formula.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from grace_core.model import GraceModel
from grace_core.training import contrastive, run
from grace_core.training.callbacks import read_rows
from grace_core.training.data import read_items


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def make(make_config, unsupervised):
    def config(out, method: str, **changes):
        changes = {"max_new_tokens": 8, "batch": 8, "steps": 4} | changes
        return make_config(out, method=method, **(unsupervised if method == "simcse" else {}), **changes)

    return config


@pytest.mark.parametrize("method", ["cl", "simcse"])
@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "lora"])
def test_a_run_completes(make, tmp_path, method, lora):
    result = run.train(make(tmp_path, method, lora=lora, learning_rate=3e-3), report=quiet)
    assert (result["state"], result["steps"]) == ("finished", 4)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert all(math.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert [row["step"] for row in rows if "eval" in row] == [0, 2, 4]
    best = GraceModel.from_pretrained(result["model"], device="cpu")
    assert best.encode(["a text"], rationale=False).shape == (1, best.dim)


def test_embeddings_and_loss(make, tmp_path):
    config = make(tmp_path, "cl", evaluation=None, steps=1)
    items = read_items(config)
    trainer = contrastive.make_trainer(config, run.load_for_training(config), items, out=tmp_path)
    encoder, model = trainer.model[0], run.load_for_training(config)
    trainer.model.eval()
    batch = [items[i] for i in range(8)]
    with torch.no_grad():
        columns = [
            encoder.preprocess([getattr(item, role) for item in batch]) for role in ("query", "positive", "negative")
        ]
        q, p, n = (encoder(dict(column))["sentence_embedding"] for column in columns)
        loss = float(trainer.loss([dict(column) for column in columns], None))
    np.testing.assert_allclose(p.numpy(), model.encode([item.positive for item in batch], rationale=False), atol=1e-5)
    documents, expected = torch.cat([p, n]), 0.0
    for i in range(8):
        scores = [float(q[i] @ d) / config.contrastive_temperature for d in documents]
        expected -= scores[i] - math.log(sum(map(math.exp, scores)))
    assert loss == pytest.approx(expected / 8, abs=1e-3)


def test_simcse_sees_two_views_in_training_and_one_in_serving(make, tmp_path):
    config = make(tmp_path, "simcse", evaluation=None, steps=1, dropout=0.3)
    trainer = contrastive.make_trainer(config, run.load_for_training(config), read_items(config), out=tmp_path)
    encoder = trainer.model[0]
    features = encoder.preprocess(["a text of some words", "another one"])
    for training in (True, False):
        trainer.model.train(training)
        with torch.no_grad():
            first, second = (encoder(dict(features))["sentence_embedding"] for _ in range(2))
        assert torch.equal(first, second) != training


def test_a_killed_run_goes_on(make, tmp_path, monkeypatch):
    config = make(tmp_path / "halves", "cl", steps=5)
    whole = run.train(make(tmp_path / "whole", "cl", steps=5), report=quiet)
    step = contrastive.ContrastiveTrainer.training_step

    def dying(self, *args, **options):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(contrastive.ContrastiveTrainer, "training_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run.train(config, report=quiet)
    assert run.train(config, resume=True, report=quiet)["steps"] == whole["steps"]
    whole_losses, resumed_losses = (
        [r["loss"] for r in read_rows(tmp_path / n / "metrics.jsonl") if "loss" in r] for n in ("whole", "halves")
    )
    assert resumed_losses == pytest.approx(whole_losses, abs=1e-4)
