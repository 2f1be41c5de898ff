"""Reads a source into documents: chooses reader and columns, and converts the values of a row."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any
from uuid import UUID

from grace_core.errors import GraceError
from grace_core.passages import Chunk
from grace_core.readers.cells import CellTypes
from grace_core.readers.chunked import parent_of
from grace_core.readers.delimited import another_delimiter, csv_rows, is_table, no_header, reads_like_data
from grace_core.readers.documents import (
    COLUMN_NAMES,
    Corpus,
    Document,
    Notes,
    Preview,
    Row,
    Table,
    clean,
    guess_columns,
)
from grace_core.readers.files import lines, open_text, suffix_of, unknown_type
from grace_core.readers.folders import EXTRACTED, MARKDOWN, file_rows, printable, text_files
from grace_core.readers.json_rows import is_jsonl, json_rows, jsonl_rows
from grace_core.readers.judgements import query_columns, read_judgements
from grace_core.readers.parquet import LONGEST_LIST, chunk_in, parquet_parts, parquet_rows, parts_rows

MAX_ID_CHARACTERS = 512
NUMBER_CHARACTERS = 12  # by which the id of a passage may be longer than that of its document
HEAD_ROWS = 100  # from whose columns the mapping is guessed, since JSON rows may have different keys
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
SUFFIXES = (*TABLES, ".parquet", ".txt", ".md", ".html", ".pdf")
# of a folder; the first of these that exists is read
CORPUS_FILES = ("corpus.jsonl", "corpus.jsonl.gz", "corpus.parquet", "corpus.json", "corpus.csv", "corpus.tsv")
_COLLECTION_COLUMNS = ("_id", "title", "text")  # of corpus.parquet, so no metadata column may have these names
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:.+)?", re.ASCII)
_BAD_IN_ID = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ABOUT = re.compile(r"(readme|licen[cs]e|copying|notice|changelog|contributing|dataset[-_ ]?card)\b", re.IGNORECASE)
_LEFT_OUT = object()
_ITEMS = (str, int, float, Decimal, date, time, timedelta, UUID, type(None))  # what a list of scalars holds


def read_corpus(
    source: str | Path, *, limit: int | None = None, columns: dict[str, str] | None = None, split: str = "train"
) -> Corpus:
    """Reads documents, and for a folder with queries.jsonl also queries and judgements (qrels.tsv, else the
    files of qrels/).

    ``limit`` keeps the first N documents, the judgements of those, and (if there are judgements) the queries
    that still have one. Without it, judgements of documents that the corpus lacks are kept, as evaluation
    tools do. ``columns`` maps "id", "title" and "text" to column names and overrides the guess; "" stands for
    no column. Without an id column ids are "1", "2", … in order. ``split`` is the split of a Hugging Face
    dataset and has no effect on other sources. Other columns become metadata and keep their types: text,
    numbers, booleans, dates, times, and lists of these; the columns of a CSV or TSV file have those that all
    their cells can be read as (:mod:`grace_core.readers.cells`). Decimals are floats where these are as
    exact; those that are not, times of the day and integers beyond 64 bits are text, objects and nested lists
    JSON, NaN and infinity None; empty lists and objects, bytes and vectors are left out. A
    metadata column "_id", "title" or "text" is renamed "source_…", since a collection has columns of these
    names. The corpus's ``notes`` say what was left out, changed or guessed.

    Raises GraceError, with file and row (for a text file its line, from 1), if the source is missing, empty,
    unreadable or malformed.
    """
    _check_limit(limit)
    notes = Notes()
    table = _table(source, columns, split, notes, streaming=limit is not None)
    documents = list(_documents(table, columns, limit, notes))
    cells = CellTypes()
    if table.cells:
        documents = list(cells.typed(documents))
        type_notes = cells.decide_types()
        documents = list(cells.typed(documents))
        for note in type_notes:
            notes.add(f"{table.name}: {note}")
    return _corpus(documents, source, limit, notes, table.chunk)


def stream_corpus(
    source: str | Path, *, limit: int | None = None, columns: dict[str, str] | None = None, split: str = "train"
) -> Corpus:
    """Like :func:`read_corpus`, but documents stay on disk: they are checked now, and read again by every loop
    over them.

    For corpora larger than memory. With a ``limit``, documents of a dataset on a hub are kept in memory, since
    each loop would download them again.
    """
    if limit is not None and not os.path.exists(source):
        return read_corpus(source, limit=limit, columns=columns, split=split)
    _check_limit(limit)

    cells = CellTypes()

    def read(notes: Notes) -> Iterator[Document]:
        table = _table(source, columns, split, notes, streaming=False)
        documents = _documents(table, columns, limit, notes)
        return cells.typed(documents) if table.cells else documents

    chunk = _table(source, columns, split, Notes(), streaming=False).chunk
    corpus = _corpus(_Stream(read), source, limit, Notes(), chunk)
    corpus.notes.extend(f"{source}: {note}" for note in cells.decide_types())
    return corpus


def preview(
    source: str | Path, rows: int = 5, *, columns: dict[str, str] | None = None, split: str = "train"
) -> Preview:
    """The columns of a source, the mapping that read_corpus would guess, and the first ``rows`` rows; reads at
    most HEAD_ROWS rows.

    Without a recognised text column the mapping has None there, so that a form can ask for it. Raises
    GraceError like read_corpus for what is wrong in these rows, except that ids and texts are not checked.
    """
    notes = Notes()
    table = _table(source, columns, split, notes, streaming=True)
    head, names, mapping = _head(table, columns)
    try:
        _check_header(table, head, names, columns, notes)
    except GraceError as error:
        notes.add(str(error))
    values = [
        _metadata(row.items(), f"{table.name}, {table.unit} {number}", notes, renamed=False) for number, row in head
    ]
    return Preview(names, mapping, values[:rows], notes.lines)


class _Stream:
    """Documents that are read again by every loop over them."""

    def __init__(self, read: Callable[[Notes], Iterator[Document]]):
        self.read = read

    def __iter__(self) -> Iterator[Document]:
        return self.read(Notes())


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise GraceError(f"limit is {limit}, expected at least 1: leave it out to read every document")


def _corpus(
    documents: list[Document] | _Stream, source: str | Path, limit: int | None, notes: Notes, chunk: Chunk | None
) -> Corpus:
    ids, filled, fields = set(), set(), {}  # judgements are of whole documents
    for document in documents.read(notes) if isinstance(documents, _Stream) else documents:
        name = parent_of(document) if chunk else document.id
        ids.add(name)
        if document.content:
            filled.add(name)
        fields |= dict.fromkeys(document.metadata)

    def queries(path: Path, notes: Notes) -> Iterator[Document]:
        rows = jsonl_rows(path, notes)
        first = next(rows, None)
        if first is None:
            return iter(())
        return _documents(
            Table(str(path), "line", chain([first], rows)), query_columns(first[1]), None, notes, distinct=False
        )

    judgements = read_judgements(Path(source), ids, ids - filled, cut=limit is not None, read=queries, notes=notes)
    return Corpus(documents, judgements, str(source), list(fields), notes.lines, chunk)


def _table(source: str | Path, columns: dict[str, str] | None, split: str, notes: Notes, *, streaming: bool) -> Table:
    path, name = Path(source), str(source)
    exists = os.path.exists(name)  # Path.exists raises where a name is too long, and takes "" for the current folder
    if not exists and _HUB_ID.fullmatch(name) and suffix_of(path) not in SUFFIXES:
        return Table(name, "row", _hub_rows(name, split, streaming))
    if not exists and "://" in name:
        raise GraceError(
            f"{name[:300]!r} is an address, expected a file, a folder or a dataset id: fetch it first and name the file"
        )
    if not exists:
        raise GraceError(
            f"{name[:300]!r} does not exist: give a file, a folder or a Hugging Face dataset id (owner/name)"
        )
    if path.is_dir():
        candidates = [path / file for file in CORPUS_FILES if (path / file).exists()]
        if not candidates:
            return _folder_table(path, columns, notes)
        if len(candidates) > 1:
            notes.add(
                f"{candidates[0]} is read, and {', '.join(file.name for file in candidates[1:])} is not: remove one of them"
            )
        path = candidates[0]
    if not path.is_file():
        raise GraceError(f"{path} is no file, nor a folder of documents: name the file that holds the documents")
    suffix = suffix_of(path)
    if suffix == ".parquet" and path.suffix.lower() != ".gz":
        return Table(str(path), "row", parquet_rows(path, columns, notes), chunk=chunk_in(path))
    if suffix in (".jsonl", ".ndjson"):
        return Table(str(path), "line", jsonl_rows(path, notes))
    if suffix == ".json":
        return Table(str(path), "item", json_rows(path, notes))
    if suffix in (".csv", ".tsv"):
        return Table(
            str(path),
            "line",
            csv_rows(open_text(path, notes), "," if suffix == ".csv" else "\t", notes),
            header=True,
            cells=True,
        )
    if suffix in (*MARKDOWN, *EXTRACTED):
        return Table(str(path), "file", file_rows(path.parent, [path], notes, single=True), cells=True)
    if suffix in (".txt", ".text"):
        file = open_text(path, notes)
        if delimiter := is_table(file):
            notes.add(f"{path} is read as a table, since its first line names columns: give it the ending .csv or .tsv")
            return Table(str(path), "line", csv_rows(file, delimiter, notes), header=True, cells=True)
        if is_jsonl(file):
            notes.add(f"{path} is read as JSONL, since every line is an object with a text: give it the ending .jsonl")
            return Table(str(path), "line", jsonl_rows(path, notes))
        return Table(
            str(path), "line", ((number, {"text": line.rstrip("\r\n")}) for number, line in lines(file) if line.strip())
        )
    raise unknown_type(path, SUFFIXES)


def _folder_table(folder: Path, columns: dict[str, str] | None, notes: Notes) -> Table:
    """The rows of a folder of Parquet files, or of one of text files."""
    if parts := parquet_parts(folder):
        return Table(str(folder), "row", parts_rows(folder, parts, columns, notes))
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    tables = [
        path
        for path in entries
        if suffix_of(path) in TABLES and path.is_file() and not path.name.startswith("queries.")
    ]
    files = text_files(folder, notes)
    if files and not (tables and all(_ABOUT.match(path.name) for path in files)):
        return Table(printable(folder), "file", file_rows(folder, files, notes), cells=True)
    inside = ", ".join(printable(path.name) for path in entries[:8]) or "nothing"
    remedy = "name the file that holds the documents" + "; put several together into one" * (len(tables) > 1)
    what = "nor text, Markdown, HTML, PDF or Parquet files" if not files else "and its text files are about the others"
    raise GraceError(
        f"{printable(folder)} is no folder of documents: it has neither corpus.jsonl nor corpus.parquet, {what} "
        f"(it holds {inside[:200]}): {remedy}"
    )


def _head(table: Table, columns: dict[str, str] | None) -> tuple[list[Row], list[str], dict[str, str | None]]:
    head = list(islice(table.rows, HEAD_ROWS))
    if not head:
        where = " below the header" if table.header else ""
        raise GraceError(f"{table.name} is empty: expected at least one {table.unit} with a text{where}")
    names = list(dict.fromkeys(name for _, row in head for name in row))
    chosen = columns or {}
    for role, name in chosen.items():
        if role not in COLUMN_NAMES:
            raise GraceError(f"columns has the key {role!r}, expected some of 'id', 'title', 'text'")
        if name and name not in names:
            raise GraceError(
                f"{table.name} has no column {name!r} to take as {role}: columns found are {str(names)[:800]}; choose one"
            )
    guess = guess_columns(name for name in names if name not in chosen.values())
    return head, names, guess | {role: name or None for role, name in chosen.items()}


def _check_header(
    table: Table, head: list[Row], names: list[str], columns: dict[str, str] | None, notes: Notes
) -> None:
    """Raises GraceError for a first record that reads like a document; only a note where the caller named the
    text column.
    """
    if table.header and reads_like_data(names, [list(row.values()) for _, row in head]):
        if not (columns or {}).get("text"):
            raise no_header(f"{table.name}, line 1", names)
        notes.add(
            f"{table.name}: the first line reads like data, and is taken for the names of the columns: it is no document"
        )


def _documents(
    table: Table, columns: dict[str, str] | None, limit: int | None, notes: Notes, *, distinct: bool = True
) -> Iterator[Document]:
    """The documents of a table's rows; with ``distinct`` an id that occurs twice is refused."""
    head, names, mapping = _head(table, columns)
    _check_header(table, head, names, columns, notes)
    if mapping["text"] is None:
        raise GraceError(
            f"{table.name} has no text column: columns found{' in its first rows' * (len(head) == HEAD_ROWS)} are {str(names)[:800]}; "
            "rename one to 'text', or say which it is (--text-column)"
            f"{another_delimiter(names) if table.header else ''}"
        )
    roles = {name for name in mapping.values() if name is not None}
    for name in names:
        if name in _COLLECTION_COLUMNS and name not in roles:
            notes.add(f"{table.name}: column {name!r} is kept as metadata called 'source_{name}'")
    seen = {}
    for number, row in islice(chain(head, table.rows), limit):
        where = f"{table.name}, {table.unit} {number}"
        longest = MAX_ID_CHARACTERS + (NUMBER_CHARACTERS if table.chunk else 0)
        document_id = (
            _id(row.get(mapping["id"]), where, mapping["id"], longest) if mapping["id"] else str(len(seen) + 1)
        )
        if distinct and document_id in seen:
            raise GraceError(
                f"{where}: the id {document_id!r} is already that of {table.unit} {seen[document_id]}: give each its own"
            )
        seen[document_id] = number
        title = _repaired(_text(row.get(mapping["title"]), where, mapping["title"]), where, notes)
        text = _repaired(_text(row.get(mapping["text"]), where, mapping["text"]), where, notes)
        rest = ((name, value) for name, value in row.items() if name not in roles)
        yield Document(document_id, title, text, _metadata(rest, where, notes, renamed=True))


