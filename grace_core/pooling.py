"""Mean pooling in three parts, kept as sums and counts so that nothing about the mean is lost.

With hidden states h_t (last layer, after the final norm) at the pooled positions of a text,

    h = (S_text + S_template + S_rationale) / (n_text + n_template + n_rationale),      z = h / |h|

where S_p is the sum and n_p the number of states of part p: the user's text, the template's tokens between
text and rationale, and the rationale without its end-of-turn token. The system prompt and padding belong to
no part. Sums are exact up to fp32 rounding: any split of h into parts adds up to h. Without rationale only
the text part is pooled. (arXiv 2510.04506, section 3.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from grace_core.errors import GraceError

PARTS = ("text", "template", "rationale")
TEXT, TEMPLATE, RATIONALE = range(3)


class Pooling(StrEnum):
    """Which parts make the embedding."""

    TEXT = "text"  # a model without its rationale: the text part only
    FULL = "text+rationale"  # all three parts


def pooled(sums: np.ndarray, counts: np.ndarray, pooling: Pooling = Pooling.FULL) -> np.ndarray:
    """Mean vectors ``(n, d)`` in fp32 from part sums ``(n, 3, d)`` and counts ``(n, 3)``; not normalised.

    Raises GraceError where a row has no pooled position.
    """
    if pooling is Pooling.TEXT:
        total, number = sums[:, TEXT], counts[:, TEXT]
    else:
        total, number = sums.sum(axis=1), counts.sum(axis=1)
    if len(number) and number.min() < 1:
        raise GraceError(f"row {int(number.argmin())} has no token to pool over; an empty text has no embedding")
    return (total / number[:, None]).astype(np.float32)


def embeddings(sums: np.ndarray, counts: np.ndarray, pooling: Pooling = Pooling.FULL) -> np.ndarray:
    """L2-normalised embeddings ``(n, d)`` in fp32. Raises GraceError for a vector that is zero or not finite."""
    vectors = pooled(sums, counts, pooling)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if bad := np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0)).tolist():
        raise GraceError(
            f"row {bad[0]} has a hidden state that is not finite or is zero throughout ({len(bad)} such rows); "
            "the model's weights or its precision are at fault: try dtype float32"
        )
    return (vectors / norms).astype(np.float32)


class Representation(NamedTuple):
    """What one text gave: its rationale's token ids, part sums ``(3, d)`` fp32 and counts ``(3,)`` of
    :data:`PARTS`, and whether the rationale was cut off at the token limit.
    """

    rationale_ids: list[int]
    sums: np.ndarray
    counts: np.ndarray
    truncated: bool


@dataclass
class Representations:
    """What n texts gave, with their rationales as text.

    ``sums`` (n, 3, d) fp32 and ``counts`` (n, 3) hold the parts of :data:`PARTS`; ``truncated`` marks
    rationales cut off at the token limit, ``text_truncated`` texts that were cut to fit the prompt. A
    rationale may be empty: the model ended its turn at once; its count is then 0.
    """

    rationales: list[str]
    rationale_ids: list[list[int]]
    sums: np.ndarray
    counts: np.ndarray
    truncated: np.ndarray
    text_truncated: np.ndarray

    @classmethod
    def of(
        cls,
        rows: Sequence[Representation],
        text_truncated: Sequence[bool],
        decode: Callable[[list[list[int]]], list[str]],
        dim: int,
    ) -> Representations:
        """The texts' rows as one batch; ``decode`` makes rationales of token ids, ``dim`` is the states' width."""
        ids = [row.rationale_ids for row in rows]
        return cls(
            rationales=decode(ids),
            rationale_ids=ids,
            sums=np.stack([row.sums for row in rows]) if rows else np.zeros((0, len(PARTS), dim), np.float32),
            counts=np.array([row.counts for row in rows], np.int64).reshape(-1, len(PARTS)),
            truncated=np.array([row.truncated for row in rows], dtype=bool),
            text_truncated=np.array(text_truncated, dtype=bool),
        )

    def __len__(self) -> int:
        return len(self.rationales)

    def __getitem__(self, rows: slice) -> Representations:
        return Representations(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def embeddings(self, pooling: Pooling = Pooling.FULL) -> np.ndarray:
        """L2-normalised vectors ``(n, d)`` fp32 in the raw geometry."""
        return embeddings(self.sums, self.counts, pooling)
