"""A collection on disk: one corpus, its queries and judgements, and a sub-folder for every model that encoded it.

    corpus.parquet                  _id, title, text, metadata columns with their types
    queries.jsonl, qrels.tsv        optional, BEIR layout
    <model>/                        see grace_core.index
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from functools import cached_property, lru_cache
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from grace_core import filters
from grace_core.errors import GraceError
from grace_core.files import only_writer, sha256, write_atomically
from grace_core.readers import CORPUS_FILES, Corpus, Document, Judgements, Value, as_text, read_corpus
from grace_core.readers.cells import moment, typed

if TYPE_CHECKING:
    import numpy as np

NO_TEXT = "choose another corpus, or say which column is the text (--text-column)"
CHANGED = "give another --out: texts that are the same are taken from the cache of rationales, not encoded again"
MASKS = 32  # answers to filters that are kept
BLOCK = 8_192  # documents that are written, or compared, at once; a divisor of the rows that Parquet keeps together


class Collection:
    """Read access to a collection's corpus, judgements and models. Raises GraceError if the folder holds none."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "corpus.parquet").is_file():
            raise GraceError(
                f"{self.folder} is no collection: it has no corpus.parquet; "
                f"build one with `grace index build CORPUS --out {self.folder} --model M`"
            )

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def models(self) -> list[str]:
        """Names of the models with a finished index."""
        return sorted(path.parent.name for path in self.folder.glob("*/manifest.json"))

    @property
    def unfinished(self) -> list[str]:
        """Names of the models whose build was stopped half way."""
        begun = {path.parent.parent.name for path in self.folder.glob("*/.build/plan.json")}
        return sorted(begun - set(self.models))

    @cached_property
    def corpus(self) -> Corpus:
        with self.opened():  # so that what is wrong with it is said of a collection
            return read_corpus(self.folder)

    @cached_property
    def documents(self) -> dict[str, Document]:
        return {document.id: document for document in self.corpus.documents}

    @property
    def judgements(self) -> Judgements | None:
        return self.corpus.judgements

    @cached_property
    def hash(self) -> str:
        return sha256(self.folder / "corpus.parquet")

    @contextmanager
    def opened(self) -> Iterator:
        """corpus.parquet as a ParquetFile. Raises GraceError if it, or what is read of it within, is damaged or no collection's."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, remedy = self.folder / "corpus.parquet", "restore it, or remove the folder and build again"
        try:
            with pq.ParquetFile(path) as file:
                if file.schema_arrow.names[:3] != ["_id", "title", "text"]:
                    what = f"has the columns {', '.join(file.schema_arrow.names)[:200]}, expected _id, title, text and metadata"
                    raise GraceError(f"{path} {what}: it is no collection's; {remedy}")
                yield file
        except (pa.ArrowException, OSError) as error:
            raise GraceError(f"{path} cannot be read ({str(error)[:200]}); {remedy}") from error

    @cached_property
    def size(self) -> int:
        """The number of documents."""
        with self.opened() as file:
            return file.metadata.num_rows

    @cached_property
    def fields(self) -> list[str]:
        """The names of the metadata columns."""
        with self.opened() as file:
            return file.schema_arrow.names[3:]

    @cached_property
    def types(self) -> dict[str, str]:
        """The metadata columns and what they hold, in Arrow's words."""
        with self.opened() as file:
            return {field.name: str(field.type) for field in list(file.schema_arrow)[3:]}

    def columns(self, names: list[str]):
        """Columns of corpus.parquet as an Arrow table, in the order of the documents."""
        with self.opened() as file:
            # a name with a dot is taken for a path into a struct, so such columns are read with all the others
            dotted = any("." in name for name in names)
            return file.read(columns=None if dotted else names).select(names)

    def mask(self, where: str) -> np.ndarray:
        """Which documents ``(n,)``, in their order, satisfy a filter (:mod:`grace_core.filters`); the newest answers are kept.

        Raises GraceError for a filter that cannot be read, or that does not fit the columns.
        """
        return self._masks(where)

    @cached_property
    def _masks(self) -> Callable[[str], np.ndarray]:
        def evaluate(where: str) -> np.ndarray:
            node = filters.parse(where)
            filters.check_columns(node, ["_id", "title", "text", *self.fields])
            found = filters.mask(node, self.columns(filters.columns_of(node)))
            found.flags.writeable = False
            return found

        return lru_cache(MASKS)(evaluate)

    def contents(self) -> Iterator[str]:
        """What gets encoded of every document, in order, without holding more than a block of them."""
        with self.opened() as file:
            for batch in file.iter_batches(batch_size=1024, columns=["title", "text"]):
                for title, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield Document("", title, text, {}).content

    @classmethod
    def create(cls, corpus: Corpus, folder: str | Path) -> Collection:
        """Write ``corpus`` to ``folder``, or open the folder if it holds the same corpus already; new queries and judgements replace old,
        which is added to the corpus's notes.

        The documents are gone through block by block. Raises GraceError if the folder holds another corpus, with what differs: indexes
        of different corpora must not be mixed; and for a corpus without any text, before anything is written.
        """
        import pyarrow.parquet as pq

        folder, schema = Path(folder), _schema(corpus)
        if folder.exists() and not folder.is_dir():
            raise GraceError(f"{folder} is a file, expected a folder for the collection; give another --out")
        if others := [name for name in CORPUS_FILES if name != "corpus.parquet" and (folder / name).exists()]:
            raise GraceError(f"{folder} holds {others[0]}, which would be read in the place of the collection's corpus; give another --out")
        if (folder / "corpus.parquet").exists():
            there = cls(folder)
            if not _holds(there, corpus, schema):
                raise GraceError(f"{folder} already holds another corpus {difference(there, corpus)}; {CHANGED}")
            if there.judgements and corpus.judgements != there.judgements:
                what = "replaced" if corpus.judgements else "kept, since the corpus comes without any"
                corpus.notes.append(f"{folder}: the queries and judgements that were there are {what}")
            if corpus.judgements and corpus.judgements != there.judgements:  # no vector depends on them
                with only_writer(folder):
                    _write_judgements(corpus.judgements, folder)
                return cls(folder)
            return there

        def write(path: Path) -> None:
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for table in _tables(corpus, schema):
                    writer.write_table(table)

        if not any(document.content for document in corpus.documents):
            what = f"none of the {sum(1 for _ in corpus.documents)} documents of {corpus.source} has any text"
            raise GraceError(f"{what}; nothing to encode: {NO_TEXT}")
        before = set(folder.iterdir()) if folder.is_dir() else None
        with only_writer(folder):
            for leftover in folder.glob(".*.tmp"):  # of a process that was killed here
                leftover.unlink()
            if corpus.judgements:
                _write_judgements(corpus.judgements, folder)
            write_atomically(folder / "corpus.parquet", write)  # last, since it makes the folder a collection
        made = cls(folder)
        made._before = before
        return made

    _before: set[Path] | bool | None = False  # what was in the folder before create made a collection of it; False if it did not

    def withdraw(self) -> None:
        """Take away what :meth:`create` wrote, after a build that failed before anything was encoded; else leave all as it is."""
        if self._before is False or self.models or any(self.folder.glob("*/.build/*.safetensors")):
            return
        made = set(self.folder.iterdir()) - (self._before or set())
        try:
            for path in made:
                if path.is_dir():
                    with only_writer(path):
                        pass
        except GraceError:  # another process builds here meanwhile
            return
        for path in made:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if self._before is None:
            self.folder.rmdir()


