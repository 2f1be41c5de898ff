"""``grace bench search``, ``grace bench build`` and ``grace bench memory``: what concerns indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_core.console import show
from grace_core.options import Json

Runs = Annotated[int, typer.Option(min=1)]
Source = Annotated[str, typer.Argument(help="Texts to repeat: a corpus, as for `index build`, e.g. Cranfield.")]


def bench_search(
    documents: Annotated[int, typer.Option(min=100, help="How many synthetic vectors.")] = 100_000,
    dim: Annotated[int, typer.Option(min=4)] = 256,
    kind: Annotated[list[str], typer.Option(help="flat, hnsw or ivfpq; may be given several times.")] = ["flat"],  # noqa: B006
    runs: Runs = 5,
    keep: Annotated[Path | None, typer.Option(help="Keep the collection here, and use it again.")] = None,
    as_json: Json = False,
) -> None:
    """Searching a collection against raw FAISS, by kind of index, with its recall@10."""
    from benchmarks.search import run

    _show(run(documents=documents, dim=dim, kinds=tuple(kind), runs=runs, folder=keep), as_json)


def bench_build(corpus: Source, documents: Annotated[int, typer.Option(min=1)] = 10_000, runs: Runs = 3, as_json: Json = False) -> None:
    """Building an index from what is there already against reading Parquet and writing FAISS."""
    from benchmarks.build import run

    _show(run(corpus, documents=documents, runs=runs), as_json)


def bench_memory(corpus: Source, documents: Annotated[int, typer.Option(min=4)] = 100_000, as_json: Json = False) -> None:
    """The peak of memory while indexing, and how it grows from a quarter of the documents to all."""
    from benchmarks.memory import run

    _show(run(corpus, documents=documents), as_json)


def _show(result: dict, as_json: bool) -> None:
    show(result, as_json, "\n".join(f"{name}: {value:.2f} ×" for name, value in result["ratios"].items()))
