"""A collection on disk: one corpus, its queries and judgements, and a sub-folder for every model that encoded it.

corpus.parquet                  _id, title, text, metadata columns with their types; passages of documents if it was built with --chunk
queries.jsonl, qrels.tsv        optional, BEIR layout
<model>/                        see grace_core.index
.next/                          a collection that is to take its place (grace_core.living)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from grace_core import corpus_table, filters
from grace_core.corpus_table import schema_of, tables, was_text, with_types
from grace_core.errors import GraceError
from grace_core.files import only_writer, read_json, sha256, write_atomically
from grace_core.passages import PARENT, Chunk
from grace_core.readers import CORPUS_FILES, Corpus, Document, Judgements, as_text, read_corpus, stream_corpus
from grace_core.readers.cells import typed
from grace_core.readers.chunked import chunk_of, chunked, parent_of, put_together
from grace_core.switching import MARK, NEXT, finish_killed_switch

if TYPE_CHECKING:
    import numpy as np

NO_TEXT = "choose another corpus, or say which column is the text (--text-column)"
CHANGED = "give another --out: texts that are the same are taken from the cache of rationales, not encoded again"
MASKS = 32  # masks of filters that are kept


class Collection:
    """Read access to a collection's corpus, judgements and models. Raises GraceError if the folder holds none."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "corpus.parquet").is_file():
            raise GraceError(
                f"{self.folder} is no collection: it has no corpus.parquet; "
                f"build one with `grace index build CORPUS --out {self.folder} --model M`"
            )
        if (self.folder / NEXT / MARK).is_file():
            finish_killed_switch(self.folder)
        self._stamp: tuple | None = None  # of corpus.parquet, once something was read of it

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def models(self) -> list[str]:
        """Names of the models with a finished index."""
        return sorted(path.parent.name for path in self.folder.glob("*/manifest.json"))

    @property
    def behind(self) -> dict[str, int]:
        """The models whose index lacks documents of the corpus, and how many: see :mod:`grace_core.living`."""
        lacking = {name: read_json(self.folder / name / "manifest.json").get("behind", {}) for name in self.models}
        return {name: about["documents"] for name, about in lacking.items() if about}

    @property
    def updating(self) -> bool:
        """Whether an update has begun, or was stopped half way (:mod:`grace_core.living`)."""
        return (self.folder / NEXT / "corpus.parquet").is_file()

    @property
    def unfinished(self) -> list[str]:
        """Names of the models whose build was stopped half way."""
        begun = {path.parent.parent.name for path in self.folder.glob("*/.build/plan.json")}
        return sorted(begun - set(self.models))

    @cached_property
    def corpus(self) -> Corpus:
        with self.opened():  # so that errors speak of a collection
            return read_corpus(self.folder)

    @cached_property
    def documents(self) -> dict[str, Document]:
        return {document.id: document for document in self.corpus.documents}

    @property
    def judgements(self) -> Judgements | None:
        return self.corpus.judgements

    @cached_property
    def hash(self) -> str:
        self.check_current()
        return sha256(self.folder / "corpus.parquet")

    def check_current(self) -> None:
        """Raises GraceError if the corpus was replaced after parts of it were read, which would not fit any more."""
        try:
            there = os.stat(self.folder / "corpus.parquet")
        except OSError:  # opening it will say so
            return
        stamp = (there.st_ino, there.st_mtime_ns, there.st_size)
        if self._stamp is None:
            self._stamp = stamp
        if stamp != self._stamp:
            raise GraceError(
                f"{self.folder}/corpus.parquet changed since it was opened here, by an update; open the collection again"
            )

    @contextmanager
    def opened(self) -> Iterator:
        """corpus.parquet as a ParquetFile.

        Raises GraceError if it, or what is read of it within, is damaged or no collection's.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, remedy = self.folder / "corpus.parquet", "restore it, or remove the folder and build again"
        self.check_current()
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

    @cached_property
    def chunk(self) -> Chunk | None:
        """How its documents are split into the passages that are its rows
        (:mod:`grace_core.readers.chunked`); None if they are whole.
        """
        if "corpus" in self.__dict__:
            return self.corpus.chunk
        with self.opened() as file:
            return chunk_of(file.schema_arrow)

    @cached_property
    def whole_size(self) -> int:
        """The number of whole documents, which differs from :attr:`size` in a collection of passages."""
        import pyarrow.compute as pc

        return self.size if self.chunk is None else pc.count_distinct(self.columns([PARENT])[PARENT]).as_py()

    @cached_property
    def passages(self) -> dict[str, list[str]]:
        """The ids of each document's passages, in their order."""
        ids: dict[str, list[str]] = {}
        for document in self.corpus.documents:
            ids.setdefault(parent_of(document), []).append(document.id)
        return ids

    def documents_of(self, ids: list[str]) -> list[str]:
        """The id of each one's document: its own, or of a passage that of the whole."""
        return [parent_of(self.documents[passage]) for passage in ids] if self.chunk else ids

    def unknown(self, document_id: str) -> str:
        """What to do about an id that no row has."""
        if self.chunk and document_id in self.passages:
            return f"it is split into passages: take one of them, such as {self.passages[document_id][0]!r}"
        return "take an id that a search shows"

    def whole(self, document_id: str) -> Document:
        """The whole document of an id, or of that of one of its passages."""
        if self.chunk is None:
            return self.documents[document_id]
        if document_id not in self.passages:
            document_id = parent_of(self.documents[document_id])
        return put_together(self.documents[passage] for passage in self.passages[document_id])

    def fitting(self, corpus: Corpus) -> Corpus:
        """``corpus`` split into passages as the collection's is, with a line in its notes.

        Raises GraceError if it is split in another way.
        """
        if corpus.chunk == self.chunk:
            return corpus
        if corpus.chunk is None:
            corpus.notes.append(f"{self.folder}: documents are split as those that are there: {self.chunk}")
            return chunked(corpus, self.chunk)
        there = f"is of {self.chunk}" if self.chunk else "is of whole documents"
        raise GraceError(
            f"{self.folder} {there}, got {corpus.chunk}; leave out --chunk and --overlap, or give another --out"
        )

    def columns(self, names: list[str]):
        """Columns of corpus.parquet as an Arrow table, in the order of the documents."""
        with self.opened() as file:
            # a name with a dot is taken for a path into a struct, so such columns are read with all the others
            dotted = any("." in name for name in names)
            return file.read(columns=None if dotted else names).select(names)

    def mask(self, where: str) -> np.ndarray:
        """Which documents ``(n,)``, in their order, satisfy a filter (:mod:`grace_core.filters`); the latest
        masks are kept.

        Raises GraceError for a filter that cannot be read, or that does not fit the columns.
        """
        return self._masks(where)

    @cached_property
    def _masks(self) -> Callable[[str], np.ndarray]:
        def evaluate(where: str) -> np.ndarray:
            node = filters.parse(where)
            filters.check_columns(node, ["_id", "title", "text", *self.fields])
            mask = filters.mask(node, self.columns(filters.columns_of(node)))
            mask.flags.writeable = False
            return mask

        return lru_cache(MASKS)(evaluate)

    def contents(self) -> Iterator[str]:
        """The text that is encoded, of every document in order; one block of them is in memory at a time."""
        with self.opened() as file:
            for batch in file.iter_batches(batch_size=1024, columns=["title", "text"]):
                for title, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield Document("", title, text, {}).content

    @classmethod
    def create(cls, corpus: Corpus, folder: str | Path) -> Collection:
        """Write ``corpus`` to ``folder``, or open the folder if it holds the same corpus already; new queries
        and judgements replace old, which is added to the corpus's notes.

        The documents are gone through block by block. Raises GraceError if the folder holds another corpus,
        with what differs: indexes of different corpora must not be mixed; and for a corpus without any text,
        before anything is written.
        """
        import pyarrow.parquet as pq

        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise GraceError(f"{folder} is a file, expected a folder for the collection; give another --out")
        if others := [name for name in CORPUS_FILES if name != "corpus.parquet" and (folder / name).exists()]:
            raise GraceError(
                f"{folder} holds {others[0]}, which would be read in the place of the collection's corpus; give another --out"
            )
        if (folder / "corpus.parquet").exists():
            there = cls(folder)
            corpus = there.fitting(corpus)
            if not holds(there, corpus):
                raise GraceError(f"{folder} already holds another corpus {difference(there, corpus)}; {CHANGED}")
            if corpus.judgements == there.judgements:
                return there
            with only_writer(folder):
                return cls(folder) if there.replace_judgements(corpus) else there
        schema = schema_of(corpus)

        def write(path: Path) -> None:
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for table in tables(corpus, schema):
                    writer.write_table(table)

        if not any(document.content for document in corpus.documents):
            what = f"none of the {sum(1 for _ in corpus.documents)} documents of {corpus.source} has any text"
            raise GraceError(f"{what}; nothing to encode: {NO_TEXT}")
        before = set(folder.iterdir()) if folder.is_dir() else None
        with only_writer(folder):
            for leftover in folder.glob(".*.tmp"):  # of a process that was killed here
                leftover.unlink()
            if corpus.judgements:
                write_judgements(corpus.judgements, folder)
            write_atomically(folder / "corpus.parquet", write)  # last, since it makes the folder a collection
        collection = cls(folder)
        collection._before = before
        return collection

    def replace_judgements(self, corpus: Corpus) -> bool:
        """Write the queries and judgements of ``corpus`` if they differ, with a line in its notes; returns
        whether they were written.

        No vector depends on them. The collection's lock must be held.
        """
        note, differs = judgements_note(self, corpus), corpus.judgements and corpus.judgements != self.judgements
        corpus.notes.extend([note] if note else [])
        if differs:
            write_judgements(corpus.judgements, self.folder)
        return bool(differs)

    # what was in the folder before :meth:`create` wrote a collection there; False if it did not
    _before: set[Path] | bool | None = False

    def withdraw(self) -> None:
        """Remove what :meth:`create` wrote, after a build that failed before anything was encoded; else
        leave all as it is.
        """
        if self._before is False or self.models or any(self.folder.glob("*/.build/*.safetensors")):
            return
        written = set(self.folder.iterdir()) - (self._before or set())
        try:
            for path in written:
                if path.is_dir():
                    with only_writer(path):
                        pass
        except GraceError:  # another process builds here meanwhile
            return
        for path in written:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if self._before is None:
            self.folder.rmdir()


