"""Embeddings of rollouts during training: hidden states of the trainer's model, pooled as in serving.

A rollout is the prompt's ids followed by the rationale's ids. The last hidden states (after the final norm)
are pooled from the first token of the user's text to the last token of the rationale, with the template
tokens between them and without the end token: the same positions, in the same three parts, as in
:mod:`grace_core.pooling`. A hook on the decoder catches the states, so that every forward through the root
module gives them, whatever it is wrapped in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from grace_core.engines.runner import token_positions
from grace_core.pooling import RATIONALE, TEMPLATE, TEXT
from grace_core.prompt import Prompt
from grace_core.training.calibration import part_sums

Sums = tuple[Tensor, Tensor]  # part sums (n, 3, d) and counts (n, 3)


@dataclass(frozen=True)
class Rollout:
    """A prompt and its sampled rationale: ``ids`` without the end token; ``truncated`` if it never came."""

    prompt: Prompt
    ids: list[int]
    truncated: bool

    @classmethod
    def of(cls, prompt: Prompt, completion: Sequence[int], end_ids: set[int]) -> Rollout:
        end = next((place for place, token in enumerate(completion) if token in end_ids), None)
        return cls(prompt, list(completion[:end]), end is None)

    @property
    def stop(self) -> int:
        """The number of tokens of prompt and rationale."""
        return len(self.prompt.ids) + len(self.ids)

    @property
    def key(self) -> int:
        """A hash of the rationale's ids, the same on every machine."""
        digest = hashlib.sha256(b" ".join(b"%d" % token for token in self.ids)).digest()
        return int.from_bytes(digest[:7], "big")


