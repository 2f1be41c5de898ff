"""Figures of ``grace eval worth`` without a model: what a rationale of n tokens gives, by chance around a rising mean."""

from __future__ import annotations

import numpy as np

from grace_core.evaluation import worth
from grace_core.evaluation.worth import Worth

BUDGETS = (16, 32, 64, 128)


def random_worth(seed: int, m: int = 40) -> Worth:
    rng = np.random.default_rng(seed)
    margins, without = rng.uniform(0, 1, m), rng.uniform(0.2, 0.6, m)
    gains = {n: np.where(margins < 0.5, 0.05, 0.01) * (2 + place) for place, n in enumerate(BUDGETS)}
    ndcg = {
        side: {0: without} | {n: without + gain + 0.02 * place for n, gain in gains.items()}
        for place, side in enumerate(worth.SIDES)
    }
    tokens = {0: np.zeros(m)} | {n: np.full(m, min(n, 50.0)) for n in BUDGETS}
    return Worth(ndcg, margins, tokens, tokens)


def random_summary(*, gate: bool = True) -> dict:
    """What :func:`grace_core.evaluation.worth.summary` makes of it; with ``gate``, of a gate chosen on other queries."""
    return worth.summary({"sample": random_worth(0)}, {"sample": random_worth(1)} if gate else {})


ABOUT = {"split": "test", "queries": 40, "documents": 160, "dev": "dev", "geometry": "calibrated"}
