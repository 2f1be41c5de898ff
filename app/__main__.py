"""``python -m app``: start the explorer."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from pathlib import Path

DEMO, RUNS = "demo", "runs"
STUDY = Path(__file__).resolve().parents[1] / "docs" / "study"  # what is to be seen where runs are made by default, before one is


def main(
    collection: str | None = DEMO,
    indexes: str | Path = "indexes",
    runs: str | Path = RUNS,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = True,
    root_path: str = "",
) -> None:
    """Serve the explorer until it is interrupted. Raises GraceError if the collection or the port is not to be had."""
    from app.main import build_app, launch
    from grace_core.collection import find_collections
    from grace_core.errors import GraceError

    if root_path and not re.fullmatch(r"(https?://[^/\s]+)?(/[\w.~-]+)+/?", root_path):
        raise GraceError(f"--root-path is {root_path!r}, expected the path under which the proxy shows the explorer, such as /grace")
    there = find_collections(indexes)
    if collection and collection != DEMO and collection not in there:
        raise GraceError(f"there is no collection {collection!r} in {indexes}; there are: {', '.join(there) or 'none'}")
    demo = build_app(indexes, runs, collection=collection, kept_runs=STUDY if Path(runs) == Path(RUNS) else None)
    try:
        url = launch(demo, host=host, port=port, open_browser=open_browser, root_path=root_path.rstrip("/"))
    except OSError as error:
        raise GraceError(f"cannot serve at {host}:{port}: the port is taken or not allowed; give another with --port") from error
    print(f"GRACE Explorer is at {url} (Ctrl+C ends it)", flush=True)
    demo.block_thread()


def run(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app", description="Start the GRACE Explorer.")
    parser.add_argument("--collection", default=DEMO, help="the collection shown first (default: %(default)s)")
    parser.add_argument("--indexes", default="indexes", help="the folder of the collections (default: %(default)s)")
    parser.add_argument("--runs", default=RUNS, help="the folder of the training runs (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to serve at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="the port to serve at (default: %(default)s)")
    parser.add_argument("--root-path", default="", help="the path under which a proxy shows the explorer, such as /grace")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    from grace_core.errors import GraceError

    try:
        main(given.collection, given.indexes, given.runs, given.host, given.port, not given.no_browser, given.root_path)
    except GraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(run())
