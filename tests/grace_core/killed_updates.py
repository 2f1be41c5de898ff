"""Updates a collection over and over, killed each time at another moment, and then again until it ends.

Run by test_living.py.

The collection has two models, of which one is brought up. Every attempt is a fork, killed after some seconds,
or just before it puts a file or folder in its place for the n-th time: so every step of the switch from the
old state to the new one is among the moments.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import faiss  # noqa: F401 - imported here so that the forks need not
import pyarrow.parquet  # noqa: F401
import torch  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM  # noqa: F401

from grace_core import files
from grace_core.collection import Collection
from grace_core.index import GraceIndex
from grace_core.living import update
from grace_core.model import GraceModel
from grace_core.readers import stream_corpus

RANDOM_MOMENTS = 8


def run(corpus: str, out: Path, model: str, at: int | None) -> int:
    """Update ``out`` in this process; how often something was put in place.

    ``at`` is the time at which the process kills itself.
    """
    count, replace = 0, os.replace

    def counted(*args) -> None:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args)

    os.replace = files.os.replace = counted
    with update(out, stream_corpus(corpus)) as new:
        new.build(GraceModel.from_pretrained(model, max_new_tokens=4))
        new.commit()
    return count


def start(corpus: str, out: Path, model: str, at: int | None = None) -> int:
    """Fork an update; its process id."""
    if child := os.fork():
        return child
    status = 99
    try:
        run(corpus, out, model, at)  # which puts nothing in place where the new state is there already
        status = 0
    finally:
        os._exit(status)


def kill(corpus: str, out: Path, model: str, *, after: float = 0, at: int | None = None) -> bool:
    """Start an update that is killed; False if it ended before."""
    child = start(corpus, out, model, at)
    if at is None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def states(folder: Path) -> dict[str, str]:
    """The collection as it opens: its corpus, and what every index was made of; after checking all of it."""
    collection = Collection(folder)
    found = {"corpus": collection.hash, "queries": json.dumps(collection.judgements.queries)}
    for name in collection.models:
        index = GraceIndex(collection, name)
        if not index.verify()["ok"] or [index.hit(0, 1, 0.0).document.id] != index.ids[:1]:
            raise RuntimeError(f"{folder}/{name} does not hold")
        found[name] = json.dumps([index.manifest["files"], index.behind, index.rationales[:3]])
    return found


def main(corpus: str, before: Path, folder: Path, model: str) -> None:
    folder.mkdir()
    whole = shutil.copytree(before, folder / "whole")
    began = time.monotonic()
    if os.waitpid(start(corpus, whole, model), 0)[1]:
        raise RuntimeError("the update does not end")
    seconds = time.monotonic() - began
    old, new = states(before), states(whole)
    child = os.fork()
    count_file = folder / "count"
    if not child:
        count_file.write_text(str(run(corpus, shutil.copytree(before, folder / "counted"), model, None)))
        os._exit(0)
    os.waitpid(child, 0)
    count = int(count_file.read_text())
    rng = random.Random(20)
    moments = [{"after": seconds * (i + rng.random()) / RANDOM_MOMENTS} for i in range(RANDOM_MOMENTS)]
    moments += [{"at": at} for at in range(count, max(0, count - 15), -1)]
    for number, moment in enumerate(moments):
        out = shutil.copytree(before, folder / f"killed-{number}")
        while not kill(corpus, out, model, **moment):
            shutil.rmtree(out)
            shutil.copytree(before, out)
            moment["after"] *= 0.8
        raw = (out / "corpus.parquet").read_bytes() == (before / "corpus.parquet").read_bytes()
        left = sorted(path.name for path in out.iterdir())
        there = states(out)
        state = "old" if there == old else "new" if there == new else "neither"
        if os.waitpid(start(corpus, out, model), 0)[1] or states(out) != new:
            state += ", and not new after another run"
        row = {"folder": str(out), "moment": moment, "state": state, "corpus": "old" if raw else "new", "left": left}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
