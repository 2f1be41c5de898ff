"""A corpus on disk to documents.

Sources: a folder with ``corpus.jsonl`` (BEIR) or ``corpus.parquet`` (a collection), a file (SUFFIXES; ``.json`` is an array of objects,
``.txt`` has a document a line), or a Hugging Face dataset id ``owner/name`` or ``owner/name:config``. Text files are UTF-8, with or
without a byte order mark; blank lines are skipped. In titles, texts and metadata NUL characters are removed and unpaired surrogates
replaced by U+FFFD; null and NaN (a CSV or TSV cell NaN, nan or None is null) become "" in a title or text. Ids are never repaired, since
two could become one. Everything else that is wrong raises GraceError with the file, the row and the remedy in one line.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from grace_core.errors import GraceError

MAX_LINE_BYTES = 16 * 1024 * 1024  # a line of a text file, a field of a CSV file or an item of a JSON array
MAX_ID_CHARACTERS = 512
HEAD_ROWS = 100  # rows whose columns are looked at to guess the mapping: JSON rows need not all have the same keys
COLUMN_NAMES = {
    "id": ("_id", "id", "doc_id", "docid", "pid", "document_id"),
    "title": ("title", "headline", "name"),
    "text": ("text", "body", "content", "abstract", "passage", "document"),
}
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
Scalar = str | int | float | bool | None
_CHUNK_CHARACTERS = 64 * 1024
_MISSING_WORDS = frozenset({"NaN", "nan", "None"})  # how exporters write a missing value where every cell is a string
_COLLECTION_COLUMNS = ("_id", "title", "text")  # taken in a collection's corpus.parquet, so no metadata column may have these names
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:.+)?", re.ASCII)
_BAD_IN_ID = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNPAIRED = re.compile("[\ud800-\udfff]")
_JSON_SPACE = re.compile(r"[ \t\r\n]*")
_NESTED = object()


@dataclass(frozen=True)
class Document:
    """One document. Title and text may be empty; metadata holds the scalar values of the remaining columns of its row."""

    id: str
    title: str
    text: str
    metadata: dict[str, Scalar]

    @property
    def content(self) -> str:
        """Title and text joined by a line break and stripped: what gets encoded. Empty if both are."""
        return f"{self.title}\n{self.text}".strip()


@dataclass(frozen=True)
class Judgements:
    """Query id to text; query id to document id to grade; query id to split: the "split" key of the query's row, else the name of the
    file qrels/<split>.tsv that judges it (queries with neither are absent)."""

    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    splits: dict[str, str]


@dataclass(frozen=True)
class Corpus:
    """Documents in the order of the source, and the names of the metadata columns that any of them has.

    The documents of :func:`stream_corpus` are no list; they can only be gone through, as often as one likes.
    """

    documents: list[Document]
    judgements: Judgements | None
    source: str
    fields: list[str]


@dataclass(frozen=True)
class Preview:
    """All column names found, the column (or None) of "id", "title" and "text", and the first rows without their nested values."""

    columns: list[str]
    mapping: dict[str, str | None]
    rows: list[dict[str, Scalar]]


class _Table(NamedTuple):
    name: str
    unit: str
    rows: Iterator[tuple[int, dict[str, Any]]]


def read_corpus(source: str | Path, *, limit: int | None = None, columns: dict[str, str] | None = None, split: str = "train") -> Corpus:
    """Reads documents, and for a folder with queries.jsonl also queries and judgements (qrels.tsv, else qrels/{train,dev,test}.tsv).

    ``limit`` keeps the first so many documents, the judgements of those, and (if there are judgements) the queries that still have one.
    Without it, judgements of documents that the corpus lacks are kept, as evaluation tools do, unless all are such. ``columns`` maps
    "id", "title" and "text" to column names and overrides the guess; "" stands for no column. Without an id column ids are "1", "2", …
    in order. ``split`` is the split of a Hugging Face dataset and has no effect on other sources. Other scalar columns become metadata:
    dates, times, decimals and integers beyond 64 bits as text, NaN and infinity as None; lists, objects and bytes are dropped. A
    metadata column "_id", "title" or "text" is named "source_…", since a collection's own columns are called that.

    Raises GraceError, with file and row (for a text file its line, from 1), if the source is missing, empty, unreadable or malformed.
    """
    if limit is not None and limit < 1:
        raise GraceError(f"limit is {limit}, expected at least 1: leave it out to read every document")
    documents = list(_documents(_table(source, columns, split, streaming=limit is not None), columns, limit))
    return _corpus(documents, source, limit)


def stream_corpus(source: str | Path, *, limit: int | None = None, columns: dict[str, str] | None = None, split: str = "train") -> Corpus:
    """As :func:`read_corpus`, but the documents stay where they are: they are checked now, and read again whenever they are gone through.

    For corpora larger than memory. The first ``limit`` documents of a dataset on a hub are kept, since they would be fetched again.
    """
    if limit is not None and not os.path.exists(source):
        return read_corpus(source, limit=limit, columns=columns, split=split)
    if limit is not None and limit < 1:
        raise GraceError(f"limit is {limit}, expected at least 1: leave it out to read every document")
    return _corpus(_Stream(lambda: _documents(_table(source, columns, split, streaming=False), columns, limit)), source, limit)


class _Stream:
    """Documents that are read again by every loop over them."""

    def __init__(self, read: Callable[[], Iterator[Document]]):
        self._read = read

    def __iter__(self) -> Iterator[Document]:
        return self._read()


def _corpus(documents: Iterable[Document], source: str | Path, limit: int | None) -> Corpus:
    ids, fields = set(), {}
    for document in documents:
        ids.add(document.id)
        fields |= dict.fromkeys(document.metadata)
    return Corpus(documents, _judgements(Path(source), ids, cut=limit is not None), str(source), list(fields))


def preview(source: str | Path, rows: int = 5, *, columns: dict[str, str] | None = None, split: str = "train") -> Preview:
    """Columns found, their mapping as read_corpus would take it, and the first ``rows`` rows; looks at no more than HEAD_ROWS rows.

    No recognised text column is no error here: the mapping has None, for a form to ask. Raises GraceError like read_corpus for what is
    wrong in the rows looked at, save that ids and texts are not checked.
    """
    head, names, mapping = _head(_table(source, columns, split, streaming=True), columns)
    shown = ({_clean(name): _scalar(value) for name, value in row.items()} for _, row in head[:rows])
    return Preview(names, mapping, [{name: value for name, value in row.items() if value is not _NESTED} for row in shown])


def guess_columns(names: Iterable[str]) -> dict[str, str | None]:
    """The column of each role ("id", "title", "text") by its usual names, without regard to case; None where there is none."""
    found = {name.strip().lower(): name for name in reversed(list(names))}  # reversed: the first of two wins
    return {role: next((found[usual] for usual in usuals if usual in found), None) for role, usuals in COLUMN_NAMES.items()}


def _table(source: str | Path, columns: dict[str, str] | None, split: str, streaming: bool) -> _Table:
    path, name = Path(source), str(source)
    found = os.path.exists(name)  # Path.exists raises where a name is too long, and takes "" for the current folder
    if not found and _HUB_ID.fullmatch(name) and path.suffix.lower() not in SUFFIXES:
        return _Table(name, "row", _hub_rows(name, split, streaming))
    if not found:
        raise GraceError(f"{name[:300]!r} does not exist: give a file, a folder or a Hugging Face dataset id (owner/name)")
    if path.is_dir():
        path = next((file for file in (path / "corpus.jsonl", path / "corpus.parquet") if file.exists()), path)
    if not path.is_file():
        raise GraceError(f"{path} is no file, nor a folder with corpus.jsonl or corpus.parquet: name the file that holds the documents")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _Table(str(path), "line", _jsonl_rows(path))
    if suffix == ".json":
        return _Table(str(path), "item", _json_rows(path))
    if suffix in (".csv", ".tsv"):
        return _Table(str(path), "line", _csv_rows(path, "," if suffix == ".csv" else "\t"))
    if suffix == ".parquet":
        return _Table(str(path), "row", _parquet_rows(path, columns))
    if suffix == ".txt":
        return _Table(str(path), "line", ((number, {"text": line.rstrip("\r\n")}) for number, line in _lines(path) if line.strip()))
    raise GraceError(f"{path} is of type {suffix!r}, expected one of {' '.join(SUFFIXES)}: convert it or rename it")


def _head(table: _Table, columns: dict[str, str] | None) -> tuple[list[tuple[int, dict[str, Any]]], list[str], dict[str, str | None]]:
    head = list(islice(table.rows, HEAD_ROWS))
    if not head:
        raise GraceError(f"{table.name} is empty: expected at least one {table.unit} with a text")
    names = list(dict.fromkeys(name for _, row in head for name in row))
    chosen = columns or {}
    for role, name in chosen.items():
        if role not in COLUMN_NAMES:
            raise GraceError(f"columns has the key {role!r}, expected some of 'id', 'title', 'text'")
        if name and name not in names:
            raise GraceError(f"{table.name} has no column {name!r} to take as {role}: columns found are {str(names)[:800]}; choose one")
    guess = guess_columns(name for name in names if name not in chosen.values())
    return head, names, guess | {role: name or None for role, name in chosen.items()}


def _documents(table: _Table, columns: dict[str, str] | None, limit: int | None) -> Iterator[Document]:
    head, names, mapping = _head(table, columns)
    if mapping["text"] is None:
        raise GraceError(f"{table.name} has no text column: columns found are {str(names)[:800]}; rename one to 'text' or say which it is")
    seen = {}
    for number, row in islice(chain(head, table.rows), limit):
        where = f"{table.name}, {table.unit} {number}"
        document_id = _id(row.get(mapping["id"]), where, mapping["id"]) if mapping["id"] else str(len(seen) + 1)
        if document_id in seen:
            raise GraceError(f"{where}: the id {document_id!r} is already that of {table.unit} {seen[document_id]}: give each its own")
        seen[document_id] = number
        title = _text(row.get(mapping["title"]), where, mapping["title"])
        text = _text(row.get(mapping["text"]), where, mapping["text"])
        rest = ((name, _scalar(value)) for name, value in row.items() if name not in mapping.values())
        rest = ((f"source_{name}" if name in _COLLECTION_COLUMNS else _clean(name), value) for name, value in rest)
        yield Document(document_id, title, text, {name: value for name, value in rest if value is not _NESTED})


def _id(value: Any, where: str, column: str) -> str:
    # pandas turns a column of integers into floats where one is missing
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    text = _text(value, where, column, clean=False)
    if not text.strip():
        raise GraceError(f"{where}: the id (column {column!r}) is empty or missing: give every row an id, or none a column for it")
    if len(text) > MAX_ID_CHARACTERS:
        raise GraceError(f"{where}: the id {text[:40]!r}… has {len(text)} characters, expected at most {MAX_ID_CHARACTERS}: shorten it")
    if _BAD_IN_ID.search(text):
        raise GraceError(f"{where}: the id {text!r} holds a control character or an unpaired surrogate: remove it")
    return text


def _text(value: Any, where: str, column: str | None, clean: bool = True) -> str:
    if value is None or (isinstance(value, (float, Decimal)) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise GraceError(f"{where}: column {column!r} is a {type(value).__name__}, expected a string: convert it or choose another column")
    return _clean(str(value)) if clean else str(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if (isinstance(value, int) and not -(2**63) <= value < 2**63) or isinstance(value, (date, time, timedelta, Decimal)):
        return str(value)
    return value if value is None or isinstance(value, int) else _NESTED


def _clean(text: str) -> str:
    text = text.replace("\0", "")
    return text if text.isascii() else _UNPAIRED.sub("\ufffd", text)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise GraceError(f"{path} cannot be opened ({error.strerror}): check that it is there and readable") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their number and their ending. Split at line feeds only: U+2028 and its like are part of a text."""
    offset = 0
    with _open(path) as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 2), b""), 1):
            if len(raw.rstrip(b"\r\n")) > MAX_LINE_BYTES:
                raise GraceError(f"{path}, line {number}: longer than {MAX_LINE_BYTES:,} bytes: split the document or check line ends")
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f"{path}, line {number}, byte {offset + error.start} of the file (from 0)"
                raise GraceError(f"{where}: not UTF-8: save the file as UTF-8") from None
            offset += len(raw)
            yield number, line.removeprefix("\ufeff") if number == 1 else line


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise GraceError(
                f"{path}, line {number}: malformed JSON ({getattr(error, 'msg', error)}), expected one JSON object a line: correct it"
            ) from None
        if not isinstance(row, dict):
            raise GraceError(f'{path}, line {number}: a {type(row).__name__}, expected a JSON object: write {{"text": "…"}}')
        yield number, row


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Items of an array, decoded one by one from pieces of the file, so that a preview or a limit does not read it all."""
    follows = {"[": "{]", ",": "{", "]": ""}
    text, at, line, item, expected, size = "", 0, 1, 1, "[", _CHUNK_CHARACTERS  # line: that of the start of text
    with io.TextIOWrapper(_open(path), "utf-8-sig", newline="") as file:
        while True:
            at = wrong_at = _JSON_SPACE.match(text, at).end()
            char = text[at : at + 1]
            wrong = f"got {repr(char) if char else 'the end of the file'}, expected {' or '.join(expected) or 'the end of the file'}"
            if char == "{" and char in expected:
                try:
                    row, at = json.JSONDecoder().raw_decode(text, at)
                    yield item, row
                    expected, size = ",]", _CHUNK_CHARACTERS
                    continue
                except (ValueError, RecursionError) as error:
                    wrong, wrong_at = str(getattr(error, "msg", error)), getattr(error, "pos", at)
            elif char and char in expected:
                at, item, expected = at + 1, item + (char == ","), follows[char]
                continue
            new = ""
            if len(text) - at > MAX_LINE_BYTES:
                wrong += f", or the item is longer than {MAX_LINE_BYTES:,} characters"
            elif not char or char in expected:  # what is wrong may only be that the item goes on after what was read
                try:
                    new = file.read(size)
                except UnicodeDecodeError as error:
                    where = f"byte {file.buffer.tell() - len(error.object) + error.start} of the file (from 0)"
                    raise GraceError(f"{path}, item {item} or later, {where}: not UTF-8: save the file as UTF-8") from None
            if not new and not char and not expected:
                return
            if not new:
                where = f"{path}, line {line + text.count(chr(10), 0, wrong_at)}, item {item}"
                raise GraceError(f"{where}: malformed JSON ({wrong}): correct it; a file with one object a line is called .jsonl")
            line, text, at, size = line + text.count("\n", 0, at), text[at:] + new, 0, size * 2


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))  # the default, 131,072 characters, is shorter than some documents
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header, row = [], []
    while row is not None:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise GraceError(f"{path}, line {number}: {error}: put the field in quotes and double each quote within it") from None
        if not row or (len(row) == 1 and len(header) != 1 and not row[0].strip()):
            continue
        if not header:
            header = [name or f"column_{place}" for place, name in enumerate(row, 1)]  # pandas leaves its index column unnamed
            if twice := [name for name in header if header.count(name) > 1]:
                raise GraceError(f"{path}, line {number}: column {twice[0]!r} occurs twice in the header: rename one")
        elif len(row) != len(header):
            remedy = f"quote fields that hold a {'comma' if delimiter == ',' else 'tab'} or a line break"
            raise GraceError(f"{path}, line {number}: {len(row)} fields, expected {len(header)} as in the header: {remedy}")
        else:
            yield number, {name: None if cell in _MISSING_WORDS else cell for name, cell in zip(header, row, strict=True)}


def _parquet_rows(path: Path, columns: dict[str, str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            mapped = {*guess_columns(file.schema_arrow.names).values(), *(columns or {}).values()}
            # Nested columns (embeddings, say) are dropped later and slow to convert; a mapped one is read, to be refused with its row.
            wanted = [field.name for field in file.schema_arrow if field.name in mapped or not pa.types.is_nested(field.type)]
            batches = file.iter_batches(batch_size=1024, columns=wanted or None)
            for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
                yield number, row
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise GraceError(f"{path}: unreadable Parquet after row {number} ({repr(error)[:300]}): write the file again") from None


def _hub_rows(source: str, split: str, streaming: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    from datasets import load_dataset

    name, _, config = source.partition(":")
    try:
        for number, row in enumerate(load_dataset(name, config or None, split=split, streaming=streaming), 1):
            yield number, dict(row)
    except Exception as error:  # network, authorisation and decoders each raise classes of their own libraries
        what = f"{source!r} is no file or folder here, and cannot be read as a Hugging Face dataset with split {split!r}"
        raise GraceError(f"{what} ({repr(error)[:300]}): check path, id, config, split and network") from None


def _judgements(folder: Path, kept: set[str], cut: bool) -> Judgements | None:
    path, single = folder / "queries.jsonl", folder / "qrels.tsv"
    files = [single] if single.exists() else [folder / "qrels" / f"{split}.tsv" for split in ("train", "dev", "test")]
    files = [file for file in files if file.exists()]
    if not path.exists():
        if files:
            raise GraceError(f"{files[0]} has judgements, but {path} does not exist: add the queries or remove the judgements")
        return None
    rows = list(_documents(_Table(str(path), "line", _jsonl_rows(path)), None, None))
    if blank := [row.id for row in rows if not row.text.strip()]:
        raise GraceError(f"{path}: query {blank[0]!r} has no text: give it one or remove it")
    queries = {row.id: row.text for row in rows}
    splits = {row.id: str(row.metadata["split"]) for row in rows if row.metadata.get("split")}
    qrels: dict[str, dict[str, int]] = {}
    for file in files:
        for query, document, grade in _qrels_rows(file, queries):
            if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
                raise GraceError(f"{file}: query {query!r} and document {document!r} have two scores: keep one")
            if file != single:
                splits.setdefault(query, file.stem)
    if files and cut:
        kept_grades = {query: {d: grade for d, grade in grades.items() if d in kept} for query, grades in qrels.items()}
        qrels = {query: grades for query, grades in kept_grades.items() if grades}
        queries = {query: text for query, text in queries.items() if query in qrels}
        splits = {query: split for query, split in splits.items() if query in qrels}
    elif qrels and kept.isdisjoint(chain.from_iterable(qrels.values())):
        raise GraceError(f"{files[0]}: no judged document is in the corpus: use the ids of the corpus's documents")
    return Judgements(queries, qrels, splits)


def _qrels_rows(path: Path, queries: dict[str, str]) -> Iterator[tuple[str, str, int]]:
    lines = ((number, line.strip("\r\n")) for number, line in _lines(path) if line.strip())
    for place, (number, line) in enumerate(lines):
        where = f"{path}, line {number}"
        cells = line.split("\t")
        if len(cells) != 3 or not cells[1].strip():
            raise GraceError(f"{where}: got {line[:80]!r}, expected query-id, corpus-id and score with tabs between them: correct it")
        if bool(re.fullmatch("-?[0-9]{1,9}", cells[2])) == (place == 0):
            wanted = "a header: put query-id, corpus-id, score above it" if place == 0 else "an integer score: correct it"
            raise GraceError(f"{where}: got {cells[2][:40]!r} as the third field, expected {wanted}")
        if place and cells[0] not in queries:
            raise GraceError(f"{where}: query {cells[0][:80]!r} is not in queries.jsonl: add it there or remove the judgement")
        if place:
            yield cells[0], cells[1], int(cells[2])
