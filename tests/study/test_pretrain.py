"""Pretraining of the demo model, in miniature."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file

import grace_study.pretrain
from grace_core.model import GraceModel
from grace_study import text
from grace_study.corpus import entries
from grace_study.pretrain import MIXTURE, PretrainConfig, Sampler, batch_loss, batches, pretrain, train_tokenizer

SMALL = PretrainConfig(
    tokens=60_000,
    habit_tokens=6_000,
    warmup_steps=5,
    vocab_size=600,
    hidden_size=32,
    layers=1,
    heads=2,
    kv_heads=1,
    intermediate_size=64,
    batch_tokens=2048,
)


@pytest.fixture(scope="module", autouse=True)
def small_pools():
    """Pools of 256 samples, so that these runs have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grace_study.pretrain, "POOL", 256)
        yield


@pytest.fixture(scope="module")
def sampler(demo_entries):
    return Sampler(demo_entries)


@pytest.fixture(scope="module")
def tokenizer(sampler):
    return train_tokenizer(sampler, 600)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was left alone."""
    folder = tmp_path_factory.mktemp("pretrain")
    lines = []
    pretrain(folder / "model", folder / "work", SMALL, report=lines.append, checkpoint_seconds=0)
    return folder / "model", lines


@pytest.mark.slow
def test_a_short_run_exports_a_model_that_can_be_loaded_and_used(whole):
    folder, lines = whole
    model = GraceModel.from_pretrained(folder, max_new_tokens=8)
    assert model.model.num_parameters() < 100_000
    assert load_file(folder / "model.safetensors")["model.embed_tokens.weight"].dtype == torch.float16
    representations = model.represent(["which river rises in the mountains", "a passage"])
    assert representations.embeddings().shape == (2, 32)
    assert lines[-1].startswith("wrote")
    assert "<|im_end|>" in model.tokenizer.decode(sorted(model.engine.end_ids))


@pytest.mark.slow
def test_a_run_that_was_stopped_resumes_to_the_same_weights(whole, tmp_path, monkeypatch):
    def stopping(sampler, tokenizer, config, pool):
        for place, batch in enumerate(batches(sampler, tokenizer, config, pool)):
            if (pool, place) == (1, 1):  # after the first checkpoint
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(grace_study.pretrain, "batches", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "model", tmp_path / "work", SMALL, report=lambda line: None, checkpoint_seconds=0)
    assert (tmp_path / "work" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "model").exists()
    monkeypatch.setattr(grace_study.pretrain, "batches", batches)
    lines = []
    pretrain(tmp_path / "model", tmp_path / "work", SMALL, report=lines.append, checkpoint_seconds=0)
    assert lines[0].startswith("going on at step")
    resumed, expected = load_file(tmp_path / "model" / "model.safetensors"), load_file(whole[0] / "model.safetensors")
    assert resumed.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(resumed[name], expected[name], rtol=0, atol=0, msg=name)


def test_the_rate_warms_up_and_falls_to_zero_twice():
    config = PretrainConfig()
    assert config.rate(0, 0) == config.learning_rate / config.warmup_steps
    rates = [config.rate(10**6, tokens) for tokens in range(0, config.tokens + 1, config.tokens // 10)]
    assert rates[0] == config.learning_rate
    assert rates[:-1] == sorted(rates[:-1], reverse=True)
    assert rates[-2] == pytest.approx(config.learning_rate / 10)
    assert rates[-1] == config.habit_rate
    assert config.rate(10**6, config.all_tokens) == config.rate(10**6, config.all_tokens + 1) == 0


def test_a_folder_of_a_run_with_other_settings_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"tokens": 1}))
    with pytest.raises(ValueError, match="other settings"):
        pretrain(tmp_path / "model", tmp_path, SMALL)


def test_the_loss_with_a_shared_prefix_equals_that_of_whole_rows(sampler, tokenizer):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=64,
        )
    ).double()
    with_prefix = next(batch for batch in batches(sampler, tokenizer, SMALL, 0) if batch[0] is not None)
    prefix, ids, mask = (with_prefix[0], with_prefix[1][:6], with_prefix[2][:6])
    loss = batch_loss(model, prefix, ids, mask)
    total, tokens = 0.0, 0
    for row, keep in zip(ids, mask, strict=True):
        row = torch.tensor([*prefix, *row[keep].tolist()])[None]
        with torch.no_grad():
            logits = model(row).logits[0, len(prefix) : -1]
        target = row[0, len(prefix) + 1 :]
        total += float(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))
        tokens += len(target)
    assert loss.item() == pytest.approx(total / tokens, rel=1e-5)


def test_naming_samples_carry_a_loss_on_kind_and_name_alone(sampler, tokenizer, monkeypatch):
    monkeypatch.setattr(grace_study.pretrain, "MIXTURE", dict.fromkeys(MIXTURE, 0.0) | {"naming": 1.0})
    prefix, ids, mask, tokens = next(batches(sampler, tokenizer, SMALL, 0))
    assert prefix is not None
    assert mask.sum() < tokens <= ids.numel()
    for row, keep in zip(ids[:8], mask[:8], strict=True):
        learned = tokenizer.decode(row[keep].tolist())
        assert re.fullmatch(r"<think>The text asks about an? .+\. .+\.</think>", learned), learned
        assert not any(turn in learned for turn in text.NAMING)


def test_pools_are_repeatable_and_differ(sampler, tokenizer):
    first, again, next_pool = ([batch[1] for batch in batches(sampler, tokenizer, SMALL, pool)] for pool in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, next_pool, strict=False))


def test_entries_are_the_whole_demo_world(demo_entries):
    assert [entry.slug for entry in entries()] == [entry.slug for entry in demo_entries]
