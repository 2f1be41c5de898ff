"""``grace bench …``: the options of every benchmark.

What is measured, and against whom, stands at the top of each module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import BatchSize, Json, Model
from grace_core.console import show, tell

bench_app = typer.Typer(no_args_is_help=True, help="Measure speed against peers, in one run.")

Runs = Annotated[int, typer.Option(min=1, help="Timed rounds; medians are reported.")]
Texts = Annotated[int, typer.Option(min=1, help="How many passages.")]
SHARES = [0.5, 0.01, 0.0001]
Source = Annotated[str, typer.Argument(help="Texts to repeat: a corpus, as for `index build`, e.g. Cranfield.")]


def _show(result: dict, as_json: bool, *more: str) -> None:
    """The ratios, and by processor time where that was measured too."""
    lines = []
    for name, value in result["ratios"].items():
        cpu = f" (processor time: {result['cpu_ratios'][name]:.2f} ×)" if "cpu_ratios" in result else ""
        lines.append(f"{name}: {value:.2f} ×{cpu}")
    show(result, as_json, "\n".join([*lines, *more]))


@bench_app.command("encode")
def bench_encode(
    model: Model = "demo-base", texts: Texts = 128, runs: Runs = 5, batch_size: BatchSize = 64, as_json: Json = False
) -> None:
    """One pass against plain generate() and against generate, detokenise, tokenise, second forward; and on a busy machine."""
    from grace_benchmarks.encode import run

    _show(run(model, texts=texts, runs=runs, batch_size=batch_size), as_json)


@bench_app.command("llama")
def bench_llama(
    texts: Texts = 64,
    streams: Annotated[int, typer.Option(min=1, help="How many texts are written one at a time.")] = 6,
    runs: Runs = 3,
    as_json: Json = False,
) -> None:
    """smollm2 against llama.cpp with the same GGUF: many texts at once, and one stream. Needs llama-cpp-python."""
    from grace_benchmarks.llama import run

    result = run(texts=texts, streams=streams, runs=runs)
    _show(result, as_json, *(f"{name}: {rate} tokens/s" for name, rate in result["tokens_per_second"].items()))


@bench_app.command("text")
def bench_text(
    model: Model = "demo-base", texts: Texts = 256, runs: Runs = 5, batch_size: BatchSize = 64, as_json: Json = False
) -> None:
    """Embedding texts without rationales against sentence-transformers with the same weights."""
    from grace_benchmarks.text import run

    _show(run(model, texts=texts, runs=runs, batch_size=batch_size), as_json)


@bench_app.command("vllm")
def bench_vllm(
    model: Model = "demo-base", texts: Texts = 256, runs: Runs = 5, batch_size: BatchSize = 64, as_json: Json = False
) -> None:
    """Encoding with vLLM against plain vLLM generation of the same tokens, and against a second forward for
    the states.
    """
    from grace_benchmarks.vllm import run

    _show(run(model, texts=texts, runs=runs, batch_size=batch_size), as_json)


@bench_app.command("train")
def bench_train(
    model: Model = "demo-base",
    objective: Annotated[str, typer.Option(help="symmetric, joint or reference.")] = "symmetric",
    runs: Runs = 5,
    as_json: Json = False,
) -> None:
    """A training step against a plain GRPO step of TRL with a constant reward."""
    from grace_benchmarks.train import run

    _show(run(model, objective=objective, runs=runs), as_json)


@bench_app.command("serve")
def bench_serve(
    model: Model = "demo-base",
    clients: Annotated[int, typer.Option(min=1, help="How many ask at the same time.")] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="For each round, and for the mixed requests.")] = 60.0,
    texts: Texts = 512,
    runs: Runs = 3,
    as_json: Json = False,
) -> None:
    """`grace serve` under load against the library called in one process; then mixed requests, for faults."""
    from grace_benchmarks.server import run

    result = run(model, clients=clients, seconds=seconds, texts=texts, runs=runs)
    phases = result["phases"].items()
    _show(
        result,
        as_json,
        *(
            f"{name}: {phase['texts']} texts, answers {phase['codes']}, {phase['wrong']} wrong"
            for name, phase in phases
        ),
    )


@bench_app.command("explain")
def bench_explain(
    model: Model = "demo-base",
    hits: Annotated[int, typer.Option(min=1, help="How many hits are explained at once.")] = 10,
    runs: Runs = 7,
    as_json: Json = False,
) -> None:
    """Explaining all hits of a query against encoding query and hits without generating."""
    from grace_benchmarks.explain import run

    _show(run(model, hits=hits, runs=runs), as_json)


@bench_app.command("map")
def bench_map(
    documents: Annotated[int, typer.Option(min=100, help="How many vectors, made up, of 256 dimensions.")] = 10_000,
    runs: Runs = 3,
    ways: Annotated[bool, typer.Option("--ways", help="Compare ways to align maps instead.")] = False,
    as_json: Json = False,
) -> None:
    """One map, and two aligned ones, against umap-learn's UMAP of one."""
    from grace_benchmarks.map import compare_ways, run

    if ways:
        result = compare_ways(documents)
        show(result, as_json, "\n".join(f"{name}: {value}" for name, value in result["ways"].items()))
    else:
        _show(run(documents=documents, runs=runs), as_json)


