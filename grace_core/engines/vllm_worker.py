"""Part sums of hidden states, kept inside vLLM's worker while it generates.

The runner's ``execute_model`` leaves the last hidden states of a step's tokens, one row a scheduled token,
request after request, for ``sample_tokens``; they are read in between. The scheduler says at which position
the tokens of each request begin, and that decides what is added to which sum:

- A position counts once. One that was seen already (a preempted request is computed again) is skipped.
- What the prefix cache holds is not computed, so a request's states may begin after the start of its text.
  Where they begin is reported (``first``); the engine supplies the rest.
- The newest rationale state is held back until the next one comes, since the scheduler may run a step ahead
  and feed the end token, which is not pooled. The caller of ``take`` says where the rationale ends.

This relies on vLLM's version 1 model runner (``input_batch`` and ``execute_model_state``), not on documented
interfaces; hence the pinned version, and the engine's check of every count.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from grace_core.pooling import PARTS, RATIONALE, TEMPLATE, TEXT


@dataclass
class _Row:
    """One request: where its parts end, its slot in the buffers, and the positions [first, seen) it has states of."""

    start: int
    stop: int
    length: int
    first: int
    seen: int
    slot: int | None = None  # from its first states on
    gap: bool = False  # positions in the middle are missing
    tokens: list[torch.Tensor] | None = field(default=None, repr=False)  # single states, where these are wanted


class Collector:
    """Sums hidden states of many requests by part. Knows nothing of vLLM."""

    def __init__(self):
        self._rows: dict[int, _Row] = {}
        self._free: list[int] = []
        # allocated with the first states, which have the width and the device
        self._sums: torch.Tensor | None = None  # (slots, 3, d) fp32
        self._held: torch.Tensor | None = None  # (slots, d) fp32: the newest rationale state, not in the sums yet

    def begin(self, key: int, start: int, stop: int, length: int, *, first: int, keep: bool = False) -> None:
        """A request whose text is [start, stop), whose rationale begins at ``length``, and whose states come
        from ``first`` on.
        """
        self._rows[key] = _Row(start, stop, length, first, first, tokens=[] if keep else None)

    @torch.inference_mode()
    def add(self, states: torch.Tensor, batch: list[tuple[int | None, int, int]]) -> None:
        """The states ``(t, d)`` of one step: for each request in turn its key (None: not ours), its first
        position and their number.
        """
        slots, places, offset = [], [], 0
        for key, position, count in batch:
            row, begin = self._rows.get(key), offset
            offset += count
            if row is None:
                continue
            if row.slot is None:
                row.slot = self._new_slot(states)
            row.gap |= position > row.seen
            new = position + count - row.seen
            if new <= 0:
                continue
            if new == 1 and row.seen >= row.length and row.tokens is None:
                slots.append(row.slot)
                places.append(offset - 1)
            else:
                self._add_many(row, states[max(begin, offset - new) : offset])
            row.seen = position + count
        if slots:
            index, place = torch.tensor([slots, places], device=states.device)
            self._sums[:, RATIONALE].index_add_(0, index, self._held[index])
            self._held[index] = states[place].float()

    def _new_slot(self, states: torch.Tensor) -> int:
        if not self._free:
            more, d = 64 if self._sums is None else len(self._sums), states.shape[1]
            buffers = [
                torch.zeros(more, len(PARTS), d, device=states.device),
                torch.zeros(more, d, device=states.device),
            ]
            old = [buffer[:0] for buffer in buffers] if self._sums is None else [self._sums, self._held]
            self._free = list(range(len(old[0]), len(old[0]) + more))
            self._sums, self._held = (torch.cat(pair) for pair in zip(old, buffers, strict=True))
        return self._free.pop()

    def _add_many(self, row: _Row, states: torch.Tensor) -> None:
        """States of the positions from ``row.seen`` on: a prompt, a piece of one, or a given rationale."""
        if row.tokens is not None:
            row.tokens.append(states.float().cpu())
        end = row.seen + len(states)
        borders = {TEXT: (row.start, row.stop), TEMPLATE: (row.stop, row.length), RATIONALE: (row.length, end)}
        for part, (a, b) in borders.items():
            a, b = max(a, row.seen) - row.seen, min(b, end) - row.seen
            if b > a:
                self._sums[row.slot, part] += states[a:b].float().sum(0)

    @torch.inference_mode()
    def take(self, keys: list[int], ends: list[int]) -> dict:
        """Sums ``(n, 3, d)`` fp32 as bytes, up to the position ``ends`` of each, and the positions [first, seen)
        of the states in them. Forgets the requests.

        ``seen`` is -1 where positions in the middle are missing. ``tokens`` has the states ``(t, d)`` fp32 of
        requests begun with ``keep``. A plain dict of bytes and lists, since it crosses processes.
        """
        rows = [self._rows.pop(key) for key in keys]
        slots = torch.tensor([row.slot for row in rows], device=self._sums.device)
        # one position more than asked for: the end token was fed, its state is the one held back
        ahead = torch.tensor(
            [row.seen == end + 1 for row, end in zip(rows, ends, strict=True)], device=self._sums.device
        )
        sums = self._sums[slots]
        sums[:, RATIONALE] += self._held[slots] * ~ahead[:, None]
        self._clear(rows)
        return {
            "sums": sums.cpu().numpy().tobytes(),
            "first": [row.first for row in rows],
            "seen": [
                -1 if row.gap else row.seen - early for row, early in zip(rows, ahead.int().tolist(), strict=True)
            ],
            "tokens": [torch.cat(row.tokens).numpy().tobytes() if row.tokens else b"" for row in rows],
        }

    @torch.inference_mode()
    def drop(self, keys: list[int]) -> None:
        """Forget requests whose sums are not wanted."""
        self._clear([self._rows.pop(key) for key in keys if key in self._rows])

    def _clear(self, rows: list[_Row]) -> None:
        slots = [row.slot for row in rows if row.slot is not None]
        if slots:
            self._sums[slots] = 0
            self._held[slots] = 0
            self._free += slots


class PartSums:
    """A mix-in of vLLM's worker class (``worker_extension_cls``); the engine calls its methods by ``collective_rpc``."""

    def grace_start(self) -> bool:
        """Hook the collector into the runner's forward pass. Raises RuntimeError for an unknown kind of runner."""
        runner = self.model_runner
        if not (hasattr(runner, "execute_model_state") and hasattr(getattr(runner, "input_batch", None), "req_ids")):
            raise RuntimeError(
                f"{type(runner).__module__}.{type(runner).__name__} is not the model runner that GRACE knows"
            )
        self._grace, keys = Collector(), {}
        execute = runner.execute_model

        def execute_and_collect(scheduled, *args, **kwargs):
            output = execute(scheduled, *args, **kwargs)
            state = runner.execute_model_state
            if state is not None and isinstance(state.hidden_states, torch.Tensor):
                self._grace.add(state.hidden_states, _batch(runner.input_batch.req_ids, scheduled, self._grace, keys))
            return output

        runner.execute_model = execute_and_collect
        return True

    def grace_take(self, keys: list[int], ends: list[int]) -> dict:
        return self._grace.take(keys, ends)

    def grace_drop(self, keys: list[int]) -> None:
        self._grace.drop(keys)


def _batch(
    order: list[str], scheduled, collector: Collector, keys: dict[str, int]
) -> list[tuple[int | None, int, int]]:
    """Key, first position and number of tokens of every request of a step, in the order of its rows; new ones
    are begun.
    """
    for name in scheduled.finished_req_ids:
        keys.pop(name, None)
    positions = dict(
        zip(scheduled.scheduled_cached_reqs.req_ids, scheduled.scheduled_cached_reqs.num_computed_tokens, strict=True)
    )
    for request in scheduled.scheduled_new_reqs:
        positions[request.req_id] = request.num_computed_tokens
        ours = (request.sampling_params.extra_args or {}).get("grace") if request.sampling_params else None
        if ours:
            key, start, stop, length, keep = ours
            keys[request.req_id] = key
            collector.begin(key, start, stop, length, first=request.num_computed_tokens, keep=bool(keep))
    return [(keys.get(name), positions[name], scheduled.num_scheduled_tokens[name]) for name in order]
