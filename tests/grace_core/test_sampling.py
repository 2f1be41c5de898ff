"""Decoding: greedy and sampled, reproducible, and distributed as it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grace_core.engines.base import Decoding
from grace_core.engines.inflight import choose
from grace_core.errors import GraceError

LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.5, -3.0, 0.0, 1.0, -0.5])


def frequencies(decoding: Decoding, draws: int = 40_000, *, evenly: bool) -> torch.Tensor:
    """Shares of each token among draws with even or random noise."""
    noise = (
        (torch.arange(draws) + 0.5) / draws if evenly else torch.rand(draws, generator=torch.Generator().manual_seed(1))
    )
    tokens = choose(LOGITS.expand(draws, -1), decoding, noise)
    return torch.bincount(tokens, minlength=len(LOGITS)) / draws


@pytest.mark.parametrize("temperature", [0.3, 0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax(temperature):
    expected = torch.softmax(LOGITS / temperature, -1)
    decoding = Decoding(temperature=temperature)
    torch.testing.assert_close(frequencies(decoding, evenly=True), expected, rtol=0, atol=1e-4)
    seen = frequencies(decoding, evenly=False)
    chi_square = (40_000 * (seen - expected) ** 2 / expected).sum()
    assert chi_square < 24.3  # 99.9 % quantile with 7 degrees of freedom


@pytest.mark.parametrize("top_p", [0.05, 0.4, 0.7, 0.95])
def test_top_p_keeps_the_nucleus_and_nothing_else(top_p):
    probabilities = torch.softmax(LOGITS, -1)
    nucleus, mass = set(), 0.0
    for token in probabilities.argsort(descending=True).tolist():
        nucleus.add(token)
        mass += float(probabilities[token])
        if mass >= top_p:
            break
    seen = frequencies(Decoding(temperature=1.0, top_p=top_p), evenly=True)
    assert set(torch.nonzero(seen).flatten().tolist()) == nucleus
    kept = torch.zeros_like(probabilities)
    kept[list(nucleus)] = probabilities[list(nucleus)]
    torch.testing.assert_close(seen, kept / kept.sum(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("noise", [0.0, 1.0 - 2**-24])
def test_extreme_noise_gives_a_token_that_has_mass(noise):
    logits = torch.tensor([[0.0, -float("inf"), 5.0, -float("inf")]])
    assert int(choose(logits, Decoding(temperature=1.0), torch.tensor([noise]))) in (0, 2)


def test_greedy_takes_the_best_token():
    assert choose(torch.stack([LOGITS, -LOGITS]), Decoding(), None).tolist() == [0, 4]


def test_a_seed_gives_the_same_rationales_and_another_seed_others(tiny, sentences):
    texts = sentences[:12]
    first = tiny.generate_rationales(texts, temperature=1.0, seed=7)
    assert tiny.generate_rationales(texts, temperature=1.0, seed=7) == first
    assert tiny.generate_rationales(texts, temperature=1.0, seed=8) != first
    assert first != tiny.generate_rationales(texts)


def test_a_very_low_temperature_is_greedy(tiny, sentences):
    assert tiny.generate_rationales(sentences[:12], temperature=1e-4) == tiny.generate_rationales(sentences[:12])


def test_first_tokens_over_many_seeds_follow_the_model(tiny_models):
    model = tiny_models["qwen2"]
    prompt = model.prompts.build("the river")
    with torch.no_grad():
        expected = torch.softmax(model.model(torch.tensor([prompt.ids])).logits[0, -1] / 3, -1)
    draws = 600
    seen = torch.zeros(len(expected))
    for seed in range(draws):
        _, made = list(model.stream("the river", temperature=3.0, seed=seed, max_new_tokens=1))[-1]
        token = made.rationale_ids[0][0] if made.rationale_ids[0] else model.tokenizer.eos_token_id
        seen[token] += 1
    best = expected.argsort(descending=True)[:5]
    share, wanted = seen[best].sum() / draws, expected[best].sum()
    assert abs(share - wanted) < 4 * (wanted * (1 - wanted) / draws) ** 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": 11},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"max_new_tokens": 0},
    ],
)
def test_settings_out_of_range_are_refused(tiny_models, wrong):
    with pytest.raises(GraceError, match=f"{next(iter(wrong))} must"):
        Decoding(**wrong)
    with pytest.raises(GraceError, match=f"{next(iter(wrong))} must"):
        tiny_models["qwen2"].represent(["words"], **wrong)


def test_samples_of_one_prompt_are_those_of_each_alone(tiny, sentences):
    prompts = [tiny.prompts.build(text) for text in sentences[:3]]
    decoding, engine = Decoding(12, 1.0), tiny.engine
    together = engine.generate([prompts[i % 3] for i in range(12)], decoding, [i // 3 for i in range(12)])
    assert len({tuple(row.rationale_ids) for row in together}) > 6
    for i in range(12):
        (alone,) = engine.generate([prompts[i % 3]], decoding, [i // 3])
        assert alone.rationale_ids == together[i].rationale_ids
        assert alone.truncated == together[i].truncated
        np.testing.assert_array_equal(alone.counts, together[i].counts)
        np.testing.assert_allclose(alone.sums, together[i].sums, atol=1e-4, rtol=1e-4)
