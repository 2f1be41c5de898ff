"""Shared by several benchmarks: passages of the demo corpus, and timing of contenders in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable

from grace_study.corpus import beir


def demo_passages(count: int) -> list[str]:
    """``count`` passages, spread over the demo corpus; all of them if there are fewer."""
    passages = [f"{row['title']}\n{row['text']}" for row in beir()[0]]
    return passages[:: max(1, len(passages) // count)][:count]


def median_seconds(contenders: dict[Hashable, Callable[[], object]], runs: int) -> dict[Hashable, float]:
    """Medians of ``runs`` rounds by contender.

    Each round runs all contenders, so that other load on the machine affects all alike; a round before them
    warms up."""
    return {name: statistics.median(values) for name, values in seconds_by_round(contenders, runs).items()}


def seconds_by_round(contenders: dict[Hashable, Callable[[], object]], runs: int) -> dict[Hashable, list[float]]:
    """The seconds of ``runs`` rounds by contender, as :func:`median_seconds` takes them.

    Where the machine's speed itself changes from second to second, as a shared one's does, ratios within a round
    say more than the ratio of two medians.
    """
    seconds: dict[Hashable, list[float]] = {name: [] for name in contenders}
    for number in range(runs + 1):
        for name, work in contenders.items():
            started = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds
