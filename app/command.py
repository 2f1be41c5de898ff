"""The ``grace`` command: the library's commands, and ``grace app``, of which the library knows nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_core.cli import app, main

__all__ = ["main"]


@app.command("app")
def app_command(
    collection: Annotated[str, typer.Option(help="The collection to open with.")] = "demo",
    indexes: Annotated[Path, typer.Option(help="The folder of collections.")] = Path("indexes"),
    runs: Annotated[Path, typer.Option(help="The folder of training runs.")] = Path("runs"),
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    root_path: Annotated[str, typer.Option(help="Behind a proxy that shows the explorer below a path: that path, e.g. /grace.")] = "",
) -> None:
    """Open the explorer in a browser."""
    from app.__main__ import main as run

    run(collection=collection, indexes=indexes, runs=runs, host=host, port=port, open_browser=browser, root_path=root_path)
