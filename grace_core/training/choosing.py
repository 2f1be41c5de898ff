"""Which of a text's sampled rationales is kept to learn from: the rule of best-of-n. Pure functions.

Of n rationales of a text with rewards r and novelties v (:func:`grace_core.training.reward.novelty`), one is kept,

    the largest  r + novelty_weight v    among those that ended by themselves and have v >= min_novelty

and if none of these ended, either none (``unfinished: drop``) or by the same rule the best of the others, up
to the end of its last whole sentence (``cut``), so that what is learned is to end. A rationale of no words,
or a cut one without a whole sentence, is never kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

from grace_core.training.config import BestOfN

SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|\Z)|[。！？]")


def choose(
    rewards: Sequence[float],
    novelties: Sequence[float],
    finished: Sequence[bool],
    stops: Sequence[int],
    rule: BestOfN,
    *,
    novelty_weight: float = 0.0,
) -> int | None:
    """The index of the rationale to keep, the first of equally good ones; None if none is kept.

    ``stops`` are how many tokens of each would be kept.
    """
    usable = [i for i in range(len(rewards)) if stops[i] and novelties[i] >= rule.min_novelty]
    ended = [i for i in usable if finished[i]]
    pool = ended or (usable if rule.unfinished == "cut" else [])
    return max(pool, key=lambda i: rewards[i] + novelty_weight * novelties[i], default=None)


def whole_sentences(pieces: Sequence[str]) -> int:
    """How many tokens reach to the end of a text's last whole sentence, 0 if it has none. ``pieces`` are the
    characters that each token adds.
    """
    end = max((match.end() for match in SENTENCE_END.finditer("".join(pieces))), default=0)
    return (
        next((place for place, length in enumerate(accumulate(map(len, pieces)), 1) if length >= end), 0) if end else 0
    )
