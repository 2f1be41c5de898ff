"""The results of reading: documents, judgements, a preview, and notes of what was changed or left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, NamedTuple

from grace_core.passages import Chunk
from grace_core.texts import is_blank

# the most in a line of a text file, a CSV field, an item of a JSON array, or a file of a folder
MAX_LINE_BYTES = 16 * 1024 * 1024
COLUMN_NAMES = {
    "id": ("_id", "id", "doc_id", "docid", "pid", "document_id", "docno"),
    "title": ("title", "headline", "name"),
    "text": ("text", "body", "content", "abstract", "passage", "document", "contents"),
}
Scalar = str | int | float | bool | date | datetime | None
Value = Scalar | list[Scalar]  # of metadata
Row = tuple[int | str, dict[str, Any]]  # its number (a file's path in a folder), and its values by column
_UNPAIRED = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """One document. Title and text may be empty; metadata holds the values of the remaining columns of its row."""

    id: str
    title: str
    text: str
    metadata: dict[str, Value]

    @property
    def plain_metadata(self) -> dict[str, Any]:
        """The metadata as JSON can hold it: dates and times as text in ISO 8601."""
        return {name: plain(value) for name, value in self.metadata.items()}

    @property
    def content(self) -> str:
        """Title and text joined by a line break and stripped: what gets encoded.

        Empty if both are, or hold only invisible characters.
        """
        joined = f"{self.title}\n{self.text}".strip()
        return "" if is_blank(joined) else joined


@dataclass(frozen=True)
class Judgements:
    """Queries and their relevance judgements.

    ``queries`` is query id to text; ``qrels`` query id to document id to grade (an int where it is whole);
    ``splits`` query id to the "split" of its row, else to the name of the file of qrels/ that judges it
    (queries with neither are absent).
    """

    queries: dict[str, str]
    qrels: dict[str, dict[str, int | float]]
    splits: dict[str, str]


@dataclass(frozen=True)
class Corpus:
    """Documents in the order of the source, the names of the metadata columns that any of them has, and in
    ``notes`` a line for everything that was left out, changed or guessed.

    The documents of :func:`grace_core.readers.stream_corpus` are not a list but an iterable, which can be
    looped over any number of times. With ``chunk`` the documents are passages
    (:mod:`grace_core.readers.chunked`), while judgements are of whole documents.
    """

    documents: list[Document]
    judgements: Judgements | None
    source: str
    fields: list[str]
    notes: list[str] = field(default_factory=list)
    chunk: Chunk | None = None


@dataclass(frozen=True)
class Preview:
    """The names of all columns, the column (or None) of "id", "title" and "text", the first rows, and notes on
    them.
    """

    columns: list[str]
    mapping: dict[str, str | None]
    rows: list[dict[str, Value]]
    notes: list[str] = field(default_factory=list)


class Table(NamedTuple):
    """The rows of a source; ``unit`` is what errors call a row, ``header`` whether a first line names the columns, and
    ``cells`` whether metadata is text, which columns get types by.
    """

    name: str
    unit: str
    rows: Iterator[Row]
    header: bool = False
    cells: bool = False
    chunk: Chunk | None = None


class Notes:
    """Notes for the user: single lines, and repeated events with their count and first place."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}
        self._counts: dict[tuple[str, str], list] = {}

    def add(self, line: str) -> None:
        self._lines[line] = None

    def count(self, what: str, unit: str, where: str) -> None:
        self._counts.setdefault((what, unit), [0, where])[0] += 1

    @property
    def lines(self) -> list[str]:
        return [*self._lines, *(_note(what, unit, *counted) for (what, unit), counted in self._counts.items())]


def _note(what: str, unit: str, number: int, where: str) -> str:
    units = unit if number == 1 else "queries" if unit == "query" else f"{unit}s"
    return f"{what}: {number:,} {units}, {'' if number == 1 else 'the first '}in {where}"


def plain(value: Value) -> Any:
    """A value of metadata that JSON can hold: dates and times as text in ISO 8601."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value


def as_text(value: Value) -> str:
    """A value of metadata as text: a list as JSON."""
    return json.dumps(plain(value), ensure_ascii=False) if isinstance(value, list) else str(value)


def guess_columns(names) -> dict[str, str | None]:
    """The column of each role ("id", "title", "text"), by its usual names in any case; None where there is none."""
    by_name = {name.strip().lower(): name for name in reversed(list(names))}  # reversed: the first of two wins
    return {
        role: next((by_name[usual] for usual in usuals if usual in by_name), None)
        for role, usuals in COLUMN_NAMES.items()
    }


def clean(text: str) -> str:
    """``text`` without NUL characters, and with U+FFFD for unpaired surrogates: what UTF-8 and Parquet can hold."""
    if text.isascii():
        return text.replace("\0", "")
    return _UNPAIRED.sub("\ufffd", text.replace("\0", ""))
