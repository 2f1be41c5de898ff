"""Maps of a collection: UMAP in two or three dimensions, aligned across models, saved beside each index.

    <collection>/<model>/map.parquet         the column of the index's default pooling, 2-D
                        /map-text.parquet    text only, where that is not the default
                        /map-3d.parquet, /map-text-3d.parquet
    <collection>/st-<name>/map.parquet       of a sentence encoder's vectors

A *column* is a model with a pooling, or a sentence encoder. Its graph and the initial places are umap-learn's, made from exact
neighbours (:mod:`grace_core.neighbours`); all columns start from the same places, the spectral layout of
their mean graph, and are laid out together by :mod:`grace_core.layout`. What is exact: neighbours, overlaps,
quality. What is not: a map. Distances on it are not cosines, the space between clusters and their sizes mean
little, and another seed gives another map.

A map file holds _id, x, y (z), region, and as JSON in the schema's metadata under "grace" all parameters that
made it, with the hash of its vectors, its quality and the names of its regions. It can be made again at any
time: one that is damaged or belongs to other vectors is ignored.
"""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from grace_core.collection import Collection
from grace_core.columns.encoded import EncodedIndex
from grace_core.errors import GraceError, Stopped
from grace_core.files import only_writer, write_atomically
from grace_core.index import GraceIndex
from grace_core.map_source import Source, open_index
from grace_core.neighbours import Change, K, change, change_of, check_vectors, map_quality, nearest, neighbours, unit
from grace_core.notebook import map_html
from grace_core.pooling import Pooling
from grace_core.ranking import dots, order
from grace_core.regions import Regions, find_regions, regions_changed, top_terms

__all__ = [
    "Change",
    "Map",
    "MapStopped",
    "Points",
    "Regions",
    "aligned",
    "change",
    "displacement",
    "find_regions",
    "load_map",
    "make_maps",
    "map_collection",
    "neighbours",
    "place",
    "preview",
    "regions_changed",
    "top_terms",
]

SCHEMA = 1
AXES = "xyz"
FEW = 10  # documents below which there is no neighbourhood to lay out: PCA instead
SMALL = 10_000  # documents up to which UMAP takes its longer schedule
EPOCHS, EPOCHS_LARGE = 500, 200
SPREAD = 10.0  # width of the initial places, as in UMAP
PCA_SAMPLE = 5_000
SCALE = 1.0  # UMAP's spread: the scale of its curve

Progress = Callable[[int, int], None]
_numba = (
    threading.Lock()
)  # umap-learn's parallel functions end the process if two threads call them at once under numba's workqueue


class MapStopped(Stopped):
    """A map was asked to stop; nothing is written."""


@dataclass(frozen=True)
class Points:
    """Coordinates ``(n, dims)`` fp32 of a column's documents, all that made them, and how well they keep neighbours."""

    points: np.ndarray
    parameters: dict
    quality: dict


@dataclass(frozen=True)
class Map:
    """The map of a column: ids of its documents, coordinates ``(n, dims)`` fp32, parameters, quality and regions."""

    ids: list[str]
    points: np.ndarray
    parameters: dict
    quality: dict
    regions: Regions

    def _repr_html_(self) -> str:
        return map_html(self)


class _Steps:
    """Counts units of work for ``progress``, and raises MapStopped when asked to stop."""

    def __init__(self, total: int, progress: Progress | None, should_stop: Callable[[], bool] | None):
        self.done, self.total, self.progress, self.should_stop = 0, total, progress, should_stop

    def take(self, units: int = 1) -> None:
        if self.should_stop and self.should_stop():
            raise MapStopped("stopped; no map was written")
        self.done += units
        if self.progress and units:
            self.progress(min(self.done, self.total), self.total)

    def finish(self) -> None:
        if self.done < self.total:  # what has no neighbourhoods is laid out without epochs
            self.take(self.total - self.done)


SEARCH, JUDGE, NAME = 100, 20, 60  # units of work of a column beside the epochs, each about as long as this many epochs


