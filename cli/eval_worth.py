"""``grace eval worth``: nDCG@10 against the tokens that are written, and the gate that writes only where it may help.

Light to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import Device, Json, Model
from grace_core.console import show, tell
from grace_core.errors import GraceError


def worth_command(
    datasets: Annotated[
        list[str],
        typer.Argument(help="Corpora with queries and judgements, such as BEIR folders; means are over them."),
    ],
    model: Model,
    split: Annotated[
        str, typer.Option(help="Queries that are measured; a corpus without splits has all of its own measured.")
    ] = "test",
    dev: Annotated[
        str, typer.Option(help="Queries that the gate is chosen on, of the corpora that have this split.")
    ] = "dev",
    queries: Annotated[int, typer.Option(min=2, help="At most this many queries of a corpus and split.")] = 48,
    documents: Annotated[int, typer.Option(min=10, help="Their relevant documents, and others up to this many.")] = 160,
    tokens: Annotated[str, typer.Option(help="Budgets of a rationale, in tokens.")] = "16,32,64,128",
    share: Annotated[
        float, typer.Option(min=0, max=1, help="The gate lets at most this many of the queries write.")
    ] = 0.5,
    geometry: Annotated[str, typer.Option(help="raw, centred, calibrated or whitened.")] = "calibrated",
    system: Annotated[str | None, typer.Option(help="Another system prompt than the model's own.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Was it worth writing? nDCG@10 without a rationale and with its first 16, 32, … tokens; and writing only
    where a search is unsure.
    """
    lengths = budgets_of(tokens)
    names = [Path(dataset).name for dataset in datasets]
    if len(set(names)) < len(names):
        raise GraceError(
            f"two corpora are called {max(names, key=names.count)}; rename a folder: results go by their names"
        )
    from grace_core.cache import RepresentationCache
    from grace_core.evaluation import worth
    from grace_core.evaluation.retrieval import Judged
    from grace_core.model import GraceModel
    from grace_core.readers import read_corpus

    options = {"queries": queries, "documents": documents}
    found = {"test": {}, "dev": {}}
    for name, dataset in zip(names, datasets, strict=True):
        corpus = read_corpus(dataset)
        splits = set(corpus.judgements.splits.values()) if corpus.judgements else set()
        found["test"][name] = Judged.sample(corpus, split=split if splits else None, **options)
        if dev in splits:
            found["dev"][name] = Judged.sample(corpus, split=dev, **options)
    settings = {"system": system} if system else {}
    loaded = GraceModel.from_pretrained(model, device=device, cache=RepresentationCache(), **settings)
    measured = {"test": {}, "dev": {}}
    for kind, samples in found.items():
        for name, sample in samples.items():
            tell(
                f"{name}, {split if kind == 'test' else dev}: {len(sample.queries)} queries, {len(sample.documents)} documents"
            )
            measured[kind][name] = worth.measure(loaded, sample, lengths=lengths, kind=geometry, progress=True)
    result = worth.summary(measured["test"], measured["dev"], share=share)
    result["per_collection"] = {
        name: worth.summary({name: one}, measured["dev"], share=share)["budgets"]
        for name, one in measured["test"].items()
    }
    result["per_query"] = {
        kind: {name: per_query(one) for name, one in some.items()} for kind, some in measured.items()
    }
    show(result, as_json, "\n".join(table(result)))


def budgets_of(tokens: str) -> list[int]:
    """Numbers of tokens, as they are typed. Raises GraceError for what is none."""
    try:
        lengths = [int(part) for part in tokens.split(",")]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 1:
        raise GraceError(f"--tokens is {tokens!r}, expected numbers above 0 with commas between them, such as 16,32,64")
    return lengths


def per_query(one) -> dict:
    """A sample's figures as JSON has them."""
    return {
        "margins": one.margins.round(6).tolist(),
        "ndcg@10": {
            side: {n: values.round(6).tolist() for n, values in some.items()} for side, some in one.ndcg.items()
        },
        "query_tokens": {n: values.tolist() for n, values in one.query_tokens.items()},
    }


def table(result: dict) -> list[str]:
    """The result as lines: one a budget, and one a gate."""
    sides = {
        "both": "both write",
        "queries": "queries write, documents have theirs",
        "alone": "queries write, documents have none",
    }
    lines = [f"nDCG@10, mean over {', '.join(result['collections'])}"]
    for side, told in sides.items():
        lines.append(told)
        for n, value in result["budgets"][side].items():
            over = f"  over none {_told(value['over_none'])}" if n else ""
            lines.append(f"  {n or 'none':>5} {_told(value)}  {value['query_tokens']:.1f} tokens a query{over}")
    if not result["gate"]:
        return [*lines, "no corpus has the split that a gate would be chosen on: --dev names another"]
    lines.append(
        f"a gate, chosen on {', '.join(result['chosen_on'])}; at most {100 * result['share']:.0f} % of the queries there write"
    )
    for n, value in result["gate"].items():
        less = ", ".join(f"{name} {_told(value['less'][name])}" for name in ("always", "never", "random"))
        spent = f"{100 * value['wrote']:.0f} % write, {100 * value['share_of_tokens']:.0f} % of the tokens"
        lines.append(f"  {n:>5} {_told(value['gated'])}  {spent}; margin below {value['threshold']:.3f}; less {less}")
    return lines


def _told(value: dict) -> str:
    return f"{value['mean']:.3f} [{value['ci95'][0]:.3f}, {value['ci95'][1]:.3f}]"
