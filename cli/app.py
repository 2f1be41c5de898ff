"""``grace app``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.options import KeepQueries


def app_command(
    collection: Annotated[str, typer.Option(help="The collection to open with.")] = "demo",
    indexes: Annotated[Path, typer.Option(help="The folder of collections.")] = Path("indexes"),
    runs: Annotated[Path, typer.Option(help="The folder of training runs.")] = Path("runs"),
    host: Annotated[
        str, typer.Option(help="The address to serve at; one that other machines reach wants a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    root_path: Annotated[
        str, typer.Option(help="Behind a proxy that shows the explorer below a path: that path, e.g. /grace.")
    ] = "",
    auth: Annotated[
        str | None,
        typer.Option(help="NAME:PASSWORD to ask for. Others on this machine can read it: rather set GRACE_APP_AUTH."),
    ] = None,
    auth_file: Annotated[Path | None, typer.Option(help="A file of lines NAME:PASSWORD.")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let everybody in, also from other machines.")] = False,
    rate: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Questions a minute that a model answers for one client, 0 for any number; 120 where others can ask.",
        ),
    ] = None,
    max_upload: Annotated[
        str | None, typer.Option(help="The largest file to take, e.g. 500mb; 2gb if not given.")
    ] = None,
    keep_queries: KeepQueries = False,
) -> None:
    """Open the explorer in a browser."""
    from grace_app.main import serve

    serve(
        collection=collection,
        indexes=indexes,
        runs=runs,
        host=host,
        port=port,
        open_browser=browser,
        root_path=root_path,
        auth=auth,
        auth_file=auth_file,
        no_auth=no_auth,
        rate=rate,
        max_upload=max_upload,
        keep_queries=keep_queries,
    )
