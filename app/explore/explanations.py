"""One score with all its parts as data, for the page and the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grace_core.pooling import PARTS

if TYPE_CHECKING:
    import numpy as np

    from grace_core.explain import Explanation
    from grace_core.token_states import TokenStates


def explanation(explained: Explanation, mean: np.ndarray) -> dict:
    """One score with all its parts, as they are and relative to the corpus mean ``(d,)``, in the order of the texts."""
    from grace_core.explain import relative_to_corpus

    query = explained.query.unit.sum(axis=0)
    average = float(query @ mean)
    above, tokens_above = explained.above_corpus(mean), relative_to_corpus(query, explained.document, mean)
    blocks = explained.blocks()
    over = explained.score - average
    residuals = [
        explained.score - sum(blocks.values()),
        explained.residual,
        explained.score - explained.tokens.sum(),
        explained.score - explained.query_tokens.sum(),
        over - above.sum(),
        over - tokens_above.sum(),
    ]
    return {
        "score": explained.score,
        "sum": explained.sum,
        "average": average,
        "largest_residual": float(max(map(abs, residuals))),
        "blocks": blocks,
        "query": sentences(explained.query),
        "sentences": sentences(explained.document),
        "raw": explained.sentences.tolist(),
        "above": above.tolist(),
        "tokens": list(explained.document.pieces),
        "parts": [PARTS[part] for part in explained.document.parts],
        "tokens_raw": explained.tokens.tolist(),
        "tokens_above": tokens_above.tolist(),
    }


def sentences(states: TokenStates) -> list[dict]:
    return [{"part": PARTS[one.part], "text": one.text, "begin": one.begin, "end": one.end} for one in states.sentences]
