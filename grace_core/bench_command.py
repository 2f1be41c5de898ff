"""``grace bench vllm``."""

from __future__ import annotations

from typing import Annotated

import typer

from grace_core.console import show
from grace_core.options import BatchSize, Json, Model


def vllm_command(
    model: Model = "demo-base",
    texts: Annotated[int, typer.Option(min=1, help="How many passages.")] = 256,
    runs: Annotated[int, typer.Option(min=1)] = 5,
    batch_size: BatchSize = 64,
    as_json: Json = False,
) -> None:
    """Encoding with vLLM against plain vLLM generation of the same tokens, and against a second forward for the states."""
    from benchmarks.vllm import run

    result = run(model, texts=texts, runs=runs, batch_size=batch_size)
    lines = [f"{name}: {value:.2f} × (processor time: {result['cpu_ratios'][name]:.2f} ×)" for name, value in result["ratios"].items()]
    show(result, as_json, "\n".join(lines))
