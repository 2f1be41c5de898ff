"""Builds an index over and over, killed each time at another moment and then resumed. Run by test_crash.py.

The libraries are imported once; every attempt is a fork that runs the ``grace`` command, with the options
that follow the model.
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
import rich.progress  # noqa: F401
import torch  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM  # noqa: F401

from grace_cli import main as cli

FINISHING = (
    ".rationales.parquet*",
    "rationales.parquet",
    "vectors.safetensors",
    ".index.faiss*",
    "index.faiss",
    "manifest.json",
)
RANDOM_MOMENTS = 14


def start(corpus: str, out: Path, model: str) -> int:
    """Fork a `grace index build`; its process id."""
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        sys.argv = [
            "grace",
            "index",
            "build",
            corpus,
            "--out",
            str(out),
            "--model",
            model,
            "--json",
            "--no-cache",
            *sys.argv[4:],
        ]
        cli.main()
    except SystemExit as exit_:
        status = exit_.code or 0
    finally:
        os._exit(status)


def finish(corpus: str, out: Path, model: str) -> float:
    """Build without interruption; the seconds it took."""
    started = time.monotonic()
    _, status = os.waitpid(start(corpus, out, model), 0)
    if status:
        raise RuntimeError(f"the build in {out} ended with status {status}")
    return time.monotonic() - started


def kill(corpus: str, out: Path, model: str, *, after: float = 0, when: str | None = None) -> bool:
    """Start a build and kill it after some seconds, or as soon as a file that matches ``when`` is there.

    False if it ended before.
    """
    child = start(corpus, out, model)
    started = time.monotonic()
    while time.monotonic() - started < after if when is None else not any((out / "tiny").glob(when)):
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main(corpus: str, folder: Path, model: str) -> None:
    seconds = finish(corpus, folder / "whole", model)
    rng = random.Random(20)
    moments = [{"after": seconds * (i + rng.random()) / RANDOM_MOMENTS} for i in range(RANDOM_MOMENTS)]
    moments += [{"when": pattern} for pattern in FINISHING]
    for number, moment in enumerate(moments):
        out = folder / f"killed-{number}"
        while not kill(corpus, out, model, **moment):
            shutil.rmtree(out)
            if "after" in moment:
                moment["after"] *= 0.9
        left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) if out.exists() else []
        print(json.dumps({"folder": str(out), "moment": moment, "left": left}), flush=True)
        finish(corpus, out, model)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
