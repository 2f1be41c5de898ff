"""Attention of one token over a cache, with query heads that share keys and values, is transformers' own."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from grace_core.engines.attention import NAME, attend, use


class Shared(torch.nn.Module):
    is_causal, num_key_value_groups = True, 3


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("t", [1, 5])
def test_it_gives_what_sdpa_gives(dtype, most, masked, t):
    torch.manual_seed(0)
    query = torch.randn(4, 6, t, 8, dtype=dtype)
    key, value = torch.randn(2, 4, 2, 20, 8, dtype=dtype)[:, :, :, 3:]  # a view, as of a cache with room
    mask = torch.arange(17) >= torch.tensor([0, 2, 5, 9])[:, None, None, None] if masked else None
    mask = mask.expand(4, 1, t, 17) if masked else None
    given, weights = attend(Shared(), query, key, value, mask, scaling=0.3)
    expected, _ = sdpa_attention_forward(Shared(), query, key, value, mask, scaling=0.3)
    assert weights is None
    assert given.shape == expected.shape == (4, t, 6, 8)
    torch.testing.assert_close(given, expected, rtol=0, atol=most)


def test_a_model_decodes_with_it_and_writes_the_same(new_model):
    grace = new_model("llama")
    assert grace.model.config._attn_implementation == NAME
    prompt = grace.prompts.build("a river and a lake")
    (row,) = grace.engine.generate([prompt], grace.settings.decoding)
    grace.model.set_attn_implementation("sdpa")
    (plain,) = grace.engine.generate([prompt], grace.settings.decoding)
    assert row.rationale_ids == plain.rationale_ids
    torch.testing.assert_close(torch.tensor(row.sums), torch.tensor(plain.sums), rtol=0, atol=1e-4)


def test_a_saved_model_does_not_ask_for_it(new_model, tmp_path):
    grace = new_model("llama")
    grace.save_pretrained(tmp_path)
    assert NAME not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_another_attention_that_was_asked_for_stays(tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="eager")
    use(model)
    assert model.config._attn_implementation == "eager"
