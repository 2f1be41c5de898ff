"""Maps of a collection's columns, ready to be drawn: coordinates, regions, what changed between two columns,
and queries placed on them.

The mathematics is :mod:`grace_core.projection`'s; here is decided what is shown, and kept what several
questions of a page need. Both maps of a pair are laid into one square from 0 to 1, so that they can be read
and zoomed together. All methods raise GraceError.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from cachetools import LRUCache

from grace_app.map.colours import Coded, code_kinds, code_numbers, code_regions, code_values, field_kind, packed
from grace_app.map.view import FIELD, SIDES, WHERE, MapView, encoder_of, mapped_columns
from grace_app.workspace.view import AnyColumn, Column
from grace_core.columns.names import ENCODER
from grace_core.errors import GraceError
from grace_core.neighbours import Change, K, change, change_of, neighbours

if TYPE_CHECKING:
    from grace_core.collection import Collection
    from grace_core.columns.column import VectorColumn
    from grace_core.columns.encoded import EncodedIndex
    from grace_core.index import GraceIndex
    from grace_core.pooling import Pooling
    from grace_core.projection import Map
    from grace_core.readers import Document

STAR = 10  # neighbours of a query that get a line
PAIRS_KEPT = 6


@dataclass(frozen=True)
class Chart:
    """One column as it is drawn: ``points`` ``(n, 2)`` in the square; ``map`` is None for a PCA preview.

    ``opened`` is the column as it searches.
    """

    column: AnyColumn
    opened: VectorColumn
    points: np.ndarray
    map: Map | None

    @property
    def index(self) -> GraceIndex | EncodedIndex:
        return self.opened.index

    @property
    def vectors(self) -> np.ndarray:
        return self.opened.vectors

    @property
    def regions(self):
        return self.map.regions if self.map else None

    @cached_property
    def middles(self) -> np.ndarray:
        """The median of each region's members, ``(r, 2)``."""
        members = [self.points[self.regions.labels == label] for label in range(len(self.regions.names))]
        return np.array([np.median(one, axis=0) if len(one) else (0.5, 0.5) for one in members]).reshape(-1, 2)

    @cached_property
    def anchors(self) -> np.ndarray:
        """Where the name of each region stands, ``(r, 2)``: over the half of its members that is nearest to
        their middle.
        """
        anchors = self.middles.copy()
        for label, middle in enumerate(self.middles):
            members = self.points[self.regions.labels == label]
            if len(members):
                far = ((members - middle) ** 2).sum(axis=1)
                anchors[label, 1] = members[far <= np.median(far), 1].max()
        return anchors