@dataclass(frozen=True)
class Changes:
    """How a corpus differs from a collection's, by ids.

    ``kept`` is the number of documents that are the same; ``fields`` tells of other metadata columns where
    nothing else differs."""

    size: int  # of the collection, before
    documents: int  # of the corpus
    added: list[str]
    changed: list[str]
    removed: list[str]
    metadata: list[str]  # the text is the same
    kept: int
    reordered: bool
    fields: str = ""

    def __str__(self) -> str:
        parts = [
            ("new", self.added),
            ("changed", self.changed),
            ("gone", self.removed),
            ("with other metadata", self.metadata),
        ]
        if lists := [f"{len(ids):,} {what} ({_few(ids)})" for what, ids in parts if ids]:
            return ", ".join(lists)
        return self.fields or ("the same documents in another order" if self.reordered else "metadata of other types")

    def counts(self) -> dict[str, int]:
        """For a history."""
        lists = {"added": self.added, "changed": self.changed, "removed": self.removed, "metadata": self.metadata}
        return {name: len(ids) for name, ids in lists.items()} | {"kept": self.kept}


def changes(collection: Collection, corpus: Corpus) -> Changes:
    """New, changed and gone documents of ``corpus``, against the collection's."""
    there, added, changed, metadata, kept, order, size = {}, [], [], [], 0, True, 0
    for place, document in enumerate(stream_corpus(collection.folder).documents):
        there[document.id] = (place, *_digests(document))
    before, last = len(there), -1
    for size, document in enumerate(corpus.documents, 1):  # noqa: B007 - read behind the loop
        if (old := there.pop(document.id, None)) is None:
            added.append(document.id)
            continue
        content, about = _digests(document)
        order, last = order and old[0] > last, old[0]
        if old[1] != content:
            changed.append(document.id)
        elif old[2] != about:
            metadata.append(document.id)
        else:
            kept += 1
    fields = ""
    if sorted(collection.fields) != sorted(corpus.fields):
        fields = f"the metadata columns are {', '.join(corpus.fields) or 'none'}, and were {', '.join(collection.fields) or 'none'}"
    return Changes(before, size, added, changed, list(there), metadata, kept, not order, fields)