def make_maps(
    columns: dict[str, np.ndarray],
    *,
    dims: int = 2,
    neighbours: int = K,
    min_dist: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Points]:
    """Aligned coordinates of the same documents in each column, from vectors ``(n, d)`` in the same order; d
    may differ.

    ``neighbours`` and ``min_dist`` are UMAP's. The same arguments give the same bits on the same machine.
    Fewer than FEW documents are laid out by PCA, a column whose vectors are all equal on a disc;
    ``parameters["method"]`` says so. ``progress`` is called with (units of work done, all), ``should_stop``
    is asked after each unit and raises MapStopped.
    """
    steps = _Steps(_work(columns), progress, should_stop)
    layouts = _make(columns, dims, neighbours, min_dist, seed, steps)
    steps.finish()
    return layouts


def _checked(
    columns: dict[str, np.ndarray], dims: int, neighbours: int, min_dist: float, seed: int
) -> dict[str, np.ndarray]:
    """The columns' vectors, normalised. Raises GraceError for what cannot be mapped."""
    if dims not in (2, 3):
        raise GraceError(f"a map has 2 or 3 dimensions, got {dims}")
    if not 2 <= neighbours <= 200:
        raise GraceError(f"neighbours must be from 2 to 200, got {neighbours}")
    if not 0 <= min_dist <= SCALE:
        raise GraceError(f"min_dist must be from 0 to {SCALE:g}, got {min_dist}")
    if not 0 <= seed < 2**32:
        raise GraceError(f"seed must be from 0 to {2**32 - 1}, got {seed}")
    if not columns:
        raise GraceError("no column to map; name at least one model")
    vectors = {name: unit(check_vectors(column, name)) for name, column in columns.items()}
    if len({len(column) for column in vectors.values()}) > 1:
        sizes = ", ".join(f"{name}: {len(column)}" for name, column in vectors.items())
        raise GraceError(
            f"the columns have different numbers of documents ({sizes}); give the same documents in the same order"
        )
    return vectors


def _work(columns: dict) -> int:
    documents = max((len(column) for column in columns.values()), default=0)
    return len(columns) * (SEARCH + JUDGE) + (EPOCHS if documents <= SMALL else EPOCHS_LARGE)


def _make(
    columns: dict[str, np.ndarray], dims: int, neighbours: int, min_dist: float, seed: int, steps: _Steps
) -> dict[str, Points]:
    vectors = _checked(columns, dims, neighbours, min_dist, seed)
    n = len(next(iter(vectors.values())))
    knn = {name: _nearest(column, max(K, neighbours - 1), steps) for name, column in vectors.items()}
    spread_out = [name for name, column in vectors.items() if n >= FEW and (column != column[0]).any()]
    laid, how = {}, {}
    if spread_out:
        chosen = [vectors[name] for name in spread_out], [knn[name] for name in spread_out]
        places, how = _lay_out(*chosen, dims=dims, neighbours=neighbours, min_dist=min_dist, seed=seed, steps=steps)
        laid = dict(zip(spread_out, places, strict=True))
    flat = preview({name: column for name, column in vectors.items() if name not in laid}, dims)
    hashes = {name: hash_of(column) for name, column in columns.items()}
    shared = {
        "schema": SCHEMA,
        "dims": dims,
        "neighbours": neighbours,
        "min_dist": min_dist,
        "seed": seed,
        "documents": n,
        "aligned": hashes,
        "versions": {name: version(name) for name in ("umap-learn", "numba", "numpy", "scipy", "faiss-cpu")},
    }
    result = {}
    for name, column in vectors.items():
        method = (
            {"method": "umap", **how} if name in laid else {"method": "pca" if (column != column[0]).any() else "disc"}
        )
        points = laid[name] if name in laid else flat[name] if method["method"] == "pca" else _disc(n, dims)
        quality = map_quality(column, points, knn[name][0][:, :K], seed=seed)
        result[name] = Points(points, {**method, **shared, "column": name, "vectors_sha256": hashes[name]}, quality)
        steps.take(JUDGE)
    return result


