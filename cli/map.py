"""``grace map``: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import Json
from grace_core.console import bar, show


def map_entry(
    folder: Path,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="A model of the collection; repeatable; default all.")
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Add a map of the texts alone for each model with rationales.")
    ] = False,
    dims: Annotated[int, typer.Option(help="2 or 3.")] = 2,
    neighbours: Annotated[int, typer.Option(help="UMAP's n_neighbors.")] = 15,
    min_dist: Annotated[float, typer.Option(help="UMAP's min_dist.")] = 0.1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same maps.")] = 0,
    compare_independent: Annotated[
        bool, typer.Option(help="Measure displacement_ratio against maps made without each other.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Maps of a collection, aligned across models and saved with it, and what changed between the models
    (docs/map.md).
    """
    from grace_core.map_report import map_command

    progress, close = bar("map")
    try:
        result, lines = map_command(
            folder,
            model,
            text=text,
            dims=dims,
            neighbours=neighbours,
            min_dist=min_dist,
            seed=seed,
            compare_independent=compare_independent,
            progress=progress,
        )
    finally:
        close()
    show(result, as_json, lines)