def difference(collection: Collection, corpus: Corpus) -> str:
    """In words, how ``corpus`` differs from the collection's: new, changed and gone documents, by their ids."""
    differences = changes(collection, corpus)
    return f"({differences.size} documents, got {differences.documents}): {differences}"


def _few(ids: list[str]) -> str:
    return ", ".join(map(repr, ids[:3])) + (", …" if len(ids) > 3 else "")


def _digests(document: Document) -> tuple[bytes, bytes]:
    """Hashes of a document's title and text, and of its metadata as a collection keeps it."""
    # with the types that text may have lost, or a collection not have known; a column of integers and floats
    # is one of floats there
    values = {name: typed(value) if isinstance(value, str) else value for name, value in document.metadata.items()}
    metadata = sorted(
        (name, as_text(value).removesuffix(".0")) for name, value in values.items() if value not in (None, "")
    )
    return tuple(
        hashlib.sha256(json.dumps(part).encode()).digest()[:16] for part in ([document.title, document.text], metadata)
    )


def holds(collection: Collection, corpus: Corpus, schema=None) -> bool:
    """Whether the collection's corpus is ``corpus``: compared as tables, since Parquet evens out the documents' fields.

    Metadata that was kept as text, as it once was whatever its type, is compared by its values.
    """
    import pyarrow as pa

    schema = schema or schema_of(corpus)
    with collection.opened() as file:
        if not file.schema_arrow.equals(schema) and not was_text(file.schema_arrow, schema):
            return False
        there = (
            with_types(pa.Table.from_batches([batch]), schema)
            for batch in file.iter_batches(batch_size=corpus_table.BLOCK)
        )
        return all(
            a is not None and b is not None and a.equals(b) for a, b in zip_longest(there, tables(corpus, schema))
        )


