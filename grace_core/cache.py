"""A cache of representations in one SQLite file, so that no rationale is generated twice.

The key is a hash over the model's weights and tokenizer, its precision, the prompt's token ids and the decoding settings: whatever
decides the result. A second table leads from a hash of the text itself to that key, so that a text which was met before need not be
tokenised. SQLite gives atomic writes, several readers and writers, and no pickle.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np

from grace_core.errors import GraceError

Row = tuple[list[int], np.ndarray, np.ndarray, bool]  # rationale ids, part sums (3, d) fp32, part counts (3,), truncated


def default_path() -> Path:
    """``$GRACE_CACHE`` if set, else ``~/.cache/grace/representations.sqlite``."""
    if path := os.environ.get("GRACE_CACHE"):
        return Path(path)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grace" / "representations.sqlite"


class RepresentationCache:
    """Get and put rows by key. Safe to share between threads and processes."""

    def __init__(self, path: str | Path | None = None):
        self.path = Path(path) if path is not None else default_path()
        self._lock = Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS representations "
                "(key TEXT PRIMARY KEY, ids BLOB, sums BLOB, counts BLOB, truncated INTEGER) WITHOUT ROWID"
            )
            self._db.execute("CREATE TABLE IF NOT EXISTS texts (name TEXT PRIMARY KEY, key TEXT, text_truncated INTEGER) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> GraceError:
        return GraceError(f"the cache {self.path} cannot be used ({error}); remove the file, or set GRACE_CACHE to another")

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except (sqlite3.Error, ValueError) as error:  # ValueError: a blob of a wrong length
                raise self._unusable(error) from error

    def get(self, keys: list[str]) -> dict[str, Row]:
        """The rows that are there, by key."""
        query = "SELECT key, ids, sums, counts, truncated FROM representations WHERE key IN"
        return self._select(query, keys, _row)

    def get_texts(self, names: list[str]) -> dict[str, tuple[Row, bool]]:
        """The rows of texts that were named by :meth:`name_texts`, by name, and whether the text was cut."""
        query = "SELECT name, text_truncated, ids, sums, counts, truncated FROM texts JOIN representations USING (key) WHERE name IN"
        return self._select(query, names, lambda cut, *blobs: (_row(*blobs), bool(cut)))

    def _select(self, query: str, values: list[str], make: Callable) -> dict:
        """What ``make`` makes of the columns behind the first, by the first."""
        found = {}
        with self._using() as db:
            for start in range(0, len(values), 500):
                some = values[start : start + 500]
                for first, *rest in db.execute(f"{query} ({','.join('?' * len(some))})", some):
                    found[first] = make(*rest)
        return found

    def put(self, rows: dict[str, Row]) -> None:
        """Store rows, all of them or none."""
        values = [
            (key, np.asarray(ids, "<i4").tobytes(), np.asarray(sums, "<f4").tobytes(), np.asarray(counts, "<i8").tobytes(), int(cut))
            for key, (ids, sums, counts, cut) in rows.items()
        ]
        self._insert("INSERT OR REPLACE INTO representations VALUES (?, ?, ?, ?, ?)", values)

    def name_texts(self, names: dict[str, tuple[str, bool]]) -> None:
        """Remember which row belongs to a text: its key, and whether the text was cut, by the text's name."""
        self._insert("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", [(name, key, int(cut)) for name, (key, cut) in names.items()])

    def _insert(self, statement: str, values: list[tuple]) -> None:
        with self._using() as db, db:
            db.execute("BEGIN")
            db.executemany(statement, values)

    def __len__(self) -> int:
        with self._using() as db:
            return db.execute("SELECT COUNT(*) FROM representations").fetchone()[0]

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _row(ids: bytes, sums: bytes, counts: bytes, truncated: int) -> Row:
    return (
        np.frombuffer(ids, "<i4").tolist(), np.frombuffer(sums, "<f4").reshape(3, -1).copy(), np.frombuffer(counts, "<i8").copy(),
        bool(truncated),
    )  # fmt: skip
