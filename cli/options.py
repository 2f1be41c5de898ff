"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="smollm2, demo-base, a folder, a GGUF file, an adapter, or a Hugging Face id."),
]
COLUMN_HELP = "A model with an index, MODEL:text, bm25, st:NAME, or a fusion: 0.7*bm25+0.3*MODEL, rrf(bm25,MODEL); docs/columns.md."
Column = Annotated[str, typer.Option("--model", "-m", help=COLUMN_HELP)]
Columns = Annotated[list[str], typer.Option("--model", "-m", help=f"{COLUMN_HELP} May be given several times.")]
Models = Annotated[list[str], typer.Option("--model", "-m", help="A model; may be given several times.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use the first N documents only.")]
MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Longest rationale, in tokens.")]
MaxPromptTokens = Annotated[
    int | None, typer.Option("--max-prompt-tokens", min=1, help="Longest prompt; longer texts are cut.")
]
Temperature = Annotated[float | None, typer.Option("--temperature", min=0, max=10, help="0 is greedy.")]
Seed = Annotated[int | None, typer.Option("--seed", help="For sampling.")]
Template = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help="key=value for the chat template, e.g. enable_thinking=false; repeatable; values as JSON, else text.",
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 …; default CUDA where there is one.")]
Engine = Annotated[str | None, typer.Option("--engine", help="transformers, the default, or vllm; docs/vllm.md.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1)]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor write the cache of rationales.")]
KINDS_HELP = "raw (as published), calibrated, centred or whitened; docs/geometry.md."
Geometry = Annotated[str | None, typer.Option("--geometry", help=f"{KINDS_HELP} Default: what suits the model.")]
KeepQueries = Annotated[
    bool,
    typer.Option(
        "--keep-queries",
        help="Keep what is asked in the collection's asked.txt, to calibrate it with; docs/geometry.md.",
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        help="Only documents that satisfy it, e.g. \"year > 2000 and kind in ('river', 'lake')\"; docs/filters.md.",
    ),
]
