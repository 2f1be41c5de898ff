"""Files uploaded to the Corpus tab: one, or several at once, each of which is then a document."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from grace_core.errors import GraceError
from grace_core.passages import Chunk
from grace_core.readers import Corpus, Document, Preview, preview, read_corpus
from grace_core.readers.chunked import chunked, passages_of
from grace_core.readers.files import suffix_of
from grace_core.readers.folders import TEXTS

PREVIEWED, SHOWN = 20, 12  # documents that are split for the preview, and passages that it shows
LONGEST = 6  # digits in a number of words
Files = str | Sequence[str] | None


@dataclass(frozen=True)
class Split:
    """Some of the ``count`` passages of the first ``documents``; ``whole`` if these are all documents."""

    passages: list[Document]
    count: int
    documents: int
    whole: bool
    chunk: Chunk


def paths_of(files: Files) -> list[Path]:
    """The uploaded files; none, one or several."""
    return [Path(path) for path in ([files] if isinstance(files, str) else files or []) if path]


@contextmanager
def source_of(files: Files) -> Iterator[Path]:
    """The uploaded file, or a temporary folder with several.

    Raises GraceError without a file, and for several that cannot be documents of one corpus. Errors within the
    block name files without their temporary paths."""
    paths = paths_of(files)
    if not paths:
        raise GraceError("no file is chosen yet: drop one under File, or click to choose")
    if len(paths) == 1:
        yield paths[0]
        return
    for path in paths:
        if suffix_of(path) not in TEXTS:
            raise GraceError(
                f"{path.name} is no text, Markdown, HTML or PDF file, of which several are read at once: choose it alone"
            )
    names = [path.name for path in paths]
    if twice := [name for name in names if names.count(name) > 1]:
        raise GraceError(f"two files are called {twice[0]}: rename one, since the name is the document's id")
    with TemporaryDirectory(prefix="grace-upload-") as folder:
        for path in paths:
            try:
                os.symlink(path, Path(folder, path.name))
            except OSError:  # not every system has symbolic links
                shutil.copyfile(path, Path(folder, path.name))
        try:
            yield Path(folder)
        except GraceError as error:
            raise GraceError(shortened(error, folder)) from error


def shortened(error: Exception | str, files: Files) -> str:
    """A note, or the message of ``error``, with the uploads' temporary paths replaced by the files' names."""
    line = str(error)
    for path in paths_of(files):
        line = line.replace(f"{path}{os.sep}", "").replace(str(path), path.name)
    return line


def preview_upload(files: Files, columns: dict[str, str] | None = None) -> Preview:
    """Columns and first rows of the files. Raises GraceError as :func:`grace_core.readers.preview` does."""
    with source_of(files) as source:
        head = preview(source, columns=columns)
        return replace(head, notes=[shortened(note, str(source)) for note in head.notes])


def read_upload(
    files: Files, columns: dict[str, str] | None, limit: str | None = None, chunk: Chunk | None = None
) -> Corpus:
    """The corpus of the files, with ``limit`` as typed. Raises GraceError, which names files without their paths."""
    typed = (limit or "").strip().replace(",", "")
    if typed and paths_of(files) and (not re.fullmatch(r"[0-9]{1,12}", typed) or int(typed) < 1):
        raise GraceError(f"the limit is {typed[:40]!r}, expected a whole number from 1, or nothing for all documents")
    try:
        with source_of(files) as source:
            corpus = read_corpus(source, limit=int(typed) if typed else None, columns=columns)
            name = source.name if source.is_file() else "the files"
            corpus = replace(corpus, notes=[shortened(note, str(source)) for note in corpus.notes], source=name)
    except GraceError as error:
        raise GraceError(shortened(error, files)) from error
    return corpus if chunk is None else chunked(corpus, chunk)


def read_chunk(words: str | None, shared: str | None) -> Chunk | None:
    """The split settings from two numbers as typed; None for whole documents. Raises GraceError for invalid ones."""
    numbers = []
    for what, typed in (("words of a passage", words), ("shared words", shared)):
        text = (typed or "").strip().replace(",", "")
        if text and not re.fullmatch(rf"[0-9]{{1,{LONGEST}}}", text):
            raise GraceError(f"the number of {what} is {text[:40]!r}, expected a whole number, or nothing")
        numbers.append(int(text) if text else None)
    if numbers[0] is None:
        if numbers[1]:
            raise GraceError(
                f"passages are to share {numbers[1]} words, and there are none: say how many words a passage has"
            )
        return None
    try:
        return Chunk(numbers[0], numbers[1] or 0)
    except GraceError as error:
        line = str(error).replace("of --chunk", "of a passage").replace("than --chunk", "than a passage has")
        line = line.replace("--chunk", "the number of words of a passage").replace(
            "--overlap", "the number of shared words"
        )
        raise GraceError(line) from None


def split_upload(files: Files, columns: dict[str, str] | None, chunk: Chunk) -> Split:
    """The passages of the first documents, as in a build. Raises GraceError as :func:`read_upload` does."""
    documents = read_upload(files, columns, str(PREVIEWED + 1)).documents
    passages = [passage for document in documents[:PREVIEWED] for passage in passages_of(document, chunk)]
    return Split(passages[:SHOWN], len(passages), min(len(documents), PREVIEWED), len(documents) <= PREVIEWED, chunk)


def suggested_name(path: str) -> str:
    """A collection name made from a file's name."""
    name = re.sub(r"[^\w.-]+", "-", Path(path).stem).strip("-._")
    return name[:60] or "corpus"
