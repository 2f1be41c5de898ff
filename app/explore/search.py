"""Searching both columns of a view, as a stream of snapshots that a page can show one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grace_app.explore import others
from grace_app.explore.passages import Opened as Passages
from grace_app.explore.passages import open_passages
from grace_app.explore.within import rank_within, rows_within
from grace_app.workspace.view import AnyColumn, Column, OtherColumn, View
from grace_core.asked import keep_query
from grace_core.errors import GraceError
from grace_core.pooling import RATIONALE, TEXT

if TYPE_CHECKING:
    import numpy as np

    from grace_core.hits import Hit
    from grace_core.index import GraceIndex
    from grace_core.model import Representations
    from grace_core.readers import Document

# blocks of a score: the query's part × the document's; below the parts of other columns
BLOCKS = ("text × text", "text × rationale", "rationale × text", "rationale × rationale", "template")
OTHERS = ("terms", "whole", "average document")
FRAME = 0.08  # seconds between two snapshots while a rationale is written
COUNTED = 200_000  # characters of a text that are tokenised only to tell how much of it was left out


@dataclass
class Side:
    """One column: what was written about the query so far, and, once known, the neighbours."""

    column: AnyColumn
    rationale: str = ""
    status: str = ""
    written: bool = False
    truncated: bool = False
    text_truncated: bool = False
    text_tokens: int = 0  # of the query, that the model read
    left_out: int = 0  # tokens of the query for which the prompt has no room
    hits: list[Hit] | None = None
    average: float = 0.0  # cosine of the query with a document, on average over the collection


@dataclass
class Snapshot:
    """A moment of a search. ``grades`` is None unless the judgements know the query."""

    view: View
    a: Side
    b: Side
    documents: int = 0
    left: int | None = None  # of the documents, where there is a filter
    seconds: float = 0.0
    done: bool = False
    grades: dict[str, int] | None = None
    notice: str = ""

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.a, self.b


@dataclass
class Place:
    """Where a document stands in one column."""

    column: AnyColumn
    rank: int
    score: float
    rationale: str
    truncated: bool
    text_truncated: bool
    empty: bool
    blocks: dict[str, float] = field(default_factory=dict)  # of the score, see BLOCKS and OTHERS
    text_tokens: int = 0  # that the model read
    left_out: int | None = None  # tokens of the text for which the prompt has no room; None where that is not known


@dataclass
class Opened:
    """A document in both columns, and among how many ``documents``, of those that satisfy the filter, its ranks
    are. ``queries`` are the query's rationales, "" where a column uses none."""

    view: View
    document: Document
    places: tuple[Place, Place]
    queries: tuple[str, str]
    documents: int
    grade: int | None = None
    grades: dict[str, int] | None = field(default=None)
    passages: Passages | None = None  # where the document is one of several


def search(workspace, view: View) -> Iterator[Snapshot]:
    """Snapshots of a search; the last is done.

    A query is represented once per model and way, and comes from the cache if known.

    Columns of the text alone are filled first, as they wait for no rationale. Raises GraceError.
    """
    started = time.monotonic()
    shot = Snapshot(view, Side(view.a), Side(view.b))
    for side in shot.sides:
        side.status = "opening"
    yield shot
    indexes = [_opened(workspace, view, side.column) for side in shot.sides]
    shot.documents = len(indexes[0])
    if view.where:
        first = indexes[0]
        shot.left = len((first.rows if isinstance(view.a, OtherColumn) else first).selections.of(view.where))
    shot.grades = workspace.grades(view.collection, view.query)
    order = sorted((0, 1), key=lambda number: shot.sides[number].column.rationale)
    filled: dict[AnyColumn, int] = {}
    for number in order:
        side, index = shot.sides[number], indexes[number]
        if side.column in filled:
            _copy(shot.sides[filled[side.column]], side)
            continue
        if isinstance(side.column, OtherColumn):
            for _ in others.fill(workspace, side, view):
                yield shot
            filled[side.column] = number
            continue
        model = workspace.model_of(index)
        side.left_out = model.prompts.build(view.query).left_out
        side.status = "writing" if side.column.rationale else "reading"
        twins = [other for other in shot.sides if other.column == side.column]
        if side.column.rationale:
            yielded = 0.0
            for rationale, batch in model.stream(view.query):
                for twin in twins:
                    twin.rationale, twin.status = rationale, "writing"
                if batch is None and time.monotonic() - yielded >= FRAME:
                    yielded = time.monotonic()
                    yield shot
        else:
            yield shot
            batch = model.represent([view.query], rationale=False)
        _fill(workspace, side, index, batch, view)
        filled[side.column] = number
        yield shot
    shot.seconds = time.monotonic() - started
    shot.done = True
    if workspace.keep_queries:
        keep_query(workspace.collection(view.collection).folder, view.query)
    yield shot


