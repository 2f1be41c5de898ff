"""Scores and embeddings of rollouts that share their prompts, against one plain forward pass for every rollout."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from grace_core.training.calibration import raw_vectors
from grace_core.training.states import Rollout, decoder_of, pooled_parts, score_completions

TEXTS = ["the river in the north", "a", "who wrote it, and when was it first played in public?"]
LENGTHS = (7, 1, 12, 4)  # of the rationales of each text


@pytest.fixture(params=["qwen2", "qwen3", "llama"])
def model(request, new_model):
    return new_model(request.param)


def rollouts_of(model) -> list[Rollout]:
    generator = torch.Generator().manual_seed(0)
    end = min(model.engine.end_ids)
    rollouts = []
    for text in TEXTS:
        for length in LENGTHS:
            ids = torch.randint(10, 60, (length,), generator=generator).tolist()
            rollouts.append(
                Rollout.of(model.prompts.build(text), ids + [end] * (length != 12), {end})
            )  # the longest is cut off
    return [rollouts[i] for i in torch.randperm(len(rollouts), generator=generator).tolist()]


def padded(model, rollouts: list[Rollout]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids and attention as TRL lays them: prompts padded on the left, completions on the right; and the
    completions' columns.
    """
    end, begin, keep = min(model.engine.end_ids), max(len(r.prompt.ids) for r in rollouts), max(LENGTHS)
    ids = torch.full((len(rollouts), begin + keep), model.engine.pad_id)
    attention = torch.zeros_like(ids)
    for row, rollout in enumerate(rollouts):
        whole = rollout.prompt.ids + rollout.ids + [end] * (not rollout.truncated)
        left = begin - len(rollout.prompt.ids)
        ids[row, left : left + len(whole)] = torch.tensor(whole)
        attention[row, left : left + len(whole)] = 1
    return ids, attention, keep


def one_by_one(model, rollouts: list[Rollout], temperature: float):
    end = min(model.engine.end_ids)
    for rollout in rollouts:
        tail = rollout.ids + [end] * (not rollout.truncated)
        out = model.model(torch.tensor([rollout.prompt.ids + tail]), output_hidden_states=True)
        scores = torch.log_softmax(out.logits[0, -len(tail) - 1 : -1].float() / temperature, dim=-1)
        start, stop = rollout.prompt.start, rollout.stop
        yield (
            scores[torch.arange(len(tail)), torch.tensor(tail)],
            -(scores.exp() * scores).sum(dim=-1),
            F.normalize(out.hidden_states[-1][0, start:stop].mean(dim=0), dim=0),
        )


@pytest.mark.parametrize("rows", [64, 5])
def test_shared_prompts_give_the_scores_and_the_gradient_of_one_pass_each(model, rows):
    rollouts = rollouts_of(model)
    ids, attention, keep = padded(model, rollouts)
    begin = ids.shape[1] - keep
    weights = torch.linspace(-1, 1, model.dim)

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        model.model.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten().clone() for p in model.model.parameters() if p.grad is not None])

    logps, entropies, sums = score_completions(
        model.model,
        ids,
        attention,
        keep=keep,
        temperature=0.7,
        rows=rows,
        autocast=nullcontext,
        decoder=decoder_of(model.model),
        pooled=pooled_parts(rollouts, begin, ids.shape[1]),
    )
    z = raw_vectors(*sums)
    assert logps.shape == entropies.shape == (len(rollouts), keep)
    inside = attention[:, begin:].bool()
    shared = gradient(logps[inside].sum() + 10 * (z @ weights).sum())

    expected = list(one_by_one(model, rollouts, 0.7))
    for row, (logp, entropy, embedding) in enumerate(expected):
        torch.testing.assert_close(logps[row, inside[row]], logp, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(entropies[row, inside[row]], entropy, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(z[row], embedding, atol=1e-6, rtol=0)
    single = gradient(sum(logp.sum() + 10 * (embedding @ weights) for logp, _, embedding in expected))
    torch.testing.assert_close(shared, single, atol=1e-4 * float(single.abs().max()), rtol=1e-4)


def test_without_pooled_positions_there_are_no_embeddings(model):
    ids, attention, keep = padded(model, rollouts_of(model))
    with torch.no_grad():
        scored = score_completions(
            model.model, ids, attention, keep=keep, temperature=1.0, rows=64, autocast=nullcontext
        )
    assert scored[2] is None