def _nearest(column: np.ndarray, k: int, steps: _Steps) -> tuple[np.ndarray, np.ndarray]:
    done = 0

    def progress(documents: int, everything: int) -> None:
        nonlocal done
        steps.take(SEARCH * documents // everything - done)
        done = SEARCH * documents // everything

    steps.take(0)
    return nearest(column, k, progress=progress)


def _lay_out(
    vectors: list[np.ndarray], knn: list, *, dims: int, neighbours: int, min_dist: float, seed: int, steps: _Steps
) -> tuple[list[np.ndarray], dict]:
    """Places of each column, and what was decided on the way."""
    with _numba:
        from scipy.sparse.csgraph import connected_components
        from umap.spectral import spectral_layout
        from umap.umap_ import find_ab_params, fuzzy_simplicial_set

        from grace_core.layout import LINK, join, optimise

        n = len(vectors[0])
        k = min(neighbours, n)  # UMAP counts the document itself among its neighbours
        graphs = []
        for column, (rows, cosines) in zip(vectors, knn, strict=True):
            indices = np.concatenate([np.arange(n)[:, None], rows[:, : k - 1]], axis=1)
            distances = np.concatenate([np.zeros((n, 1)), 1 - cosines[:, : k - 1]], axis=1).clip(0).astype(np.float32)
            graph, _, _ = fuzzy_simplicial_set(column, k, None, "cosine", knn_indices=indices, knn_dists=distances)
            graphs.append(graph.tocsr())
            steps.take(0)
        a, b = find_ab_params(SCALE, min_dist)
        mean, init = sum(graphs) / len(graphs), "spectral"
        if connected_components(mean)[0] == 1:
            start = spectral_layout(None, mean, dims, np.random.RandomState(seed))
        else:  # the layout of many components is slow, and its eigenvectors fail
            start, init = preview({"first": vectors[0]}, dims)["first"], "pca"
    random = np.random.RandomState(seed)
    start = SPREAD * (start - start.min(axis=0)) / np.maximum(np.ptp(start, axis=0), 1e-9)
    start = start + random.normal(scale=1e-3, size=start.shape)  # copies of a document need not stay in one place
    kept = np.array([[change_of(one[0][:, :K], other[0][:, :K]).overlap for other in knn] for one in knn])
    epochs = EPOCHS if n <= SMALL else EPOCHS_LARGE
    joined = join(graphs, epochs)
    places = optimise(
        np.tile(start, (len(vectors), 1)), joined, kept, a=a, b=b, epochs=epochs, seed=seed, after_epoch=steps.take
    )
    places -= places.mean(axis=0)
    decided = {"metric": "cosine", "init": init, "epochs": epochs, "link": LINK, "a": float(a), "b": float(b)}
    return [part.copy() for part in np.split(places, len(vectors))], decided


def _disc(n: int, dims: int) -> np.ndarray:
    """``n`` points evenly on a disc (a sunflower's seeds), since nothing sets equal vectors apart."""
    radius, angle = np.sqrt(np.arange(n) / max(1, n)), np.arange(n) * np.pi * (3 - np.sqrt(5))
    points = np.zeros((n, dims), np.float32)
    points[:, 0], points[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    return points


def preview(columns: dict[str, np.ndarray], dims: int = 2) -> dict[str, np.ndarray]:
    """The first principal components of each column at once, ``(n, dims)`` fp32, turned to the first column's
    (orthogonal Procrustes).

    The components are those of PCA_SAMPLE documents, by subspace iteration; each map has its mean at 0 and a
    mean square radius of 1.
    """
    coordinates: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        column = unit(check_vectors(column, name))
        sample = column[np.linspace(0, len(column) - 1, min(len(column), PCA_SAMPLE)).astype(int)]
        mean = sample.mean(axis=0)
        axes = _components(sample - mean, dims)
        points = (column - mean) @ axes
        points = _scaled(np.pad(points, ((0, 0), (0, dims - points.shape[1]))))
        coordinates[name] = _turned(points, next(iter(coordinates.values()))) if coordinates else points
    return coordinates


def _components(rows: np.ndarray, dims: int) -> np.ndarray:
    """The first principal axes ``(d, at most dims)`` of centred rows; their signs do not depend on the
    sample's order.
    """
    width = min(dims + 8, rows.shape[1])
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(rows.shape[1], width)))[0]
    for _ in range(8):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    values, turn = np.linalg.eigh((rows @ basis).T @ (rows @ basis))
    axes = (basis @ turn)[:, np.argsort(-values, kind="stable")][:, :dims]
    return axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])


def _scaled(points: np.ndarray) -> np.ndarray:
    points = points - points.mean(axis=0)
    return (points / (np.sqrt((points.astype(np.float64) ** 2).sum(axis=1).mean()) or 1)).astype(np.float32)


def _turned(points: np.ndarray, to: np.ndarray) -> np.ndarray:
    """``points`` turned or mirrored so that they lie as near to ``to`` as they can."""
    left, _, right = np.linalg.svd(points.T.astype(np.float64) @ to)
    return (points @ (left @ right)).astype(np.float32)