def _metadata(pairs: Iterable[tuple[str, Any]], where: str, notes: Notes, *, renamed: bool) -> dict[str, Any]:
    """The values that a collection can store, in the form in which it stores them."""
    metadata = {}
    for name, value in pairs:
        value = _value(value, name, where, notes)
        if value is _LEFT_OUT:
            continue
        target = f"source_{name}" if renamed and name in _COLLECTION_COLUMNS else clean(name)
        if target in metadata:
            raise GraceError(f"{where}: two columns would be called {target!r}: rename one")
        metadata[target] = value
    return metadata


def _id(value: Any, where: str, column: str, longest: int) -> str:
    # pandas turns a column of integers into floats where one is missing
    value = int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value
    text = _text(value, where, column)
    if not text.strip():
        raise GraceError(
            f"{where}: the id (column {column!r}) is empty or missing: give every row an id, or none a column for it"
        )
    if len(text) > longest:
        raise GraceError(
            f"{where}: the id {text[:40]!r}… has {len(text)} characters, expected at most {longest}: shorten it"
        )
    if _BAD_IN_ID.search(text):
        raise GraceError(f"{where}: the id {text!r} holds a control character or an unpaired surrogate: remove it")
    return text


def _text(value: Any, where: str, column: str | None) -> str:
    if value is None or (isinstance(value, (float, Decimal)) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal, UUID)):
        what = f"column {column!r} holds a value of type {type(value).__name__}, expected a string"
        raise GraceError(f"{where}: {what}: convert it or choose another column")
    return str(value)


