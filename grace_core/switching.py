"""Puts a new state of a collection in place of the old one, so that a process that is killed leaves one of the two."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from grace_core.errors import GraceError
from grace_core.files import flush_to_disk, only_writer, read_json

NEXT = ".next"  # the state that is to take the place of the one in force
MARK = "switch.json"  # in it once it is whole
JUDGEMENTS = ("queries.jsonl", "qrels.tsv")
PATIENCE = 30.0  # seconds to wait for a process that puts an update in place


def switch(folder: Path) -> None:
    """Put the state in ``folder/.next`` in place: first the corpus, from which moment the new state is the
    valid one, then the indexes, then the rest. If the process is killed in between, the next one that opens the
    collection finishes it.

    The collection's lock must be held, and the mark be written. Files beside an index that are not part of it
    (maps, evaluations) stay.
    """
    staged = folder / NEXT
    if (staged / "corpus.parquet").exists():
        os.replace(staged / "corpus.parquet", folder / "corpus.parquet")
        # a link to the same file, of an index that is brought up to date, is not moved
        (staged / "corpus.parquet").unlink(missing_ok=True)
        flush_to_disk(folder)
    mark = read_json(staged / MARK)
    for name in mark["indexes"]:
        new, old = staged / name, folder / name
        if not new.exists():
            continue
        for path in old.iterdir() if old.exists() else ():
            if not path.name.startswith((".", "geometry-")) and not (new / path.name).exists():
                os.replace(path, new / path.name)
        if old.exists():
            os.replace(old, staged / f".old-{name}")
        os.replace(new, old)
    for name in mark["removed"]:
        if (folder / name).exists():
            os.replace(folder / name, staged / f".old-{name}")
    for name in JUDGEMENTS:
        if (staged / name).exists():
            os.replace(staged / name, folder / name)
    flush_to_disk(folder)
    discard(folder)


def discard(folder: Path) -> None:
    """Remove ``folder/.next``, after renaming it: half of it could be taken for a state that is being put in place."""
    away = folder / ".discarded"
    shutil.rmtree(away, ignore_errors=True)
    if (folder / NEXT).exists():
        os.replace(folder / NEXT, away)
        shutil.rmtree(away, ignore_errors=True)


def finish_killed_switch(folder: Path) -> None:
    """Finish a switch that was begun, unless another process does. Raises GraceError if that cannot be done."""
    until = time.monotonic() + PATIENCE
    while (folder / NEXT / MARK).is_file() and not (folder / NEXT / "corpus.parquet").exists():
        try:
            with only_writer(folder):
                if (folder / NEXT / MARK).is_file() and not (folder / NEXT / "corpus.parquet").exists():
                    switch(folder)
        except OSError as error:
            raise GraceError(
                f"an update of {folder} was killed at its end, and cannot be finished here ({error}); open it where it can be "
                "written"
            ) from error
        except GraceError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
