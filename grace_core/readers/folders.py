"""A folder of text, Markdown, HTML and PDF files: one document a file."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grace_core.errors import GraceError
from grace_core.passages import headings
from grace_core.readers.documents import MAX_LINE_BYTES, Notes, Row
from grace_core.readers.extraction import HTML, PDF, Extracted, Extractor, add_notes
from grace_core.readers.files import HEAD_BYTES, lines, open_bytes, open_text, refuse_binary, suffix_of
from grace_core.readers.front_matter import front_matter

MARKDOWN = (".md", ".markdown")
EXTRACTED = (*HTML, *PDF)
MAX_REPORTED = 20  # files that cannot be read; beyond these they are only counted
TEXTS = (".txt", ".text", *MARKDOWN, *EXTRACTED)
_MARKUP = re.compile(rb"(\xef\xbb\xbf)?\s*<[!?a-z]", re.IGNORECASE)
_FRONT_MATTER = re.compile(r"[ \t]*---[ \t]*\n(.*?\n)??[ \t]*---[ \t]*(\n|\Z)", re.DOTALL)


def text_files(folder: Path, notes: Notes) -> list[Path]:
    """The text, Markdown, HTML and PDF files of a folder and its subfolders, by path; hidden files are skipped,
    files of other kinds noted, and links that are not followed.
    """
    texts, skipped, links = [], Counter(), {"folders": [], "nowhere": []}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links["folders"] += [path for name in folders if (path := Path(place, name)).is_symlink()]
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith("."):
                continue
            if path.is_symlink() and not path.exists():
                links["nowhere"].append(path)
            elif suffix_of(path) in TEXTS and path.is_file():
                texts.append(path)
            else:
                skipped[suffix_of(path) or "no ending"] += 1
    if skipped:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(skipped.items())[:12])
        notes.add(f"{printable(folder)}: not read, since neither text, Markdown, HTML nor PDF: {kinds}")
    for where, paths in links.items():
        if paths:
            some = ", ".join(printable(path.relative_to(folder)) for path in paths[:12])
            what = "links to folders are not followed" if where == "folders" else "links that lead nowhere"
            notes.add(f"{printable(folder)}: {what}: {some}{', …' if len(paths) > 12 else ''}")
    return sorted(texts, key=lambda path: path.relative_to(folder).as_posix())


def file_rows(folder: Path, paths: list[Path], notes: Notes, *, single: bool = False) -> Iterator[Row]:
    """Rows with an id (the path from ``folder``), a title (the file's own or its first heading, else its
    name), a text, and what a Markdown file's front matter tells.

    Raises GraceError for a text file that cannot be read. HTML and PDF files that cannot be read are left out
    with a note; a ``single`` one raises GraceError too.
    """
    with Extractor() as extractor:
        failed: list[GraceError] = []
        for path in paths:
            title: str | None = None
            metadata: dict[str, Any] = {}
            if suffix_of(path) in EXTRACTED:
                try:
                    extracted = _extracted(extractor, path)
                except GraceError as error:
                    failed.append(error)
                    if single or len(failed) == len(paths):
                        raise
                    if len(failed) <= MAX_REPORTED:
                        notes.add(f"left out: {printable(error)}")
                    else:
                        notes.count(
                            "other HTML and PDF files that cannot be read are left out", "file", printable(path)
                        )
                    continue
                add_notes(extracted, Path(printable(path)), notes)
                title, text = extracted.title, extracted.text
            else:
                text = _read(path, notes)
                if suffix_of(path) in MARKDOWN:
                    metadata, text, refusal = front_matter(text)
                    if refusal:
                        what = f"front matter that cannot be read ({refusal}) stays in the text"
                        notes.count(what, "file", printable(path))
                    title = metadata.pop("title", None)
                    if not isinstance(title, str):
                        metadata |= {} if title is None else {"source_title": title}
                        title, text = heading(text)
            name = path.relative_to(folder).as_posix()
            title = title or (path.stem if path.suffix != ".gz" else Path(path.stem).stem)
            yield printable(name), metadata | {"id": name, "title": title, "text": text}


def _extracted(extractor: Extractor, path: Path) -> Extracted:
    kind = "pdf" if suffix_of(path) in PDF else "html"
    with open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
    if not (head.lstrip()[:5] == b"%PDF-" if kind == "pdf" else _MARKUP.match(head)):
        refuse_binary(path, head, "PDF" if kind == "pdf" else "HTML")
    return extractor.extract(path, kind)


def _read(path: Path, notes: Notes) -> str:
    """The content of a text file, with line feeds for all line ends."""
    content, size = io.StringIO(newline=""), 0
    for _, line in lines(open_text(path, notes)):
        content.write(line)
        size += len(line)
        if size > MAX_LINE_BYTES:
            raise GraceError(
                f"{printable(path)}: longer than {MAX_LINE_BYTES:,} characters: split it into several files"
            )
    return content.getvalue().replace("\r\n", "\n").replace("\r", "\n")


def heading(text: str) -> tuple[str | None, str]:
    """The first heading of a Markdown text, and the text, without that heading if it comes first."""
    outline = headings(text)
    if not outline:
        return None, text
    first = outline[0]
    begin = text.rfind("\n", 0, first.begin) + 1
    before = text[:begin]
    if front := _FRONT_MATTER.match(text):
        before = before[front.end() :]
    return first.title, text if before.strip() else text[:begin] + text[first.end :]


def printable(path: str | Path) -> str:
    """A path with unprintable characters escaped, so that it fits on a line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))
