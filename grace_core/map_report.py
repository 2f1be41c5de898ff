"""The report of ``grace map``: aligned maps of a collection's models, their quality, and changes between models."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from grace_core.collection import Collection
from grace_core.columns.listing import encoders
from grace_core.columns.names import ENCODER
from grace_core.errors import GraceError
from grace_core.map_source import Source, open_index
from grace_core.neighbours import Change, K, change_of, map_quality, nearest
from grace_core.pooling import Pooling
from grace_core.projection import Map, displacement, map_collection, regions_changed

UNCHANGED = 0.8  # overlap from which a document's neighbours count as the same: 12 of 15
ENOUGH = 30  # unchanged documents; if there are fewer, the tenth with the largest overlap is taken
MOVED = 10  # documents in the list of those that moved most


def map_command(
    folder: Path,
    models: list[str] | None = None,
    *,
    text: bool = False,
    dims: int = 2,
    neighbours: int = K,
    min_dist: float = 0.1,
    seed: int = 0,
    compare_independent: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict, str]:
    """Computes and saves the maps of ``models`` (all of the collection by default, ``st:NAME`` is a sentence
    encoder), with ``text`` also those of their texts alone.

    Returns the result, and the same as text. The first column is compared with each other one: overlap of
    neighbours, regions, and with ``compare_independent`` the displacement of unchanged documents relative to
    that between independent maps by umap-learn. ``displacement_ratio`` is the largest such ratio, else None.
    """
    # the columns
    collection = Collection(folder)
    named = dict.fromkeys(models or [*collection.models, *(ENCODER + name for name in encoders(collection))])
    if not named:
        raise GraceError(
            f"{folder} has no index to map; build one with `grace index build CORPUS --out {folder} --model M`"
        )
    sources = {source.name: source for source in (Source(open_index(collection, name)) for name in named)}
    columns = {name: (name, source.default_pooling) for name, source in sources.items()}
    for name, (_, pooling) in list(columns.items()):
        if text and pooling is not Pooling.TEXT:
            alone = Source(sources[name].index, Pooling.TEXT)
            sources[alone.name], columns[alone.name] = alone, (name, Pooling.TEXT)
    # their aligned maps
    started = time.time()
    mapped = map_collection(
        collection,
        list(columns.values()),
        dims=dims,
        neighbours=neighbours,
        min_dist=min_dist,
        seed=seed,
        progress=progress,
    )
    seconds = time.time() - started

    # compared with each other, and with independent maps
    maps = {name: mapped[column] for name, column in columns.items()}
    vectors = {name: source.vectors for name, source in sources.items()}
    nearest_rows = {label: nearest(column)[0] for label, column in vectors.items()}
    first, *further = maps
    pairs = {(first, label): change_of(nearest_rows[first], nearest_rows[label]) for label in further}
    alone = {}
    if compare_independent:
        alone = {label: independent(column, dims, neighbours, min_dist, seed) for label, column in vectors.items()}
    plain = {
        label: map_quality(vectors[label], points, nearest_rows[label], seed=seed)
        for label, points in alone.items()
        if points is not None
    }
    compared = {" → ".join(pair): _compared(maps, pair, change, alone) for pair, change in pairs.items()}
    ratios = [pair["displacement"]["ratio"] for pair in compared.values() if pair["displacement"]]
    result = {
        "collection": collection.name,
        "documents": len(next(iter(maps.values())).ids),
        "models": {label: _about(map_) | {"umap_learn": plain.get(label)} for label, map_ in maps.items()},
        "displacement_ratio": max(ratios) if ratios else None,
        "overlap": {pair: about["overlap"] for pair, about in compared.items()},
        "changes": compared,
        "seconds": round(seconds, 1),
    }
    return result, "\n".join(_lines(result))


def independent(vectors: np.ndarray, dims: int, neighbours: int, min_dist: float, seed: int) -> np.ndarray | None:
    """umap-learn's own map ``(n, dims)`` of one column; None if it has too few documents."""
    if len(vectors) <= neighbours:
        return None
    import umap

    settings = {
        "n_components": dims,
        "n_neighbors": neighbours,
        "min_dist": min_dist,
        "random_state": seed,
        "n_jobs": 1,
    }
    return umap.UMAP(metric="cosine", **settings).fit_transform(vectors)


