"""``grace mend …``: how its commands are typed.

What they do stands in :mod:`grace_cli.mend_report`, so that this is light to import.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import Device, Json, Model
from grace_core.console import bar, show

mend_app = typer.Typer(
    no_args_is_help=True, help="Change a document's rationale, and see what that does to all judged queries."
)

DocumentId = Annotated[str, typer.Argument(metavar="DOC_ID", help="A document's id, as `grace search` prints it.")]
Split = Annotated[str | None, typer.Option(help="Judged queries of this split; default all.")]
Queries = Annotated[int | None, typer.Option(min=1, help="So many judged queries at random; default all.")]
Rationale = Annotated[str | None, typer.Option(help="The rationale that it is to have.")]
Remove = Annotated[bool, typer.Option("--remove", help="Take its rationale out.")]
Seed = Annotated[int | None, typer.Option(help="Let the model write it again, sampled with this seed.")]
System = Annotated[str | None, typer.Option(help="Let the model write it again under this system prompt.")]
Temperature = Annotated[
    float | None, typer.Option(min=0, max=10, help="With --seed or --system; with --seed, the model's or else 0.7.")
]


@mend_app.command("why")
def mend_why(
    folder: Path,
    model: Model,
    query: Annotated[
        str, typer.Argument(metavar="QUERY_ID", help="A judged query's id; without one, the failing ones are listed.")
    ] = "",
    split: Split = None,
    queries: Queries = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Why does no relevant document of a judged query stand first? The causes that apply, and what could be done."""
    from grace_cli.mend_report import failing_command, why_command

    if query:
        result, text = why_command(folder, model, query=query, split=split, queries=queries, device=device)
    else:
        result, text = failing_command(folder, model, split=split, queries=queries, device=device)
    show(result, as_json, text)


@mend_app.command("try")
def mend_try(
    folder: Path,
    document: DocumentId,
    model: Model,
    split: Split = None,
    queries: Queries = None,
    rationale: Rationale = None,
    remove: Remove = False,
    seed: Seed = None,
    system: System = None,
    temperature: Temperature = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Encode a document again with another rationale, and replay all judged queries; nothing is written."""
    _try(locals())


def _with_parameters_of(other: Callable) -> Callable[[Callable], Callable]:
    """Make a command take the parameters of another, and then its own; it gets those of the other as ``**given``."""

    def widened(command: Callable) -> Callable:
        shared, own = (signature(one, eval_str=True).parameters.values() for one in (other, command))
        every = [*shared, *(one for one in own if one.kind is not one.VAR_KEYWORD)]
        command.__signature__ = Signature(every)
        command.__annotations__ = {one.name: one.annotation for one in every}
        return command

    return widened


@mend_app.command("keep")
@_with_parameters_of(mend_try)
def mend_keep(note: Annotated[str, typer.Option(help="Why, for the history.")] = "", **given) -> None:
    """As try, and make it part of the index; what was there before is kept for `grace mend revert`."""
    _try(given, keep=True, note=note)


def _try(given: dict, **more) -> None:
    from grace_cli.mend_report import try_command

    as_json = given.pop("as_json")
    result, text = try_command(**given, **more)
    show(result, as_json, text)


@mend_app.command("list")
def mend_list(folder: Path, model: Model, as_json: Json = False) -> None:
    """All mends of an index there were, and whether they are in force."""
    from grace_cli.mend_report import list_command

    result, text = list_command(folder, model)
    show(result, as_json, text)


@mend_app.command("revert")
def mend_revert(
    folder: Path,
    mend: Annotated[str, typer.Argument(metavar="MEND_ID", help="As `grace mend list` prints it, such as m1.")],
    model: Model,
    as_json: Json = False,
) -> None:
    """Write back what the index held before a mend."""
    from grace_cli.mend_report import revert_command

    result, text = revert_command(folder, mend, model)
    show(result, as_json, text)


@mend_app.command("export")
def mend_export(
    folder: Path,
    file: Annotated[Path, typer.Argument(help="A JSON file to write.")],
    model: Model,
    as_json: Json = False,
) -> None:
    """Write the mends in force to a file."""
    from grace_cli.mend_report import export_command

    result, text = export_command(folder, file, model)
    show(result, as_json, text)


@mend_app.command("import")
def mend_import(
    folder: Path,
    file: Annotated[Path, typer.Argument(help="A file of `grace mend export`.")],
    model: Model,
    anew: Annotated[
        bool, typer.Option("--encode", help="Encode the rationales also where the model is the same.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Keep the mends of a file, those of documents that the index holds with the same text."""
    from grace_cli.mend_report import import_command

    result, text = import_command(folder, file, model, anew=anew, device=device)
    show(result, as_json, text)


@mend_app.command("auto")
def mend_auto(
    folder: Path,
    model: Model,
    split: Split = None,
    failing: Annotated[
        int, typer.Option(min=1, help="At most this many failing queries, in the order of the judgements.")
    ] = 20,
    guard: Annotated[
        bool, typer.Option(help="Keep a mend only if all judged queries together do not lose by it.")
    ] = True,
    keep: Annotated[
        bool, typer.Option("--keep", help="Make what was kept part of the index; without, nothing is written.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of rationales that are written again.")] = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Mend by rule: of each failing query the first cause with a remedy, and what it changes over all judged
    queries.
    """
    from grace_cli.mend_report import auto_command

    tick, close = bar("mending")
    try:
        result, text = auto_command(
            folder,
            model,
            split=split,
            failing=failing,
            guard=guard,
            keep_them=keep,
            seed=seed,
            device=device,
            progress=tick,
        )
    finally:
        close()
    show(result, as_json, text)