def judgements_note(collection: Collection, corpus: Corpus) -> str | None:
    """What happens to the collection's queries and judgements when ``corpus`` comes into it; None if it has
    none, or the same ones.
    """
    if not collection.judgements or corpus.judgements == collection.judgements:
        return None
    what = "replaced" if corpus.judgements else "kept, since the corpus comes without any"
    return f"{collection.folder}: the queries and judgements that were there are {what}"


def write_judgements(judgements: Judgements, folder: Path) -> None:
    def queries(path: Path) -> None:
        with open(path, "w", encoding="utf-8") as file:
            for query_id, text in judgements.queries.items():
                row = {"_id": query_id, "text": text}
                if query_id in judgements.splits:
                    row["split"] = judgements.splits[query_id]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def qrels(path: Path) -> None:
        # ids hold no tabs or line ends, and reading leaves quotes as they are
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            for query_id, grades in judgements.qrels.items():
                file.writelines(f"{query_id}\t{document_id}\t{grade}\n" for document_id, grade in grades.items())

    write_atomically(folder / "queries.jsonl", queries)
    write_atomically(folder / "qrels.tsv", qrels)


def find_collections(root: str | Path, *, finished: bool = False) -> list[str]:
    """Names of the collections under ``root`` that have a model, ``finished`` or, unless only such are asked
    for, stopped half way.
    """
    collections = [Collection(path.parent) for path in sorted(Path(root).glob("*/corpus.parquet"))]
    return [each.folder.name for each in collections if each.models or (each.unfinished and not finished)]


def collection_folder(root: str | Path, name: str) -> Path:
    """``root/name`` for a plain name. Raises GraceError for one that could lead elsewhere."""
    if not name or name.startswith(".") or len(name) > 100 or not all(c.isalnum() or c in "-_. " for c in name):
        raise GraceError(
            f"{name!r} is no name for a collection; use letters, digits, '-', '_' and '.', at most 100, not starting with '.'"
        )
    return Path(root) / name
