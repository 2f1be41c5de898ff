"""Queries and relevance judgements of a BEIR folder, or of one like it.

Judgements are lines of three fields (query, document, grade) or four, as TREC has them (query, 0, document,
grade), with tabs, spaces or commas between them, with or without a header. Judgements that do not fit the
corpus never stop a build: they are counted in the notes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from grace_core.errors import GraceError
from grace_core.readers.documents import Document, Judgements, Notes, guess_columns
from grace_core.readers.files import lines, open_text, suffix_of

_QUERY_COLUMNS = {"id": ("qid", "query_id", "query-id", "queryid"), "text": ("query", "question", "query_text")}
QRELS_SUFFIXES = (".tsv", ".txt", ".csv", ".qrels", ".qrel", "")
_COLUMNS = {
    "query": ("query-id", "query_id", "queryid", "qid", "query", "topic", "topic_id", "topic-id"),
    "document": (
        "corpus-id",
        "corpus_id",
        "corpusid",
        "doc-id",
        "doc_id",
        "docid",
        "did",
        "docno",
        "pid",
        "document",
        "document_id",
        "doc",
    ),
    "grade": ("score", "relevance", "rel", "grade", "label", "judgment", "judgement", "relevancy"),
}


def read_judgements(
    folder: Path,
    document_ids: set[str],
    empty: set[str],
    *,
    cut: bool,
    read: Callable[[Path, Notes], Iterator[Document]],
    notes: Notes,
) -> Judgements | None:
    """Queries and judgements of the folder of a corpus; ``empty`` are the ids of its documents without a text.

    For a corpus ``cut`` by a limit, only the judgements of its documents. ``read`` reads queries from JSONL.
    """
    if not folder.is_dir():
        _note_unread_queries(folder, notes)
        return None
    # the files
    path = _first(folder, "queries.jsonl", "queries.jsonl.gz")
    files = _qrels_files(folder, notes)
    if path is None:
        other_files = [file.name for file in sorted(folder.glob("queries.*")) if file.is_file()]
        if other_files:
            notes.add(
                f"{folder / other_files[0]} is not read: queries are expected in queries.jsonl, with _id and text"
            )
        if files:
            notes.add(
                f"{files[0]}: the judgements are left out, since there is no queries.jsonl: add the queries to evaluate with them"
            )
        return None
    if not files:
        _note_misplaced_qrels(folder, notes)
    # their queries and judgements
    queries, splits = _read_queries(path, read, notes)
    if not queries:
        notes.add(f"{path} has no query: judgements are left out")
        return None
    qrels: dict[str, dict[str, int | float]] = {}
    elsewhere: set[tuple[str, str]] = set()
    for file in files:
        single = file.parent == folder
        for where, query, document, grade in qrels_rows(file, notes):
            if query not in queries:
                notes.count(
                    f"{file}: judgements of queries that {path.name} lacks are left out",
                    "judgement",
                    where.rpartition(", ")[2],
                )
                continue
            if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
                raise GraceError(f"{where}: query {query!r} and document {document!r} have two scores: keep one")
            if single:
                continue
            split = file.name.split(".")[0]
            if splits.setdefault(query, split) != split and (query, split) not in elsewhere:
                elsewhere.add((query, split))
                what = f"{file}: queries that are judged here and belong to another split stay in that"
                notes.count(what, "query", where.rpartition(", ")[2])
    # those of the corpus
    if files and cut:
        return _cut(Judgements(queries, qrels, splits), document_ids, notes)
    _note_unmatched(Judgements(queries, qrels, splits), document_ids, empty, files, notes)
    return Judgements(queries, qrels, splits)


def _read_queries(path: Path, read, notes: Notes) -> tuple[dict[str, str], dict[str, str]]:
    """Texts and splits by query id."""
    queries, splits, unused_columns, ambiguous = {}, {}, {}, set()
    for row in read(path, Notes()):  # its notes are about columns that are dropped here
        if not row.text.strip():
            notes.count(f"{path}: queries without a text are left out", "query", repr(row.id)[:80])
            continue
        if row.id in ambiguous or queries.setdefault(row.id, row.text) != row.text:
            # nothing says which of the two texts a judgement is about
            ambiguous.add(row.id)
            queries.pop(row.id, None)
            splits.pop(row.id, None)
            continue
        if row.metadata.get("split"):
            splits[row.id] = str(row.metadata["split"])
        unused_columns |= dict.fromkeys(
            name for name, value in row.metadata.items() if name != "split" and value is not None
        )
    for name in sorted(ambiguous):
        notes.count(f"{path}: ids that two different queries have are left out with both", "query", repr(name)[:80])
    if unused_columns:
        notes.add(
            f"{path}: columns {', '.join(map(repr, unused_columns))[:200]} of the queries are left out: only id, text and split are kept"
        )
    return queries, splits


def query_columns(row: dict) -> dict[str, str]:
    """The columns of a query's id and text, where they have names that are usual for queries only."""
    guess, names = guess_columns(row), {name.strip().lower(): name for name in row}
    columns = {
        role: next((names[usual] for usual in usuals if usual in names), None)
        for role, usuals in _QUERY_COLUMNS.items()
    }
    return {role: name for role, name in columns.items() if name and guess[role] is None}


