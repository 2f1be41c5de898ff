"""``grace eval worth``: nDCG@10 against the tokens that are written, and the gate that writes only where it may help.

Light to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.loading import corpus_names
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
    save: Annotated[
        bool,
        typer.Option(
            "--save", help="Of one collection: keep it beside the model's index, for the explorer's Evaluate tab."
        ),
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the curve and the gate to this file, SVG or PNG (takes matplotlib).")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Was it worth writing? nDCG@10 without a rationale and with its first 16, 32, … tokens; and writing only
    where a search is unsure.
    """
    lengths = budgets_of(tokens)
    if save and (len(datasets) > 1 or system):
        what = "another --system" if system else f"means over {len(datasets)} corpora"
        raise GraceError(
            f"--save keeps what is measured of one collection with its index's own settings, and not {what}: leave out --save, or this"
        )
    if figure is not None:
        check_figure(figure)
    names = corpus_names(datasets)
    from grace_core.cache import RepresentationCache
    from grace_core.evaluation import stored_worth, worth
    from grace_core.evaluation.retrieval import Judged
    from grace_core.files import check_writable
    from grace_core.index import GraceIndex
    from grace_core.model import GraceModel
    from grace_core.readers import read_corpus

    options = {"queries": queries, "documents": documents}
    index = GraceIndex.of_model(datasets[0], model) if save else None
    if index is not None:
        check_writable(index.folder, "its figures")
    judged = {"test": {}, "dev": {}}
    for name, dataset in zip(names, datasets, strict=True):
        corpus = index.collection.corpus if index is not None else read_corpus(dataset)
        splits = set(corpus.judgements.splits.values()) if corpus.judgements else set()
        judged["test"][name] = Judged.sample(corpus, split=split if splits else None, **options)
        if dev in splits:
            judged["dev"][name] = Judged.sample(corpus, split=dev, **options)
    given = {"device": device, "cache": RepresentationCache()} | ({"system": system} if system else {})
    loaded = index.load_model(**given) if index is not None else GraceModel.from_pretrained(model, **given)
    measured = {"test": {}, "dev": {}}
    for kind, samples in judged.items():
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
    if index is not None:
        (sample,), dev_samples = judged["test"].values(), judged["dev"]
        about = {"queries": len(sample.queries), "documents": len(sample.documents), "geometry": geometry}
        about |= {"split": split if splits else "", "dev": dev if dev_samples else ""}
        stored_worth.save(index, about, {key: result[key] for key in ("budgets", "gate")})
        tell(f"kept in {index.folder / stored_worth.FILE}")
    if figure is not None:
        from grace_study.figures import worth_curves

        worth_curves(stored_worth.curves(result), figure)
    show(result, as_json, "\n".join(table(result)))


def check_figure(path: Path) -> None:
    """Raises GraceError for a file that could not be drawn, before hours of measuring."""
    from importlib.util import find_spec

    if path.suffix.lower() not in (".svg", ".png"):
        raise GraceError(f"--figure is {path}, expected a file that ends in .svg or .png")
    if not path.parent.is_dir():
        raise GraceError(f"--figure {path}: the folder {path.parent} does not exist; make it first")
    if find_spec("matplotlib") is None:
        raise GraceError("--figure needs matplotlib: pip install matplotlib")


def budgets_of(tokens: str) -> list[int]:
    """Numbers of tokens, as they are typed. Raises GraceError for anything else."""
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
    from grace_core.evaluation.stored_worth import SIDES

    lines = [f"nDCG@10, mean over {', '.join(result['collections'])}"]
    for side, title in SIDES.items():
        lines.append(title)
        for n, value in result["budgets"][side].items():
            over = f"  over none {_with_interval(value['over_none'])}" if n else ""
            lines.append(
                f"  {n or 'none':>5} {_with_interval(value)}  {value['query_tokens']:.1f} tokens a query{over}"
            )
    if not result["gate"]:
        return [*lines, "no corpus has the split that a gate would be chosen on: --dev names another"]
    lines.append(
        f"a gate, chosen on {', '.join(result['chosen_on'])}; at most {100 * result['share']:.0f} % of the queries there write"
    )
    for n, value in result["gate"].items():
        less = ", ".join(f"{name} {_with_interval(value['less'][name])}" for name in ("always", "never", "random"))
        spent = f"{100 * value['wrote']:.0f} % write, {100 * value['share_of_tokens']:.0f} % of the tokens"
        lines.append(
            f"  {n:>5} {_with_interval(value['gated'])}  {spent}; margin below {value['threshold']:.3f}; less {less}"
        )
    return lines


def _with_interval(value: dict) -> str:
    return f"{value['mean']:.3f} [{value['ci95'][0]:.3f}, {value['ci95'][1]:.3f}]"
