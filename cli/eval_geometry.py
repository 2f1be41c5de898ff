"""``grace eval geometry``: what each geometry is worth on judged collections, and a model's own statistics.

Light to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import Device, Json, Model
from grace_core.console import show
from grace_core.errors import GraceError


def geometry_command(
    collections: Annotated[
        list[Path], typer.Argument(help="Collections with queries and judgements, and an index of the model.")
    ],
    model: Model,
    split: Annotated[str | None, typer.Option(help="Queries of this split only, e.g. dev.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="At most this many queries of each collection.")] = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="Add the lexical baseline.")] = False,
    statistics: Annotated[
        Path | None,
        typer.Option(
            help="Write the model's own statistics, from all these collections, to this file (geometry.safetensors beside it)."
        ),
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """nDCG@10 in every geometry, from the same stored sums; queries' means of the model, of twenty queries,
    and of the queries measured.
    """
    from grace_core.cache import RepresentationCache
    from grace_core.evaluation import geometry, retrieval
    from grace_core.geometry import Statistics
    from grace_core.index import GraceIndex

    if statistics is not None and not statistics.parent.is_dir():
        raise GraceError(f"--statistics {statistics}: the folder {statistics.parent} does not exist; make it first")
    samples, lexical, loaded = [], {}, None
    for folder in collections:
        index = GraceIndex.of_model(folder, model)
        loaded = loaded or index.load_model(device=device, cache=RepresentationCache())
        if loaded.fingerprint != index.manifest["model"]["sha256"]:
            raise GraceError(
                f"{folder} was encoded with other weights of {model} than the first collection; build it again"
            )
        samples.append(geometry.sample(index, loaded, split=split, limit=limit))
        if bm25:
            judgements = index.collection.judgements
            queries = dict(list(retrieval.judged_queries(judgements, split).items())[:limit])
            ranked = retrieval.per_query(retrieval.bm25(index.collection.corpus, queries), judgements.qrels)
            lexical[samples[-1].name] = {"bm25": ranked["ndcg@10"]}
    own = loaded.statistics
    result = geometry.compare(samples, lambda _: own, others=lexical)
    if statistics is not None:
        per_collection = [Statistics.of(one.documents, one.queries, system=loaded.settings.system) for one in samples]
        Statistics.average(per_collection).save(statistics)
        result["statistics"] = str(statistics)
    show(result, as_json, "\n".join(table(result)))


def table(result: dict) -> list[str]:
    """The result as lines: a row a column, a cell a collection."""
    names = list(result["collections"])
    columns = list(
        dict.fromkeys(
            c for scores in result["collections"].values() for c in scores if c not in ("queries", "documents")
        )
    )
    lines = [f"{'nDCG@10':34s}" + "".join(f"{name[:14]:>15s}" for name in names) + f"{'mean':>26s}"]
    for column in columns:
        cells = (result["collections"][name].get(column) for name in names)
        mean = result["mean"].get(column)
        text = f"{mean['mean']:.3f} [{mean['ci95'][0]:.3f}, {mean['ci95'][1]:.3f}]" if mean else ""
        lines.append(
            f"{column:34s}" + "".join(f"{cell['mean']:15.3f}" if cell else " " * 15 for cell in cells) + f"{text:>26s}"
        )
    for pair, difference in result["differences"].items():
        mean = difference["mean"]
        lines.append(f"{pair}: {mean['mean']:+.3f} [{mean['ci95'][0]:+.3f}, {mean['ci95'][1]:+.3f}]")
    return lines
