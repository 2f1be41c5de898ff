"""A folder of text and Markdown files: one document a file."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from grace_core.errors import GraceError
from grace_core.readers.documents import MAX_LINE_BYTES, Notes, Row
from grace_core.readers.files import lines, open_text, suffix_of

MARKDOWN = (".md", ".markdown")
TEXTS = (".txt", ".text", *MARKDOWN)
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def text_files(folder: Path, notes: Notes) -> list[Path]:
    """The text and Markdown files of a folder and the folders in it, by path; hidden ones are skipped, others are told."""
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
        notes.add(f"{printable(folder)}: not read, since neither text nor Markdown: {kinds}")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def file_rows(folder: Path, paths: list[Path], notes: Notes) -> Iterator[Row]:
    """Rows with an id (the path from ``folder``), a title (the first Markdown heading, else the file's name) and a text."""
    for path in paths:
        name = path.relative_to(folder).as_posix()
        content, size = io.StringIO(newline=""), 0
        for _, line in lines(open_text(path, notes)):
            content.write(line)
            size += len(line)
            if size > MAX_LINE_BYTES:
                raise GraceError(f"{printable(path)}: longer than {MAX_LINE_BYTES:,} characters: split it into several files")
        text = content.getvalue().replace("\r\n", "\n").replace("\r", "\n")
        title = None
        if suffix_of(path) in MARKDOWN:
            title, text = heading(text)
        yield (
            printable(name),
            {"id": name, "title": title or (path.stem if path.suffix != ".gz" else Path(path.stem).stem), "text": text},
        )


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