def _repaired(text: str, where: str, notes: Notes) -> str:
    repaired = clean(text)
    if len(repaired) != len(text):
        notes.count("NUL characters are removed", "value", where)
    elif repaired is not text and repaired != text:
        notes.count("halves of surrogate pairs are replaced by U+FFFD", "value", where)
    return repaired


def _value(value: Any, name: str, where: str, notes: Notes) -> Any:
    """A value as metadata: a scalar or text; _LEFT_OUT if it is empty or cannot be stored."""
    if isinstance(value, str):
        return _repaired(value, where, notes)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        if math.isinf(value):
            notes.count(f"column {name!r}: infinity is kept as no value", "value", where)
        return None
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, datetime):
        return _moment(value)
    if (isinstance(value, int) and not -(2**63) <= value < 2**63) or isinstance(value, (time, timedelta, UUID)):
        return str(value)
    if value is None or isinstance(value, (int, date)):
        return value
    if isinstance(value, (list, tuple, dict)):
        return _nested(value, name, where, notes)
    notes.count(f"column {name!r} is left out: {type(value).__name__} cannot be kept as text", "value", where)
    return _LEFT_OUT


def _number(value: Decimal) -> float | str | None:
    """A decimal as the float with the same digits; as text where no float has them."""
    number = float(value) if not value.is_snan() else math.nan
    return (
        None
        if math.isnan(number)
        else number
        if math.isfinite(number) and Decimal(repr(number)) == value
        else str(value)
    )


