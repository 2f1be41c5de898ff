"""The text of PDF files and HTML pages, extracted in a separate process with limits of time and memory.

Such files are untrusted, and a malicious one keeps a parser busy for hours or fills the memory. So they are
parsed by :mod:`grace_core.readers.extraction_worker`, which is killed when a file takes too long. The pages of
a PDF file are joined by form feeds, as pdftotext does, so that passages can name their pages
(:mod:`grace_core.passages`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from threading import Lock, Thread
from time import monotonic

from cachetools import LRUCache

from grace_core.errors import GraceError
from grace_core.readers.documents import MAX_LINE_BYTES, Notes, clean

PDF, HTML = (".pdf",), (".html", ".htm", ".xhtml")
ANSWER_SECONDS, FILE_SECONDS = 60.0, 900.0  # for a page, and for all of a file
CACHE_CHARACTERS = 2**27  # of extracted texts, kept since a corpus is looped over several times
PAGE_BREAK = "\f"
_BY_HAND = {"pdf": "extract its text first, for example with pdftotext", "html": "save it from a browser as plain text"}
_cache: LRUCache = LRUCache(CACHE_CHARACTERS, getsizeof=lambda extracted: len(extracted.text) + 1000)
_lock = Lock()


@dataclass(frozen=True)
class Extracted:
    """Title and text of a file. For a PDF file ``empty`` are the pages without a text, and ``failed`` those that
    could not be read, with the reason.
    """

    title: str
    text: str
    notes: list[str] = field(default_factory=list)
    pages: int = 0
    empty: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)


class Extractor:
    """Extracts text from files, one after the other, in a process that starts with the first and ends with the
    context.
    """

    def __init__(self, *, answer_seconds: float = ANSWER_SECONDS, file_seconds: float = FILE_SECONDS) -> None:
        self._limits = answer_seconds, file_seconds
        self._process: subprocess.Popen | None = None
        self._lines: Queue[str] = Queue()

    def __enter__(self) -> Extractor:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def extract(self, path: Path, kind: str) -> Extracted:
        """The text of a file; ``kind`` is "pdf" or "html". Raises GraceError for one that cannot be read."""
        try:
            status = path.stat()
        except OSError as error:
            raise GraceError(
                f"{path} cannot be opened ({error.strerror}): check that it is there and readable"
            ) from None
        key = str(path.resolve()), kind, status.st_size, status.st_mtime_ns
        with _lock:
            if key in _cache:
                return _cache[key]
        extracted = self._ask(path, kind)
        with _lock:
            if len(extracted.text) < CACHE_CHARACTERS // 4:
                _cache[key] = extracted
        return extracted

    def _ask(self, path: Path, kind: str) -> Extracted:
        answer_seconds, file_seconds = self._limits
        request = {"path": str(path), "kind": kind, "seconds": file_seconds}
        self._start()
        try:
            self._send(request)
        except OSError:  # it ended after the last file
            self._stop()
            self._start()
            self._send(request)
        end, pages, size, empty, failed = monotonic() + file_seconds, [], 0, [], {}
        while True:
            where = f", page {len(pages) + 1}," if pages else ""
            try:
                line = self._lines.get(timeout=max(0.0, min(answer_seconds, end - monotonic())))
            except Empty:
                self._stop()
                limit = answer_seconds if end > monotonic() else file_seconds
                what = f"takes more than {limit:.0f} seconds to read"
                raise GraceError(f"{path}{where} {what}: {_BY_HAND[kind]}") from None
            if not line:
                self._process = None
                raise GraceError(f"{path}{where} ended the process that read it: {_BY_HAND[kind]}")
            answer = json.loads(line)
            if "whole" in answer:
                raise GraceError(answer["whole"])
            if "error" in answer:
                raise GraceError(f"{path}{where} {answer['error']}: {answer['remedy']}")
            if "page" in answer:
                text = clean(answer["text"]).replace(PAGE_BREAK, " ").strip()
                pages.append(text)
                if "failed" in answer:
                    failed[answer["page"]] = answer["failed"]
                elif not text:
                    empty.append(answer["page"])
                if (size := size + len(text)) > MAX_LINE_BYTES:
                    self._stop()
                    raise GraceError(
                        f"{path} has more than {MAX_LINE_BYTES:,} characters of text: split it into several files"
                    )
            elif answer.get("done"):
                text = PAGE_BREAK.join(pages) if kind == "pdf" else clean(answer["text"])
                return Extracted(clean(answer["title"]), text, answer["notes"], len(pages), empty, failed)

    def _start(self) -> None:
        if self._process is not None:
            return
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "PYTHONIOENCODING": "utf-8",
        }
        command = [sys.executable, "-m", "grace_core.readers.extraction_worker"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        self._lines = Queue(maxsize=64)
        Thread(target=_pump, args=(self._process, self._lines), daemon=True, name="extraction").start()

    def _send(self, request: dict) -> None:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            while True:  # empties the queue, so that the thread that fills it can end
                try:
                    if not self._lines.get(timeout=10):
                        break
                except Empty:
                    break
            process.wait(10)
            with suppress(OSError):
                process.stdin.close()


def _pump(process: subprocess.Popen, lines: Queue) -> None:
    with process.stdout as out:
        for line in out:
            lines.put(line)
    lines.put("")


def add_notes(extracted: Extracted, path: Path, notes: Notes) -> None:
    """Adds to ``notes`` what was guessed in a file, and its pages without a text."""
    for note in extracted.notes:
        notes.count(note, "file", str(path))
    for page in extracted.empty:
        notes.count(
            "PDF pages without a text, as scanned ones are (ocrmypdf adds it), hold nothing",
            "page",
            f"{path}, page {page}",
        )
    for page, reason in extracted.failed.items():
        notes.count("PDF pages that cannot be read are left out", "page", f"{path}, page {page} ({reason})")