class Pair:
    """Two columns of a collection, drawn together.

    ``aligned``: both maps were made together, so that places can be compared.
    """

    def __init__(self, view: MapView, charts: tuple[Chart, Chart], aligned: bool):
        self.corpus, self.charts, self.aligned = view.corpus, charts, aligned
        self._comparing = threading.Lock()
        self._change: Change | None = None

    @property
    def one(self) -> bool:
        """The same column twice: there is one map, and nothing to compare."""
        return self.charts[0].column == self.charts[1].column

    @property
    def ids(self) -> list[str]:
        return self.charts[0].opened.ids

    @property
    def collection(self) -> Collection:
        return self.charts[0].opened.collection

    @cached_property
    def documents(self) -> list[Document]:
        known = self.collection.documents
        return [known[document] for document in self.ids]

    def row(self, document: str) -> int:
        rows = self.charts[0].opened.rows.row
        if document not in rows:
            raise GraceError(
                f"{self.corpus} has no document {document[:100]!r} with a vector, so it has no place on the map"
            )
        return rows[document]

    @property
    def compared(self) -> Change | None:
        """What changed, if it was asked for before."""
        return self._change

    def change(self) -> Change:
        """Neighbours in both full spaces.

        Every pair of documents is looked at, so this takes minutes for a hundred thousand.
        """
        with self._comparing:
            if self._change is None:
                self._change = change(self.charts[0].vectors, self.charts[1].vectors, K)
            return self._change

    def neighbours(self, row: int) -> tuple[list[int], list[int], list[int]]:
        """Rows of the neighbours that a document kept, lost and won from the left column to the right one."""
        if self._change is not None:
            return self._change.of(row)
        return change_of(*(neighbours(chart.vectors, K, of=[row]) for chart in self.charts)).of(0)

    def text(self, side: int, row: int) -> str:
        """What a column has read of a document besides its text: the rationale; of a column without any the
        text itself.
        """
        chart = self.charts[side]
        return chart.index.rationales[row] if chart.column.rationale else self.documents[row].text

    def find(self, words: str) -> np.ndarray:
        """Rows whose title, text or rationale of either column holds ``words``, whatever their case; behind
        WHERE those that satisfy a filter. Raises GraceError for one that does not fit."""
        if words.startswith(WHERE):
            return self.charts[0].opened.rows.selections.of(words.removeprefix(WHERE).strip()).rows.astype(np.uint32)
        wanted = " ".join(words.split()).casefold()
        rationales = [chart.index.rationales for chart in self.charts if chart.column.rationale]
        rows = [
            row
            for row, document in enumerate(self.documents)
            if wanted in " ".join([document.title, document.text, *(one[row] for one in rationales)]).casefold()
        ]
        return np.array(rows if wanted else [], dtype=np.uint32)

    def coded(self, colour: str) -> Coded:
        """Every document's colour."""
        if colour.startswith(FIELD):
            name = colour.removeprefix(FIELD)
            return code_values(name, [document.metadata.get(name) for document in self.documents])
        if colour == "overlap":
            change = self.change()
            shared, note = np.round(change.overlap * change.k), f"of {change.k}, in the full space"
            return code_numbers("Neighbours kept", shared, low=0, high=max(1, change.k), note=note)
        what, _, side = colour.partition("-")
        if side not in SIDES:
            return code_kinds("One colour", ["document"] * len(self.ids))
        chart = self.charts[SIDES.index(side)]
        if what == "region":
            if chart.regions is None:
                raise GraceError(f"{chart.column.label} has no regions yet: they come with its map")
            return code_regions(
                f"Regions of {chart.column.label}", chart.regions.labels, chart.regions.names, chart.middles
            )
        if not chart.column.rationale:
            raise GraceError(f"{chart.column.label} has no rationales to colour by: choose another colour")
        if what == "length":
            return code_numbers(f"Rationale of {chart.column.model}", chart.index.counts[:, 2], note="tokens")
        cut = ["cut off at the limit" if flag else "ended by itself" for flag in chart.index.truncated]
        return code_kinds(f"Rationale of {chart.column.model}", cut)

    def colours(self) -> list[dict]:
        """The colours there are, ``{"id", "label", "group"}``."""
        options = [] if self.one else [{"id": "overlap", "label": "Neighbours kept from A to B", "group": "Change"}]
        for name in self.collection.corpus.fields:
            if field_kind([document.metadata.get(name) for document in self.documents]):
                options.append({"id": FIELD + name, "label": name, "group": "Fields"})
        for i, (side, chart) in enumerate(zip(SIDES, self.charts, strict=True)):
            group = f"{'AB'[i]} · {chart.column.label}"
            if i and self.one:
                break
            if chart.regions:
                options.append({"id": f"region-{side}", "label": f"regions of {'AB'[i]}", "group": group})
            if chart.column.rationale:
                options.append({"id": f"length-{side}", "label": f"length of {'AB'[i]}’s rationale", "group": group})
                options.append({"id": f"cut-{side}", "label": f"{'AB'[i]}’s rationale cut off", "group": group})
        return [*options, {"id": "none", "label": "one colour", "group": "None"}]

    def default_colour(self) -> str:
        there = [one["id"] for one in self.colours()]
        kinds = [
            FIELD + name
            for name in self.collection.corpus.fields
            if field_kind([document.metadata.get(name) for document in self.documents]) == "kinds"
        ]
        return next(iter(kinds), "region-left" if "region-left" in there else there[0])