def _moment(value: datetime) -> datetime | str | None:
    """A pandas or Python time as a plain datetime; in UTC if it has a time zone."""
    if value != value:  # NaT, which is a datetime
        return None
    moment = datetime.combine(date(value.year, value.month, value.day), value.time(), value.tzinfo)
    try:
        return moment if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:  # at the ends of the years 1 and 9999
        return str(moment)


def _nested(value: list | tuple | dict, name: str, where: str, notes: Notes) -> Any:
    """A list of scalars as it is; any other list, or an object, as JSON."""
    if not value:
        return _LEFT_OUT
    if isinstance(value, (list, tuple)) and len(value) > LONGEST_LIST and all(type(item) is float for item in value):
        notes.count(f"column {name!r} is left out: vectors are no metadata", "value", where)
        return _LEFT_OUT
    if isinstance(value, (list, tuple)) and all(isinstance(item, _ITEMS) for item in value):
        return [_value(item, name, where, notes) for item in value]
    try:
        text = json.dumps(value, ensure_ascii=False, default=_json_default)
    except (TypeError, ValueError, RecursionError):
        notes.count(f"column {name!r} is left out: what is in it cannot be kept as text", "value", where)
        return _LEFT_OUT
    notes.count(f"column {name!r} holds objects or nested lists, which are kept as JSON", "value", where)
    return _repaired(text, where, notes)


def _json_default(value: Any) -> str:
    if isinstance(value, (date, time, timedelta, Decimal, UUID)):
        return str(value)
    raise TypeError(type(value).__name__)


def _hub_rows(source: str, split: str, streaming: bool) -> Iterator[Row]:
    from datasets import load_dataset

    name, _, config = source.partition(":")
    try:
        for number, row in enumerate(load_dataset(name, config or None, split=split, streaming=streaming), 1):
            yield number, dict(row)
    except Exception as error:  # network, authorisation and decoders each raise their own libraries' classes
        what = (
            f"{source!r} is no file or folder here, and cannot be read as a Hugging Face dataset with split {split!r}"
        )
        raise GraceError(f"{what} ({repr(error)[:300]}): check path, id, config, split and network") from None
