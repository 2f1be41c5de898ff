"""Splits a corpus of documents into passages, and puts it together again.

A passage is stored as a document: its id is that of its document with ``#`` and its number, its text a piece
of the document's. Besides the document's metadata it has the columns ``_parent`` (the document's id),
``_begin`` and ``_end`` (characters of the document's text), ``_page`` (from 1) and ``_heading``. The passages
together give the whole document again (:mod:`grace_core.passages`), so it is not stored besides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from grace_core.passages import BEGIN, END, HEADING, PAGE, PARENT, RESERVED, Chunk, split
from grace_core.readers.documents import Corpus, Document

MARK = b"grace.passages"  # in the schema of a Parquet file that holds passages


def chunked(corpus: Corpus, chunk: Chunk) -> Corpus:
    """A corpus of passages, split lazily if the documents of ``corpus`` are read lazily, else a list.

    A corpus that is split already is put together and split again.
    """
    corpus = whole_corpus(corpus)
    clashing = [name for name in corpus.fields if name in RESERVED]
    notes = [f"{corpus.source}: column {name!r} is kept as metadata called 'source{name}'" for name in clashing]
    fields = [f"source{name}" if name in clashing else name for name in corpus.fields]
    passages = _Passages(corpus.documents, chunk)
    documents = list(passages) if isinstance(corpus.documents, list) else passages
    return replace(corpus, documents=documents, fields=[*fields, *RESERVED], notes=[*corpus.notes, *notes], chunk=chunk)


def passages_of(document: Document, chunk: Chunk) -> Iterator[Document]:
    """A document's passages, as documents."""
    metadata = {f"source{name}" if name in RESERVED else name: value for name, value in document.metadata.items()}
    for number, passage in enumerate(split(document.text, chunk), 1):
        place = {
            PARENT: document.id,
            BEGIN: passage.begin,
            END: passage.end,
            PAGE: passage.page,
            HEADING: passage.heading or None,
        }
        yield Document(
            f"{document.id}#{number}", document.title, document.text[passage.begin : passage.end], metadata | place
        )


def whole_corpus(corpus: Corpus) -> Corpus:
    """The corpus of documents that a corpus of passages was split from; any other corpus as it is."""
    if corpus.chunk is None:
        return corpus
    documents = _Whole(corpus.documents)
    fields = [name for name in corpus.fields if name not in RESERVED]
    return replace(
        corpus,
        documents=list(documents) if isinstance(corpus.documents, list) else documents,
        fields=fields,
        chunk=None,
    )


def put_together(passages: Iterable[Document]) -> Document:
    """The document that these passages, all of it and in order, were split from."""
    passages = list(passages)
    first, text = passages[0], ""
    for passage in passages:
        text += passage.text[len(text) - passage.metadata[BEGIN] :]
    metadata = {name: value for name, value in first.metadata.items() if name not in RESERVED}
    return Document(first.metadata[PARENT], first.title, text, metadata)


def parent_of(document: Document) -> str:
    """The id of a passage's document; the own id of a document that is no passage."""
    return document.metadata.get(PARENT) or document.id


def as_passage(passage: Document, scores: Iterable[tuple[str, float]]) -> dict:
    """A hit's document and its best passage as JSON; ``scores`` are those of all its passages, by id."""
    place = {name.removeprefix("_"): passage.metadata[name] for name in (BEGIN, END, PAGE, HEADING)}
    return {
        "id": passage.metadata[PARENT],
        "text": passage.text.strip(),
        "passage": {"id": passage.id, **place},
        "passages": [{"id": name, "score": score} for name, score in scores],
        "metadata": {name: value for name, value in passage.plain_metadata.items() if name not in RESERVED},
    }


class _Passages:
    def __init__(self, documents: Iterable[Document], chunk: Chunk):
        self.documents, self.chunk = documents, chunk

    def __iter__(self) -> Iterator[Document]:
        for document in self.documents:
            yield from passages_of(document, self.chunk)


class _Whole:
    def __init__(self, passages: Iterable[Document]):
        self.passages = passages

    def __iter__(self) -> Iterator[Document]:
        for _, own in groupby(self.passages, parent_of):
            yield put_together(own)


def marked(schema, chunk: Chunk):
    """``schema`` with the split settings in its metadata, and with fixed types of the passages' columns,
    whatever values they hold.
    """
    import pyarrow as pa

    types = dict(zip(RESERVED, (pa.string(), pa.int64(), pa.int64(), pa.int64(), pa.string()), strict=True))
    fields = [pa.field(field.name, types.get(field.name, field.type)) for field in schema]
    setting = {"words": chunk.words, "overlap": chunk.overlap}
    return pa.schema(fields, metadata={**(schema.metadata or {}), MARK: json.dumps(setting).encode()})


def chunk_of(schema) -> Chunk | None:
    """The split settings in the schema of a Parquet file; None if its documents are whole."""
    setting = (schema.metadata or {}).get(MARK)
    return Chunk(**json.loads(setting)) if setting else None
