"""Running statistics and vectors of the calibrated geometry in training, against the geometry that serves;
runs with it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grace_core.geometry import Role, Statistics, of_model
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_core.training import calibration as calibrated
from grace_core.training import policy, run
from grace_core.training.calibration import MOMENTUM, Calibration, part_sums
from grace_core.training.callbacks import read_rows
from grace_core.training.data import read_items
from grace_core.training.reward import novelty

LORA = {"r": 4, "alpha": 8, "merge": False}


def sums(n: int, *, seed: int = 0, d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, (n, 3))
    counts[::4, 2] = 0  # without a rationale
    part_sums_ = rng.normal(3, 2, (n, 3, d)).astype(np.float32) * counts[:, :, None]
    return part_sums_.astype(np.float32), counts


def test_vectors_are_those_of_the_geometry_that_serves():
    statistics = Statistics.of(sums(40), sums(30, seed=1))
    calibration, (asked, counts) = Calibration(statistics), sums(20, seed=2)
    for number, role in enumerate(Role):
        z = calibration.vectors(torch.tensor(asked), torch.tensor(counts), torch.full((20,), number))
        np.testing.assert_allclose(z, of_model(statistics).vectors(asked, counts, Pooling.FULL, role), atol=1e-5)


def test_the_first_batch_gives_statistics_and_later_ones_move_them():
    calibration, batches = Calibration(None), [sums(24, seed=seed) for seed in range(3)]
    roles = torch.arange(24) % 2
    for batch_sums, counts in batches:
        calibration.update(torch.tensor(batch_sums), torch.tensor(counts), roles)
    for role in (calibrated.QUERY, calibrated.DOCUMENT):
        for part in range(3):
            mean = variance = None
            for batch_sums, counts in batches:
                rows = [i for i in range(24) if roles[i] == role and counts[i, part]]
                values = np.stack([batch_sums[i, part] / counts[i, part] for i in rows]).astype(np.float64)
                share = 1.0 if mean is None else MOMENTUM
                mean = share * values.mean(axis=0) + (1 - share) * (0 if mean is None else mean)
                spread = ((values - mean) ** 2).mean(axis=0)
                variance = share * spread + (1 - share) * (0 if variance is None else variance)
            np.testing.assert_allclose(calibration.means[role, part], mean, atol=1e-4)
            if role == calibrated.DOCUMENT:
                np.testing.assert_allclose(calibration.variances[part], variance, atol=1e-3)
    assert (calibration.documents, calibration.queries) == (36, 36)


def test_statistics_survive_a_checkpoint(tmp_path):
    calibration = Calibration(Statistics.of(sums(40), sums(30, seed=1)), system="say")
    calibration.update(*map(torch.tensor, sums(8)), torch.zeros(8, dtype=torch.long))
    calibration.save(tmp_path)
    again = Calibration(None, system="say")
    again.load(tmp_path)
    assert torch.equal(again.means, calibration.means)
    assert torch.equal(again.variances, calibration.variances)
    assert again.statistics().queries == calibration.statistics().queries == 8


def test_part_sums_against_a_loop():
    states, parts = torch.randn(3, 7, 5), torch.randint(0, 4, (3, 7))
    sums_, counts = part_sums(states, parts)
    for row in range(3):
        for part in range(3):
            mine = [states[row, t] for t in range(7) if parts[row, t] == part + 1]
            assert counts[row, part] == len(mine)
            torch.testing.assert_close(sums_[row, part], sum(mine, torch.zeros(5)))


@pytest.mark.parametrize(
    "words",
    [
        ("red fox jumps", "foxes jump over rivers", 1.0),
        ("red river", "The river is of 2 it", 0.0),
        ("a", "of it", None),
    ],
)
def test_novelty_counts_content_words(words):
    text, rationale, expected = words
    assert novelty(text, rationale) == expected


@pytest.fixture(scope="module")
def calibrated_run(make_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrated") / "run"
    changes = {
        "objective": "joint",
        "geometry": "calibrated",
        "lora": LORA,
        "share_negatives": True,
        "accumulate": 2,
        "rank_truncated_last": False,
        "truncation_penalty": 0.1,
        "serving": {"max_new_tokens": 6, "max_prompt_tokens": 512},
    }
    config = make_config(out, **changes)
    return config, out, run.train(config, report=lambda _line: None)


def test_a_calibrated_run_leaves_an_adapter_with_its_statistics(calibrated_run):
    config, out, result = calibrated_run
    assert result["state"] == "finished"
    rows = [row for row in read_rows(out / "metrics.jsonl") if "eval" not in row]
    assert all({"novelty", "seconds_sampling", "contrastive"} <= row.keys() for row in rows)
    best = out / "best"
    assert {path.name for path in best.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "geometry.safetensors",
    }
    assert not (best / "model.safetensors").exists()
    model = GraceModel.from_pretrained(best)
    assert (model.settings.max_new_tokens, model.settings.max_prompt_tokens) == (6, 512)
    assert model.statistics.system == config.system
    assert model.geometry.kind == "calibrated"
    assert np.isfinite(model.encode(["a river"])).all()


def test_a_negative_is_sampled_once_for_its_group(make_config, tmp_path):
    config = make_config(tmp_path, steps=1, evaluation=None, share_negatives=True)
    trainer = policy.make_trainer(config, run.load_for_training(config), read_items(config), out=tmp_path)
    trainer.train()
    ids = [rollout.ids for rollout in trainer.rollouts]
    k = config.rollouts
    groups = {
        role: [ids[start : start + k] for start in range(place * k, len(ids), 3 * k)]
        for place, role in enumerate(trainer.layout.roles)
    }
    assert all(group == [group[0]] * k for group in groups["negative"])
    assert any(group != [group[0]] * k for group in groups["query"])


def test_groups_stay_together_when_a_gradient_is_accumulated(make_config, tmp_path, monkeypatch):
    config = make_config(tmp_path, steps=1, evaluation=None, accumulate=4)
    trainer = policy.make_trainer(config, run.load_for_training(config), read_items(config), out=tmp_path)
    seen, loss = [], policy.GRPOTrainer.compute_loss
    watched = lambda self, model, inputs, *options: seen.append(inputs) or loss(self, model, inputs, *options)  # noqa: E731
    monkeypatch.setattr(policy.GRPOTrainer, "compute_loss", watched)
    trainer.train()
    assert len(seen) == 4
    for inputs in seen:
        assert len(inputs["prompt_ids"].unique(dim=0)) == len(inputs["prompt_ids"]) // config.rollouts


@pytest.mark.parametrize("objective", ["symmetric", "joint"])
def test_a_reward_by_raw_cosines_leaves_the_rest_calibrated(make_config, tmp_path, objective):
    """The first step's rollouts are the same ones: their rewards are those of a raw run, and the statistics
    those of a calibrated one.
    """
    trainers = {}
    for name, changes in (
        ("calibrated", {"geometry": "calibrated"}),
        ("raw", {}),
        ("mixed", {"geometry": "calibrated", "reward_geometry": "raw"}),
    ):
        config = make_config(tmp_path / name, steps=1, evaluation=None, objective=objective, lora=LORA, **changes)
        trainer = policy.make_trainer(config, run.load_for_training(config), read_items(config), out=tmp_path / name)
        trainer.train()
        trainers[name] = trainer
    mixed, *uniform = [[r.ids for r in trainer.rollouts] for trainer in trainers.values()]
    assert uniform == [mixed, mixed]
    torch.testing.assert_close(trainers["mixed"].reward.last.rewards, trainers["raw"].reward.last.rewards)
    assert (trainers["mixed"].reward.last.rewards - trainers["calibrated"].reward.last.rewards).abs().max() > 0.1
    means = trainers["mixed"].calibration.statistics().means
    np.testing.assert_allclose(means, trainers["calibrated"].calibration.statistics().means)
    weights = {
        name: torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])
        for name, trainer in trainers.items()
    }
    torch.testing.assert_close(weights["mixed"], weights["raw"])
    assert not torch.allclose(weights["mixed"], weights["calibrated"])
