"""A corpus of documents as one of their passages, and back.

A passage is a document of its own: its id is that of its document with ``#`` and its number, its text a piece
of the document's, and beside the document's metadata it has the columns ``_parent`` (the document's id),
``_begin`` and ``_end`` (characters of the document's text), ``_page`` (from 1) and ``_heading``. Put
together, the passages are the document (:mod:`grace_core.passages`), so nothing else of it is kept.
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
    """The passages of a corpus: split as they are gone through, where its documents are, else a list.

    One of passages is split anew.
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
    for number, one in enumerate(split(document.text, chunk), 1):
        place = {PARENT: document.id, BEGIN: one.begin, END: one.end, PAGE: one.page, HEADING: one.heading or None}
        yield Document(f"{document.id}#{number}", document.title, document.text[one.begin : one.end], metadata | place)


def whole_corpus(corpus: Corpus) -> Corpus:
    """A corpus of passages as the one of their documents; any other as it is."""
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
    """The document of all of these passages, which are in their order."""
    passages = list(passages)
    first, text = passages[0], ""
    for one in passages:
        text += one.text[len(text) - one.metadata[BEGIN] :]
    metadata = {name: value for name, value in first.metadata.items() if name not in RESERVED}
    return Document(first.metadata[PARENT], first.title, text, metadata)


def parent_of(document: Document) -> str:
    """The id of a passage's document; of any other its own."""
    return document.metadata.get(PARENT) or document.id


def as_passage(passage: Document, scores: Iterable[tuple[str, float]]) -> dict:
    """Of a hit what tells its document and the passage apart, for JSON; ``scores`` are those of all passages, by id."""
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
    """An Arrow schema that says how documents are split, with the same types of the passages' columns
    whatever is in them.
    """
    import pyarrow as pa

    types = dict(zip(RESERVED, (pa.string(), pa.int64(), pa.int64(), pa.int64(), pa.string()), strict=True))
    fields = [pa.field(field.name, types.get(field.name, field.type)) for field in schema]
    setting = {"words": chunk.words, "overlap": chunk.overlap}
    return pa.schema(fields, metadata={**(schema.metadata or {}), MARK: json.dumps(setting).encode()})


def chunk_of(schema) -> Chunk | None:
    """How the documents of a Parquet file are split, by its schema; None if they are whole."""
    setting = (schema.metadata or {}).get(MARK)
    return Chunk(**json.loads(setting)) if setting else None