class Maps:
    """The pairs that are looked at, shared by all pages."""

    def __init__(self, workspace):
        self.workspace = workspace
        self._pairs: LRUCache[tuple, tuple[tuple, Pair]] = LRUCache(PAIRS_KEPT)
        self._unsaved: dict[tuple[str, AnyColumn], tuple[GraceIndex | EncodedIndex, Map]] = {}
        self._opening = threading.Lock()

    def open(self, view: MapView) -> Pair:
        """The two columns with the newest maps there are."""
        opened = [self.workspace.opened(view.corpus, column) for column in view.columns]
        if opened[0].ids != opened[1].ids:
            models = f"{view.left.model} and {view.right.model}"
            raise GraceError(
                f"{models} encoded different documents of {view.corpus}: `grace index update` brings them up"
            )
        key = (view.corpus, *view.columns)
        with self._opening:
            stamp = tuple(map(self._stamp, opened, view.columns))
            if key not in self._pairs or self._pairs[key][0] != stamp:
                self._pairs[key] = (stamp, self._lay(view, opened))
            return self._pairs[key][1]

    def keep(self, corpus: str, column: AnyColumn, index: GraceIndex | EncodedIndex, map_: Map) -> None:
        """Show a map that could not be saved beside its index."""
        self._unsaved[corpus, column] = (index, map_)

    def mapped(self, corpus: str) -> list[AnyColumn]:
        """The columns that have a map, saved or not."""
        columns = mapped_columns(self.workspace, corpus)
        return [column for column in columns if self._map(self.workspace.opened(corpus, column), column)]

    def _stamp(self, opened: VectorColumn, column: AnyColumn) -> tuple:
        """What changes when an index or one of its maps does."""
        unsaved = self._unsaved.get((opened.collection.name, column))
        return (
            id(opened.index),
            id(unsaved),
            *((path.name, path.stat().st_mtime_ns) for path in sorted(opened.index.folder.glob("map*.parquet"))),
        )

    def _map(self, opened: VectorColumn, column: AnyColumn) -> Map | None:
        from grace_core.projection import load_map

        there, map_ = self._unsaved.get((opened.collection.name, column), (None, None))
        return map_ if there is opened.index else load_map(opened.index, pooling_of(column))

    def _lay(self, view: MapView, opened: list[VectorColumn]) -> Pair:
        from grace_core.projection import preview

        maps = [self._map(one, column) for one, column in zip(opened, view.columns, strict=True)]
        aligned = True
        if None in maps:  # a preview beside a map could not be compared with it
            maps = [None, None]
            previews = preview({column.id: one.vectors for column, one in zip(view.columns, opened, strict=True)})
            points = [previews[column.id] for column in view.columns]
        else:
            points = [one.points[:, :2] for one in maps]
            aligned = made_together(*maps)
            if not aligned:
                points[1] = turned(points[1], onto=points[0])
        points = squared(points)
        old = self._pairs.get((view.corpus, *view.columns), (None, None))[1]
        charts = tuple(Chart(*parts) for parts in zip(view.columns, opened, points, maps, strict=True))
        pair = Pair(view, charts, aligned)
        if old and all(before.index is now.index for before, now in zip(old.charts, charts, strict=True)):
            pair._change = old._change  # a new map of the same vectors changes no neighbour
        return pair


def pooling_of(column: AnyColumn) -> Pooling | None:
    """The pooling of a model's column; a sentence encoder has none."""
    return column.pooling if isinstance(column, Column) else None


def name_in_collection(column: AnyColumn) -> str:
    """As :func:`grace_core.projection.map_collection` names it: a model, or ``st:NAME``."""
    return column.model if isinstance(column, Column) else ENCODER + encoder_of(column)


def made_together(a: Map, b: Map) -> bool:
    """Whether places on both maps can be compared.

    PCAs of a few documents are turned to one another when they are made.
    """
    from grace_core.projection import aligned

    return a is b or aligned(a, b) or a.parameters["method"] == b.parameters["method"] != "umap"


def turned(points: np.ndarray, *, onto: np.ndarray) -> np.ndarray:
    """``points`` ``(n, 2)`` moved, scaled, turned and mirrored to lie as near as can be to ``onto``
    (orthogonal Procrustes).
    """
    centre, middle = points.mean(axis=0), onto.mean(axis=0)
    mine, other = points - centre, onto - middle
    u, sizes, v = np.linalg.svd(mine.T @ other)
    spread = (mine**2).sum()
    return mine @ (u @ v) * (sizes.sum() / spread if spread > 0 else 1.0) + middle


