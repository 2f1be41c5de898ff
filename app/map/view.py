"""What the Map tab shows, as it stands in the address:
``?tab=map&corpus=&left=&right=&colour=&point=&star=&find=&zoom=``; and the rows of documents that its page
sends back. Whatever comes from a browser is read here and nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grace_app.page.address import LONGEST, PARAMETERS
from grace_app.workspace.view import (
    MAX_ID,
    AnyColumn,
    OtherColumn,
    check_query,
    default_view,
    texts_of,
)
from grace_core.columns.names import BM25, Single, parse
from grace_core.errors import GraceError

if TYPE_CHECKING:
    import numpy as np

SIDES = ("left", "right")
FIELD = "field:"  # in the name of a colour: a metadata column
SIDED = (
    "region",
    "length",
    "cut",
)  # colours of one column: its regions, its rationales' lengths, whether they were cut off
COLOURS = ("overlap", *(f"{what}-{side}" for what in SIDED for side in SIDES), "none")
MAX_FIND = 1_000  # characters
WHERE = "where:"  # at the beginning of what is looked for: a filter, not words


@dataclass(frozen=True)
class MapView:
    """A collection, the columns of the two maps, a colour (see :data:`COLOURS`), and, once asked, the opened
    document, the query whose star stands on the maps, the words that are looked for, and the part of the map
    that is shown as ``(left, right, bottom, top)``.
    """

    corpus: str
    left: AnyColumn
    right: AnyColumn
    colour: str = "none"
    point: str = ""
    star: str = ""
    find: str = ""
    zoom: tuple[float, float, float, float] | None = None

    @property
    def columns(self) -> tuple[AnyColumn, AnyColumn]:
        return self.left, self.right

    def params(self) -> dict[str, str]:
        """As :func:`read_map` takes it, and, with ``tab=map``, as the address holds it; a star too long for
        an address is left out.
        """
        params = {
            "corpus": self.corpus,
            "left": self.left.id,
            "right": self.right.id,
            "colour": self.colour,
            "point": self.point,
        }
        params |= {"star": self.star if len(self.star) <= LONGEST else "", "find": self.find}
        return params | {"zoom": ",".join(f"{edge:.4f}" for edge in self.zoom) if self.zoom else ""}


def encoder_of(column: AnyColumn) -> str:
    """The name of the sentence encoder that a column is; "" for any other column."""
    name = parse(column.id) if isinstance(column, OtherColumn) else None
    return name.model if isinstance(name, Single) and name.kind == "encoder" else ""


def mapped_columns(workspace, corpus: str) -> list[AnyColumn]:
    """The columns of a collection with vectors, by which documents have places: its models and sentence encoders."""
    return [*workspace.columns(corpus), *(column for column in workspace.offered(corpus) if encoder_of(column))]


def read_map(workspace, params: object, *, strict: bool = False) -> tuple[MapView, list[str]]:
    """The view that ``params`` ask for, and what is wrong with them; wrong parts stand at their default.

    ``strict`` raises the first problem instead. Raises GraceError if nothing is built.
    """
    asked = texts_of(params, PARAMETERS["map"])
    problems: list[str] = []
    default = default_view(workspace, asked["corpus"])
    corpus, chosen = default.collection, {"left": default.a, "right": default.b}
    columns = {column.id: column for column in mapped_columns(workspace, corpus)}
    if asked["corpus"] and asked["corpus"] != corpus:
        problems.append(
            f"there is no collection {asked['corpus'][:60]!r} here; there are: {', '.join(workspace.collections())}"
        )
    else:
        for side in SIDES:
            if asked[side] in columns:
                chosen[side] = columns[asked[side]]
            elif asked[side]:
                problems.append(
                    no_place(workspace, corpus, asked[side])
                    or f"{corpus} has no column {asked[side][:60]!r}; there are: {', '.join(columns)}"
                )
    fields = workspace.collection(corpus).corpus.fields
    colour = asked["colour"]
    if colour and colour not in COLOURS and colour not in {FIELD + name for name in fields}:
        problems.append(
            f"there is no colour {colour[:60]!r}; there are: {', '.join([*COLOURS, *(FIELD + name for name in fields)])}"
        )
        colour = ""
    star = ""
    if asked["star"]:
        try:
            star = check_query(asked["star"])
        except GraceError as error:
            problems.append(str(error))
    zoom = _zoom(asked["zoom"])
    if asked["zoom"] and zoom is None:
        problems.append(f"zoom is {asked['zoom'][:60]!r}, expected four numbers: left,right,bottom,top")
    if strict and problems:
        raise GraceError(problems[0])
    view = MapView(
        corpus,
        chosen["left"],
        chosen["right"],
        colour,
        asked["point"][:MAX_ID],
        star,
        asked["find"].strip()[:MAX_FIND],
        zoom,
    )
    return view, problems


def no_place(workspace, corpus: str, text: str) -> str:
    """Why a column that can be searched is not on the map; "" if there is no such column."""
    try:
        column = workspace.column(corpus, text)
    except GraceError:
        return ""
    why = (
        "counts words and has no vectors"
        if column.id == BM25
        else "puts scores of other columns together and has no vectors of its own"
    )
    return f"{column.label} {why}, so it has no map; it is compared in Explore"


def _zoom(text: str) -> tuple[float, float, float, float] | None:
    try:
        edges = tuple(float(part) for part in text[:100].split(","))
    except ValueError:
        return None
    fits = len(edges) == 4 and all(math.isfinite(edge) and abs(edge) < 100 for edge in edges)
    return edges if fits and edges[1] - edges[0] > 1e-5 and edges[3] - edges[2] > 1e-5 else None


def read_rows(rows: object, documents: int, limit: int) -> np.ndarray:
    """Row numbers ``(m,)`` int64, ascending, none twice, from a list or from the base64 of uint32.

    Raises GraceError if they do not fit.
    """
    import numpy as np

    if isinstance(rows, str):
        if len(rows) > 6 * limit + 16:
            raise GraceError(f"more than {limit:,} documents were sent: select fewer")
        try:
            numbers = np.frombuffer(base64.b64decode(rows, validate=True), dtype="<u4").astype(np.int64)
        except (binascii.Error, ValueError):
            raise misfit() from None
    elif isinstance(rows, Sequence) and all(type(row) is int and -1 < row < 2**32 for row in rows):
        numbers = np.array(rows, dtype=np.int64)
    else:
        raise misfit()
    if len(numbers) > limit:
        raise GraceError(f"{len(numbers):,} documents were sent, at most {limit:,} are taken: select fewer")
    numbers = np.unique(numbers)
    if len(numbers) and numbers[-1] >= documents:
        raise GraceError(
            f"the page named row {numbers[-1]}, there are {documents:,} documents: the collection changed, reload the page"
        )
    return numbers


def misfit() -> GraceError:
    return GraceError("the page sent an event that does not fit; reload the page")