def displacement(a: np.ndarray, b: np.ndarray, *, turn: bool = False) -> np.ndarray:
    """How far each document lies from itself between two maps ``(n, dims)``, in units of a map's root mean
    square radius, ``(n,)``.

    Both are centred and scaled first; ``turn`` also turns b to a, as is fair for maps that were made without
    each other.
    """
    a, b = _scaled(a), _scaled(b)
    return np.linalg.norm(a - (_turned(b, a) if turn else b), axis=1)


def place(map_points: np.ndarray, vectors: np.ndarray, queries: np.ndarray, k: int = K) -> np.ndarray:
    """Places ``(m, dims)`` fp32 of ``queries`` ``(m, d)`` on the map of ``vectors`` ``(n, d)``, the same
    alone or in a batch.

    The geometric median of the places of the ``k`` nearest documents in the full space, with UMAP's weights
    exp(-(distance - nearest) / sigma), sigma such that they add up to log2 k. A mean, with which UMAP's
    transform begins, falls between two clusters if some of the nearest are in the one and some in the other;
    the median falls in the one with the greater weight.
    """
    vectors, queries = unit(check_vectors(vectors)), unit(check_vectors(np.atleast_2d(queries), "queries"))
    if queries.shape[1] != vectors.shape[1]:
        raise GraceError(
            f"the queries have {queries.shape[1]} dimensions, the documents {vectors.shape[1]}; encode them with one model"
        )
    if len(map_points) != len(vectors):
        raise GraceError(f"the map has {len(map_points)} documents, the vectors {len(vectors)}; make the map again")
    places = np.empty((len(queries), map_points.shape[1]), np.float32)
    for i, query in enumerate(queries):
        cosines = dots(vectors, query)
        rows = order(cosines, k)
        places[i] = _median(map_points[rows].astype(np.float64), _weights(1 - cosines[rows].astype(np.float64)))
    return places


def _weights(distances: np.ndarray) -> np.ndarray:
    """UMAP's smooth weights of ascending ``distances`` ``(k,)``, scaled to add up to 1."""
    beyond, target = distances - distances[0], np.log2(max(2, len(distances)))
    low, high = 0.0, max(1e-9, float(beyond[-1]) * 64)
    for _ in range(64):
        sigma = (low + high) / 2
        low, high = (low, sigma) if np.exp(-beyond / sigma).sum() > target else (sigma, high)
    weights = np.exp(-beyond / max(sigma, 1e-9))
    return weights / weights.sum()


