"""``grace reasons``: how it is typed; what it does stands in :mod:`grace_cli.reasons_report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import Device, Json, Model
from grace_core.console import bar, show, tell


def reasons_command(
    folder: Path,
    model: Model,
    size: Annotated[
        int | None, typer.Option(help="How many reasons; default the size with the best silhouette.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same reasons; default those that are stored, or 0.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="Split the scores of this query's first hits by reasons.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many hits.")] = 10,
    against: Annotated[
        str | None,
        typer.Option(
            help="Which reasons gained and lost weight against another model of the collection, or against M:text, the text "
            "alone of the model M itself?"
        ),
    ] = None,
    steer: Annotated[
        list[str] | None, typer.Option(help="NUMBER=STRENGTH: more, or less, of a reason; repeatable.")
    ] = None,
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="Does taking a reason out hurt the queries it serves?")
    ] = False,
    encode: Annotated[
        bool, typer.Option("--encode", help="With --faithfulness: encode again, too, without the sentences.")
    ] = False,
    split: Annotated[str | None, typer.Option(help="With --faithfulness or --against: queries of this split.")] = None,
    queries: Annotated[
        int | None, typer.Option(min=1, help="With --faithfulness or --against: so many queries at random.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """What the rationales of a collection say, taken together, and every score split by it (docs/reasons.md)."""
    from grace_cli.reasons_report import reasons_command as run

    stages: dict = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in stages:
            for _, close in stages.values():
                close()
            stages[stage] = bar(stage)
        stages[stage][0](done, total)

    try:
        result, text = run(
            folder,
            model,
            size=size,
            seed=seed,
            query=query,
            k=k,
            against=against,
            steers=steer,
            faithfulness=faithfulness,
            encode=encode,
            split=split,
            limit=queries,
            device=device,
            progress=progress,
            report=tell,
        )
    finally:
        for _, close in stages.values():
            close()
    show(result, as_json, text)
