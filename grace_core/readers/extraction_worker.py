"""The process in which foreign formats are parsed, run by :mod:`grace_core.readers.extraction`.

Reads one request a line, ``{"path": …, "kind": "pdf" or "html", "seconds": …}``, and answers in JSON lines: for a PDF
file a line a page, ``{"page": 1, "text": …}``, with ``"failed"`` where it could not be read; at the end
``{"done": true, "title": …, "notes": […]}`` with the ``"text"`` of an HTML page, or ``{"error": what is
wrong, "remedy": …}``. A file that keeps a parser running, or fills the memory, ends this process only.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from grace_core.errors import GraceError
from grace_core.readers.files import open_bytes
from grace_core.readers.html_pages import decode, page_text

MEMORY = 3 * 1024**3  # bytes of address space
MAX_HTML = 16 * 1024 * 1024  # bytes of a page
MAX_PDF = 1024**3  # bytes of a file; of one packed with gzip MAX_PACKED, since that is unpacked in memory
MAX_PACKED = 256 * 1024 * 1024
MAX_PAGES = 20_000
CONTENT = 16 * 1024 * 1024  # bytes that the content of a page may unpack to, far more than text needs
AGAIN = "save or print it as PDF again"


def answers(path: Path, kind: str) -> Iterator[dict]:
    """The answers to a request, errors included."""
    try:
        yield from _pdf(path) if kind == "pdf" else _html(path)
    except GraceError as error:  # the file cannot be opened or unpacked
        yield {"whole": str(error)}
    except MemoryError:
        yield {"error": f"takes more than {MEMORY // 1024**3} GiB of memory to read", "remedy": AGAIN}
    except RecursionError:
        yield {"error": "is nested too deep", "remedy": AGAIN}
    except Exception as error:  # parsers raise errors of any kind for damaged files
        yield {
            "error": f"cannot be read ({type(error).__name__}: {_line(error)})",
            "remedy": f"open it in a viewer and {AGAIN}",
        }


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:150]


def _html(path: Path) -> Iterator[dict]:
    with open_bytes(path) as file:
        data = file.read(MAX_HTML + 1)
    if len(data) > MAX_HTML:
        yield {"error": f"is longer than {MAX_HTML:,} bytes", "remedy": "split it into several pages"}
        return
    markup, notes = decode(data)
    title, text, more = page_text(markup)
    yield {"done": True, "title": title, "text": text, "notes": notes + more}


def _pdf(path: Path) -> Iterator[dict]:
    import pypdf
    from pypdf.errors import DependencyError, PdfReadError

    pypdf.overwrite_configuration(
        zlib_maximum_output_length=CONTENT,
        lzw_maximum_output_length=CONTENT,
        run_length_maximum_output_length=CONTENT,
        brotli_maximum_output_length=CONTENT,
        array_based_stream_maximum_output_length=CONTENT,
        jbig2dec_binary=None,
        disable_legacy_handling=True,
    )
    if path.stat().st_size > MAX_PDF:
        yield {"error": f"has more than {MAX_PDF:,} bytes", "remedy": "split it into several files"}
        return
    with open_bytes(path) as file:
        source = file
        if isinstance(file, io.BufferedReader) and not isinstance(file.raw, io.FileIO):  # a gzip stream cannot seek
            source = io.BytesIO(file.read(MAX_PACKED + 1))
            if source.getbuffer().nbytes > MAX_PACKED:
                yield {"error": f"unpacks to more than {MAX_PACKED:,} bytes", "remedy": "unpack it first"}
                return
        # open it
        try:
            reader = pypdf.PdfReader(source)
            if reader.is_encrypted and not reader.decrypt(""):
                yield {
                    "error": "is encrypted with a password",
                    "remedy": "save it without one, for example with `qpdf --decrypt`",
                }
                return
            count = len(reader.pages)
        except DependencyError:
            yield {"error": "is encrypted", "remedy": "save it without encryption, for example with `qpdf --decrypt`"}
            return
        except PdfReadError as error:
            yield {
                "error": f"is a damaged PDF file ({_line(error)})",
                "remedy": f"fetch it again, or open it in a viewer and {AGAIN}",
            }
            return
        if not count:
            yield {"error": "has no page", "remedy": AGAIN}
            return
        if count > MAX_PAGES:
            yield {
                "error": f"has {count:,} pages, expected at most {MAX_PAGES:,}",
                "remedy": "split it into several files",
            }
            return
        # the text, page by page
        for number in range(count):
            try:
                yield {"page": number + 1, "text": reader.pages[number].extract_text()}
            except (MemoryError, GeneratorExit):
                raise
            except Exception as error:  # one page; the others may be whole
                yield {"page": number + 1, "text": "", "failed": f"{type(error).__name__}: {_line(error)}"}
        yield {"done": True, "title": _title(reader), "notes": []}


def _title(reader) -> str:
    with suppress(Exception):  # a title is optional
        return " ".join(str(reader.metadata.title or "").split())[:500] if reader.metadata else ""
    return ""


def main() -> None:
    sys.setrecursionlimit(2000)
    logging.disable(logging.CRITICAL)  # pypdf warns of every oddity
    with suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        request = json.loads(line)
        _limit_time(request["seconds"])
        for answer in answers(Path(request["path"]), request["kind"]):
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


def _limit_time(seconds: float) -> None:
    """Limits the CPU time of this process, so that it ends even if its parent has died."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        end = int(used.ru_utime + used.ru_stime + seconds) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (end, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
