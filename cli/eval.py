"""``grace eval …``: put together from its modules, of which those with work of their own are ``eval_*.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.eval_fusion import fusion_command
from grace_cli.eval_geometry import geometry_command
from grace_cli.eval_headroom import headroom_command
from grace_cli.eval_mteb import mteb_command
from grace_cli.eval_prompts import prompts_command
from grace_cli.eval_retention import retention_command
from grace_cli.eval_worth import worth_command
from grace_cli.options import Columns, Device, Engine, Json, Models, Seed, Temperature, Where
from grace_core.console import show, tell

eval_app = typer.Typer(no_args_is_help=True, help="Evaluate models.")
eval_app.command("mteb")(mteb_command)
eval_app.command("fusion")(fusion_command)
eval_app.command("geometry")(geometry_command)
eval_app.command("headroom")(headroom_command)
eval_app.command("prompts")(prompts_command)
eval_app.command("retention")(retention_command)
eval_app.command("worth")(worth_command)


@eval_app.command("retrieval")
def eval_retrieval(
    dataset: Annotated[
        Path, typer.Argument(help="A collection folder with queries and judgements, with an index of each model.")
    ],
    model: Columns,
    split: Annotated[str | None, typer.Option(help="Queries of this split only, e.g. test.")] = None,
    where: Where = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="Add the lexical baseline.")] = False,
    against: Annotated[
        str | None, typer.Option(help="One of the rows, such as bm25: the paired difference of each other to it.")
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Keep it in the collection, for the explorer's Evaluate tab.")
    ] = False,
    temperature: Temperature = None,
    seed: Seed = None,
    device: Device = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """nDCG@10, Recall@10 and MRR@10 with 95 % intervals; each model with its rationale and, as "MODEL:text", without.

    ``--temperature`` samples the queries' rationales; the documents' are those of the index.
    """
    from grace_core.evaluation.report import retrieval_command

    result, text = retrieval_command(
        dataset,
        model,
        split=split,
        where=where,
        bm25=bm25,
        against=against,
        save=save,
        device=device,
        engine=engine,
        temperature=temperature,
        seed=seed,
    )
    show(result, as_json, text)


@eval_app.command("faithfulness")
def eval_faithfulness(
    folder: Annotated[
        Path, typer.Argument(help="A collection with queries and judgements, and an index of each model.")
    ],
    model: Models,
    split: Annotated[str | None, typer.Option(help="Queries of this split only, e.g. test.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="At most this many of the queries, chosen at random.")] = 200,
    documents: Annotated[
        int, typer.Option(min=1, help="Rank at most this many documents: the relevant ones and others at random.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="For the choice of queries, for swaps and random orders.")] = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Does a model depend on its rationales, and do explanations say on which sentences? Swaps, deletes and
    encodes again.
    """
    from grace_core.evaluation.report import faithfulness_command

    result, text = faithfulness_command(
        folder, model, split=split, queries=queries, documents=documents, seed=seed, device=device, report=tell
    )
    show(result, as_json, text)
