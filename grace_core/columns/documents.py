"""Why a document has its score, in a collection of whole documents and in one of passages.

A document that is split has the score of its best passage, whose ledger explains it (``best``), or the sum over
all of its passages, each of which is a line of one ledger (``sum``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grace_core.collection import Collection
from grace_core.columns.column import Column
from grace_core.columns.ledger import Ledger, Line
from grace_core.errors import GraceError
from grace_core.passages import HEADING, PAGE, group, numbered


@dataclass(frozen=True)
class Place:
    """Where a document that is split stands: its ``rank`` from 1 among ``documents``, its ``score``, and its
    ``passages`` by id, best first.
    """

    document: str
    rank: int
    documents: int
    score: float
    passages: tuple[str, ...]

    def __str__(self) -> str:
        passages = f"{len(self.passages)} passage{'s' * (len(self.passages) > 1)}"
        return f"{self.document}: rank {self.rank} of {self.documents:,} documents, {passages} in all"


def is_split(collection: Collection, document_id: str) -> bool:
    """Whether an id is that of a document that is split into passages."""
    return collection.chunk is not None and document_id in collection.passages


def place(collection: Collection, ids: Sequence[str], scores: np.ndarray, document_id: str, by: str = "best") -> Place:
    """The place of a document that is split, by scores ``(n,)`` of the passages ``ids``.

    Raises GraceError if no passage of it is among them."""
    parents = collection.documents_of(list(ids))
    ranked = group(scores, np.arange(len(ids)), numbered(parents), len(ids), by)
    for rank, one in enumerate(ranked, 1):
        if parents[one.rows[0]] == document_id:
            return Place(document_id, rank, len(ranked), one.score, tuple(ids[row] for row in one.rows))
    raise GraceError(f"no passage of {document_id[:80]!r} has a text in this index; {collection.unknown(document_id)}")


@dataclass(frozen=True)
class Explained:
    """The ledger of ``id``: of the document, or where it is split (``place``) of its best passage, or of their sum."""

    id: str
    ledger: Ledger
    place: Place | None = None

    def as_dict(self, *, tokens: bool = False) -> dict:
        """For JSON: ``rank`` is the document's, ``passage`` the best passage with its own."""
        payload = {"id": self.id, **self.ledger.as_dict(tokens=tokens)}
        if self.place is None:
            return payload
        payload |= {"rank": self.place.rank, "passages": list(self.place.passages)}
        if self.ledger.document != self.id:
            payload["passage"] = {"id": self.ledger.document, "rank": self.ledger.rank}
        return payload


def explain(column: Column, query: str, document_id: str, *, by: str = "best") -> Explained:
    """Why a document, or a passage, has its score. Raises GraceError for what the column does not hold."""
    collection = column.collection
    if not is_split(collection, document_id):
        if by == "sum":
            raise GraceError(
                f"a sum is over the passages of a document, and {document_id[:80]!r} is none that is split: take the id of one"
            )
        return Explained(document_id, column.explain(query, document_id))
    document_place = place(collection, column.ids, column.scores(query), document_id, by)
    if by == "best":
        return Explained(document_id, column.explain(query, document_place.passages[0]), document_place)
    ledgers = [column.explain(query, passage) for passage in document_place.passages]
    ledger = Ledger(
        column.id,
        query,
        document_id,
        document_place.score,
        document_place.rank,
        tuple(_line(collection, one) for one in ledgers),
        tuple(dict.fromkeys(note for one in ledgers for note in one.notes)),
        all(one.exact for one in ledgers),
    )
    return Explained(document_id, ledger, document_place)


def _line(collection: Collection, ledger: Ledger) -> Line:
    """A passage with what its score is made of."""
    metadata = collection.documents[ledger.document].metadata
    known = {"rank": ledger.rank, "page": metadata[PAGE], "heading": metadata[HEADING]}
    about = {name: value for name, value in known.items() if value}
    return Line(ledger.document, ledger.score, "passage", about=about, parts=ledger.lines)
