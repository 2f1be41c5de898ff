"""Start the explorer: ``grace app``, or ``python -m app`` with the same options."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

log = logging.getLogger("app")
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
    auth: str | None = None,
    auth_file: str | Path | None = None,
    no_auth: bool = False,
    rate: int | None = None,
    max_upload: str | None = None,
) -> None:
    """Serve the explorer until it is interrupted. Raises GraceError if the collection or the port is not to be had, or if others than
    this machine could enter without a password and ``no_auth`` does not say that they may."""
    from app.gate import MAX_UPLOAD, RATE, VARIABLE, is_loopback, read_accounts, read_size
    from app.main import build_app, launch
    from grace_core.collection import find_collections
    from grace_core.errors import GraceError

    if root_path and not re.fullmatch(r"(https?://[^/\s]+)?(/[\w.~-]+)+/?", root_path):
        raise GraceError(f"--root-path is {root_path!r}, expected the path under which the proxy shows the explorer, such as /grace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    accounts, alone = read_accounts(auth, auth_file), is_loopback(host)
    if not (alone or accounts or no_auth):
        raise GraceError(
            f"others can reach {host}, and the explorer has no password: set {VARIABLE}=NAME:PASSWORD, give --auth-file FILE with such "
            "lines, or let everybody in with --no-auth"
        )
    if not (alone or accounts):
        log.warning("without a password whoever reaches %s:%d can use the explorer", host, port)
    if rate is None:
        rate = 0 if alone and not root_path else RATE
    limits = {"accounts": accounts, "rate": rate, "max_upload": read_size(max_upload or MAX_UPLOAD)}
    there = find_collections(indexes)
    if collection and collection != DEMO and collection not in there:
        raise GraceError(f"there is no collection {collection!r} in {indexes}; there are: {', '.join(there) or 'none'}")
    demo = build_app(indexes, runs, collection=collection, kept_runs=STUDY if Path(runs) == Path(RUNS) else None)
    try:
        url = launch(demo, host=host, port=port, open_browser=open_browser, root_path=root_path.rstrip("/"), **limits)
    except OSError as error:
        raise GraceError(f"cannot serve at {host}:{port}: the port is taken or not allowed; give another with --port") from error
    print(f"GRACE Explorer is at {url} (Ctrl+C ends it)", flush=True)
    demo.block_thread()


if __name__ == "__main__":
    from app.command import main as grace

    sys.argv[:1] = ["grace", "app"]
    grace()
