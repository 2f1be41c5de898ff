"""Generation and pooling in one pass with a transformers causal LM.

The decoder's last hidden states, which every forward computes anyway, are caught by a hook and added to the
part sums as they appear, so that no second forward over text and rationale is needed. The state of a token
exists only once the token has been fed back; a rationale cut off at the limit therefore costs one more step.

The system prompt stands first in every prompt. Its keys and values are computed once and shared by all
batches; the padding of the shorter texts then stands between the shared prefix and the text, masked, and
positions are counted without it.

Why not ``generate()`` with a hook: rows that have ended leave the batch here and others take their places
(:mod:`grace_core.engines.inflight`), sampling noise belongs to the row and not to the batch (a text gets the
same rationale whatever it is batched with), and tokens can be streamed and the run cancelled between steps.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, pairwise
from threading import Lock

import numpy as np
import torch

from grace_core.engines.inflight import Decoding, FinishedRow, InFlight, is_plain, token_positions
from grace_core.pooling import PARTS, RATIONALE, TEMPLATE, TEXT
from grace_core.prompt import Prompt

JOIN_SHARE = (
    16  # new rows join when one row in this many has ended: one forward over several prompts costs less than one each
)
FEW = 8  # prompts that are run together whatever their lengths


@dataclass
class PooledBatch:
    """What a batch of n prompts gave: part sums ``(n, 3, d)`` fp32, counts ``(n, 3)``, rationale ids, and who
    hit the limit.
    """

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
        self._lock = Lock()
        self._prefix: tuple[object, object] = (None, None)  # what it was made from, and its keys and values

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

        (0, None) where the cache is not a plain one: a sliding window or a recurrent state would count the
        padding behind the prefix.
        """
        head = os.path.commonprefix([prompt.ids[: prompt.start] for prompt in prompts])  # noqa: RUF071 - it takes any sequences
        weights = [
            (parameter.dtype, parameter._version) for parameter in self.model.parameters()
        ]  # they may be trained, or cast
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

    def _inputs(self, prompts: list[Prompt], forced: list[list[int]] | None = None):
        """Ids ``(b, t)`` of the prompts, and forced rationales, behind the prefix that they share; mask,
        positions, and its cache.
        """
        shared, cache = self._shared_prefix(prompts)
        ids, mask = self._pad_left(
            [prompt.ids[shared:] + (forced[i] if forced else []) for i, prompt in enumerate(prompts)]
        )
        if shared and mask is not None:
            mask = torch.cat([mask.new_ones(len(prompts), shared), mask], dim=1)
        return ids, mask, None if mask is None else token_positions(mask)[:, shared:], cache

    def prefill_sums(self, states: torch.Tensor, prompts: list[Prompt], forced: list[list[int]] | None = None):
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
    def pool(self, prompts: list[Prompt], forced: list[list[int]] | None = None) -> PooledBatch:
        """No generation: pool the prompts, with the given rationale ids (one list a prompt) behind them if any.

        One forward over each run of prompts that are about as long.
        """
        lengths = [len(prompt.ids) + (len(forced[i]) if forced else 0) for i, prompt in enumerate(prompts)]
        found, begin = [], 0
        while begin < len(prompts):
            some = slice(begin, begin + alike(lengths[begin:]))
            found.append(self._pool_together(prompts[some], forced[some] if forced else None))
            begin = some.stop
        sums, counts = (torch.cat(parts) for parts in zip(*found, strict=True))
        return PooledBatch(
            sums, counts, [list(f) for f in forced] if forced else [[] for _ in prompts], [False] * len(prompts)
        )

    def _pool_together(
        self, prompts: list[Prompt], forced: list[list[int]] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Part sums and counts of one forward."""
        ids, mask, positions, cache = self._inputs(prompts, forced)
        with self.last_states() as caught:
            self.model(
                ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=1,
            )
            sums, counts = self.prefill_sums(caught[0], prompts, forced)
        return sums.cpu(), counts

    @torch.inference_mode()
    def states(self, prompts: list[Prompt], forced: list[list[int]]) -> list[np.ndarray]:
        """Last hidden states ``(t, d)`` fp32 of the pooled positions of every prompt with its rationale ids,
        by one forward.
        """
        ids, mask = self._pad_left([prompt.ids + rationale for prompt, rationale in zip(prompts, forced, strict=True)])
        with self.last_states() as caught:
            self.model(ids, attention_mask=mask, position_ids=token_positions(mask), use_cache=False, logits_to_keep=1)
            found = caught[0].float().cpu().numpy()
        width = ids.shape[1]
        starts = [
            width - len(prompt.ids) - len(rationale) + prompt.start
            for prompt, rationale in zip(prompts, forced, strict=True)
        ]
        return [found[i, start:].copy() for i, start in enumerate(starts)]

    def prefill(self, prompts: list[Prompt]):
        """One forward over the prompts: output, last states ``(b, t, d)``, the column in which each row
        begins, and the cache.

        What the prompts share stands in the first columns of the cache; it is moved up to where each row's
        own tokens begin.
        """
        ids, mask, positions, cache = self._inputs(prompts)
        shared = cache.get_seq_length() if cache is not None else 0
        with self.last_states() as caught:
            output = self.model(
                ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        cache, starts = output.past_key_values, [0] * len(prompts) if mask is None else (mask == 0).sum(dim=1).tolist()
        for layer in cache.layers if shared else ():
            for held in (layer.keys, layer.values):
                head = held[0, :, :shared].clone()
                for row, start in enumerate(starts):
                    if start:
                        held[row, :, start : start + shared] = head
        return output, caught[0], starts, cache

    def decode(
        self, prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None = None, *, width: int | None = None
    ) -> Iterator[tuple[list[tuple[int, int]], list[tuple[int, FinishedRow]]]]:
        """Write a rationale for every prompt, at most ``width`` (all) at a time: the others follow as these end.

        Yields for each step the ``(row, token)`` pairs of its new tokens, and the rows that ended in it.
        """
        flow, waiting = InFlight(self, decoding), deque(range(len(prompts)))
        width = width or len(prompts)
        while waiting or len(flow):
            room = width - len(flow)
            if waiting and flow.open and (not len(flow) or room >= min(len(waiting), max(1, width // JOIN_SHARE))):
                rows = [waiting.popleft() for _ in range(alike([len(prompts[i].ids) for i in islice(waiting, room)]))]
                yield flow.join(rows, [prompts[i] for i in rows], [seeds[i] for i in rows] if seeds else None)
            else:
                yield flow.step()

    def each(
        self, prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None = None, *, width: int | None = None
    ) -> Iterator[tuple[int, FinishedRow]]:
        """The rows of :meth:`decode` as they end."""
        for _, ended in self.decode(prompts, decoding, seeds, width=width):
            yield from ended

    def generate(
        self, prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None = None, *, width: int | None = None
    ) -> PooledBatch:
        """Write a rationale for every prompt and pool text, template and rationale states on the way.

        ``seeds``, one a prompt, take the place of the decoding's own: a prompt can then be sampled several
        times in one batch.
        """
        return _pooled(dict(self.each(prompts, decoding, seeds, width=width)))

    def steps(
        self, prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None = None
    ) -> Iterator[list[tuple[int, int]]]:
        """As :meth:`generate`, step by step: yields the ``(row, token)`` pairs of each step and returns the
        PooledBatch result at the end.
        """
        rows: dict[int, FinishedRow] = {}
        for new, ended in self.decode(prompts, decoding, seeds):
            rows |= dict(ended)
            if new:
                yield new
        return _pooled(rows)


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


def _pooled(rows: dict[int, FinishedRow]) -> PooledBatch:
    made = [rows[i] for i in range(len(rows))]
    if not made:
        return PooledBatch(torch.zeros(0, len(PARTS), 0), torch.zeros(0, len(PARTS), dtype=torch.long))
    return PooledBatch(
        torch.stack([row.sums for row in made]),
        torch.tensor([row.counts for row in made]),
        [row.ids for row in made],
        [row.truncated for row in made],
    )
