"""The time of one map, and of two aligned ones, compared with umap-learn's ``UMAP(metric="cosine").fit_transform``
of one; and a comparison of ways to align maps.

``one``, ``two``   our time over umap-learn's, for everything: neighbours, graphs, layout, quality

umap-learn runs as a user would run it: no seed, all threads. Both sides are warmed up on fewer documents, so that
numba's compilation (some seconds of a process's first map) is not measured.

The vectors are synthetic: 60 kinds of documents, each on a patch of 12 dimensions in 256; in the second column a
fifth of the documents has moved, and all others are the same up to a little noise.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np

from grace_core.layout import LINK
from grace_core.map_report import displaced, independent
from grace_core.neighbours import K, change_of, map_quality, nearest
from grace_core.projection import displacement, make_maps

DIMENSIONS, KINDS, PATCH, MOVED = 256, 60, 12, 0.2
WARM = 4500  # documents: from 4096 on, umap-learn searches neighbours as it does for 10,000


def two_columns(documents: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors ``(n, 256)`` of two columns, and whether each document has moved in the second ``(n,)``."""
    random = np.random.default_rng(seed)
    middles, patches = random.normal(size=(KINDS, DIMENSIONS)), random.normal(size=(KINDS, PATCH, DIMENSIONS))

    def drawn(number: int) -> np.ndarray:
        kinds = random.integers(KINDS, size=number)
        on_patch = np.einsum("np,npd->nd", random.normal(size=(number, PATCH)), patches[kinds])
        return middles[kinds] + 0.35 * on_patch + 0.2 * random.normal(size=(number, DIMENSIONS))

    first = drawn(documents)
    moved = random.random(documents) < MOVED
    second = first + 0.02 * random.normal(size=first.shape)
    second[moved] = drawn(int(moved.sum()))
    return first.astype(np.float32), second.astype(np.float32), moved


def run(*, documents: int = 10_000, runs: int = 3) -> dict:
    """Medians of ``runs`` rounds, the contenders in turn: ``{ratios, seconds, quality, …}``."""
    import numba
    import umap

    first, second, _ = two_columns(documents)
    contenders = {
        "umap-learn": lambda: {"first": umap.UMAP(metric="cosine").fit_transform(first)},
        "one": lambda: _points(make_maps({"first": first})),
        "two": lambda: _points(make_maps({"first": first, "second": second})),
    }
    warm = two_columns(WARM)[:2]
    umap.UMAP(metric="cosine", n_epochs=11).fit_transform(warm[0])
    make_maps({"first": warm[0][:100], "second": warm[1][:100]})
    seconds, quality = {name: [] for name in contenders}, {}
    for _ in range(runs):
        for name, work in contenders.items():
            points, took = _timed(work)
            seconds[name].append(took)
            quality[name] = map_quality(first, points["first"], nearest(first)[0])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "ratios": {name: round(medians[name] / medians["umap-learn"], 3) for name in ("one", "two")},
        "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
        "quality": quality,
        "runs": runs,
        "documents": documents,
        "dimensions": DIMENSIONS,
        "threads": numba.get_num_threads(),
    }


def compare_ways(documents: int = 2000, seed: int = 0) -> dict:
    """Compares ways to align the maps of two columns.

    ``ratio``: displacement of unchanged documents over that between independent maps; ``moved``: displacement
    of moved documents, which a map must not hide; ``trustworthiness`` and ``knn_preservation`` of both maps;
    ``seconds``.
    """
    first, second, moved = two_columns(documents, seed)
    nearest_rows = [nearest(column)[0] for column in (first, second)]
    change = change_of(*nearest_rows)
    alone = [independent(column, 2, K, 0.1, seed + i) for i, column in enumerate((first, second))]
    ways = {
        "independent": lambda: alone,
        "second starts from first": lambda: _started_from_first(first, second, seed),
        "AlignedUMAP": lambda: _aligned_umap(first, second, seed),
        f"joint layout, link {LINK}": lambda: list(_points(make_maps({"a": first, "b": second}, seed=seed)).values()),
    }
    make_maps({"a": first[:100], "b": second[:100]})  # compiles
    results = {}
    for name, way in ways.items():
        with warnings.catch_warnings(action="ignore"):
            maps, took = _timed(way)
        quality = [
            map_quality(column, map_, rows)
            for column, map_, rows in zip((first, second), maps, nearest_rows, strict=True)
        ]
        apart = name == "independent"
        results[name] = {
            "ratio": 1.0 if apart else round(displaced(*maps, *alone, change)["ratio"], 4),
            "moved": round(float(np.median(displacement(*maps, turn=apart)[moved])), 3),
            "trustworthiness": [round(scores["trustworthiness"], 4) for scores in quality],
            "knn_preservation": [round(scores["knn_preservation"], 3) for scores in quality],
            "seconds": None if apart else round(took, 1),
        }
    return {"ways": results, "documents": documents, "overlap": change.mean}


def _started_from_first(first: np.ndarray, second: np.ndarray, seed: int) -> list[np.ndarray]:
    """Two maps, of which the second starts from the positions of the first."""
    import umap

    start = umap.UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(first)
    return [start, umap.UMAP(metric="cosine", random_state=seed, n_jobs=1, init=start).fit_transform(second)]


def _aligned_umap(first: np.ndarray, second: np.ndarray, seed: int) -> list[np.ndarray]:
    import umap

    same = {row: row for row in range(len(first))}
    return list(umap.AlignedUMAP(metric="cosine", random_state=seed).fit([first, second], relations=[same]).embeddings_)


def _points(maps: dict) -> dict[str, np.ndarray]:
    return {name: points.points for name, points in maps.items()}


def _timed(work: Callable) -> tuple:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


if __name__ == "__main__":
    import json

    print(json.dumps(run(), indent=2))
