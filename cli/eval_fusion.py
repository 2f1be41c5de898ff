"""``grace eval fusion``: the weights of two columns, chosen on dev and measured on test. Light to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import Device, Json
from grace_core.console import show
from grace_core.errors import GraceError


def fusion_command(
    collections: Annotated[
        list[Path],
        typer.Argument(help="Collections with queries and judgements of both splits, and with both columns."),
    ],
    column: Annotated[
        list[str], typer.Option("--column", "-c", help="Give two: bm25, st:NAME, MODEL or MODEL:text; docs/columns.md.")
    ],
    dev: Annotated[str, typer.Option(help="The split on which the weights are chosen.")] = "dev",
    test: Annotated[str, typer.Option(help="The split on which they are measured.")] = "test",
    queries: Annotated[
        int | None,
        typer.Option(min=2, help="At most this many queries of each split and collection, chosen at random."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="For the choice of queries.")] = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Fuse two columns with weights that are chosen on one split, and compare with either on another."""
    if len(column) != 2:
        raise GraceError(f"a fusion of two columns is weighed, got {len(column)}: give --column twice")
    if dev == test:
        raise GraceError(f"weights chosen on {dev!r} have to be measured on other queries: give another --test")
    result, lines = fused(collections, column, dev=dev, test=test, queries=queries, seed=seed, device=device)
    show(result, as_json, "\n".join(lines))


def fused(
    folders: list[Path], names: list[str], *, dev: str, test: str, queries: int | None, seed: int, device: str | None
) -> tuple[dict, list[str]]:
    """The result, and the same as lines of text. Raises GraceError for what a collection does not have."""
    from grace_core.cache import RepresentationCache
    from grace_core.collection import Collection
    from grace_core.columns.names import Single
    from grace_core.columns.opened import Columns
    from grace_core.evaluation import fusion
    from grace_core.evaluation.faithfulness import choose_queries
    from grace_core.evaluation.report import cell, cut_queries
    from grace_core.evaluation.retrieval import METRICS, judged_queries

    measured, counts, notes, parts = {dev: [], test: []}, {dev: {}, test: {}}, [], set()
    for folder in folders:
        columns = Columns(Collection(folder), device=device, cache=RepresentationCache())
        pair = [columns.open(name) for name in names]
        if not all(isinstance(one.name, Single) for one in pair) or pair[0] is pair[1]:
            raise GraceError(f"two different single columns are weighed, got {' and '.join(one.id for one in pair)}")
        parts.add(tuple(one.name for one in pair))
        judgements = columns.collection.judgements
        for split in (dev, test):
            chosen = choose_queries(judged_queries(judgements, split), queries, seed=seed)
            counts[split][columns.collection.name] = len(chosen)
            measured[split].append(fusion.measure(*pair, chosen, judgements.qrels))
            for one in pair:
                notes += [
                    f"{columns.collection.name}, {split}: {note}" for note in cut_queries(one, list(chosen.values()))[1]
                ]
    if len(parts) > 1:
        there = "; ".join(" and ".join(name.id for name in pair) for pair in sorted(parts, key=str))
        raise GraceError(f"the collections have different columns of these names: {there}; name them in full")
    (pair,) = parts
    share, means = fusion.choose(measured[dev])
    winner = fusion.named(share, *pair).id
    ways = dict.fromkeys((1.0, 0.0, 0.5, share, fusion.RANKS))
    rows = {fusion.named(way, *pair).id: fusion.summary([one[way] for one in measured[test]]) for way in ways}
    apart = {
        fusion.named(way, *pair).id: fusion.difference(measured[test], share, way) for way in (1.0, 0.0) if way != share
    }
    result = {
        "columns": [name.id for name in pair],
        "chosen": winner,
        "share": share,
        "dev": {
            "split": dev,
            "queries": counts[dev],
            "ndcg@10": {f"{way:g}": round(value, 4) for way, value in means.items()},
        },
        "test": {"split": test, "queries": counts[test], "rows": rows, "difference": apart},
        "notes": notes,
    }
    wide = max(24, *map(len, rows))
    lines = [
        f"{', '.join(f'{name} {count}' for name, count in counts[dev].items())} queries of {dev}",
        f"nDCG@10 there by the share of {pair[0].id}, the rest is that of {pair[1].id}:",
        "  " + "  ".join(f"{way:g} {value:.4f}" for way, value in means.items()),
        f"chosen: {winner}" + ("" if 0 < share < 1 else ", one column alone: nothing is gained there by the other"),
        f"{', '.join(f'{name} {count}' for name, count in counts[test].items())} queries of {test}",
        *(f"{name:{wide}s} {'  '.join(cell(row, metric) for metric in METRICS)}" for name, row in rows.items()),
        f"difference of {winner} to either, paired by query",
        *(
            f"{name:{wide}s} {'  '.join(cell(row, metric, sign='+') for metric in METRICS)}"
            for name, row in apart.items()
        ),
        *(f"note: {note}" for note in notes),
    ]
    return result, lines
