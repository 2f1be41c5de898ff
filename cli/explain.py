"""``grace explain``: how it is typed; what it does stands in :mod:`grace_cli.explain_report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import Column, Device, Json
from grace_core.console import show


def explain_command(
    folder: Path,
    query: str,
    document: Annotated[
        str,
        typer.Argument(metavar="DOC_ID", help="The id of a document, as `grace search` prints it, or of a passage."),
    ],
    model: Column,
    text_only: Annotated[bool, typer.Option("--text-only", help="Explain the score of the texts alone.")] = False,
    versus: Annotated[str | None, typer.Option(help="Another document's id: why does DOC_ID stand above it?")] = None,
    against: Annotated[
        str | None, typer.Option(help="Another model with an index: what do the two see differently?")
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Add what every token contributes.")] = False,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Encode again without each sentence in turn.")
    ] = False,
    with_rationale: Annotated[
        str | None, typer.Option(help="What if DOC_ID had this rationale? Empty for none.")
    ] = None,
    with_rationale_of: Annotated[str | None, typer.Option(help="What if it had that document's rationale?")] = None,
    with_text: Annotated[str | None, typer.Option(help="What if it had this text?")] = None,
    by: Annotated[
        str,
        typer.Option(
            help="What ranks a document that is split into passages: best explains the best of them, sum all with their sum."
        ),
    ] = "best",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Why does a document have its score? Parts that add up to it, and what-ifs that test them (docs/explain.md)."""
    from grace_cli.explain_report import explain_command as run

    result, text = run(
        folder,
        query,
        document,
        model,
        text_only=text_only,
        versus=versus,
        against=against,
        tokens=tokens,
        leave_one_out=leave_one_out,
        with_rationale=with_rationale,
        with_rationale_of=with_rationale_of,
        with_text=with_text,
        by=by,
        device=device,
    )
    show(result, as_json, text)
