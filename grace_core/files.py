"""Writing so that a file is either the old one or the new one, whatever happens in between; hashing; one
writer at a time.
"""

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
    """Call ``write`` with a temporary path beside ``path``, flush it to disk, and rename it into place.

    Without ``flush`` a loss of power, and nothing else, may leave a file that is not whole. Raises GraceError
    if the disk is full, whatever ``write`` raises then, and for a path that is a folder or a device; nothing
    is left behind.
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
        os.chmod(temporary, 0o644)  # some writers make files that only their owner may read
        os.replace(temporary, path)
        if flush:
            flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def link(source: Path, path: Path) -> None:
    """The same file under another name, atomically; a copy where the system has no links.

    Neither may be written into afterwards.
    """

    def write(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, temporary)

    write_atomically(path, write)


def flush_to_disk(path: Path) -> None:
    """What has been written to a file, or the names in a folder, survives a loss of power from now on."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def needs_room(path: Path) -> Iterator[None]:
    """What is written inside is for ``path``: a full disk, quota or size limit becomes a GraceError."""
    try:
        yield
    except (
        Exception
    ) as error:  # each library has its own class for it; safetensors and faiss tell it in their message only
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
    """A JSON object from a file. Raises GraceError, with the remedy, if it is not there or is none."""
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


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and take away what killed processes left.

    The system frees it when the process ends, however it ends.
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
    """Remove the temporary files of :func:`write_atomically` whose process was killed."""
    for path in folder.glob(".*.tmp"):
        process = path.name.split(".")[-2]
        if process.isdigit() and not _runs(int(process)):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True