def squared(points: list[np.ndarray], room: float = 0.04) -> list[np.ndarray]:
    """All in one square from 0 to 1 with ``room`` at the edges; points that are all the same stand in the middle."""
    both = np.concatenate(points)
    low, high = both.min(axis=0), both.max(axis=0)
    size = float((high - low).max())
    scale = (1 - 2 * room) / size if size > 1e-12 else 0.0
    return [((one - (low + high) / 2) * scale + 0.5).astype(np.float32) for one in points]


def sent(points: np.ndarray) -> str:
    """Points of the square as base64 of uint16, x and y in turn: 65,536 steps are finer than any screen."""
    return packed(np.round(np.clip(points, 0, 1) * 65535).astype(np.uint16))


def sides_of(pair: Pair) -> list[dict]:
    """What the page draws of each column; of the same column twice one."""
    sides = []
    for chart in pair.charts[: 1 if pair.one else 2]:
        regions = []
        if chart.regions:
            sizes = np.bincount(chart.regions.labels[chart.regions.labels >= 0], minlength=len(chart.regions.names))
            regions = [
                {"name": name, "at": [round(float(place), 4) for place in at], "size": int(size)}
                for name, at, size in zip(chart.regions.names, chart.anchors, sizes, strict=True)
            ]
        sides.append(
            {
                "column": chart.column.id,
                "label": chart.column.label,
                "rationale": chart.column.rationale,
                "points": sent(chart.points),
                "regions": regions,
                **quality(chart),
            }
        )
    return sides


def quality(chart: Chart) -> dict:
    """How the map was made, and how far it can be trusted."""
    if chart.map is None:
        return {"method": "preview", "trustworthiness": None, "preservation": None}
    quality_of_map = chart.map.quality
    return {
        "method": str(chart.map.parameters.get("method", "umap")),
        "trustworthiness": quality_of_map.get("trustworthiness"),
        "preservation": quality_of_map.get("knn_preservation"),
    }


def place_query(view: MapView, pair: Pair) -> list[dict]:
    """The star of ``view.star`` in each column: its place, and the rows and cosines of its nearest documents."""
    from grace_core.projection import place

    stars = []
    for chart in pair.charts[: 1 if pair.one else 2]:
        (vector,) = chart.opened.embed([view.star])
        hits = chart.opened.hits(view.star, STAR)
        at = place(chart.points, chart.vectors, vector[None], K)[0]
        stars.append(
            {
                "at": [float(np.clip(part, 0, 1)) for part in at],
                "rows": [hit.row for hit in hits],
                "scores": [hit.score for hit in hits],
                "titles": [hit.document.title or hit.document.id for hit in hits],
            }
        )
    return stars


def tell_maps(maps: Maps, corpus: str, columns: list[AnyColumn]) -> dict:
    """Columns for programs: places as they are on the map, regions, and what the first two columns'
    neighbours have in common.
    """
    from grace_core.projection import preview

    told_of, pairs = {}, [maps.open(MapView(corpus, column, column)) for column in columns]
    for column, pair in zip(columns, pairs, strict=True):
        chart = pair.charts[0]
        points = chart.map.points if chart.map else preview({column.id: chart.vectors})[column.id]
        told_of[column.id] = {"points": array(points.astype(np.float32)), **quality(chart), "regions": None}
        if chart.regions:
            told_of[column.id]["regions"] = {
                "labels": array(chart.regions.labels.astype(np.int32)),
                "names": list(chart.regions.names),
            }
    answer = {
        "collection": corpus,
        "documents": len(pairs[0].ids),
        "ids": pairs[0].ids,
        "columns": told_of,
        "overlap": None,
    }
    if len(columns) > 1:
        change = maps.open(MapView(corpus, columns[0], columns[1])).change()
        kept = np.round(change.overlap * change.k).astype(np.uint8)
        answer["overlap"] = {
            "columns": [column.id for column in columns[:2]],
            "k": change.k,
            "mean": change.mean,
            "kept": array(kept),
        }
    return answer


def array(values: np.ndarray) -> dict:
    """An array as JSON: its little-endian type, shape, and bytes in base64."""
    return {"dtype": values.dtype.newbyteorder("<").str, "shape": list(values.shape), "data": packed(values)}
