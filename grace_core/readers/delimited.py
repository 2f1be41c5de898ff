"""Rows of CSV and TSV files: the delimiter, the header, the fields.

The delimiter is one of comma, semicolon, tab and vertical bar: the one by which the header has a column with a
usual name of texts, and the first records have as many fields as the header. Fields are parsed, so that a
comma within quotes does not count. A first line ``sep=X`` names the delimiter.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from grace_core.errors import GraceError
from grace_core.readers.documents import MAX_LINE_BYTES, Notes, Row, guess_columns
from grace_core.readers.files import TextFile, lines
from grace_core.texts import is_blank

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
SAMPLE_RECORDS = 200
IS_JSON = "call it .jsonl if every line is an object, .json if it is one array"
MISSING_WORDS = frozenset({"NaN", "nan", "None"})  # how exporters write a missing value where every cell is a string
_SEP = re.compile(r"\ufeff?\"?sep=(.)\"?\s*", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?[0-9][0-9.,:/T -]*(e[-+]?[0-9]+)?Z?\s*", re.IGNORECASE)  # numbers, dates and times
_JSON = re.compile(r'\ufeff?\s*(\[\s*)?\{\s*"')
_RECORD_CHARACTERS = 4 * MAX_LINE_BYTES


def csv_rows(file: TextFile, usual: str, notes: Notes) -> Iterator[Row]:
    """Records as dicts by the header. ``usual`` is the delimiter that the file's ending stands for."""
    named = _SEP.match(file.head)
    if named and file.head[named.end() - 1] not in "\r\n":  # a name of a column, not a line of its own
        named = None
    delimiter = named[1] if named else find_delimiter(file, usual)
    if delimiter != usual:
        notes.add(f"{file.path}: fields are separated by a {_name(delimiter)}, not by a {_name(usual)}")
    # the default, 131,072 characters, is shorter than some documents
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    source = _Lines(file, skip=1 if named else 0)
    spaced = _spaced(file.head.partition("\n")[0], delimiter)
    reader = csv.reader(source, delimiter=delimiter, strict=True, skipinitialspace=spaced)
    header, row = [], []
    while row is not None:
        number = source.number + 1
        source.characters = 0
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise _malformed(file, number, error) from None
        if not row or (len(row) == 1 and len(header) != 1 and is_blank(row[0])):
            continue
        if header and len(row) > len(header) and not any(row[len(header) :]):
            notes.count("empty fields behind the last column are left out", "record", f"{file.path}, line {number}")
            row = row[: len(header)]
        if not header:
            header = _header(row, f"{file.path}, line {number}")
        elif len(row) != len(header):
            raise _ragged(file, number, len(row), len(header), delimiter)
        else:
            yield number, dict(zip(header, _cells(row, f"{file.path}, line {number}", notes), strict=True))


class _Lines:
    """A file's lines for the csv module, with the number of the last one; limits the length of a record."""

    def __init__(self, file: TextFile, skip: int):
        self._path, self._lines, self.number, self.characters = file.path, islice(lines(file), skip, None), skip, 0

    def __iter__(self):
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        self.characters += len(line)
        if self.characters > _RECORD_CHARACTERS:
            raise GraceError(
                f"{self._path}, line {self.number}: a record of more than {_RECORD_CHARACTERS:,} characters: close its quotes"
            )
        return line


def _header(row: list[str], where: str) -> list[str]:
    header = [name or f"column_{place}" for place, name in enumerate(row, 1)]  # pandas leaves its index column unnamed
    twice = [name for name in header if header.count(name) > 1]
    if twice and reads_like_data(header, []):
        raise no_header(where, header)
    if twice:
        raise GraceError(f"{where}: column {twice[0]!r} occurs twice in the header: rename one")
    return header


def _cells(row: list[str], where: str, notes: Notes) -> list[str | None]:
    if not MISSING_WORDS.intersection(row):
        return row
    for cell in row:
        if cell in MISSING_WORDS:
            notes.count("NaN, nan or None is taken as a missing value", "cell", where)
    return [None if cell in MISSING_WORDS else cell for cell in row]


def _malformed(file: TextFile, number: int, error: csv.Error) -> GraceError:
    if _JSON.match(file.head):
        return GraceError(f"{file.path} is JSON, expected a table: {IS_JSON}")
    what, remedy = str(error), "put the field in quotes and double each quote within it"
    if "new-line character" in what:  # the csv module's own message addresses programmers
        what, remedy = (
            "a CR within a field without quotes",
            "save the file with one kind of line ends, or put the field in quotes",
        )
    return GraceError(f"{file.path}, line {number}: {what}: {remedy}")


def _ragged(file: TextFile, number: int, got: int, expected: int, delimiter: str) -> GraceError:
    if _JSON.match(file.head):
        return GraceError(f"{file.path} is JSON, expected a table: {IS_JSON}")
    name = _name(delimiter)
    if got > expected:
        remedy = f"put fields that hold a {name} in quotes"
        if expected == 1:
            remedy += "; remove what stands above the header; or call the file .txt if every line is a document"
    else:
        remedy = "add the missing ones, and put fields that hold a line break in quotes"
    return GraceError(f"{file.path}, line {number}: {got} fields, expected {expected} as in the header: {remedy}")


