"""Generation and pooling in one pass with a transformers causal LM.

Plain batched decoding with a key-value cache. The decoder's last hidden states, which every forward computes anyway, are caught
by a hook and added to the part sums as they appear, so that no second forward over text and rationale is needed. The state of a
token exists only once the token has been fed back; a rationale cut off at the limit therefore costs one more step.

The system prompt stands first in every prompt. Its keys and values are computed once and shared by all batches; the padding of
the shorter texts then stands between the shared prefix and the text, masked, and positions are counted without it.

Why not ``generate()`` with a hook: rows that have ended leave the batch here, sampling noise belongs to the row and not to the
batch (a text gets the same rationale whatever it is batched with), and tokens can be streamed and the run cancelled between steps.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock

import numpy as np
import torch
from transformers.cache_utils import DynamicLayer

from grace_core.errors import GraceError
from grace_core.pooling import PARTS, RATIONALE, TEMPLATE, TEXT
from grace_core.prompt import Prompt


@dataclass(frozen=True)
class Decoding:
    """How rationales are decoded. ``temperature`` 0 is greedy; ``top_p`` keeps the smallest set of tokens with that mass."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise GraceError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature <= 10:
            raise GraceError(f"temperature must lie in [0, 10], got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise GraceError(f"top_p must lie in (0, 1], got {self.top_p}")


@dataclass
class Pooled:
    """What a batch of n prompts gave: part sums ``(n, 3, d)`` fp32, counts ``(n, 3)``, rationale ids, and who hit the limit."""

    sums: torch.Tensor
    counts: torch.Tensor
    rationale_ids: list[list[int]] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)


