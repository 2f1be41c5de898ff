"""The queries that a collection is asked, kept in it where whoever serves it wants that (``--keep-queries``).

``indexes/X/asked.txt`` holds a query a line, each once, the oldest first. Nothing reads it by itself, so that
scores stay the same for everybody until its queries are accepted as the collection's own, in one step:
``grace index geometry indexes/X --kind calibrated --queries indexes/X/asked.txt``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Lock

log = logging.getLogger("grace")
FILE = "asked.txt"
MOST = 1_000  # queries kept: their mean hardly moves after a few dozen
_lock = Lock()


def asked_queries(folder: Path) -> list[str]:
    """The queries that are kept in a collection's folder."""
    path = folder / FILE
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def keep_query(folder: Path, query: str) -> None:
    """Add a query, on one line, unless it is there or ``MOST`` are. A search does not fail because this does: that is
    logged.
    """
    line = " ".join(query.split()).encode(errors="replace").decode()
    try:
        with _lock:
            kept = asked_queries(folder)
            if line and line not in kept and len(kept) < MOST:
                with open(folder / FILE, "a", encoding="utf-8") as file:
                    file.write(line + "\n")
    except OSError as error:
        log.warning("the query is not kept in %s: %s", folder / FILE, error)
