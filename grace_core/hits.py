"""What a search finds: a document with its rank and score, and by which of its passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from grace_core.passages import Group
from grace_core.readers import Document
from grace_core.readers.chunked import as_passage, parent_of


@dataclass(frozen=True)
class Hit:
    """A retrieved document: its 1-based rank, the cosine that ranked it, and what the model wrote about it.

    ``truncated`` is about the rationale, ``text_truncated`` about the text, of which the model read
    ``text_tokens`` tokens. In a collection of passages ``document`` is the best passage of the document, and
    ``passages`` has the ids of all of them with their scores, best first.
    """

    rank: int
    score: float
    document: Document
    rationale: str
    truncated: bool
    row: int
    text_truncated: bool = False
    text_tokens: int = 0
    passages: tuple[tuple[str, float], ...] = ()

    @property
    def document_id(self) -> str:
        """The id of the whole document."""
        return parent_of(self.document) if self.passages else self.document.id

    def as_dict(self) -> dict:
        record = {
            "rank": self.rank,
            "id": self.document.id,
            "score": self.score,
            "title": self.document.title,
            "text": self.document.text,
            "rationale": self.rationale,
            "truncated": self.truncated,
            "text_truncated": self.text_truncated,
            "metadata": self.document.plain_metadata,
        }
        return record | as_passage(self.document, self.passages) if self.passages else record


def hit_of(group: Group, rank: int, hit: Callable[[int, int, float], Hit], ids: Sequence[str]) -> Hit:
    """A document that was found by its passages; ``hit(row, rank, score)`` gives that of a passage."""
    passages = tuple((ids[row], score) for row, score in zip(group.rows, group.scores, strict=True))
    return replace(hit(group.rows[0], rank, group.score), passages=passages)
