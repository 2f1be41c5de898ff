"""95 % intervals by percentile bootstrap, for everything here that has one.

A sample is drawn with replacement RESAMPLES times, and the interval reaches from the 2.5th to the 97.5th
percentile of what it is about. Each function says what is resampled: items (queries, texts), and where
there are several seeds or collections these too. A difference is paired by giving the differences of the same
items. The same seed draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000


def ci95(draws: np.ndarray | Sequence[float]) -> list[float]:
    """The interval of a statistic's draws ``(r,)``."""
    return [float(bound) for bound in np.percentile(draws, [2.5, 97.5])]


def resampled(n: int, *, seed: int = 0, times: int = RESAMPLES) -> np.ndarray:
    """Positions ``(times, n)`` of n items drawn with replacement."""
    return np.random.default_rng(seed).integers(0, n, (times, n))


def of_items(values: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Draws ``(RESAMPLES,)`` of the mean of ``values`` ``(n,)``."""
    return values[resampled(len(values), seed=seed)].mean(axis=1)


def of_statistic(value: Callable[[np.ndarray], float], n: int, *, seed: int = 0, times: int = RESAMPLES) -> np.ndarray:
    """Draws of ``value``, which is called with the positions ``(n,)`` of n drawn items, one draw after the
    other: all at once may fill the memory."""
    rng = np.random.default_rng(seed)
    return np.array([value(rng.integers(0, n, n)) for _ in range(times)])


def of_groups(groups: Sequence[np.ndarray], *, seed: int = 0) -> np.ndarray:
    """Draws of the mean over groups of their means ``(n,)``: items are resampled within each group, the
    groups stay.
    """
    rng = np.random.default_rng(seed)
    return np.mean([one[rng.integers(0, len(one), (RESAMPLES, len(one)))].mean(axis=1) for one in groups], axis=0)


def of_hierarchy(groups: Sequence[np.ndarray], *, seed: int = 0, redraw_groups: bool = True) -> np.ndarray:
    """Draws of the mean over groups of values ``(seeds, n)``: seeds, groups (where ``redraw_groups``) and in
    each its items are resampled. All groups have equally many seeds."""
    rng, seeds = np.random.default_rng(seed), groups[0].shape[0]
    draws = np.zeros(RESAMPLES)
    for i in range(RESAMPLES):
        picked = rng.integers(0, len(groups), len(groups)) if redraw_groups else range(len(groups))
        rows = rng.integers(0, seeds, seeds)
        draws[i] = np.mean(
            [groups[j][rows][:, rng.integers(0, groups[j].shape[1], groups[j].shape[1])].mean() for j in picked]
        )
    return draws


def of_seeds(arrays: Sequence[np.ndarray], *, seed: int = 0) -> list[np.ndarray]:
    """Draws of the mean of each array ``(seeds, n)``, seeds and items resampled; all arrays share the draws
    of items, so that the difference of two is paired."""
    rng, n = np.random.default_rng(seed), arrays[0].shape[1]
    cells = rng.integers(0, n, (RESAMPLES, n)) + n * np.arange(RESAMPLES)[:, None]
    weights = np.bincount(cells.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n) / n
    draws = []
    for array in arrays:
        rows = rng.integers(0, len(array), (RESAMPLES, len(array)))
        draws.append(np.take_along_axis(weights @ array.T, rows, axis=1).mean(axis=1))
    return draws
