"""Builds and serves the whole app: header, tabs, API, theme."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from pathlib import Path

import gradio as gr
import httpx
from starlette.middleware import Middleware

from grace_app import api
from grace_app.corpus import tab as corpus_tab
from grace_app.evaluate import tab as evaluate_tab
from grace_app.explore import tab as explore_tab
from grace_app.gate import MAX_UPLOAD, RATE, VARIABLE, Accounts, Gate, is_loopback, read_accounts, read_size
from grace_app.map import tab as map_tab
from grace_app.mending import tab as mending_tab
from grace_app.page.head import Head
from grace_app.page.html import tag
from grace_app.page.scripts import html
from grace_app.reasons import tab as reasons_tab
from grace_app.theme import make_theme
from grace_app.training import tab as training_tab
from grace_app.training.runs import Runs
from grace_app.workspace.shell import Shell
from grace_app.workspace.state import Workspace
from grace_core.collection import find_collections
from grace_core.errors import GraceError

log = logging.getLogger("app")
DEMO, RUNS = "demo", "runs"
# the runs that are shown if the default folder has none
STUDY = Path(__file__).resolve().parents[1] / "docs" / "study"
STYLES = [
    Path(__file__).parent / name
    for name in (
        "page/style.css",
        "explore/passages.css",
        "explore/worth.css",
        "export/row.css",
        "map/map.css",
        "mending/mending.css",
        "reasons/reasons.css",
    )
]
TITLE = "GRACE Explorer"
TAGLINE = "Why was this document retrieved? See what each model wrote, and what it found."
KEPT = "Queries are kept here, to calibrate the collection with them."
TABS = {
    "explore": explore_tab,
    "map": map_tab,
    "reasons": reasons_tab,
    "evaluate": evaluate_tab,
    "mend": mending_tab,
    "corpus": corpus_tab,
    "training": training_tab,
}


def build_app(
    indexes_root: str | Path = "indexes",
    runs_root: str | Path = "runs",
    *,
    collection: str | None = None,
    cache_path: str | Path | None = None,
    kept_runs: str | Path | None = None,
    keep_queries: bool = False,
) -> gr.Blocks:
    """The app for the collections in ``indexes_root`` and the training runs in ``runs_root``; ``collection`` is
    shown first. As long as there is no run, those in ``kept_runs`` are shown. ``keep_queries``: of :mod:`grace_core.asked`.

    Imports no large library yet.
    """
    workspace = Workspace(indexes_root, preferred=collection, cache_path=cache_path, keep_queries=keep_queries)
    runs = Runs(runs_root, kept_runs)
    with gr.Blocks(title=TITLE, fill_width=True, analytics_enabled=False, delete_cache=(3600, 7 * 86400)) as demo:
        html(value=str(_header(KEPT if keep_queries else "")), elem_id="g-header")
        with gr.Tabs(selected="explore", elem_id="g-tabs") as tabs:
            shell = Shell(workspace, runs, tabs)
            for name, module in TABS.items():
                shell.built[name] = module.build(shell)
        api.add(workspace, runs, shell.built["evaluate"].evaluations, shell.built["map"].server.maps)
        warmed = threading.Event()

        first = shell.built["explore"]

        def opened(request: gr.Request):
            name = request.query_params.get("tab")
            unknown = f"there is no tab {name[:40]!r}, there are {', '.join(TABS)}" if name and name not in TABS else ""
            return explore_tab.open_page(first, request, unknown)

        def select_tab(request: gr.Request):  # an event of its own, which does not wait for a collection to be opened
            name = request.query_params.get("tab")
            return gr.Tabs(selected=name) if name in TABS else gr.skip()

        def warm_up():
            if not warmed.is_set():  # not earlier, since its imports would delay the first page
                warmed.set()
                threading.Thread(target=workspace.warm_up, daemon=True).start()

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        loaded = first.results.ready(opened, None, [*first.everything, first.opened], concurrency_limit=None, **quiet)
        first.results.ready(select_tab, None, tabs, **quiet)
        explore_tab.search_opened(first, loaded).then(warm_up, None, None, **quiet)
        demo.load(shell.built["corpus"].show_builds, None, shell.built["corpus"].watched, **quiet)
    demo.workspace = workspace
    return demo


def launch(
    demo: gr.Blocks,
    *,
    host: str = "127.0.0.1",
    port: int | None = 7860,
    open_browser: bool = False,
    root_path: str = "",
    accounts: Accounts | None = None,
    rate: int = 0,
    max_upload: int = read_size(MAX_UPLOAD),
) -> str:
    """Serves the app in the background and returns its address; port 0 takes a free one.

    ``root_path`` is the path under which a proxy publishes the app: without it the page would load, but send its
    requests to wrong addresses. Only ``accounts`` may enter, or everybody if it is None; ``rate`` and
    ``max_upload`` (bytes) are those of :class:`grace_app.gate.Gate`. Raises OSError if the port is taken.
    """
    # at its start Gradio requests its own page, which must not go through a proxy
    direct = ",".join(
        filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "localhost,127.0.0.1,::1", host])
    )
    os.environ |= {"no_proxy": direct, "NO_PROXY": direct}
    if port == 0:
        with socket.socket() as probe:
            probe.bind((host, 0))
            port = probe.getsockname()[1]
    demo.workspace.open_to_all = not accounts and (not is_loopback(host) or bool(root_path))
    _app, url, _ = demo.queue(max_size=200).launch(
        server_name=host,
        server_port=port,
        root_path=root_path or None,  # None leaves GRADIO_ROOT_PATH in force
        inbrowser=open_browser,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        show_error=False,
        footer_links=["api"],
        run_history=False,
        auth=accounts,
        app_kwargs={"middleware": [Middleware(Gate, demo=demo, rate=rate, max_upload=max_upload), Middleware(Head)]},
        max_file_size=max_upload,
        enable_monitoring=False,
        pwa=False,
        theme=make_theme(),
        css="\n".join(style.read_text(encoding="utf-8") for style in STYLES),
    )
    return url


def serve(
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
    keep_queries: bool = False,
) -> None:
    """Serves the explorer until it is interrupted.

    Raises GraceError if the collection does not exist or the port is taken, or if other machines could enter
    without a password and ``no_auth`` is not set."""
    if root_path and not re.fullmatch(r"(https?://[^/\s]+)?(/[\w.~-]+)+/?", root_path):
        raise GraceError(
            f"--root-path is {root_path!r}, expected the path under which the proxy shows the explorer, such as /grace"
        )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # who may enter, and how often
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
    # build and serve the app
    existing = find_collections(indexes)
    if collection and collection != DEMO and collection not in existing:
        raise GraceError(
            f"there is no collection {collection!r} in {indexes}; there are: {', '.join(existing) or 'none'}"
        )
    kept_runs = STUDY if Path(runs) == Path(RUNS) else None
    demo = build_app(indexes, runs, collection=collection, kept_runs=kept_runs, keep_queries=keep_queries)
    try:
        url = launch(demo, host=host, port=port, open_browser=open_browser, root_path=root_path.rstrip("/"), **limits)
    except OSError as error:
        raise GraceError(
            f"cannot serve at {host}:{port}: the port is taken or not allowed; give another with --port"
        ) from error
    except httpx.HTTPError as error:
        raise GraceError(
            f"the explorer started at {host}:{port}, and this machine does not reach it ({error}): is there a localhost?"
        ) from error
    print(f"GRACE Explorer is at {url} (Ctrl+C ends it)", flush=True)
    demo.block_thread()


def _header(note: str):
    return tag(
        "header",
        tag("h1", "GRACE", tag("span", " Explorer")),
        tag("p", TAGLINE),
        note and tag("p", note),
        class_="g-header",
    )