def _note_unread_queries(corpus: Path, notes: Notes) -> None:
    """Notes that there are queries beside the corpus file, which are read only if the folder is named."""
    if corpus.name.startswith("corpus.") and (path := _first(corpus.parent, "queries.jsonl", "queries.jsonl.gz")):
        notes.add(
            f"{path} is not read, since {corpus.name} was named: name the folder to have its queries and judgements"
        )


def _note_misplaced_qrels(folder: Path, notes: Notes) -> None:
    """Notes files that look like judgements, where none are in the expected place."""
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith((".", "corpus.", "queries."))
    )
    if looks := [name for name in names if "qrel" in name.lower() or suffix_of(Path(name)) in (".tsv", ".trec")]:
        notes.add(
            f"{folder}: {', '.join(looks)[:200]} not read: judgements are expected in qrels.tsv, or in the files of qrels/"
        )


def _first(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _qrels_files(folder: Path, notes: Notes) -> list[Path]:
    """The files of judgements: qrels.tsv, else those of qrels/."""
    single, several = _first(folder, "qrels.tsv", "qrels.tsv.gz", "qrels.txt", "qrels.txt.gz"), folder / "qrels"
    if several.is_file() and single is None:
        return [several]
    within = sorted(path for path in several.iterdir() if not path.name.startswith(".")) if several.is_dir() else []
    if single is not None:
        if within:
            notes.add(f"{several} is not read, since there is {single.name}: remove one of the two")
        return [single]
    files = [path for path in within if path.is_file() and suffix_of(path) in QRELS_SUFFIXES]
    if unread := [path.name for path in within if path not in files]:
        notes.add(f"{several}: {', '.join(unread)[:200]} not read, expected .tsv files")
    stems = [path.name.split(".")[0] for path in files]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        notes.add(f"{several}: the files called {twice[0]} make one split")
    return files


def qrels_rows(path: Path, notes: Notes) -> Iterator[tuple[str, str, str, int | float]]:
    """File and line, query id, document id and grade of every judgement. Raises GraceError for a malformed line."""
    separator, quoted, places, width = None, False, (), 0
    for number, line in lines(open_text(path, notes)):
        where = f"{path}, line {number}"
        line = line.strip("\r\n")
        if not line.strip():
            continue
        if separator is None:
            separator = _separator(line)
            first = _split(line, separator)
            quoted = separator != " " and len(first) > 2 and all(re.fullmatch('".*"', cell) for cell in first[:2])
        cells = _split(line, separator)
        if quoted:  # as R writes them; where not all are quoted, quotes are part of the ids
            cells = [cell[1:-1].replace('""', '"') if re.fullmatch('".*"', cell) else cell for cell in cells]
        if not places:
            width = len(cells)
            header = width > 2 and _grade(cells[-1]) is None
            places = _places(cells, header)
            if places is None:
                what = f"{width} fields, as the run of a search has" if width == 6 else f"{width} fields"
                raise _wrong(f"{where}: got {line[:80]!r}, {what}", "with tabs between them")
            if header:
                continue
        if len(cells) != width or not cells[places[0]] or not cells[places[1]].strip():
            raise _wrong(f"{where}: got {line[:80]!r}", f"{width} fields as above")
        grade = _grade(cells[places[2]])
        if grade is None:
            raise GraceError(f"{where}: got {cells[places[2]][:40]!r} as the score, expected a number: correct it")
        yield where, cells[places[0]], cells[places[1]], grade


def _wrong(got: str, how: str) -> GraceError:
    return GraceError(f"{got}, expected query-id, corpus-id and score, {how}: correct it")


def _separator(line: str) -> str:
    """The separator of the fields, guessed from the first line: tab, else space, else comma, semicolon or
    vertical bar.
    """
    if "\t" in line.strip():
        return "\t"
    words = len(line.split())
    return next((sign for sign in ",;|" if line.count(sign) > 1 and words not in (3, 4)), " ")


def _split(line: str, separator: str) -> list[str]:
    if separator == " ":
        return line.split()
    cells = line.rstrip("\t ").split("\t") if separator == "\t" else [cell.strip() for cell in line.split(separator)]
    if len(cells) < 3 and len(line.split()) in (3, 4):  # a header with tabs above lines with spaces
        return line.split()
    return cells


def _places(cells: list[str], header: bool) -> tuple[int, int, int] | None:
    """The positions of query, document and grade; None for a line without them."""
    usual = {3: (0, 1, 2), 4: (0, 2, 3)}.get(len(cells))
    if not header:
        return usual
    names = [re.sub(r"\s+", "-", cell.strip().lower()) for cell in cells]
    places = [
        next((names.index(name) for name in _COLUMNS[role] if name in names), None)
        for role in ("query", "document", "grade")
    ]
    return usual if None in places or len(set(places)) < 3 else tuple(places)


def _grade(cell: str) -> int | float | None:
    try:
        value = float(cell) if len(cell) < 40 and "_" not in cell else math.nan
    except ValueError:
        return None
    if not math.isfinite(value) or abs(value) >= 1e9:
        return None
    return int(value) if value.is_integer() else value


def _cut(judgements: Judgements, document_ids: set[str], notes: Notes) -> Judgements:
    """The judgements of documents in ``document_ids``, and the queries that still have one."""
    cut = {
        query: {d: grade for d, grade in grades.items() if d in document_ids}
        for query, grades in judgements.qrels.items()
    }
    qrels = {query: grades for query, grades in cut.items() if grades}
    queries = {query: text for query, text in judgements.queries.items() if query in qrels}
    if dropped := len(judgements.queries) - len(queries):
        notes.add(
            f"limit: {_counted(dropped, 'query', 'queries')} without a judged document among those that are kept left out"
        )
    return Judgements(queries, qrels, {query: split for query, split in judgements.splits.items() if query in qrels})


def _note_unmatched(
    judgements: Judgements, document_ids: set[str], empty: set[str], files: list[Path], notes: Notes
) -> None:
    judged = list(chain.from_iterable(judgements.qrels.values()))
    unknown = [document for document in judged if document not in document_ids]
    blank = [document for document in judged if document in empty]
    place = files[0].parent if len(files) > 1 else files[0] if files else None
    if judged and len(unknown) == len(judged):
        what = f"none of the {len(judged):,} judgements is of a document of the corpus"
        notes.add(f"{place}: {what}: use the ids of the corpus's documents")
    elif unknown:
        what = (
            f"{_counted(len(unknown), 'judgement')} of documents that the corpus lacks (the first {unknown[0][:80]!r})"
        )
        notes.add(f"{place}: {what}: where relevant, they count as not found")
    if blank:
        what = f"{_counted(len(blank), 'judgement')} of documents without a text (the first {blank[0][:80]!r})"
        notes.add(f"{place}: {what}: where relevant, they count as not found")
    relevant = {query for query, grades in judgements.qrels.items() if any(grade > 0 for grade in grades.values())}
    if files and (without := [query for query in judgements.queries if query not in relevant]):
        what = (
            f"{_counted(len(without), 'query', 'queries')} without a relevant document (the first {without[0][:80]!r})"
        )
        notes.add(f"{place}: {what}: kept, and left out of evaluations")


def _counted(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
