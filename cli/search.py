"""``grace search``: how it is typed; what it does stands in :mod:`grace_cli.search_report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import Column, Device, Engine, Json, Where
from grace_core.console import show, tell


def search_command(
    folder: Path,
    query: str,
    model: Column,
    k: Annotated[int, typer.Option("-k", min=1, help="How many documents.")] = 10,
    where: Where = None,
    rationale: Annotated[bool, typer.Option(help="Without: compare the texts alone.")] = True,
    gate: Annotated[
        float | None,
        typer.Option(
            min=0, help="Write only if by the text alone the first hit leads by less than this, of 1; docs/worth.md."
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(help="How documents rank in a collection of passages: best (of their passages) or sum (of all)."),
    ] = "best",
    input_type: Annotated[
        str, typer.Option(help="query, or document: to search with a text as if it stood in the collection.")
    ] = "query",
    device: Device = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Search a collection with a query; the model writes a rationale for it first."""
    from grace_cli.search_report import search_command as run

    hits, text, notes = run(
        folder,
        query,
        model,
        k=k,
        where=where,
        rationale=rationale,
        gate=gate,
        input_type=input_type,
        device=device,
        engine=engine,
        by=by,
    )
    lines = [f"note: {note}" for note in notes]
    for line in lines if as_json else []:  # a list of hits has no place for them
        tell(line)
    show(hits, as_json, "\n".join([text, *lines]))
