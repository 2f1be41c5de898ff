"""A corpus on disk to documents.

Sources: a folder with ``corpus.jsonl`` (BEIR) or ``corpus.parquet`` (a collection), a folder of text,
Markdown, HTML and PDF files (one document a file) or of Parquet files, a file (SUFFIXES; ``.json`` is an
array of objects, ``.txt`` has a document a line), or a Hugging Face dataset id ``owner/name`` or
``owner/name:config``. Text files are UTF-8 with or without a byte order mark, or UTF-16 with one, and may be
packed with gzip; blank lines are skipped. In titles, texts and metadata NUL characters are removed and
unpaired surrogates replaced by U+FFFD; null and NaN (a CSV or TSV cell NaN, nan or None is null) become "" in
a title or text. Ids are never repaired, since two could become one. What is left out, changed or guessed is
reported in ``Corpus.notes``; everything else that is wrong raises GraceError with the file, the row and the
remedy in one line. docs/corpora.md describes the formats.
"""

from grace_core.readers.corpus import (
    CORPUS_FILES,
    HEAD_ROWS,
    MAX_ID_CHARACTERS,
    SUFFIXES,
    preview,
    read_corpus,
    stream_corpus,
)
from grace_core.readers.documents import (
    COLUMN_NAMES,
    MAX_LINE_BYTES,
    Corpus,
    Document,
    Judgements,
    Preview,
    Scalar,
    Value,
    as_text,
    guess_columns,
    plain,
)

__all__ = [
    "COLUMN_NAMES",
    "CORPUS_FILES",
    "HEAD_ROWS",
    "MAX_ID_CHARACTERS",
    "MAX_LINE_BYTES",
    "SUFFIXES",
    "Corpus",
    "Document",
    "Judgements",
    "Preview",
    "Scalar",
    "Value",
    "as_text",
    "guess_columns",
    "plain",
    "preview",
    "read_corpus",
    "stream_corpus",
]
