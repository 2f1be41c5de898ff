"""What every engine offers: batches of prompts that are decoded together, one forward without decoding, single states.

A :class:`Batch` takes prompts (``submit``), goes on by one token each (``step``), and gives prompts up (``cancel``).
:class:`Engine` drives a batch from beginning to end. Who uses an engine asks for its attributes and not for its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from grace_core.errors import GraceError
from grace_core.pooling import Representation
from grace_core.prompt import Prompt

if TYPE_CHECKING:
    import numpy as np
    import torch

# new prompts join when one in this many has ended: one forward over several prompts costs less than one each
JOIN_SHARE = 16


@dataclass(frozen=True)
class Decoding:
    """How rationales are decoded.

    ``temperature`` 0 is greedy; ``top_p`` keeps the smallest set of tokens with that mass.
    """

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


class Step(NamedTuple):
    """The new tokens of one step, and the prompts that ended in it, by the names that they were submitted under."""

    tokens: list[tuple[Hashable, int]]
    finished: list[tuple[Hashable, Representation]]


class Batch(Protocol):
    """Prompts that are decoded together, in the same way but for their seeds. For one thread at a time."""

    def submit(self, names: Sequence[Hashable], prompts: Sequence[Prompt], seeds: Sequence[int] | None = None) -> None:
        """Take in prompts; ``seeds``, one a prompt, take the place of the decoding's own."""

    def step(self) -> Step:
        """Go on by one token, or begin with what was submitted."""

    def cancel(self, names: Sequence[Hashable] | None = None) -> None:
        """Give up these prompts, or all."""

    def __len__(self) -> int:
        """The prompts that have not ended."""

    @property
    def open(self) -> bool:
        """Whether prompts can be submitted now."""


class Engine(ABC):
    """Runs one causal LM. ``end_ids`` are the tokens that end a rationale."""

    name: str
    title: str  # the name as it is written in a sentence
    schedules = False  # whether it divides its steps among all batches and bounds its memory by itself
    preferred_batch = 1  # prompts to hand over at once, at least
    variant: str | None = None  # names its samples and its choice between equally likely tokens, if these are its own
    alive = True  # False when nothing can be run any more

    pad_id: int
    end_ids: set[int]
    device: torch.device
    dtype: str

    @abstractmethod
    def start(self, decoding: Decoding, *, stream: bool = False) -> Batch:
        """An empty batch. Without ``stream`` an engine may hold back tokens until their rationale has ended."""

    @abstractmethod
    def pool(self, prompts: list[Prompt], forced: list[list[int]] | None = None) -> list[Representation]:
        """Pool the prompts without decoding, with the given rationale ids (one list a prompt) behind them if any."""

    @abstractmethod
    def states(self, prompts: list[Prompt], forced: list[list[int]]) -> list[np.ndarray]:
        """Last hidden states ``(t, d)`` fp32 of the pooled positions of every prompt with its rationale ids."""

    def close(self) -> None:  # noqa: B027 - an engine in this process has nothing to end
        """End what runs outside of this process, and free its memory."""

    def together(self, lengths: Sequence[int]) -> int:
        """How many of the first prompts, which have these lengths, are submitted at once."""
        return len(lengths)

    def decode(
        self,
        prompts: list[Prompt],
        decoding: Decoding,
        seeds: list[int] | None = None,
        *,
        width: int | None = None,
        stream: bool = False,
    ) -> Iterator[Step]:
        """Write a rationale for every prompt, at most ``width`` (all) at a time: the others follow as these end.

        Yields every step; its names are positions in ``prompts``.
        """
        batch, waiting = self.start(decoding, stream=stream), deque(range(len(prompts)))
        width = width or len(prompts)
        try:
            while waiting or len(batch):
                room = width - len(batch)
                enough = not len(batch) or room >= min(len(waiting), max(1, width // JOIN_SHARE))
                if waiting and enough and batch.open:
                    count = self.together([len(prompts[i].ids) for i in islice(waiting, room)])
                    rows = [waiting.popleft() for _ in range(count)]
                    batch.submit(rows, [prompts[i] for i in rows], [seeds[i] for i in rows] if seeds else None)
                yield batch.step()
        finally:
            batch.cancel()

    def each(
        self, prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None = None, *, width: int | None = None
    ) -> Iterator[tuple[int, Representation]]:
        """What :meth:`decode` finishes, as it ends."""
        for step in self.decode(prompts, decoding, seeds, width=width):
            yield from step.finished

    def generate(
        self, prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None = None, *, width: int | None = None
    ) -> list[Representation]:
        """Write a rationale for every prompt and pool text, template and rationale states on the way.

        ``seeds``, one a prompt, take the place of the decoding's own: a prompt can then be sampled several
        times in one batch.
        """
        rows = dict(self.each(prompts, decoding, seeds, width=width))
        return [rows[i] for i in range(len(prompts))]
