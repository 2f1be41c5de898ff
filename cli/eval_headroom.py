"""``grace eval headroom``: what choosing among a model's own rationales could give. Light to import."""

from __future__ import annotations

from typing import Annotated

import typer

from grace_cli.options import Device, Json, Model
from grace_core.console import show


def headroom_command(
    dataset: Annotated[str, typer.Argument(help="A corpus with queries and judgements, such as a BEIR folder.")],
    model: Model,
    split: Annotated[str | None, typer.Option(help="Queries of this split only, e.g. train.")] = None,
    queries: Annotated[int, typer.Option(min=2, help="At most this many queries.")] = 80,
    documents: Annotated[int, typer.Option(min=10, help="Their relevant documents, and others up to this many.")] = 240,
    samples: Annotated[int, typer.Option(min=2, help="Rationales sampled for a query.")] = 8,
    system: Annotated[str | None, typer.Option(help="Another system prompt than the model's own.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """nDCG@10 of queries with the best, the worst, another query's and word-shuffled rationales among several
    that were sampled.
    """
    from grace_core.cache import RepresentationCache
    from grace_core.evaluation import headroom
    from grace_core.evaluation.retrieval import Judged
    from grace_core.model import GraceModel
    from grace_core.readers import read_corpus

    sample = Judged.sample(read_corpus(dataset), split=split, queries=queries, documents=documents)
    settings = {"system": system} if system else {}
    loaded = GraceModel.from_pretrained(model, device=device, cache=RepresentationCache(), **settings)
    result = headroom.measure(loaded, sample, samples=samples, progress=True)
    del result["per_query"]
    show(result, as_json, "\n".join(table(result)))


def table(result: dict) -> list[str]:
    """The result as lines: one a column."""
    head = f"{result['queries']} queries, {result['documents']} documents, {result['samples']} rationales a query"
    lines = [f"{head}, {result['tokens']:.1f} tokens, {100 * result['truncated']:.0f} % cut off"]
    for name, value in result["columns"].items():
        lines.append(f"{name:14s}{value['mean']:.3f} [{value['ci95'][0]:.3f}, {value['ci95'][1]:.3f}]")
    return lines
