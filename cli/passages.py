"""Hits of a collection of passages as lines of text: the document, and which passage of it."""

from __future__ import annotations

from grace_core.collection import Collection
from grace_core.columns.documents import Place
from grace_core.errors import GraceError
from grace_core.hits import Hit
from grace_core.passages import BY, HEADING, PAGE, PARENT

SHOWN = 150  # characters of a passage


def check_by(by: str, collection: Collection) -> None:
    """Raises GraceError for a way to rank that there is not, or that means nothing for whole documents."""
    if by not in BY:
        raise GraceError(f"--by is {by[:40]!r}, expected {' or '.join(BY)}")
    if by != "best" and collection.chunk is None:
        raise GraceError(
            f"--by {by} is for passages, and {collection.folder} is of whole documents: leave it out, or build with --chunk"
        )


def by_note(by: str, collection: Collection) -> list[str]:
    """What ranks the documents of a collection of passages."""
    if collection.chunk is None:
        return []
    how = (
        "the score of its best passage"
        if by == "best"
        else "the sum of the scores of all its passages, so that long ones lead"
    )
    return [f"a document has {how}"]


def place_lines(place: Place | None) -> list[str]:
    """Of a document that is split, where it stands and which of its passages is explained."""
    return [] if place is None else [f"{place}, of which the best is explained:"]


def document_of(hit: Hit) -> str:
    """The id of the document that was found."""
    return hit.document.metadata[PARENT] if hit.passages else hit.document.id


def passage_line(hit: Hit) -> str:
    """Where the best passage stands and how it begins, with a line feed; "" for a whole document."""
    if not hit.passages:
        return ""
    page, heading = hit.document.metadata[PAGE], hit.document.metadata[HEADING]
    place = [
        hit.document.id,
        *([f"page {page}"] if page else []),
        *([heading] if heading else []),
        f"{len(hit.passages)} in all",
    ]
    text = " ".join(hit.document.text.split())
    return f"     [{', '.join(place)}] {text[:SHOWN]}{'…' if len(text) > SHOWN else ''}\n"
