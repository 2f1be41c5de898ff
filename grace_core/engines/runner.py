"""Forward passes of a transformers causal LM that give its last hidden states and their sums.

The decoder's last hidden states, which every forward computes anyway, are caught by a hook, so that no second
forward over text and rationale is needed.

The system prompt stands first in every prompt. Its keys and values are computed once and shared by all
batches; the padding of the shorter texts then stands between the shared prefix and the text, masked, and
positions are counted without it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from contextlib import contextmanager
from itertools import pairwise
from threading import Lock

import numpy as np
import torch
from transformers.cache_utils import DynamicLayer

from grace_core.pooling import PARTS
from grace_core.prompt import Prompt

FEW = 8  # prompts that are run together whatever their lengths


class ModelRunner:
    """Runs one ``transformers`` causal LM, which several batches and threads may share."""

    def __init__(self, model, *, pad_id: int):
        self.model, self.pad_id = model.eval(), pad_id
        # here, since it imports a good part of transformers, which opening an index without a model does not need
        from grace_core.engines import attention

        attention.use(model)
        self._lock = Lock()
        self._prefix: tuple[object, object] = (None, None)  # what it was computed from, and its keys and values

    @property
    def device(self) -> torch.device:
        return self.model.device

    @contextmanager
    def last_states(self):
        """A one-element list that holds the decoder's newest last hidden states ``(b, t, d)``, after the final norm.

        Under a lock, held for one forward: the hook of one thread would catch the states of another.
        """
        caught = [None]

        def hook(_module, _args, output):
            caught[0] = output[0]

        with self._lock:
            handle = self.model.get_decoder().register_forward_hook(hook)
            try:
                yield caught
            finally:
                handle.remove()

    def forward(self, ids: torch.Tensor, cache, **options):
        """Output and last hidden states ``(b, t, d)`` of one forward; only the last position's logits."""
        with self.last_states() as caught:
            output = self.model(ids, past_key_values=cache, logits_to_keep=1, **options)
        return output, caught[0]

    def pad_left(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Ids ``(b, t)`` and attention mask, or None for the mask where no row is padded."""
        width = max(map(len, rows))
        ids = torch.tensor([[self.pad_id] * (width - len(row)) + row for row in rows], device=self.device)
        if all(len(row) == width for row in rows):
            return ids, None
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
        return ids, mask

    def _shared_prefix(self, prompts: list[Prompt]) -> tuple[int, object]:
        """Length of the tokens that all prompts share before their text, and a cache for the batch that holds them.

        (0, None) where the cache is not a plain one: a sliding window or a recurrent state would count the
        padding behind the prefix.
        """
        head = os.path.commonprefix([prompt.ids[: prompt.start] for prompt in prompts])  # noqa: RUF071 - it takes any sequences
        # the weights may be trained, or cast
        weights = [(parameter.dtype, parameter._version) for parameter in self.model.parameters()]
        known, cache = self._prefix
        if (head, weights) != known:
            cache = None
            if head:
                with self._lock:
                    cache = self.model(
                        torch.tensor([head], device=self.device), use_cache=True, logits_to_keep=1
                    ).past_key_values
                if not is_plain(cache):
                    cache = None
            self._prefix = ((head, weights), cache)
        if cache is None:
            return 0, None
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(prompts))
        return len(head), cache

    def _inputs(self, prompts: list[Prompt], forced: list[list[int]]):
        """Ids ``(b, t)`` of the prompts, and forced rationales, behind the prefix that they share; mask,
        positions, and its cache.
        """
        shared, cache = self._shared_prefix(prompts)
        ids, mask = self.pad_left([prompt.ids[shared:] + ids for prompt, ids in zip(prompts, forced, strict=True)])
        if shared and mask is not None:
            mask = torch.cat([mask.new_ones(len(prompts), shared), mask], dim=1)
        return ids, mask, None if mask is None else token_positions(mask)[:, shared:], cache

    def part_sums(
        self, states: torch.Tensor, prompts: list[Prompt], forced: list[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Part sums ``(b, 3, d)`` and counts ``(b, 3)`` of left-padded states, row by row, so that they do not
        depend on the padding.
        """
        n, width, d = states.shape
        sums = torch.zeros(n, len(PARTS), d, device=self.device)
        counts = torch.zeros(n, len(PARTS), dtype=torch.long)
        for i, (prompt, ids) in enumerate(zip(prompts, forced, strict=True)):
            length = len(prompt.ids)
            offset = width - length - len(ids)
            borders = (prompt.start, prompt.stop, length, length + len(ids))
            for part, (a, b) in enumerate(pairwise(borders)):
                sums[i, part] = states[i, offset + a : offset + b].float().sum(0)
                counts[i, part] = b - a
        return sums, counts

    @torch.inference_mode()
    def pool(self, prompts: list[Prompt], forced: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Part sums ``(b, 3, d)`` and counts ``(b, 3)`` by one forward."""
        ids, mask, positions, cache = self._inputs(prompts, forced)
        _, states = self.forward(ids, cache, attention_mask=mask, position_ids=positions, use_cache=cache is not None)
        sums, counts = self.part_sums(states, prompts, forced)
        return sums.cpu().numpy(), counts.numpy()

    @torch.inference_mode()
    def states(self, prompts: list[Prompt], forced: list[list[int]]) -> list[np.ndarray]:
        """Last hidden states ``(t, d)`` fp32 of the pooled positions of every prompt with its rationale ids,
        by one forward.
        """
        ids, mask = self.pad_left([prompt.ids + rationale for prompt, rationale in zip(prompts, forced, strict=True)])
        _, states = self.forward(ids, None, attention_mask=mask, position_ids=token_positions(mask), use_cache=False)
        rows = zip(states.float().cpu().numpy(), prompts, forced, strict=True)
        return [row[len(row) - len(p.ids) - len(rationale) + p.start :].copy() for row, p, rationale in rows]

    def prefill(self, prompts: list[Prompt]):
        """One forward over the prompts: output, last states ``(b, t, d)``, the column in which each row
        begins, and the cache.

        What the prompts share stands in the first columns of the cache; it is moved up to where each row's
        own tokens begin.
        """
        ids, mask, positions, cache = self._inputs(prompts, [[] for _ in prompts])
        shared = cache.get_seq_length() if cache is not None else 0
        output, states = self.forward(ids, cache, attention_mask=mask, position_ids=positions, use_cache=True)
        cache, starts = output.past_key_values, [0] * len(prompts) if mask is None else (mask == 0).sum(dim=1).tolist()
        for layer in cache.layers if shared else ():
            for tensor in (layer.keys, layer.values):
                head = tensor[0, :, :shared].clone()
                for row, start in enumerate(starts):
                    if start:
                        tensor[row, :, start : start + shared] = head
        return output, states, starts, cache


def is_plain(cache) -> bool:
    """Whether the cache holds keys and values of every token, layer by layer, and nothing else."""
    return all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None]))


def token_positions(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Position ids of left-padded rows from their attention mask; None where nothing is padded."""
    return None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)


def alike(lengths: Sequence[int]) -> int:
    """How many of the first prompts are run together: the forward computes the padding of the shorter ones too.

    At least FEW, which fill a matrix product; more while none is longer than the longest of these, or shorter
    by a quarter.
    """
    longest, shortest = max(lengths[:FEW]), min(lengths[:FEW])
    together = len(lengths[:FEW])
    for length in lengths[FEW:]:
        longest, shortest = max(longest, length), min(shortest, length)
        if 4 * shortest < 3 * longest:
            break
        together += 1
    return together
