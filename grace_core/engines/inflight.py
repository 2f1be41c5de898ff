"""Continuous batching: rows that are decoded together may join and leave between any two steps, so that the
slots of those that ended do not stay empty.

Rows stand side by side in one cache of keys and values, their newest tokens in its last column, whatever
their lengths: what lies before a row's first token is masked, and its positions are counted without it. Rows
that join are run through the model by themselves and put into the slots of rows that have ended, moved to the
right so that they end in the same column. The whole cache is copied only where there is no such slot, or none
wide enough, where the columns are used up, or where a quarter of the rows has ended and none joined: decoding
on a CPU is bound by memory, and copying the cache takes as long as a step does.

Caches of other kinds (a sliding window, a recurrent state) can be shrunk but not moved, so such rows run from
beginning to end together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers.cache_utils import DynamicLayer

from grace_core.engines.base import Decoding, Step
from grace_core.engines.runner import ModelRunner, is_plain
from grace_core.pooling import RATIONALE, Representation
from grace_core.prompt import Prompt

COMPACT_SHARE = 4  # compact the batch when one row in this many has ended


@dataclass
class _Row:
    name: Hashable
    length: int  # of the prompt
    start: int  # column of the first token
    sums: torch.Tensor  # of the prompt's parts
    counts: list[int]
    ids: list[int] = field(default_factory=list)  # the last one is not yet fed back
    left: bool = False


class InFlight:
    """A :class:`grace_core.engines.base.Batch` of a transformers model; several may share its ``runner``."""

    def __init__(self, runner: ModelRunner, decoding: Decoding, end_ids: set[int]):
        self.runner, self.decoding, self.end_ids = runner, decoding, end_ids
        self._submitted: list[tuple[Hashable, Prompt, int]] = []  # name, prompt, seed
        self._rows: list[_Row] = []  # in the order of the cache
        self._cache = None
        self._states = torch.empty(0)  # sums of rationale states (n, d)
        self._noise = torch.empty(0)  # random numbers (n, max_new_tokens)

    def __len__(self) -> int:
        """Rows that have not ended."""
        return len(self._submitted) + sum(not row.left for row in self._rows)

    @property
    def open(self) -> bool:
        """Whether rows can join now."""
        return not self._rows or self._movable

    @property
    def _movable(self) -> bool:
        return all(type(layer) is _Layer for layer in self._cache.layers)

    def submit(self, names: Sequence[Hashable], prompts: Sequence[Prompt], seeds: Sequence[int] | None = None) -> None:
        """Take in rows; the next step is one forward over their prompts."""
        self._submitted += zip(names, prompts, seeds or [self.decoding.seed] * len(prompts), strict=True)

    @torch.inference_mode()
    def step(self) -> Step:
        """Feed back every row's newest token; where rows were submitted, find their first instead."""
        return self._join() if self._submitted and self.open else self._feed_back()

    @torch.inference_mode()
    def cancel(self, names: Sequence[Hashable] | None = None) -> None:
        """Give up these rows, or all."""
        self._submitted = [row for row in self._submitted if names is not None and row[0] not in names]
        for row in self._rows:
            row.left |= names is None or row.name in names
        self._compact()

    def _join(self) -> Step:
        names, prompts, seeds = zip(*self._submitted, strict=True)
        self._submitted = []
        device = self.runner.device
        distinct, place = distinct_prompts(prompts)
        output, states, starts, cache = self.runner.prefill(distinct)
        sums, counts = self.runner.part_sums(states, distinct, [[] for _ in distinct])
        if len(distinct) < len(prompts):  # samples of one prompt part here
            cache.batch_select_indices(place.to(device))
        rows = [
            _Row(name, len(prompt.ids), starts[i], sums[i], counts[i].tolist())
            for name, prompt, i in zip(names, prompts, place.tolist(), strict=True)
        ]
        noise = row_noise(prompts, self.decoding, seeds) if self.decoding.temperature else torch.empty(len(rows), 0)
        places = self._take_in(rows, noise, torch.zeros(len(rows), states.shape[2], device=device), cache)
        return self._choose(output.logits[place.to(device), -1].float(), places)

    def _feed_back(self) -> Step:
        if self._movable:
            self._drop_columns()
            if self._cache.layers[0].full:
                self._copy()
        device, length, mask = self.runner.device, self._cache.get_seq_length(), None
        if any(row.start for row in self._rows):
            starts = torch.tensor([row.start for row in self._rows])
            mask = (torch.arange(length + 1) >= starts[:, None]).long().to(device)
        tokens = torch.tensor([row.ids[-1] if row.ids else 0 for row in self._rows], device=device)
        # a row that has ended is run on; its position could be higher than the model has
        positions = torch.tensor(
            [0 if row.left else row.length + len(row.ids) - 1 for row in self._rows], device=device
        )
        output, states = self.runner.forward(
            tokens[:, None], self._cache, attention_mask=mask, position_ids=positions[:, None], use_cache=True
        )
        self._states += states[:, -1].float()
        return self._choose(output.logits[:, -1].float(), range(len(self._rows)))

    def _choose(self, logits: torch.Tensor, places: Sequence[int]) -> Step:
        """The next token of the rows at ``places``, which ``logits`` belong to."""
        rows, limit, noise = [self._rows[place] for place in places], self.decoding.max_new_tokens, None
        if self.decoding.temperature:
            noise = self._noise[list(places), [min(len(row.ids), limit - 1) for row in rows]]
        new, ended, ended_places = [], [], []
        for place, row, token in zip(places, rows, choose(logits, self.decoding, noise).tolist(), strict=True):
            if row.left:
                continue
            cut = len(row.ids) == limit  # the state of the last token is in, as it was fed back
            if cut or token in self.end_ids:
                row.left = True
                ended_places.append(place)
                ended.append((row, cut))
            else:
                row.ids.append(token)
                new.append((row.name, token))
        finished = []
        for (row, cut), state in zip(ended, self._states[ended_places].cpu(), strict=True):
            sums, counts = row.sums.cpu().clone(), np.array(row.counts)
            sums[RATIONALE] += state
            counts[RATIONALE] += len(row.ids)
            finished.append((row.name, Representation(row.ids, sums.numpy(), counts, cut)))
        self._compact()
        return Step(new, finished)

    def _compact(self) -> None:
        """Leave out the rows that have ended, once they are many."""
        gone = len(self._rows) - len(self)
        if gone == len(self._rows):
            self._rows, self._cache = [], None
        elif gone >= max(1, len(self._rows) // COMPACT_SHARE):
            self._copy()

    def _drop_columns(self) -> None:
        """Leave out the columns before the first token of all rows."""
        unused = min(row.start for row in self._rows if not row.left)
        if unused:
            for layer in self._cache.layers:
                layer.drop(unused)
            for row in self._rows:
                row.start = max(0, row.start - unused)

    def _take_in(self, rows: list[_Row], noise: torch.Tensor, states: torch.Tensor, cache) -> list[int]:
        """Set new rows, with a cache of their own, into places that are free, or behind all; returns the places."""
        if not self._rows:
            self._rows, self._noise, self._states, self._cache = list(rows), noise, states, _with_room(cache)
            return list(range(len(rows)))
        width, length = cache.get_seq_length(), self._cache.get_seq_length()
        free = [place for place, row in enumerate(self._rows) if row.left][: len(rows)]
        if len(free) < len(rows) or width > length:
            self._copy(extra=len(rows), width=width)
            length = self._cache.get_seq_length()
            free = list(range(len(self._rows), len(self._rows) + len(rows)))
            self._rows += rows
            self._noise = torch.cat([self._noise, noise])
            self._states = torch.cat([self._states, states])
        at = torch.tensor(free)
        for layer, new in zip(self._cache.layers, cache.layers, strict=True):
            layer.put(at.to(self.runner.device), new)
        self._noise[at], self._states[at] = noise, states
        for place, row in zip(free, rows, strict=True):
            row.start += length - width
            self._rows[place] = row
        return free

    def _copy(self, *, extra: int = 0, width: int = 0) -> None:
        """Copy the rows that stay, with room for ``extra`` behind them, without the columns that none of them needs."""
        kept = [place for place, row in enumerate(self._rows) if not row.left]
        at, before = torch.tensor(kept, dtype=torch.long), self._cache.get_seq_length()
        on_device = at.to(self.runner.device)
        self._rows = [self._rows[place] for place in kept]
        self._noise, self._states = self._noise[at], self._states[on_device]
        if not self._movable:
            self._cache.batch_select_indices(on_device)
            return
        length = max(width, *(before - row.start for row in self._rows)) if kept else width
        for row in self._rows:
            row.start += length - before
        for layer in self._cache.layers:
            layer.compact(on_device, length, extra)


class _Layer(DynamicLayer):
    """Keys and values ``(b, heads, t, d)`` with room to grow in, where DynamicLayer copies all of them for
    every new token.
    """

    ROOM = 64  # tokens

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.keys, self.values = layer.keys, layer.values
        self.compact(None, layer.keys.shape[2], 0)

    @property
    def full(self) -> bool:
        return self._begin + self.keys.shape[2] == self._buffers[0].shape[2]

    def compact(self, rows: torch.Tensor | None, length: int, extra: int) -> None:
        """Move the last columns of ``rows`` (all) into the first ``length`` of new buffers, with place for
        ``extra`` rows.
        """
        buffers = []
        for held in (self.keys, self.values):
            n, heads, width, d = held.shape
            n, have = n if rows is None else len(rows), min(width, length)
            buffer = held.new_empty(n + extra, heads, length + self.ROOM, d)
            buffer[:n, :, : length - have] = 0  # masked, but 0 × NaN would still be NaN
            kept = held[:, :, width - have :]
            buffer[:n, :, length - have : length] = kept if rows is None else kept[rows]
            buffers.append(buffer)
        self._show(buffers, 0, length)

    def put(self, rows: torch.Tensor, new: DynamicLayer) -> None:
        """Keys and values of another layer, which is not longer, in the places of ``rows``."""
        end = self._begin + self.keys.shape[2]
        for buffer, given in zip(self._buffers, (new.keys, new.values), strict=True):
            buffer[rows, :, self._begin : end - given.shape[2]] = 0
            buffer[rows, :, end - given.shape[2] : end] = given

    def drop(self, columns: int) -> None:
        """Leave out the first columns; they stay where they are until :meth:`compact`."""
        self._show(self._buffers, self._begin + columns, self.keys.shape[2] - columns)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_, **__
    ) -> tuple[torch.Tensor, torch.Tensor]:
        length = self.keys.shape[2]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._begin + length : self._begin + length + 1] = new
        self._show(self._buffers, self._begin, length + 1)
        return self.keys, self.values

    def _show(self, buffers: list[torch.Tensor], begin: int, length: int) -> None:
        self._buffers, self._begin = buffers, begin
        self.keys, self.values = (buffer[:, :, begin : begin + length] for buffer in buffers)


def _with_room(cache):
    """The cache with layers that can grow and be moved, unless one of them is of another kind."""
    if is_plain(cache):
        cache.layers = [_Layer(layer) for layer in cache.layers]
    return cache


def distinct_prompts(prompts: Sequence[Prompt]) -> tuple[list[Prompt], torch.Tensor]:
    """Every different prompt once, and for each of ``prompts`` its place among them ``(n,)``."""
    first: dict[tuple, int] = {}
    place = [first.setdefault((*prompt.ids, prompt.start, prompt.stop), len(first)) for prompt in prompts]
    distinct = dict(zip(place, prompts, strict=True))
    return [distinct[i] for i in range(len(first))], torch.tensor(place)


def row_noise(prompts: Sequence[Prompt], decoding: Decoding, seeds: Sequence[int]) -> torch.Tensor:
    """Uniform numbers ``(n, max_new_tokens)``, seeded by each row's seed and its prompt's tokens."""
    rows = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        digest = hashlib.sha256(f"{seed} {prompt.ids}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        rows.append(torch.rand(decoding.max_new_tokens, generator=generator))
    return torch.stack(rows)


def choose(logits: torch.Tensor, decoding: Decoding, noise: torch.Tensor | None) -> torch.Tensor:
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