def decoder_of(model):
    """The decoder stack below the LM head, whose output the hook catches; also inside PEFT's wrapper."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).get_decoder()


@contextmanager
def last_states(decoder) -> Iterator[list[Tensor]]:
    """A list that gets the last hidden states ``(b, t, d)`` of every forward inside the block."""
    caught: list[Tensor] = []
    handle = decoder.register_forward_hook(lambda _module, _args, output: caught.append(output[0]))
    try:
        yield caught
    finally:
        handle.remove()


def pooled_parts(rollouts: Sequence[Rollout], prompt_width: int, width: int) -> Tensor:
    """The part of every position ``(b, width)``, 0 where nothing is pooled and 1 + part elsewhere; prompts
    are padded on the left to ``prompt_width`` and rationales follow, as in TRL."""
    parts = torch.zeros(len(rollouts), width, dtype=torch.uint8)
    for row, rollout in enumerate(rollouts):
        shift, prompt = prompt_width - len(rollout.prompt.ids), rollout.prompt
        ends = (prompt.start, prompt.stop, len(prompt.ids), rollout.stop)
        for part, (start, stop) in zip((TEXT, TEMPLATE, RATIONALE), pairwise(ends), strict=True):
            parts[row, shift + start : shift + stop] = 1 + part
    return parts


@torch.no_grad()
def pool_rollouts(model, rollouts: Sequence[Rollout], *, decoder, pad_id: int, rows: int, device, autocast) -> Sums:
    """Part sums and counts by forward passes of at most ``rows`` rollouts through ``model``, the root module,
    in eval mode.

    Rollouts are batched by length and padded on the right: under a causal mask later tokens do not change a
    token's state. The number of passes depends only on the number of rollouts, so that processes which share a
    sharded model stay in step.
    """
    order = sorted(range(len(rollouts)), key=lambda i: -rollouts[i].stop)
    chunk_sums: list[Sums] = []
    training = model.training
    model.eval()
    try:
        with last_states(decoder) as caught:
            for begin in range(0, len(order), rows):
                chunk = [rollouts[i] for i in order[begin : begin + rows]]
                width = chunk[0].stop
                ids = torch.full((len(chunk), width), pad_id)
                parts = torch.zeros(len(chunk), width, dtype=torch.uint8)
                for row, rollout in enumerate(chunk):
                    ids[row, : rollout.stop] = torch.tensor(rollout.prompt.ids + rollout.ids)
                    parts[row, : rollout.stop] = pooled_parts([rollout], len(rollout.prompt.ids), rollout.stop)[0]
                with autocast():
                    model(input_ids=ids.to(device), use_cache=False, logits_to_keep=1)
                chunk_sums.append(part_sums(caught.pop(), parts))
    finally:
        model.train(training)
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    sums, counts = (torch.cat(pieces)[back.to(device)] for pieces in zip(*chunk_sums, strict=True))
    return sums, counts


def score_completions(
    model,
    ids: Tensor,
    attention: Tensor,
    *,
    keep: int,
    temperature: float,
    rows: int,
    autocast,
    entropy: bool = True,
    decoder=None,
    pooled: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Sums | None]:
    """Log-probabilities and entropies ``(n, keep)`` of the last ``keep`` columns of ``ids`` ``(n, t)``, and
    part sums and counts.

    The rollouts of a group have one prompt, which goes through the model once; they all use its keys and
    values, in the backward pass too. Completions follow by length, ``rows`` at a time, without the columns
    that are padding in all of them. Sums are by the parts ``pooled`` ``(n, t)`` of :func:`pooled_parts`, with
    gradient; None without them, as are entropies without ``entropy``.
    """
    # the distinct prompts, once each
    begin = ids.shape[1] - keep
    distinct, prompt_of = torch.where(attention[:, :begin].bool(), ids[:, :begin], -1).unique(
        dim=0, return_inverse=True
    )
    prompt_mask = distinct >= 0
    lengths = attention[:, begin:].sum(dim=1)
    order = lengths.argsort()
    logps, entropies, sums = [], [], []
    with last_states(decoder) if pooled is not None else nullcontext([]) as caught:
        with autocast():
            output = model(
                input_ids=distinct.clamp(min=0),
                attention_mask=prompt_mask.long(),
                position_ids=token_positions(prompt_mask),
                use_cache=True,
                logits_to_keep=1,
            )
        first = output.logits[:, -1] / temperature
        cached = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        prompts = caught.pop() if pooled is not None else None
        # the completions, by length
        for chunk in order.split(rows):
            of, count = prompt_of[chunk], max(int(lengths[chunk].max()), 1)
            left, right = begin - int(prompt_mask[of].sum(dim=1).max()), begin + count
            mask, completions = attention[chunk, left:right], ids[chunk, begin:right]
            with autocast():
                output = model(
                    input_ids=completions,
                    attention_mask=mask,
                    position_ids=token_positions(mask)[:, -count:],
                    use_cache=True,
                    past_key_values=DynamicCache(
                        [(keys[of, :, left:], values[of, :, left:]) for keys, values in cached]
                    ),
                )
            logits = output.logits if temperature == 1 else output.logits / temperature
            scores = torch.cat(
                [
                    _log_probabilities(first[of, None], completions[:, :1]),
                    _log_probabilities(logits, completions[:, 1:]),
                ],
                1,
            )
            padding = (0, keep - count)
            logps.append(F.pad(scores, padding))
            if entropy:
                with torch.no_grad():
                    entropies.append(
                        F.pad(torch.cat([_entropies(first[of, None]), _entropies(logits[:, :-1])], dim=1), padding)
                    )
            if pooled is not None:
                states = torch.cat([prompts[of, left:], caught.pop()], dim=1)
                sums.append(part_sums(states, pooled[chunk, left:right]))
    # in the order of ``ids`` again
    back = order.argsort()
    pooled_sums = tuple(torch.cat(pieces)[back] for pieces in zip(*sums, strict=True)) if sums else None
    return torch.cat(logps)[back], torch.cat(entropies)[back] if entropy else None, pooled_sums


def _log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities ``(b, t)`` of tokens from logits ``(b, t + more, v)``, of which the first t count.

    The loss ignores the others; slicing them off would copy the logits, which are large, in both passes.
    """
    target = F.pad(tokens, (0, logits.shape[1] - tokens.shape[1]), value=-1)
    losses = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), ignore_index=-1, reduction="none")
    return -losses.view(target.shape)[:, : tokens.shape[1]]


def _entropies(logits: Tensor) -> Tensor:
    """Entropies ``(b, t)`` in nats, row by row: a row fits into a processor's cache, all rows do not."""
    entropies = []
    for row in logits.float():
        scores = row.log_softmax(dim=-1)
        entropies.append(-(scores.exp() * scores).sum(dim=-1))
    return torch.stack(entropies)