def _opened(workspace, view: View, column: AnyColumn):
    """What a column searches in: an index, or what :mod:`grace_core.columns` has of it."""
    if isinstance(column, OtherColumn):
        return workspace.opened(view.collection, column)
    return workspace.index(view.collection, column.model)


def _fill(workspace, side: Side, index: GraceIndex, batch: Representations, view: View) -> None:
    vector = index.embed(batch, side.column.pooling)[0]
    side.hits = index.hits(vector, view.k, pooling=side.column.pooling, where=view.where or None, by=view.by)
    average = float(vector @ workspace.average(index, side.column))
    side.average = others.average_of_documents(index, average, view.by)
    side.rationale = batch.rationales[0]
    side.truncated, side.text_truncated = bool(batch.truncated[0]), bool(batch.text_truncated[0])
    side.text_tokens = int(batch.counts[0, TEXT])
    side.written, side.status = True, ""


def _copy(source: Side, target: Side) -> None:
    for name in (
        "rationale",
        "status",
        "written",
        "truncated",
        "text_truncated",
        "text_tokens",
        "left_out",
        "hits",
        "average",
    ):
        setattr(target, name, getattr(source, name))


def open_document(workspace, view: View) -> Opened:
    """Rank, score and rationale of ``view.doc`` in both columns, whether or not it is among the first k.

    Raises GraceError.
    """
    document = workspace.collection(view.collection).documents.get(view.doc)
    if document is None:
        raise GraceError(f"{view.collection} has no document {view.doc[:100]!r}")
    places, queries = [], []
    for column in (view.a, view.b):
        if isinstance(column, OtherColumn):
            opened = others.open_document(workspace, view, column)
            ledger, total = opened.ledger, opened.documents
            places.append(
                Place(
                    column,
                    opened.rank,
                    ledger.score,
                    opened.rationale,
                    opened.truncated,
                    False,
                    empty=False,
                    blocks=opened.blocks,
                )
            )
            queries.append(opened.query_rationale)
            continue
        index = workspace.index(view.collection, column.model)
        if view.doc not in index.row:
            raise GraceError(f"{view.doc[:100]!r} has no text, so {column.model} has no vector of it and no score")
        model = workspace.model_of(index)
        batch = model.represent([view.query], rationale=column.rationale)
        rows = rows_within(index.selections, view.where, index.row[view.doc], len(index))
        total = len(rows)
        place = _place(index, column, index.embed(batch, column.pooling)[0], view.doc, rows)
        if place.text_truncated and len(document.content) <= COUNTED:
            place.left_out = model.prompts.build(document.content).left_out
        place.blocks = _blocks(batch, index, column, view.doc)
        places.append(place)
        queries.append(batch.rationales[0] if column.rationale else "")
    grades = workspace.grades(view.collection, view.query)
    passages = open_passages(workspace, view)
    grade = (grades or {}).get(passages.document.id if passages else view.doc)
    return Opened(view, document, tuple(places), tuple(queries), total, grade, grades, passages)


def _place(index: GraceIndex, column: Column, query: np.ndarray, document: str, rows: np.ndarray) -> Place:
    """Score, and rank among ``rows``."""
    row = index.row[document]
    scores, counts = index.scores(query, pooling=column.pooling), index.counts[row]
    return Place(
        column,
        rank_within(scores, row, rows),
        float(scores[row]),
        index.rationales[row],
        index.truncated[row],
        index.text_truncated[row],
        empty=int(counts[RATIONALE]) == 0,
        text_tokens=int(counts[TEXT]),
    )


def _blocks(query: Representations, index: GraceIndex, column: Column, document: str) -> dict[str, float]:
    """The score by :data:`BLOCKS`, from the part sums that were stored; what the template has a part in is
    one block.
    """
    from grace_core.explain import score_blocks
    from grace_core.pooling import PARTS, TEMPLATE

    rows = [index.row[document]]
    (query_parts,) = score_blocks(
        (query.sums, query.counts), (index.sums[rows], index.counts[rows]), column.pooling, geometry=index.geometry
    )
    pooled, blocks = index.geometry.pooled_parts(column.pooling), dict.fromkeys(BLOCKS, 0.0)
    there = set()
    for i in pooled:
        for j in pooled:
            name = "template" if TEMPLATE in (i, j) else f"{PARTS[i]} × {PARTS[j]}"
            blocks[name] += float(query_parts[i, j])
            there.add(name)
    return {name: value for name, value in blocks.items() if name in there}


def movements(mine: list[str], other: list[str]) -> list[int | None]:
    """For every id of ``mine`` by how many places it stands higher than in ``other`` (negative: lower), None
    if only here.
    """
    there = {document: rank for rank, document in enumerate(other)}
    return [there[document] - rank if document in there else None for rank, document in enumerate(mine)]
