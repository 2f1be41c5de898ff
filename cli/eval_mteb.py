"""``grace eval mteb``. Light to import, as the command line must be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import BatchSize, Device, Json, Models
from grace_core.console import show
from grace_core.errors import GraceError


def mteb_command(
    model: Models,
    data: Annotated[
        Path | None, typer.Option(help="A collection with queries and judgements: needs no network.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of --data: these queries only, e.g. test.")] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", help="One of MTEB's tasks by name; repeatable; from the hub.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Where MTEB keeps results, to use them again.")] = Path("runs/mteb"),
    batch_size: BatchSize = 64,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Scores by MTEB's own code; each model with its rationale and, as "MODEL:text", without."""
    if (data is None) == (not tasks):
        raise GraceError("give either --data COLLECTION or --tasks NAME")
    try:
        from grace_core.adapters.mteb import MtebEncoder, evaluate, local_retrieval_task, named_tasks
    except ImportError as error:
        raise GraceError(str(error)) from error
    from grace_core.cache import RepresentationCache
    from grace_core.collection import Collection
    from grace_core.model import GraceModel

    chosen = named_tasks(tasks) if tasks else [local_retrieval_task(Collection(data), split=split)]
    scores = {}
    for name in model:
        loaded = GraceModel.from_pretrained(name, device=device, cache=RepresentationCache())
        for rationale in (True, False):
            encoder = MtebEncoder(loaded, rationale=rationale, batch_size=batch_size)
            scores[name if rationale else f"{name}:text"] = evaluate(encoder, chosen, results=results)
    lines = [
        f"{name:24s} {task} {part}: {score['main_score']:.4f}"
        for name, by_task in scores.items()
        for task, parts in by_task.items()
        for part, score in parts.items()
    ]
    show(scores, as_json, "\n".join(lines))
