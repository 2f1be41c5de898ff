"""``grace eval prompts``: what a system prompt is worth, at the same limit of tokens. Light to import."""

from __future__ import annotations

from typing import Annotated

import typer

from grace_cli.loading import corpus_names, load
from grace_cli.options import Device, Json, MaxNewTokens, Model
from grace_core.console import show, tell
from grace_core.errors import GraceError


def prompts_command(
    datasets: Annotated[
        list[str],
        typer.Argument(
            help="At least two corpora with queries and judgements, such as BEIR folders; means are over them."
        ),
    ],
    model: Model,
    system: Annotated[
        list[str] | None, typer.Option("--system", help="A prompt to compare with the model's own; repeatable.")
    ] = None,
    query_system: Annotated[
        list[str] | None,
        typer.Option("--query-system", help="The same, for queries only: documents keep the model's own; repeatable."),
    ] = None,
    split: Annotated[str, typer.Option(help="Queries that are measured.")] = "dev",
    unlabelled: Annotated[str, typer.Option(help="The split whose queries give the others' statistics.")] = "train",
    queries: Annotated[int, typer.Option(min=2, help="At most this many queries of a corpus and split.")] = 48,
    documents: Annotated[int, typer.Option(min=10, help="Their relevant documents, and others up to this many.")] = 120,
    max_new_tokens: MaxNewTokens = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """nDCG@10 under each of several system prompts, with rationales of the same limit and without; choose on
    dev queries.
    """
    if split == unlabelled:
        raise GraceError(
            f"the statistics may not come from the queries that are measured ({split}): give another --unlabelled"
        )
    names = corpus_names(datasets)
    if not (system or query_system):
        raise GraceError("there is no prompt to compare the model's own with: give --system or --query-system")
    from grace_core.evaluation import prompts
    from grace_core.evaluation.retrieval import Judged
    from grace_core.readers import read_corpus

    collections = []
    for name, dataset in zip(names, datasets, strict=True):
        corpus = read_corpus(dataset)
        judged = Judged.sample(corpus, split=split, queries=queries, documents=documents)
        others = Judged.sample(corpus, split=unlabelled, queries=queries, documents=0)
        collections.append(prompts.Sampled(name, judged, list(others.queries.values())))
    loaded = load(model, device=device, max_new_tokens=max_new_tokens)
    own = loaded.settings.system
    compared = [prompts.Prompts(one, one) for one in (own, *(system or []))]
    compared += [prompts.Prompts(own, one) for one in query_system or []]
    tell(f"{len(compared)} prompts, rationales of at most {loaded.settings.max_new_tokens} tokens")
    result = {"max_new_tokens": loaded.settings.max_new_tokens} | prompts.measure(
        loaded, collections, compared, progress=True
    )
    show(result, as_json, "\n".join(table(result)))


def table(result: dict) -> list[str]:
    """The result as lines: a prompt, and under it a line for either pooling."""
    lines = [", ".join(f"{name} {count} queries" for name, count in result["queries"].items())]
    for row in result["prompts"]:
        both = row["documents"] == row["queries"]
        lines += ["", row["documents"] if both else f"documents: {row['documents']}\nqueries: {row['queries']}"]
        for pooling, mean in row["mean"].items():
            low, high = mean["ci95"]
            apart = row["against_first"][pooling]
            cells = " ".join(f"{name} {by[pooling]['mean']:.3f}" for name, by in row["collections"].items())
            bounds = "{:+.3f} [{:+.3f}, {:+.3f}]".format(apart["mean"], *apart["ci95"])
            lines.append(f"  {pooling:15s} {mean['mean']:.3f} [{low:.3f}, {high:.3f}]  {bounds}  {cells}")
        told = (
            f"{role}: {row['tokens'][role]:.1f} tokens, {100 * row['cut'][role]:.0f} % cut off" for role in row["cut"]
        )
        lines.append("  " + "; ".join(told))
    return lines
