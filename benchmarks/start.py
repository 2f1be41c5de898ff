"""The first query of a fresh process, in parts. There is no peer, so these are seconds and no ratios.

``imports``      importing everything for a search: torch, transformers, FAISS
``index``        opening the collection, checking its hashes, reading FAISS
``weights``      loading the model, and comparing its fingerprint with the index's
``first_token``  from the query to the first token of its rationale, the first thing that a reader sees
``rationale``    the rest of the rationale
``answer``       the search, and the hits with their texts

Each round is a new process, like a call of ``grace search``; after the first the files are in the system's cache.
``total`` is the whole run time of the process, with the start and end of Python.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

PARTS = ("imports", "index", "weights", "first_token", "rationale", "answer")
QUERY = "why does bread rise in the oven"


def run(folder: str | Path = "indexes/demo", model: str = "demo-grace", *, runs: int = 5) -> dict:
    """``{ratios: {}, seconds: {part: median, …, total}, runs, model, folder}``."""
    seconds: dict[str, list[float]] = {part: [] for part in (*PARTS, "total")}
    for number in range(runs + 1):
        started = time.perf_counter()
        process = subprocess.run(
            [sys.executable, "-m", "grace_benchmarks.start", str(folder), model], capture_output=True, text=True
        )
        total = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(process.stderr[-500:])
        if number:  # the first round reads the files from the disk
            for part, value in json.loads(process.stdout).items():
                seconds[part].append(value)
            seconds["total"].append(total)
    medians = {part: round(statistics.median(values), 3) for part, values in seconds.items()}
    return {"ratios": {}, "seconds": medians, "runs": runs, "model": model, "folder": str(folder)}


def parts(folder: str, model_name: str) -> dict[str, float]:
    """Seconds of every part, in this process."""
    marks = [time.perf_counter()]
    import faiss  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from grace_core.index import GraceIndex

    marks.append(time.perf_counter())
    index = GraceIndex(folder, model_name)
    index.faiss_index()
    marks.append(time.perf_counter())
    model = index.load_model()
    marks.append(time.perf_counter())
    written = model.stream(QUERY)
    _, row = next(written)
    marks.append(time.perf_counter())
    for _, row in written:  # noqa: B007
        pass
    marks.append(time.perf_counter())
    index.hits(row.embeddings(index.default_pooling)[0])
    marks.append(time.perf_counter())
    return {part: after - before for part, before, after in zip(PARTS, marks[:-1], marks[1:], strict=True)}


if __name__ == "__main__":
    print(json.dumps(parts(sys.argv[1], sys.argv[2])))