def _name(delimiter: str) -> str:
    return DELIMITERS.get(delimiter, repr(delimiter))


def find_delimiter(file: TextFile, usual: str) -> str:
    """The delimiter of a file, guessed from its head; ``usual`` if it fits as well as any."""
    ranked = [(rank, delimiter) for delimiter in DELIMITERS if (rank := _rank(file, delimiter, usual)) is not None]
    return max(ranked)[1] if ranked else usual


def _rank(file: TextFile, delimiter: str, usual: str) -> tuple | None:
    """How well a delimiter fits the head of a file, as a sort key; None if it splits nothing."""
    header, rows, broken = sample(file, delimiter)
    if len(header) < 2:
        return None
    even = sum(len(row) == len(header) for row in rows) / len(rows) if rows else 1.0
    roles = guess_columns(header)
    prose = delimiter != "\t" and not roles["text"] and _spaced(file.head, delimiter)  # commas of sentences
    return roles["text"] is not None, not broken, not prose, round(even, 2), delimiter == usual, len(header)


def sample(file: TextFile, delimiter: str) -> tuple[list[str], list[list[str]], bool]:
    """The first record of a file, the other records in its head, and whether parsing them failed."""
    text = file.head if file.whole else file.head[: max(file.head.rfind("\n"), file.head.rfind("\r")) + 1]
    text = text[named.end() :] if (named := _SEP.match(text)) else text
    rows, broken = [], False
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True):
            if row and (len(row) > 1 or row[0].strip()):
                rows.append(row)
            if len(rows) > SAMPLE_RECORDS:
                break
    except csv.Error as error:
        broken = file.whole or "unexpected end" not in str(error)
    return (rows[0] if rows else []), rows[1:], broken


def _spaced(text: str, delimiter: str) -> bool:
    """Whether nearly every delimiter in ``text`` has a space behind it, as in a sentence."""
    count = text.count(delimiter)
    return delimiter.strip() != "" and count > 0 and text.count(delimiter + " ") > 0.9 * count


def is_table(file: TextFile) -> str | None:
    """The delimiter of a text file that is surely a table: its header names a text and another role, and all
    records are as long as the header. None for other files.
    """
    for delimiter in DELIMITERS:
        header, rows, broken = sample(file, delimiter)
        roles = guess_columns(header)
        named = roles["text"] is not None and sum(name is not None for name in roles.values()) > 1
        if named and rows and not broken and all(len(row) == len(header) for row in rows):
            return delimiter
    return None


def another_delimiter(names: list[str]) -> str:
    """Advice for the error that a table has no text column, from what its first line looks like."""
    if _JSON.match(names[0]):
        return f"; it is JSON: {IS_JSON}"
    for delimiter, word in DELIMITERS.items():
        if names_with_it := [name for name in names if delimiter in name]:
            return f"; {names_with_it[0][:80]!r} holds a {word}: use one delimiter throughout"
    for name in names[:1] if len(names) == 1 else []:
        for sign in dict.fromkeys(c for c in name if not c.isalnum() and c not in "_-"):
            if sum(column is not None for column in guess_columns(name.split(sign)).values()) > 1:
                named = f"put a line sep={sign} above it, or " if sign.isprintable() and not sign.isspace() else ""
                return f"; it looks like columns with {sign!r} between them: {named}use one of , ; tab |"
    return "; if the first line is a document, put a line with names of the columns above it"


def reads_like_data(header: list[str], rows: list[list[Any]]) -> bool:
    """Whether a first record is a document rather than a header; ``rows`` are some of the records after it."""
    long = [
        name
        for name in header
        if len(name) > 80 or len(name.split()) > 7 or (len(name.split()) > 2 and name.rstrip()[-1:] in ".!?。")
    ]
    numbers = [name for name in header if len(name) < 40 and _NUMBER.fullmatch(name)]
    roles = [role for role, name in guess_columns(header).items() if name is not None]
    if "text" in roles:
        return len(roles) == 1 and bool(long and numbers)
    again = [
        name
        for place, name in enumerate(header)
        if any(row[place] == name for row in rows) and not any(list(row) == header for row in rows)
    ]
    twice = len(set(header)) < len(header)
    return bool(long or numbers or again or twice)


def no_header(where: str, header: list[str]) -> GraceError:
    examples = ", ".join(repr(name[:40]) for name in header[:3])
    remedy = "put a line with the word text above it, or call the file .txt if every line is a document"
    if len(header) > 1:
        remedy = f"put a line with a name for each of the {len(header)} columns above it, one of them text"
    remedy += "; if these are names, say which is the text"
    return GraceError(f"{where}: no header, the first record reads like data ({examples}): {remedy}")