def difference(collection: Collection, corpus: Corpus) -> str:
    """In words, how ``corpus`` differs from the collection's: new, changed and gone documents, by their ids."""
    there, new, changed, other, order, size = {}, [], [], [], True, 0
    for place, document in enumerate(read_corpus(collection.folder).documents):
        there[document.id] = (place, *_digests(document))
    last = -1
    for size, document in enumerate(corpus.documents, 1):  # noqa: B007 - read behind the loop
        if (old := there.pop(document.id, None)) is None:
            new.append(document.id)
            continue
        content, metadata = _digests(document)
        order, last = order and old[0] > last, old[0]
        if old[1] != content:
            changed.append(document.id)
        elif old[2] != metadata:
            other.append(document.id)
    parts = [("new", new), ("changed", changed), ("gone", list(there)), ("with other metadata", other)]
    told = [f"{len(ids):,} {what} ({_few(ids)})" for what, ids in parts if ids]
    if not told and sorted(collection.fields) != sorted(corpus.fields):
        told = [f"the metadata columns are {', '.join(corpus.fields) or 'none'}, and were {', '.join(collection.fields) or 'none'}"]
    elif not told and not order:
        told = ["the same documents in another order"]
    return f"({collection.size} documents, got {size}): {', '.join(told) or 'metadata of other types'}"


def _few(ids: list[str]) -> str:
    return ", ".join(map(repr, ids[:3])) + (", …" if len(ids) > 3 else "")


def _digests(document: Document) -> tuple[bytes, bytes]:
    """Hashes of a document's title and text, and of its metadata as a collection keeps it."""
    # with the types that text may have lost, or a collection not have known; a column of integers and floats is one of floats there
    values = {name: typed(value) if isinstance(value, str) else value for name, value in document.metadata.items()}
    metadata = sorted((name, as_text(value).removesuffix(".0")) for name, value in values.items() if value not in (None, ""))
    return tuple(
        hashlib.sha256(json.dumps(part).encode()).digest()[:16] for part in ([document.title, document.text], metadata)
    )


def _holds(collection: Collection, corpus: Corpus, schema) -> bool:
    """Whether the collection's corpus is ``corpus``: compared as tables, since Parquet evens out the documents' fields.

    Metadata that was kept as text, as it once was whatever its type, is compared by its values.
    """
    import pyarrow as pa

    with collection.opened() as file:
        if not file.schema_arrow.equals(schema) and not _was_text(file.schema_arrow, schema):
            return False
        there = (_typed(pa.Table.from_batches([batch]), schema) for batch in file.iter_batches(batch_size=BLOCK))
        return all(a is not None and b is not None and a.equals(b) for a, b in zip_longest(there, _tables(corpus, schema)))


