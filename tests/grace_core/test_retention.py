"""Abilities beside embedding: perplexity and choices, against plain forwards of single texts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from grace_core.errors import GraceError
from grace_core.evaluation.retention import Choice, choices_right, perplexity, token_losses

TEXTS = [
    "The river rises in mountains of north.",
    "Snow.",
    "Children dance around fountain until stars shine above castle walls.",
]


def losses_of(model, context: str, text: str) -> list[float]:
    """One forward a text, no padding."""
    tokenizer = model.tokenizer
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.pad_token_id
    head = [begin, *tokenizer(context, add_special_tokens=False)["input_ids"]]
    tail = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        scores = model.model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
    return [-float(scores[len(head) + i - 1, token]) for i, token in enumerate(tail)]


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_perplexity_is_that_of_single_forwards(tiny_models, architecture):
    model = tiny_models[architecture]
    alone = [loss for text in TEXTS for loss in losses_of(model, "", text)]
    assert perplexity(model, TEXTS) == pytest.approx(math.exp(np.mean(alone)), rel=1e-4)


def test_a_context_carries_no_loss(tiny_models):
    model = tiny_models["qwen2"]
    for found, text in zip(token_losses(model, TEXTS, contexts=["The king", "", "Wine"]), TEXTS, strict=True):
        context = {TEXTS[0]: "The king", TEXTS[2]: "Wine"}.get(text, "")
        np.testing.assert_allclose(found, losses_of(model, context, text), rtol=1e-3, atol=1e-4)


def test_the_likeliest_option_is_chosen(tiny_models):
    model = tiny_models["qwen2"]
    options = tuple(f" {text}" for text in TEXTS)
    means = [np.mean(losses_of(model, "The", option)) for option in options]
    best = int(np.argmin(means))
    found = choices_right(model, [Choice("The", options, right) for right in range(3)])
    assert found.tolist() == [float(right == best) for right in range(3)]


def test_nothing_to_measure_is_an_error(tiny_models):
    with pytest.raises(GraceError, match="text 1 is empty"):
        perplexity(tiny_models["qwen2"], ["a text", ""])
    with pytest.raises(GraceError, match="got none"):
        perplexity(tiny_models["qwen2"], [])