@bench_app.command("search")
def bench_search(
    documents: Annotated[int, typer.Option(min=100, help="How many synthetic vectors.")] = 100_000,
    dim: Annotated[int, typer.Option(min=4)] = 256,
    kind: Annotated[list[str], typer.Option(help="flat, hnsw or ivfpq; may be given several times.")] = ["flat"],  # noqa: B006
    runs: Runs = 5,
    keep: Annotated[Path | None, typer.Option(help="Keep the collection here, and use it again.")] = None,
    as_json: Json = False,
) -> None:
    """Searching a collection against raw FAISS, by kind of index, with its recall@10."""
    from grace_benchmarks.search import run

    _show(run(documents=documents, dim=dim, kinds=tuple(kind), runs=runs, folder=keep), as_json)


@bench_app.command("living")
def bench_living(
    corpus: Source,
    model: Model = "demo-base",
    documents: Annotated[int, typer.Option(min=100, help="How many, in the collection.")] = 100_000,
    changed: Annotated[int, typer.Option(min=4, help="How many of them are new, changed or gone.")] = 1_000,
    sample: Annotated[
        int, typer.Option(min=1, help="So many are encoded to know how long a first build takes.")
    ] = 1_000,
    as_json: Json = False,
) -> None:
    """Taking a few changed documents into a collection, against building it from scratch."""
    from grace_benchmarks.living import run

    result = run(corpus, model=model, documents=documents, changed=changed, sample=sample)
    seconds = ", ".join(f"{name} {value} s" for name, value in result["seconds"].items())
    same = f"the same files as a new build: {', '.join(result['same_files']) or 'none'}; the same answers: {result['same_answers']}"
    _show(result, as_json, seconds, same)


@bench_app.command("filter")
def bench_filter(
    documents: Annotated[int, typer.Option(min=100, help="How many synthetic vectors.")] = 100_000,
    dim: Annotated[int, typer.Option(min=4)] = 256,
    kind: Annotated[list[str], typer.Option(help="flat, hnsw or ivfpq; may be given several times.")] = ["flat"],  # noqa: B006
    share: Annotated[
        list[float], typer.Option(min=0, max=1, help="How much satisfies the filter; repeatable.")
    ] = SHARES,
    runs: Runs = 5,
    keep: Annotated[Path | None, typer.Option(help="Keep the collection here, and use it again.")] = None,
    as_json: Json = False,
) -> None:
    """Searching with a filter against searching without, and against comparing what is left one by one, with recall."""
    from grace_benchmarks.filter import run

    result = run(documents=documents, dim=dim, kinds=tuple(kind), shares=tuple(share), runs=runs, folder=keep)
    lines = [
        f"{name}: {row['filtered_ms']:.3f} ms; without filter {row['unfiltered_ms']:.3f}, brute force {row['brute_ms']:.3f}; "
        f"recall@10 {row['recall@10']:.3f}{', exact' if row['exact'] else ''}"
        for name, row in result["searches"].items()
    ]
    _show(result, as_json, *lines)


@bench_app.command("build")
def bench_build(
    corpus: Source, documents: Annotated[int, typer.Option(min=1)] = 100_000, runs: Runs = 3, as_json: Json = False
) -> None:
    """Building an index from what is there already against reading Parquet and writing FAISS."""
    from grace_benchmarks.build import run

    _show(run(corpus, documents=documents, runs=runs), as_json)


@bench_app.command("memory")
def bench_memory(
    corpus: Source, documents: Annotated[int, typer.Option(min=4)] = 100_000, as_json: Json = False
) -> None:
    """The peak of memory while indexing, and how it grows from a quarter of the documents to all."""
    from grace_benchmarks.memory import run

    _show(run(corpus, documents=documents), as_json)


@bench_app.command("start")
def bench_start(
    folder: Annotated[Path, typer.Argument(help="A collection.")] = Path("indexes/demo"),
    model: Model = "demo-grace",
    runs: Runs = 5,
    as_json: Json = False,
) -> None:
    """The first query of a fresh process, in parts: imports, weights, index, first token, answer."""
    from grace_benchmarks.start import run

    result = run(folder, model, runs=runs)
    show(result, as_json, "\n".join(f"{part}: {value:.2f} s" for part, value in result["seconds"].items()))


@bench_app.command("all")
def bench_all(
    corpus: Annotated[str | None, typer.Option(help="Texts for `build` and `memory`; default the demo corpus.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A benchmark, e.g. encode or search-1m; repeatable.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Keep the results here as JSON; what is there already is not measured again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The benchmarks as one table (docs/performance.md). A quarter of an hour on two idle cores."""
    from grace_benchmarks.table import run, table

    results = run(corpus, only=only, out=out, report=tell)
    show(results, as_json, table(results))
