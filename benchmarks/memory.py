"""The memory of indexing, and how it grows with the number of documents, for the real command in its own process.

``growth``  peak of anonymous memory with all documents over that with a quarter of them, each without the bytes of
the vectors

Anonymous memory (RssAnon, read every 20 ms) cannot be reclaimed by the system; pages of mapped files can, and are
reported separately as ``file_mb``. The texts are those of a corpus, repeated under new ids and encoded once
beforehand, so that the builds find all of them in the cache. The model has a single random layer, so that the
pipeline is measured and not the weights; no rationales are written. FAISS, the last step, holds n·4d bytes, which
are subtracted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def run(corpus: str | Path, *, documents: int = 100_000, runs: int = 1) -> dict:
    """``{ratios: {growth}, peak_mb, runs, documents, distinct_texts}``: peaks of a quarter of ``documents``
    and of all of them.
    """
    from grace_core.readers import read_corpus

    texts = [document.content for document in read_corpus(corpus).documents if document.content]
    with tempfile.TemporaryDirectory() as scratch:
        folder, peaks = Path(scratch), {}
        model, environment = small_model(folder / "small"), {"GRACE_CACHE": str(folder / "cache.sqlite")}
        _build(_repeat(texts, len(texts), folder / "once.jsonl"), model, environment)
        for count in (documents // 4, documents):
            path = _repeat(texts, count, folder / f"{count}.jsonl")
            peaks[count] = min(
                (_build(path, model, environment) for _ in range(runs)), key=lambda peak: peak["anonymous_mb"]
            )
    few, many = peaks[documents // 4], peaks[documents]
    growth = (many["anonymous_mb"] - many["vectors_mb"]) / (few["anonymous_mb"] - few["vectors_mb"])
    return {
        "ratios": {"growth": round(growth, 3)},
        "peak_mb": peaks,
        "runs": runs,
        "documents": documents,
        "distinct_texts": len(texts),
    }


def small_model(folder: Path) -> Path:
    """One random layer of 64 dimensions, with demo-base's tokenizer."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from grace_core.model import GraceModel, Settings
    from grace_core.sources import find_model

    tokenizer = AutoTokenizer.from_pretrained(find_model("demo-base"))
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
    )
    GraceModel(Qwen2ForCausalLM(config), tokenizer, Settings()).save_pretrained(folder)
    return folder


def _repeat(texts: list[str], count: int, path: Path) -> Path:
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps({"_id": f"d{number}", "text": texts[number % len(texts)]}) + "\n")
    return path


def _build(corpus: Path, model: Path, environment: dict[str, str]) -> dict[str, float]:
    """Runs ``grace index build``; its peak memory in megabytes, and its seconds."""
    import os
    import shutil

    out = corpus.with_suffix("")
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "grace_cli",
        "index",
        "build",
        str(corpus),
        "--out",
        str(out),
        "--model",
        str(model),
    ]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--no-rationale", "--json"],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peak = {"anonymous_mb": 0.0, "file_mb": 0.0}
    watching = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watching.start()
    errors = process.communicate()[1]
    watching.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {errors.decode()[-500:]}")
    manifest = json.loads(next(out.glob("*/manifest.json")).read_text())
    vectors = manifest["counts"]["encoded"] * manifest["model"]["dim"] * 4 / 1e6
    return {name: round(value, 1) for name, value in peak.items()} | {
        "vectors_mb": round(vectors, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _watch(process: subprocess.Popen, peak: dict[str, float]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            return
        for name, key in (("anonymous_mb", "RssAnon"), ("file_mb", "RssFile")):
            if key in lines:
                peak[name] = max(peak[name], int(lines[key].split()[0]) * 1024 / 1e6)
        time.sleep(0.02)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], documents=int(sys.argv[2]) if len(sys.argv) > 2 else 100_000), indent=2))
