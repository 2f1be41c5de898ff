"""Generation and pooling in one pass with a transformers causal LM.

Hidden states are added to the part sums as they appear. The state of a token exists only once the token has
been fed back; a rationale cut off at the limit therefore costs one more step.

Why not ``generate()`` with a hook: rows that have ended leave the batch here and others take their places
(:mod:`grace_core.engines.inflight`), sampling noise belongs to the row and not to the batch (a text gets the
same rationale whatever it is batched with), and tokens can be streamed and the run cancelled between steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from grace_core.engines.base import Decoding, Engine
from grace_core.engines.inflight import InFlight
from grace_core.engines.runner import ModelRunner, alike
from grace_core.pooling import Representation
from grace_core.prompt import Prompt


class TransformersEngine(Engine):
    """Runs one ``transformers`` causal LM in this process; it is put into eval mode."""

    name = title = "transformers"

    def __init__(self, model, *, pad_id: int, end_ids: set[int]):
        self.runner, self.pad_id, self.end_ids = ModelRunner(model, pad_id=pad_id), pad_id, end_ids

    @property
    def model(self):
        return self.runner.model

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    def start(self, decoding: Decoding, *, stream: bool = False) -> InFlight:
        return InFlight(self.runner, decoding, self.end_ids)

    def together(self, lengths: Sequence[int]) -> int:
        return alike(lengths)

    def pool(self, prompts: list[Prompt], forced: list[list[int]] | None = None) -> list[Representation]:
        """One forward over each run of prompts that are about as long."""
        forced = [list(ids) for ids in forced] if forced else [[] for _ in prompts]
        lengths = [len(prompt.ids) + len(ids) for prompt, ids in zip(prompts, forced, strict=True)]
        rows: list[Representation] = []
        while len(rows) < len(prompts):
            some = slice(len(rows), len(rows) + alike(lengths[len(rows) :]))
            sums, counts = self.runner.pool(prompts[some], forced[some])
            rows += map(Representation, forced[some], sums, counts, [False] * len(sums))
        return rows

    def states(self, prompts: list[Prompt], forced: list[list[int]]) -> list[np.ndarray]:
        return self.runner.states(prompts, forced)