def _was_text(old, new) -> bool:
    """Whether a schema is another one with text where that has other types."""
    import pyarrow as pa

    return old.names == new.names and all(a.type == b.type or pa.types.is_string(a.type) for a, b in zip(old, new, strict=True))


def _typed(table, schema):
    """A table whose text is read as the types of ``schema``; None where it cannot be."""
    import pyarrow as pa

    try:
        return pa.table(
            [
                column if column.type == field.type else pa.array([_read(text, field.type) for text in column.to_pylist()], field.type)
                for column, field in zip(table.columns, schema, strict=True)
            ],
            schema=schema,
        )
    except (ValueError, pa.ArrowException):
        return None


def _read(text: str | None, kind) -> Value:
    import pyarrow as pa

    if not text:
        return None
    if pa.types.is_boolean(kind):
        return text.lower() == "true"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return int(text) if pa.types.is_integer(kind) else float(text)
    if pa.types.is_date(kind):
        return date.fromisoformat(text)
    return moment(text) if pa.types.is_timestamp(kind) else json.loads(text)


def _schema(corpus: Corpus):
    """The columns' types: a metadata column whose values have one type keeps it, one of mixed types keeps its values as text."""
    import pyarrow as pa

    columns = [(name, pa.string()) for name in ("_id", "title", "text")]
    found: dict[str, tuple[set, set]] = {field: (set(), set()) for field in corpus.fields}  # of values, and of those in lists
    for document in corpus.documents if found else ():
        for field, value in document.metadata.items():
            kinds, inner = found[field]
            kinds.add(_kind(value))
            if isinstance(value, list):
                inner.update(map(_kind, value))
    return pa.schema(columns + [
        (field, pa.list_(_type(inner, pa.string())) if kinds - {None} == {"list"} else _type(kinds, pa.null()))
        for field, (kinds, inner) in found.items()
    ])  # fmt: skip


def _type(kinds: set[str | None], none):
    """The Arrow type of values of these kinds; ``none`` where there is no value."""
    import pyarrow as pa

    types = {
        frozenset(): none, frozenset({"bool"}): pa.bool_(), frozenset({"float"}): pa.float64(), frozenset({"int"}): pa.int64(),
        frozenset({"long"}): pa.int64(), frozenset({"int", "long"}): pa.int64(), frozenset({"int", "float"}): pa.float64(),
        frozenset({"date"}): pa.date32(), frozenset({"datetime"}): pa.timestamp("us"), frozenset({"utc"}): pa.timestamp("us", "UTC"),
    }  # fmt: skip
    return types.get(frozenset(kinds - {None}), pa.string())


def _kind(value: Value) -> str | None:
    """The type of a value; ``long`` for an integer that a float cannot hold, ``utc`` for a time with its offset."""
    if value is None:
        return None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return "utc"
    return "long" if type(value) is int and abs(value) > 2**53 else type(value).__name__


def _tables(corpus: Corpus, schema) -> Iterator:
    """The corpus as Arrow tables of BLOCK documents."""
    import pyarrow as pa

    documents = iter(corpus.documents)
    while block := list(islice(documents, BLOCK)):
        columns = [[d.id for d in block], [d.title for d in block], [d.text for d in block]]
        for field in schema.names[3:]:
            values = [document.metadata.get(field) for document in block]
            kind = schema.field(field).type
            if pa.types.is_string(kind):
                values = [None if value is None else as_text(value) for value in values]
            elif pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
                values = [value and [None if item is None else as_text(item) for item in value] for value in values]
            columns.append(values)
        yield pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


def _write_judgements(judgements: Judgements, folder: Path) -> None:
    def queries(path: Path) -> None:
        with open(path, "w", encoding="utf-8") as file:
            for query_id, text in judgements.queries.items():
                row = {"_id": query_id, "text": text}
                if query_id in judgements.splits:
                    row["split"] = judgements.splits[query_id]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def qrels(path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="") as file:  # ids hold no tabs or line ends, and quotes are not undone in reading
            file.write("query-id\tcorpus-id\tscore\n")
            for query_id, grades in judgements.qrels.items():
                file.writelines(f"{query_id}\t{document_id}\t{grade}\n" for document_id, grade in grades.items())

    write_atomically(folder / "queries.jsonl", queries)
    write_atomically(folder / "qrels.tsv", qrels)


def find_collections(root: str | Path, *, finished: bool = False) -> list[str]:
    """Names of the collections under ``root`` that have a model, ``finished`` or, unless only such are asked for, stopped half way."""
    found = [Collection(path.parent) for path in sorted(Path(root).glob("*/corpus.parquet"))]
    return [one.folder.name for one in found if one.models or (one.unfinished and not finished)]


def collection_folder(root: str | Path, name: str) -> Path:
    """``root/name`` for a plain name. Raises GraceError for one that could lead elsewhere."""
    if not name or name.startswith(".") or len(name) > 100 or not all(c.isalnum() or c in "-_. " for c in name):
        raise GraceError(f"{name!r} is no name for a collection; use letters, digits, '-', '_' and '.', at most 100, not starting with '.'")
    return Path(root) / name
