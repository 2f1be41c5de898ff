"""Types of the metadata in CSV and TSV files, where every cell is text: a column has the type that all its
cells can be read as.

Whole numbers, numbers, true and false, dates (2000-01-31) and times (2000-01-31 12:00, perhaps with an offset
from UTC). A number with leading zeros is a code and stays text. A column stays text too if any of its cells is
something else. Empty cells have no type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from grace_core.readers.documents import Document

_DAY, _CLOCK = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?"
_PATTERNS = {
    kind: re.compile(pattern, re.ASCII | re.IGNORECASE)
    for kind, pattern in {
        "int": r"-?(0|[1-9]\d{0,18})",
        "float": r"-?(0|[1-9]\d*)?(\.\d+)?(e[-+]?\d{1,3})?",
        "bool": "true|false",
        "date": _DAY,
        "datetime": f"{_DAY}[T ]{_CLOCK}",
        "datetime with offset": rf"{_DAY}[T ]{_CLOCK}(Z|[-+]\d\d:?\d\d)",
    }.items()
}
_EXACT = 2**53  # beyond it, different whole numbers share a float


def moment(text: str) -> datetime:
    """A time in ISO 8601, in UTC if it has an offset. Raises ValueError for anything else."""
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo is None else parsed.astimezone(UTC)


PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": lambda text: text.lower() == "true",
    "date": date.fromisoformat,
    "datetime": moment,
    "datetime with offset": moment,
}


def typed(cell: str) -> Any:
    """The value that a cell can be read as; the cell itself if it is text."""
    kind = _kind(cell.strip())
    return PARSERS[kind](cell.strip()) if kind in PARSERS else cell


class CellTypes:
    """The types of a table's columns: inferred from the documents seen until :meth:`decide_types`, which later
    documents are converted to.
    """

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}  # an empty set is a column of text
        self._kinds: dict[str, str] | None = None

    def typed(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents, converted to their columns' types once these are decided; before that unchanged."""
        for document in documents:
            if self._kinds is None:
                self._look(document.metadata)
            elif self._kinds:
                metadata = {name: self._converted(name, value) for name, value in document.metadata.items()}
                document = replace(document, metadata=metadata)
            yield document

    def decide_types(self) -> list[str]:
        """Decides the types from the values seen; returns a note that names them, if any is not text."""
        self._kinds = {name: kind for name, kinds in self._seen.items() if (kind := _common(kinds))}
        types = ", ".join(f"{name} {kind}" for name, kind in self._kinds.items())
        return [f"columns have types by their values: {types}"] if types else []

    def _look(self, metadata: dict[str, Any]) -> None:
        for name, value in metadata.items():
            if not isinstance(value, str) or not value.strip():
                continue
            kinds = self._seen.setdefault(name, {"unknown"})
            if kinds:
                kinds.add(_kind(value.strip()))
                if "text" in kinds:
                    kinds.clear()

    def _converted(self, name: str, value: Any) -> Any:
        if name not in self._kinds or not isinstance(value, str):
            return value
        return PARSERS[self._kinds[name]](value.strip()) if value.strip() else None


def _kind(cell: str) -> str:
    for kind, pattern in _PATTERNS.items():
        if pattern.fullmatch(cell):
            try:
                value = PARSERS[kind](cell)
            except (ValueError, OverflowError):
                return "text"
            if kind == "float" and not math.isfinite(value):
                return "text"
            if kind == "int" and abs(value) > _EXACT:
                return "long" if -(2**63) <= value < 2**63 else "text"
            return kind
    return "text"


def _common(kinds: set[str]) -> str | None:
    kinds = kinds - {"unknown"}
    if kinds and kinds <= {"int", "long"}:
        return "int"
    if kinds and kinds <= {"int", "float"}:
        return "float"
    return next(iter(kinds)) if len(kinds) == 1 else None
