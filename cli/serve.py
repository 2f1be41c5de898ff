"""``grace serve``: options to a model, perhaps a collection, and a running server.

Light to import, as the command line must be.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import (
    Device,
    Dtype,
    Engine,
    KeepQueries,
    MaxNewTokens,
    MaxPromptTokens,
    Models,
    NoCache,
    Seed,
    Temperature,
    Template,
)
from grace_core.chat_templates import parse_arguments
from grace_core.errors import GraceError
from grace_core.serving.limits import Limits

DEFAULTS = Limits()
KEYS = "GRACE_API_KEYS"


def serve_command(
    model: Models,
    collection: Annotated[
        Path | None, typer.Option(help="A collection with an index of the model, for /search.")
    ] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 for all who can reach this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable; ${KEYS}, with commas, shows in no list of processes.")
    ] = None,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Texts that may wait; more are refused with 429.")
    ] = DEFAULTS.max_queue,
    max_texts: Annotated[int, typer.Option(min=1, help="Texts of one request.")] = DEFAULTS.max_texts,
    max_characters: Annotated[int, typer.Option(min=1, help="Characters of one text.")] = DEFAULTS.max_characters,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of one request.")] = DEFAULTS.max_body,
    max_batch: Annotated[int, typer.Option(min=1, help="Texts in one batch.")] = DEFAULTS.max_batch,
    max_batch_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens in one batch, rationales included.")
    ] = DEFAULTS.max_batch_tokens,
    max_wait: Annotated[
        float, typer.Option(min=0, help="Seconds that a batch waits for more texts.")
    ] = DEFAULTS.max_wait,
    shutdown_seconds: Annotated[
        float, typer.Option(min=1, help="Time to finish on SIGTERM.")
    ] = DEFAULTS.shutdown_seconds,
    max_new_tokens: MaxNewTokens = None,
    max_prompt_tokens: MaxPromptTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    no_cache: NoCache = False,
    keep_queries: KeepQueries = False,
) -> None:
    """Serve models over HTTP: OpenAI's embeddings and chat, /search, /rerank, /health, /metrics, /info
    (docs/serve.md).
    """
    limits = Limits(
        max_queue=max_queue,
        max_texts=min(max_texts, max_queue),
        max_characters=max_characters,
        max_body=max_body,
        max_batch=max_batch,
        max_batch_tokens=max_batch_tokens,
        max_wait=max_wait,
        shutdown_seconds=shutdown_seconds,
    )
    settings = {
        "max_new_tokens": max_new_tokens,
        "max_prompt_tokens": max_prompt_tokens,
        "temperature": temperature,
        "seed": seed,
        "template": parse_arguments(template),
    }
    given = {name: value for name, value in settings.items() if value is not None}
    if collection is not None and given:
        raise GraceError(
            f"with --collection the settings are those of its index; leave out --{next(iter(given)).replace('_', '-')}"
        )
    if keep_queries and collection is None:
        raise GraceError("--keep-queries keeps what a collection is asked: give --collection, or leave it out")
    keys = [key for key in (*(api_key or ()), *os.environ.get(KEYS, "").split(",")) if key.strip()]

    from grace_core.serving.run import cleaned_up_on_sigterm, listen, serve
    from grace_core.serving.several import serve_several

    bound = listen(host, port)  # before the model is loaded, which may take minutes
    try:
        options = {"device": device, "dtype": dtype, "engine": engine or "transformers"} | given
        with cleaned_up_on_sigterm():
            keys = [key.strip() for key in keys]
            opened = {"collection": collection, "keys": keys, "limits": limits, "keep_queries": keep_queries}
            apps = [_app(name, no_cache=no_cache, **opened, **options) for name in dict.fromkeys(model)]
            app = serve_several(apps, limits)
        logging.basicConfig(
            level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
        )
        if not keys and not _is_local(bound):
            print(f"warning: whoever reaches {host} can use this server; set ${KEYS} to ask for a key", file=sys.stderr)
        names = " and ".join(model)
        serve(
            app,
            bound,
            limits,
            announce=lambda url: print(f"GRACE serves {names} at {url}/v1 (Ctrl+C ends it)", flush=True),
        )
    finally:
        bound.close()


def _app(
    name: str,
    *,
    collection: Path | None,
    no_cache: bool,
    keys: list[str],
    limits: Limits,
    keep_queries: bool,
    **options,
):
    from grace_core.cache import RepresentationCache
    from grace_core.index import GraceIndex
    from grace_core.model import GraceModel
    from grace_core.serving.app import create_app

    cache = None if no_cache else RepresentationCache()
    if collection is None:
        return create_app(GraceModel.from_pretrained(name, cache=cache, **options), keys=keys, limits=limits)
    index = GraceIndex.of_model(collection, name)
    loaded = index.load_model(cache=cache, **options)
    return create_app(loaded, index=index, keys=keys, limits=limits, keep_queries=keep_queries)


def _is_local(bound) -> bool:
    return bound.getsockname()[0] in ("127.0.0.1", "::1")
