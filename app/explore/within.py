"""Ranks among the documents that satisfy the filter of a search, as the page counts them.

A filter moves no score, so that a place within it follows from the scores of all documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from grace_core.ranking import rank

if TYPE_CHECKING:
    from grace_core.selection import Selections
    from grace_core.what_if import WhatIf


def rows_within(selections: Selections, where: str, row: int, count: int) -> np.ndarray:
    """The rows ``(m,)``, ascending, that satisfy a filter, or all ``count`` without one; ``row``, the opened document,
    is always among them. Raises GraceError for a filter that does not fit.
    """
    return np.union1d(selections.of(where).rows, [row]) if where else np.arange(count)


def rank_within(scores: np.ndarray, row: int, rows: np.ndarray) -> int:
    """The place of ``row`` among ``rows``, which hold it, by the scores ``(n,)`` of all documents."""
    return rank(scores[rows], int(np.searchsorted(rows, row)))


def moved_within(outcome: WhatIf, old_rank: int, ids: Sequence[str], rows: np.ndarray) -> WhatIf:
    """``outcome``, of a document among all of ``ids``, as it is among ``rows``, where its place was ``old_rank``."""
    if len(rows) == len(ids):
        return outcome
    there = {ids[row] for row in rows}
    passed, passed_by = ([one for one in some if one in there] for some in (outcome.passed, outcome.passed_by))
    new_rank = old_rank - len(passed) + len(passed_by)
    return replace(outcome, old_rank=old_rank, rank=new_rank, passed=passed, passed_by=passed_by)


def figures_of(outcome: WhatIf, rows: np.ndarray, where: str) -> dict:
    """The figures of an edit among ``rows``, for the page and the API."""
    return {
        "documents": len(rows),
        "filtered": bool(where),
        "score": outcome.score,
        "rank": outcome.rank,
        "old_score": outcome.old_score,
        "old_rank": outcome.old_rank,
        "passed_count": len(outcome.passed),
        "passed_by_count": len(outcome.passed_by),
        "text_truncated": outcome.text_truncated,
    }