def unchanged(change: Change) -> np.ndarray:
    """Whether each document ``(n,)`` kept a share UNCHANGED of its neighbours; if fewer than ENOUGH did, whether
    it is in the tenth with the largest overlap.
    """
    kept = change.overlap >= UNCHANGED - 1e-6
    return kept if kept.sum() >= ENOUGH else change.overlap >= np.quantile(change.overlap, 0.9)


def displaced(a: np.ndarray, b: np.ndarray, alone_a: np.ndarray, alone_b: np.ndarray, change: Change) -> dict:
    """Median displacement of the unchanged documents between aligned maps, and between independent ones after
    rotation onto each other; and their ratio."""
    still = unchanged(change)
    together = float(np.median(displacement(a, b)[still]))
    apart = float(np.median(displacement(alone_a, alone_b, turn=True)[still]))
    return {
        "ratio": together / apart if apart > 0 else None,
        "aligned": together,
        "independent": apart,
        "documents": int(still.sum()),
        "overlap_at_least": float(change.overlap[still].min()),
    }


def _compared(maps: dict[str, Map], pair: tuple[str, str], change: Change, alone: dict) -> dict:
    a, b = pair
    moved = [
        {"id": maps[a].ids[row], "overlap": float(change.overlap[row])}
        | {
            name: [maps[a].ids[neighbour] for neighbour in rows]
            for name, rows in zip(("kept", "lost", "won"), change.of(row), strict=True)
        }
        for row in change.moved[:MOVED].tolist()
    ]
    measured = None
    if alone.get(a) is not None and alone.get(b) is not None:
        measured = displaced(maps[a].points, maps[b].points, alone[a], alone[b], change)
    regions = regions_changed(maps[a].regions, maps[b].regions)
    return {"overlap": change.mean, "k": change.k, "moved": moved, "regions": regions, "displacement": measured}


def _about(map_: Map) -> dict:
    sizes = np.bincount(map_.regions.labels[map_.regions.labels >= 0], minlength=len(map_.regions.names)).tolist()
    regions = [{"name": name, "documents": size} for name, size in zip(map_.regions.names, sizes, strict=True)]
    return {**map_.quality, "method": map_.parameters["method"], "regions": regions, "parameters": map_.parameters}


def _lines(result: dict) -> list[str]:
    lines = [
        f"{result['collection']}: {result['documents']} documents, {len(result['models'])} maps in {result['seconds']} s"
    ]
    for label, about in result["models"].items():
        good = (
            "too few documents to judge"
            if about["trustworthiness"] is None
            else (
                f"trustworthiness {about['trustworthiness']:.4f}, neighbours preserved {about['knn_preservation']:.3f} (k = {about['k']})"
            )
        )
        lines.append(f"  {label}: {about['method']}, {good}; {len(about['regions'])} regions")
        if plain := about["umap_learn"]:
            lines.append(
                f"    umap-learn alone: trustworthiness {plain['trustworthiness']:.4f}, preserved {plain['knn_preservation']:.3f}"
            )
    for pair, about in result["changes"].items():
        lines.append(f"{pair}: {about['overlap']:.3f} of the {about['k']} nearest neighbours kept (in the full space)")
        moved_most = [f"{document['id']} ({document['overlap']:.2f})" for document in about["moved"][:5]]
        lines.append("  moved most: " + ", ".join(moved_most))
        lines += [f"  {line}" for line in about["regions"]]
        if moved := about["displacement"]:
            lines.append(
                f"  unchanged documents ({moved['documents']}, overlap from {moved['overlap_at_least']:.2f}) moved {moved['aligned']:.4f}, "
                f"between independent maps {moved['independent']:.4f}: ratio {moved['ratio']:.3f}"
            )
    return lines