class TransformersEngine:
    """Runs one ``transformers`` causal LM; ``end_ids`` are the tokens that end a rationale."""

    def __init__(self, model, *, pad_id: int, end_ids: set[int]):
        self.model = model.eval()
        self.pad_id = pad_id
        self.end_ids = end_ids
        self._end = torch.tensor(sorted(end_ids), device=model.device)
        self._lock = Lock()
        self._prefix: tuple[object, object] = (None, None)  # what it was made from, and its keys and values

    @property
    def device(self) -> torch.device:
        return self.model.device

    @contextmanager
    def _last_states(self):
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

    def _pad_left(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Ids ``(b, t)`` and attention mask, or None for the mask where no row is padded."""
        width = max(map(len, rows))
        ids = torch.tensor([[self.pad_id] * (width - len(row)) + row for row in rows], device=self.device)
        if all(len(row) == width for row in rows):
            return ids, None
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
        return ids, mask

    def _shared_prefix(self, prompts: list[Prompt]) -> tuple[int, object]:
        """Length of the tokens that all prompts share before their text, and a cache for the batch that holds them.

        (0, None) where the cache is not a plain one: a sliding window or a recurrent state would count the padding behind the prefix.
        """
        head = os.path.commonprefix([prompt.ids[: prompt.start] for prompt in prompts])  # noqa: RUF071 - it takes any sequences
        weights = [(parameter.dtype, parameter._version) for parameter in self.model.parameters()]  # they may be trained, or cast
        known, cache = self._prefix
        if (head, weights) != known:
            cache = None
            if head:
                with self._lock:
                    cache = self.model(torch.tensor([head], device=self.device), use_cache=True, logits_to_keep=1).past_key_values
                if not is_plain(cache):
                    cache = None
            self._prefix = ((head, weights), cache)
        if cache is None:
            return 0, None
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(prompts))
        return len(head), cache

    def _inputs(self, prompts: list[Prompt], forced: list[list[int]] | None = None):
        """Ids ``(b, t)`` of the prompts, and forced rationales, behind the prefix that they share; mask, positions, and its cache."""
        shared, cache = self._shared_prefix(prompts)
        ids, mask = self._pad_left([prompt.ids[shared:] + (forced[i] if forced else []) for i, prompt in enumerate(prompts)])
        if shared and mask is not None:
            mask = torch.cat([mask.new_ones(len(prompts), shared), mask], dim=1)
        return ids, mask, None if mask is None else token_positions(mask)[:, shared:], cache

    def _prefill_sums(self, states: torch.Tensor, prompts: list[Prompt], forced: list[list[int]] | None = None):
        """Part sums and counts of left-padded states, row by row, so that they do not depend on the padding."""
        n, width, d = states.shape
        sums = torch.zeros(n, len(PARTS), d, device=self.device)
        counts = torch.zeros(n, len(PARTS), dtype=torch.long)
        for i, prompt in enumerate(prompts):
            extra = len(forced[i]) if forced else 0
            offset = width - len(prompt.ids) - extra
            ends = (prompt.start, prompt.stop, len(prompt.ids), len(prompt.ids) + extra)
            for part, (a, b) in zip((TEXT, TEMPLATE, RATIONALE), pairwise(ends), strict=True):
                sums[i, part] = states[i, offset + a : offset + b].float().sum(0)
                counts[i, part] = b - a
        return sums, counts

    @torch.inference_mode()
    def pool(self, prompts: list[Prompt], forced: list[list[int]] | None = None) -> Pooled:
        """One forward, no generation: pool the prompts, with the given rationale ids (one list a prompt) behind them if any."""
        ids, mask, positions, cache = self._inputs(prompts, forced)
        with self._last_states() as caught:
            self.model(
                ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1
            )
            sums, counts = self._prefill_sums(caught[0], prompts, forced)
        return Pooled(sums.cpu(), counts, [list(f) for f in forced] if forced else [[] for _ in prompts], [False] * len(prompts))

    @torch.inference_mode()
    def states(self, prompts: list[Prompt], forced: list[list[int]]) -> list[np.ndarray]:
        """Last hidden states ``(t, d)`` fp32 of the pooled positions of every prompt with its rationale ids, by one forward."""
        ids, mask = self._pad_left([prompt.ids + rationale for prompt, rationale in zip(prompts, forced, strict=True)])
        with self._last_states() as caught:
            self.model(ids, attention_mask=mask, position_ids=token_positions(mask), use_cache=False, logits_to_keep=1)
            found = caught[0].float().cpu().numpy()
        width = ids.shape[1]
        starts = [width - len(prompt.ids) - len(rationale) + prompt.start for prompt, rationale in zip(prompts, forced, strict=True)]
        return [found[i, start:].copy() for i, start in enumerate(starts)]

    def generate(self, prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None = None) -> Pooled:
        """Write a rationale for every prompt and pool text, template and rationale states on the way.

        ``seeds``, one a prompt, take the place of the decoding's own: a prompt can then be sampled several times in one batch.
        """
        steps = self.steps(prompts, decoding, seeds)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return stop.value

    @torch.inference_mode()
    def steps(self, prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None = None) -> Iterator[list[tuple[int, int]]]:
        """Decode step by step: yields the ``(row, token)`` pairs of each step and returns the Pooled result at the end."""
        n = len(prompts)
        distinct, place = _distinct(prompts)
        ids, mask, positions, cache = self._inputs(distinct)
        noise = _row_noise(prompts, decoding, seeds) if decoding.temperature > 0 else None
        result = Pooled(torch.empty(0), torch.empty(0), [[] for _ in range(n)], [False] * n)
        rows = list(range(n))  # the batch's rows that are still running, in the order of the cache
        index = torch.arange(n, device=self.device)
        lengths = torch.tensor([len(prompt.ids) for prompt in prompts], device=self.device)
        for step in range(decoding.max_new_tokens + 1):
            with self._last_states() as caught:
                output = self.model(
                    ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
                )
            cache, logits = output.past_key_values, output.logits[:, -1].float()
            if step == 0:
                result.sums, result.counts = self._prefill_sums(caught[0], distinct)
                if len(distinct) < n:  # samples of one prompt part here
                    result.sums, result.counts, logits = result.sums[place], result.counts[place], logits[place]
                    mask = mask[place] if mask is not None else None
                    cache.batch_select_indices(place.to(self.device))
                _RoomyLayer.replace_in(cache)
            else:
                result.sums[index, RATIONALE] += caught[0][:, -1].float()
                result.counts[rows, RATIONALE] += 1
            if step == decoding.max_new_tokens:
                for row in rows:
                    result.truncated[row] = True
                break
            tokens = _choose(logits, decoding, noise[index, step] if noise is not None else None)
            ended = torch.isin(tokens, self._end)
            listed = tokens.tolist()
            new = [(row, token) for row, token in zip(rows, listed, strict=True) if token not in self.end_ids]
            for row, token in new:
                result.rationale_ids[row].append(token)
            if new:
                yield new
            if len(new) < len(rows):
                if not new:
                    break
                keep = torch.nonzero(~ended).flatten()
                cache.batch_select_indices(keep)
                index, tokens = index[keep], tokens[keep]
                mask = mask[keep] if mask is not None else None
                rows = [row for row, _ in new]
            if mask is not None:
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            ids = tokens[:, None]
            positions = (lengths[index] + step)[:, None]
        result.sums = result.sums.cpu()
        return result


class _RoomyLayer(DynamicLayer):
    """Keys and values with room to grow in, where DynamicLayer copies all of them for every new token."""

    ROOM = 64  # tokens

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self._settle(layer.keys, layer.values)

    @classmethod
    def replace_in(cls, cache) -> None:
        """Take the place of the cache's layers, unless one of them is of another kind."""
        if is_plain(cache):
            cache.layers = [cls(layer) for layer in cache.layers]

    def _settle(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Move into buffers of the right batch size, with room behind."""
        b, heads, length, _ = keys.shape
        self._buffers = [held.new_empty(b, heads, length + self.ROOM, held.shape[3]) for held in (keys, values)]
        for buffer, held in zip(self._buffers, (keys, values), strict=True):
            buffer[:, :, :length] = held
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_, **__) -> tuple[torch.Tensor, torch.Tensor]:
        begin = self.keys.shape[2]
        end = begin + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._settle(self.keys, self.values)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        length = self.keys.shape[2]
        self._buffers = [buffer.index_select(0, indices) for buffer in self._buffers]
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def is_plain(cache) -> bool:
    """Whether the cache holds keys and values of every token, layer by layer, and nothing else."""
    return all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None]))


def _distinct(prompts: list[Prompt]) -> tuple[list[Prompt], torch.Tensor]:
    """Every different prompt once, and for each of ``prompts`` its place among them ``(n,)``."""
    first: dict[tuple, int] = {}
    place = [first.setdefault((*prompt.ids, prompt.start, prompt.stop), len(first)) for prompt in prompts]
    found = dict(zip(place, prompts, strict=True))
    return [found[i] for i in range(len(first))], torch.tensor(place)


def token_positions(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Position ids of left-padded rows from their attention mask; None where nothing is padded."""
    return None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)


def _row_noise(prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None) -> torch.Tensor:
    """Uniform numbers ``(n, max_new_tokens)``, seeded by the decoding seed, or the row's own, and the prompt's own tokens."""
    rows = []
    for prompt, seed in zip(prompts, seeds or [decoding.seed] * len(prompts), strict=True):
        digest = hashlib.sha256(f"{seed} {prompt.ids}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        rows.append(torch.rand(decoding.max_new_tokens, generator=generator))
    return torch.stack(rows)


def _choose(logits: torch.Tensor, decoding: Decoding, noise: torch.Tensor | None) -> torch.Tensor:
    """Next tokens ``(b,)``: the most likely, or by inverse transform sampling with one uniform number a row."""
    if noise is None:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / decoding.temperature, -1)
    if decoding.top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= decoding.top_p
        # back in the vocabulary's order: that of nearly equal probabilities is a matter of rounding, hence of the batch
        probabilities = probabilities.masked_fill(outside.scatter(-1, order, outside), 0)
    mass = probabilities.cumsum(-1)
    # noise lies in [0, 1): what is left of 1 is more than 0, so that no token without probability is reached
    return torch.searchsorted(mass, (1 - noise).to(mass.device)[:, None] * mass[:, -1:])[:, 0]
