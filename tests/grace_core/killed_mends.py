"""Keeps a mend, killed just before something is put in its place for the n-th time, for every n there is.

Run by test_mends.py.

Prints a line of JSON for each attempt: whether the index holds the mend, whether its layer says so, and
whether all verifies.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import faiss  # noqa: F401 - imported here so that the forks need not
import pyarrow.parquet  # noqa: F401
import torch  # noqa: F401

from grace_core import collection, files, mends
from grace_core.index import GraceIndex
from grace_core.mend_layer import Content
from grace_core.mends import Change, check, content_of, keep


def run(folder: Path, name: str, at: int | None) -> int:
    """Take out the rationale of row 1; how often something was put in place or removed.

    ``at`` is when the process kills itself.
    """
    count = 0

    def counted(call):
        def do(*args, **options):
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return do

    os.replace = files.os.replace = collection.os.replace = mends.os.replace = counted(os.replace)
    shutil.rmtree = counted(shutil.rmtree)
    index = GraceIndex(folder, name)
    held = content_of(index, 1)
    sums, counts = held.sums.copy(), held.counts.copy()
    sums[2], counts[2] = 0, 0
    keep(index, [Change(index.ids[1], "remove", Content("", [], False, sums, counts))])
    return count


def main(before: Path, out: Path, name: str) -> None:
    shutil.copytree(before, out)
    steps = run_apart(out, name, None)
    for at in range(1, steps + 1):
        shutil.rmtree(out)
        shutil.copytree(before, out)
        run_apart(out, name, at)
        left = sorted(path.name for path in out.iterdir() if path.name.startswith("."))
        index = GraceIndex(out, name)
        found = check(index)
        print(
            json.dumps(
                {
                    "at": at,
                    "mended": index.rationale_ids[1] == [],
                    "in_force": found.get("in_force"),
                    "left": left,
                    "ok": found["ok"] and index.verify()["ok"],
                }
            ),
            flush=True,
        )
        if not found["in_force"]:  # and it can be done now
            run_apart(out, name, None)
            assert check(GraceIndex(out, name))["in_force"] == 1


def run_apart(folder: Path, name: str, at: int | None) -> int:
    """Run in a fork; the number of steps, 0 if it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(write, str(run(folder, name, at)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as told:
        return int(told.read() or 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
