"""All benchmarks in one table: what is measured, the peer, the bound, and the result (docs/performance.md)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grace_core.errors import GraceError
from grace_core.files import read_json, write_json
from grace_core.sources import DEMO_CORPUS_DIR


@dataclass(frozen=True)
class Line:
    """A line of the table: a ratio of a benchmark's result, and its bound ("≥ 2", or nothing)."""

    benchmark: str
    ratio: str
    what: str
    against: str
    bound: str = ""


LINES = (
    Line(
        "encode", "vs_two_pass", "encode, transformers engine", "generate, detokenise, tokenise, second forward", "≥ 2"
    ),
    Line("encode", "vs_generate", "encode, transformers engine", "plain `generate()` of the same tokens"),
    Line("vllm", "vs_generation", "encode, vLLM engine", "plain vLLM generation of the same tokens", "≥ 0.85"),
    Line(
        "text",
        "vs_sentence_transformers",
        "embeddings without rationales",
        "sentence-transformers, same weights and tokens",
        "≥ 1",
    ),
    Line("text", "vs_bare_text", "embeddings without rationales", "sentence-transformers, texts without the prompt"),
    Line("search", "flat_batch", "search 100,000 × 256, 256 queries at once", "raw FAISS, flat", "≥ 0.95"),
    Line("search", "flat_single", "search 100,000 × 256, one query a call", "raw FAISS, flat", "≥ 0.95"),
    Line("search-kinds", "hnsw_batch", "search 100,000 × 256, HNSW, at once", "raw FAISS, HNSW", "≥ 0.95"),
    Line("search-kinds", "hnsw_single", "search 100,000 × 256, HNSW, one a call", "raw FAISS, HNSW", "≥ 0.95"),
    Line(
        "search-kinds",
        "ivfpq_batch",
        "search 100,000 × 256, IVF-PQ with exact cosines, at once",
        "raw FAISS, IVF-PQ",
        "≥ 0.95",
    ),
    Line(
        "search-kinds",
        "ivfpq_single",
        "search 100,000 × 256, IVF-PQ with exact cosines, one a call",
        "raw FAISS, IVF-PQ",
        "≥ 0.95",
    ),
    Line("search-1m", "flat_batch", "search 1,000,000 × 256, 256 queries at once", "raw FAISS, flat", "≥ 0.95"),
    Line("search-1m", "flat_single", "search 1,000,000 × 256, one query a call", "raw FAISS, flat", "≥ 0.95"),
    *(
        Line(
            "filter",
            f"flat_{share}",
            f"search among {share} of 100,000 × 256",
            "without a filter, or brute force: the faster",
            "≤ 1.2",
        )
        for share in ("50%", "1%", "0.01%")
    ),
    Line(
        "serve",
        "vs_library",
        "server, 64 clients, one text a request",
        "the library in one process, same texts",
        "≥ 0.8",
    ),
    Line("build", "cache", "index build, all texts in the cache", "reading Parquet and writing FAISS", "≥ 0.7"),
    Line(
        "build",
        "cache_vs_same_files",
        "index build, all texts in the cache",
        "reading Parquet and writing the same files",
    ),
    Line("build", "shards", "index build, all shards there", "reading Parquet and writing FAISS"),
    Line("build", "vectors", "`grace index faiss` from stored vectors", "reading Parquet and writing FAISS", "≥ 0.7"),
    Line("memory", "growth", "peak memory while indexing 100,000, without vectors", "the same with 25,000", "≤ 1.05"),
    Line(
        "train", "cost_of_method", "training step, time a token", "a plain GRPO step with a constant reward", "≤ 1.25"
    ),
    Line("explain", "vs_encoding", "“Why?” for ten hits, time", "one forward over the same tokens"),
    Line("map", "one", "one map, time", "umap-learn's UMAP", "≤ 1.05"),
    Line("map", "two", "two aligned maps, time", "umap-learn's UMAP of one", "≤ 2.2"),
)
LONG = ("search-kinds", "search-1m")  # only on request: five minutes each, and 5 GB of disk for a million


def run(
    corpus: str | None = None,
    *,
    only: Sequence[str] | None = None,
    out: str | Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, dict]:
    """``{benchmark: its result}``. ``corpus`` gives `build` and `memory` their texts (default: the demo corpus).

    With ``out`` results are stored in that file one by one; those in it are not measured again unless named in
    ``only``. Raises GraceError for an unknown benchmark.
    """
    names = list(dict.fromkeys([*(line.benchmark for line in LINES), "start"]))
    if unknown := [name for name in only or [] if name not in names]:
        raise GraceError(f"there is no benchmark {unknown[0]!r}; there are {', '.join(names)}")
    results = read_json(Path(out)) if out and Path(out).exists() else {}
    for name in only or [name for name in names if name not in LONG and name not in results]:
        if name == "vllm" and importlib.util.find_spec("vllm") is None:
            report("vllm: left out, vLLM is not installed (pip install -r requirements-vllm.txt)")
            continue
        report(f"{name} …")
        results[name] = _measure(name, corpus)
        report(f"{name}: {results[name]['ratios'] or results[name]['seconds']}")
        if out:
            write_json(Path(out), results)
    return results


def _measure(name: str, corpus: str | None) -> dict:
    """Runs one benchmark in a new process, without the threads and the memory of others."""
    options: list[str] = [name]
    if name in ("build", "memory"):
        options.append(str(corpus or DEMO_CORPUS_DIR))
    elif name == "search-kinds":
        options = ["search", "--kind", "hnsw", "--kind", "ivfpq"]
    elif name == "search-1m":
        options = ["search", "--documents", "1000000"]
    process = subprocess.run(
        [sys.executable, "-m", "grace_cli", "bench", *options, "--json"], capture_output=True, text=True
    )
    if process.returncode:
        raise GraceError(f"bench {' '.join(options)} failed: {process.stderr.strip()[-500:]}")
    return json.loads(process.stdout)


def table(results: dict[str, dict]) -> str:
    """The table in Markdown: a line for each measured ratio, and the parts of the cold start."""
    lines = ["| what | against | asked | measured |", "|---|---|---|---|"]
    for line in LINES:
        if line.benchmark in results:
            measured = results[line.benchmark]["ratios"][line.ratio]
            lines.append(f"| {line.what} | {line.against} | {line.bound} | {measured:.2f} × |")
    if "start" in results:
        seconds = results["start"]["seconds"]
        lines += ["", f"| cold start, seconds | {' | '.join(seconds)} |", "|---" * (len(seconds) + 1) + "|"]
        lines.append(f"| {results['start']['model']} | {' | '.join(f'{value:.2f}' for value in seconds.values())} |")
    return "\n".join(lines)