def _median(places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The point ``(dims,)`` with the least weighted sum of distances to ``places`` ``(k, dims)``, by
    Weiszfeld's iteration.
    """
    at = weights @ places
    smallest = 1e-6 * (1e-9 + np.ptp(places, axis=0).max())
    for _ in range(50):
        pulls = weights / np.linalg.norm(places - at, axis=1).clip(smallest)
        at = pulls @ places / pulls.sum()
    return at


def hash_of(vectors: np.ndarray) -> str:
    """SHA-256 of vectors ``(n, d)`` fp32."""
    return hashlib.sha256(np.ascontiguousarray(vectors, dtype=np.float32)).hexdigest()


def map_collection(
    collection: Collection | str | Path,
    columns: Sequence[tuple[str, Pooling]],
    *,
    dims: int = 2,
    neighbours: int = K,
    min_dist: float = 0.1,
    seed: int = 0,
    save: bool = True,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[tuple[str, Pooling], Map]:
    """Maps of the columns, aligned with each other, with regions; saved beside the indexes when all are made.

    A column is a model with a pooling, or ``st:NAME``, a sentence encoder, with Pooling.TEXT. Options as for
    make_maps.

    Maps that were made earlier with other columns are not aligned with these (:func:`aligned`). Raises
    GraceError at once if another process is writing to one of the indexes, OSError if they cannot be written
    to.
    """
    collection = collection if isinstance(collection, Collection) else Collection(collection)
    keys = list(dict.fromkeys((model, Pooling(pooling)) for model, pooling in columns))
    indexes = {model: open_index(collection, model) for model in dict.fromkeys(model for model, _ in keys)}
    sources = {key: Source(indexes[key[0]], key[1]) for key in keys}
    if len({tuple(source.ids) for source in sources.values()}) > 1:
        what = f"{collection.folder}: its models encoded different documents"
        raise GraceError(f"{what}; bring up those that are behind: `grace index update {collection.folder}`")
    vectors = {source.name: source.vectors for source in sources.values()}
    steps = _Steps(_work(vectors) + NAME * len(keys), progress, should_stop)
    with ExitStack() as stack:
        if save:
            for folder in sorted({source.index.folder for source in sources.values()}):
                stack.enter_context(only_writer(folder))
                for leftover in folder.glob(".map*.tmp"):  # of a process that was killed here
                    leftover.unlink()
        layouts = _make(vectors, dims, neighbours, min_dist, seed, steps)
        maps = {}
        for key, source in sources.items():
            points = layouts[source.name]
            regions = find_regions(vectors[source.name], source.said(), seed=seed)
            maps[key] = Map(source.ids, points.points, points.parameters, points.quality, regions)
            steps.take(NAME)
        if save:
            for key, map_ in maps.items():
                _save(map_, sources[key].path(dims))
    steps.finish()
    return maps


def _save(map_: Map, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {
        "parameters": map_.parameters,
        "quality": map_.quality,
        "regions": {"names": map_.regions.names, "terms": map_.regions.terms},
    }
    table = pa.table(
        {
            "_id": map_.ids,
            **{axis: map_.points[:, i] for i, axis in enumerate(AXES[: map_.points.shape[1]])},
            "region": map_.regions.labels,
        }
    ).replace_schema_metadata({"grace": json.dumps(about, ensure_ascii=False)})
    write_atomically(path, lambda target: pq.write_table(table, target, compression="zstd"))


def load_map(index: GraceIndex | EncodedIndex, pooling: Pooling | None = None, dims: int = 2) -> Map | None:
    """The saved map of a column. None if there is none, or, with a warning, if it is of
    other vectors than the index has now, or damaged."""
    source = Source(index, None if pooling is None else Pooling(pooling))
    path = source.path(dims)
    if not path.is_file():
        return None
    try:
        map_ = _read(path, dims)
    except Exception as error:  # pyarrow and JSON have many ways to say so
        warnings.warn(f"{path} is damaged ({error}); `grace map` writes it again", stacklevel=2)
        return None
    if map_.ids == source.ids and map_.parameters["vectors_sha256"] == hash_of(source.vectors):
        return map_
    warnings.warn(
        f"{path} is older than the index, whose vectors are others now; `grace map` makes it again", stacklevel=2
    )
    return None


def outdated(index: GraceIndex | EncodedIndex, pooling: Pooling | None = None, dims: int = 2) -> bool:
    """Whether a map of a column is saved that is of no use, as the index has other vectors since, or it is damaged."""
    with warnings.catch_warnings(action="ignore"):
        return Source(index, pooling).path(dims).is_file() and load_map(index, pooling, dims) is None


def _read(path: Path, dims: int) -> Map:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"grace"])
    parameters, quality, names, terms = (
        about["parameters"],
        about["quality"],
        about["regions"]["names"],
        about["regions"]["terms"],
    )
    points = np.stack([table[axis].to_numpy() for axis in AXES[:dims]], axis=1).astype(np.float32)
    labels = table["region"].to_numpy().astype(np.int32)
    if parameters["schema"] != SCHEMA or parameters["dims"] != dims:
        raise ValueError(
            f"schema {parameters['schema']} and {parameters['dims']} dimensions, expected {SCHEMA} and {dims}"
        )
    if (
        not np.isfinite(points).all()
        or not isinstance(parameters["vectors_sha256"], str)
        or not isinstance(quality, dict)
    ):
        raise ValueError("a value that is not finite or missing")
    if (
        labels.min() < -1
        or labels.max() >= len(names)
        or len(terms) != len(names)
        or not all(isinstance(name, str) for name in names)
    ):
        raise ValueError("regions without a name")
    return Map(table["_id"].to_pylist(), points, parameters, quality, Regions(labels, names, terms))


def aligned(a: Map, b: Map) -> bool:
    """Whether two maps were laid out together, so that places on one can be compared with places on the other."""
    same = ("schema", "dims", "neighbours", "min_dist", "seed", "aligned", "versions")
    return a.parameters["method"] == b.parameters["method"] == "umap" and all(
        a.parameters[key] == b.parameters[key] for key in same
    )
