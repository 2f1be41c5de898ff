"""A cache of representations in one SQLite file, so that no rationale is generated twice.

The key is a hash over the model's weights and tokenizer, its precision, the prompt's token ids and the
decoding settings: whatever decides the result. A second table leads from a hash of the text itself to that
key, so that a text which was met before need not be tokenised. SQLite gives atomic writes, several readers
and writers, and no pickle.

Every entry carries a seal: a hash over its key and its content. One whose seal does not fit is treated as
missing, and encoded again. The tables' names have a version, so that entries of an older one are never read;
they stay in the file, which may be removed at any time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np

from grace_core.errors import GraceError
from grace_core.pooling import PARTS, Representation

VERSION = 2  # 1 may hold representations under other texts' keys
FILE = "representations.sqlite"
_ROWS, _TEXTS = f"representations_{VERSION}", f"texts_{VERSION}"


def default_path() -> Path:
    """``$GRACE_CACHE`` if set (a file, or a folder in which FILE is the file), else
    ``~/.cache/grace/representations.sqlite``.
    """
    if path := os.environ.get("GRACE_CACHE"):
        return Path(path, FILE).expanduser() if path.endswith(os.sep) else Path(path).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grace" / FILE


class RepresentationCache:
    """Get and put rows by key, in a file, or in FILE of a folder. Safe to share between threads and processes."""

    def __init__(self, path: str | Path | None = None):
        self.path = Path(path) if path is not None else default_path()
        self._lock = Lock()
        try:
            if self.path.is_dir():
                self.path /= FILE
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                f"CREATE TABLE IF NOT EXISTS {_ROWS} "
                "(key TEXT PRIMARY KEY, ids BLOB, sums BLOB, counts BLOB, truncated INTEGER, seal BLOB) WITHOUT ROWID"
            )
            self._db.execute(
                f"CREATE TABLE IF NOT EXISTS {_TEXTS} (name TEXT PRIMARY KEY, key TEXT, text_truncated INTEGER, seal BLOB) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> GraceError:
        remedy = "set GRACE_CACHE to a file that can be written"
        if os.path.isfile(self.path):  # Path.is_file raises where a name is too long
            remedy = "remove the file, or set GRACE_CACHE to another"
        cause = error.strerror if isinstance(error, OSError) else error
        return GraceError(f"the cache {str(self.path)[:300]} cannot be used ({cause}); {remedy}")

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except (sqlite3.Error, ValueError) as error:  # ValueError: a blob of a wrong length
                raise self._unusable(error) from error

    def get(self, keys: list[str]) -> dict[str, Representation]:
        """The rows that are there, by key."""
        query = f"SELECT key, ids, sums, counts, truncated, seal FROM {_ROWS} WHERE key IN"
        return self._select(query, keys, lambda key, *columns: _row(key, *columns))

    def get_texts(self, names: list[str]) -> dict[str, tuple[Representation, bool]]:
        """The rows of texts that were named by :meth:`name_texts`, by name, and whether the text was cut."""
        query = (
            "SELECT name, key, text_truncated, t.seal, ids, sums, counts, truncated, r.seal "
            f"FROM {_TEXTS} AS t JOIN {_ROWS} AS r USING (key) WHERE name IN"
        )

        def read(name: str, key: str, cut: int, seal: bytes, *columns) -> tuple[Representation, bool] | None:
            row = _row(key, *columns) if seal == _seal(name, key, cut) else None
            return None if row is None else (row, bool(cut))

        return self._select(query, names, read)

    def _select(self, query: str, values: list[str], read: Callable) -> dict:
        """What ``read`` gives for the columns, by the first of them; nothing where it gives None."""
        entries = {}
        with self._using() as db:
            for start in range(0, len(values), 500):
                some = values[start : start + 500]
                for columns in db.execute(f"{query} ({','.join('?' * len(some))})", some):
                    if (entry := read(*columns)) is not None:
                        entries[columns[0]] = entry
        return entries

    def put(self, rows: dict[str, Representation]) -> None:
        """Store rows, all of them or none."""
        values = []
        for key, (ids, sums, counts, cut) in rows.items():
            columns = (
                np.asarray(ids, "<i4").tobytes(),
                np.asarray(sums, "<f4").tobytes(),
                np.asarray(counts, "<i8").tobytes(),
                int(cut),
            )
            values.append((key, *columns, _seal(key, *columns)))
        self._insert(f"INSERT OR REPLACE INTO {_ROWS} VALUES (?, ?, ?, ?, ?, ?)", values)

    def name_texts(self, names: dict[str, tuple[str, bool]]) -> None:
        """Remember which row belongs to a text: its key, and whether the text was cut, by the text's name."""
        values = [(name, key, int(cut), _seal(name, key, int(cut))) for name, (key, cut) in names.items()]
        self._insert(f"INSERT OR REPLACE INTO {_TEXTS} VALUES (?, ?, ?, ?)", values)

    def _insert(self, statement: str, values: list[tuple]) -> None:
        with self._using() as db, db:
            db.execute("BEGIN")
            db.executemany(statement, values)

    def __len__(self) -> int:
        with self._using() as db:
            return db.execute(f"SELECT COUNT(*) FROM {_ROWS}").fetchone()[0]

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _seal(*columns: str | bytes | int) -> bytes:
    """A hash over a key and what stands under it."""
    digest = hashlib.sha256()
    for column in columns:
        part = column if isinstance(column, bytes) else str(column).encode()
        digest.update(f"{len(part)}:".encode() + part)
    return digest.digest()[:16]


def _row(key: str, ids: bytes, sums: bytes, counts: bytes, truncated: int, seal: bytes) -> Representation | None:
    """A row from its columns; None if they are not what was stored under ``key``."""
    if seal != _seal(key, ids, sums, counts, truncated):
        return None
    return Representation(
        np.frombuffer(ids, "<i4").tolist(),
        np.frombuffer(sums, "<f4").reshape(len(PARTS), -1).copy(),
        np.frombuffer(counts, "<i8").copy(),
        bool(truncated),
    )
