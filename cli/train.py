"""``grace train``: reads the configuration, trains, and says where the model lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import Json
from grace_core.console import show


def train_command(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as one of configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the file's, e.g. data.limit=100.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model as a configuration says; the best one by held-out nDCG@10 lies in OUT/best."""
    from grace_core.training.config import load_config

    checked = load_config(config, overrides or [])  # a bad one is told before anything heavy is imported
    from transformers.utils import logging

    from grace_core.training.run import train

    logging.disable_progress_bar()
    result = train(checked, resume=resume)
    best = result["best"]
    score = f", held-out nDCG@10 {best['ndcg@10']:.4f} at step {best['step']}" if best else ""
    show(result, as_json, f"{result['state']} after {result['steps']} steps{score}: {result['model']}")
