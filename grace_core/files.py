"""Atomic writes, JSON files, hashes, and a lock for one writer of a folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from grace_core.errors import GraceError


def write_atomically(path: Path, write: Callable[[Path], None], *, flush: bool = True) -> None:
    """Calls ``write`` with a temporary path beside ``path``, flushes it to disk, and renames it to ``path``.

    Without ``flush`` only a loss of power can leave an incomplete file. Raises GraceError if the disk is full,
    and if ``path`` is a folder or a device; no temporary file is left behind.
    """
    if path.exists() and not path.is_file():
        raise GraceError(
            f"{path} is a {'folder' if path.is_dir() else 'device'}, expected a file to write; name another path"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with needs_room(path):
            write(temporary)
            if flush:
                flush_to_disk(temporary)
        os.chmod(temporary, 0o644)  # some writers let only the owner read
        os.replace(temporary, path)
        if flush:
            flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def link(source: Path, path: Path) -> None:
    """Gives a file a second name, atomically; a copy where there are no hard links. Neither may be modified later."""

    def write(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:  # on another disk, or on one without hard links
            shutil.copyfile(source, temporary)

    write_atomically(path, write)


def flush_to_disk(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk, so that they survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def needs_room(path: Path) -> Iterator[None]:
    """Turns errors of a full disk, quota or size limit while writing ``path`` into GraceError."""
    try:
        yield
    except Exception as error:  # libraries raise their own classes; safetensors and faiss say it in the message only
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or any(words in str(error) for words in ("No space left", "File too large", "quota exceeded")):
            raise GraceError(
                f"there is no room left to write {path.name} in {path.parent}; make room, then run the same command again: "
                "what is finished is kept"
            ) from error
        raise


def write_json(path: Path, value) -> None:
    write_atomically(
        path, lambda target: target.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    )


def read_json(path: Path, remedy: str = "build this index again") -> dict:
    """A JSON object from a file. Raises GraceError, with the remedy, if it is missing or no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GraceError(f"{path} is missing; restore it, or {remedy}") from None
    except (OSError, ValueError) as error:
        raise GraceError(f"{path} cannot be read ({error}); it was damaged or edited, {remedy}") from error
    if not isinstance(value, dict):
        raise GraceError(f"{path} holds a {type(value).__name__}, expected an object; {remedy}")
    return value


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path, what: str) -> None:
    """Raises GraceError if ``folder`` cannot be written, by its permissions or since its disk is read-only; ``what`` is to be
    kept there.

    For work that would fail only at its end.
    """
    if not os.access(folder, os.W_OK):
        raise GraceError(
            f"{folder} cannot be written, and {what} are kept there; get the permission to write, or copy the collection to a folder "
            "of your own"
        )


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, and removes temporary files that killed processes left.

    Raises GraceError if another process holds the lock. The system frees it when a process ends in any way.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise GraceError(f"another process is building in {folder}; wait for it, or end it") from None
    try:
        _remove_leftovers(folder)
        yield
    finally:
        lock.release()


def _remove_leftovers(folder: Path) -> None:
    """Removes temporary files of :func:`write_atomically` whose process was killed."""
    for path in folder.glob(".*.tmp"):
        process = path.name.split(".")[-2]
        if process.isdigit() and not _runs(int(process)):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True
