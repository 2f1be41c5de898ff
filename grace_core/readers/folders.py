"""A folder of text, Markdown, HTML and PDF files: one document a file."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from grace_core.errors import GraceError
from grace_core.readers.documents import MAX_LINE_BYTES, Notes, Row
from grace_core.readers.extraction import HTML, PDF, Extracted, Extractor, tell
from grace_core.readers.files import HEAD_BYTES, lines, open_bytes, open_text, refuse_binary, suffix_of

MARKDOWN = (".md", ".markdown")
EXTRACTED = (*HTML, *PDF)
TOLD = 20  # files that cannot be read, with the reason of each
TEXTS = (".txt", ".text", *MARKDOWN, *EXTRACTED)
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_MARKUP = re.compile(rb"(\xef\xbb\xbf)?\s*<[!?a-z]", re.IGNORECASE)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def text_files(folder: Path, notes: Notes) -> list[Path]:
    """The files with a text of a folder and the folders in it, by path; hidden ones are skipped, others are told."""
    found, others = [], Counter()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            if name.startswith("."):
                continue
            if suffix_of(path) in TEXTS and path.is_file():
                found.append(path)
            else:
                others[suffix_of(path) or "no ending"] += 1
    if others:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(others.items())[:12])
        notes.add(f"{printable(folder)}: not read, since neither text, Markdown, HTML nor PDF: {kinds}")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def file_rows(folder: Path, paths: list[Path], notes: Notes, *, single: bool = False) -> Iterator[Row]:
    """Rows with an id (the path from ``folder``), a title (the file's own or its first heading, else its name) and a text.

    Raises GraceError for text that cannot be read. HTML and PDF files that cannot are left out and told; a ``single`` one is refused.
    """
    with Extractor() as extractor:
        failed: list[GraceError] = []
        for path in paths:
            title: str | None = None
            if suffix_of(path) in EXTRACTED:
                try:
                    extracted = _extracted(extractor, path)
                except GraceError as error:
                    failed.append(error)
                    if single or len(failed) == len(paths):
                        raise
                    if len(failed) <= TOLD:
                        notes.add(f"left out: {printable(error)}")
                    else:
                        notes.count("other HTML and PDF files that cannot be read are left out", "file", printable(path))
                    continue
                tell(extracted, Path(printable(path)), notes)
                title, text = extracted.title, extracted.text
            else:
                text = _read(path, notes)
                if suffix_of(path) in MARKDOWN:
                    title, text = heading(text)
            name = path.relative_to(folder).as_posix()
            title = title or (path.stem if path.suffix != ".gz" else Path(path.stem).stem)
            yield printable(name), {"id": name, "title": title, "text": text}


def _extracted(extractor: Extractor, path: Path) -> Extracted:
    kind = "pdf" if suffix_of(path) in PDF else "html"
    with open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
    if not (head.lstrip()[:5] == b"%PDF-" if kind == "pdf" else _MARKUP.match(head)):
        refuse_binary(path, head, "PDF" if kind == "pdf" else "HTML")
    return extractor.extract(path, kind)


def _read(path: Path, notes: Notes) -> str:
    """The characters of a text file, with line feeds for all ends of lines."""
    content, size = io.StringIO(newline=""), 0
    for _, line in lines(open_text(path, notes)):
        content.write(line)
        size += len(line)
        if size > MAX_LINE_BYTES:
            raise GraceError(f"{printable(path)}: longer than {MAX_LINE_BYTES:,} characters: split it into several files")
    return content.getvalue().replace("\r\n", "\n").replace("\r", "\n")


def heading(text: str) -> tuple[str | None, str]:
    """The first heading of Markdown, and the text without it where nothing stands before it."""
    rows = text.split("\n")
    start, fence = 0, None
    if rows[0].strip() == "---" and "---" in (row.strip() for row in rows[1:]):  # front matter
        start = 2 + [row.strip() for row in rows[1:]].index("---")
    for place in range(start, len(rows)):
        row = rows[place]
        if found := _FENCE.match(row):
            mark = found[1][:3]
            fence = mark if fence is None else None if fence == mark else fence
            continue
        if fence:
            continue
        count = 1
        found = _HEADING.fullmatch(row) if len(row) < 1000 else None
        title = found[1] if found else None
        if not title and row.strip() and place + 1 < len(rows) and _UNDERLINE.fullmatch(rows[place + 1]) and _plain(row):
            title, count = row.strip(), 2
        if title:
            first = not "".join(rows[start:place]).strip()
            return title, "\n".join(rows[:place] + rows[place + count :]) if first else text
    return None, text


def _plain(row: str) -> bool:
    """Whether a line above dashes may be a heading: no list, quote, table or indented code."""
    return not re.match(r"\s{4}|\s*([-*+>|]|[0-9]+[.)])", row) and "|" not in row


def printable(path: str | Path) -> str:
    """A path as it can be printed on a line, whatever its name has in it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))
