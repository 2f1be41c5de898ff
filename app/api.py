"""Named endpoints for programs: ``/search``, ``/encode``, ``/runs`` and ``/run``, for ``gradio_client`` and plain HTTP."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.messages import message_of
from app.runs import Runs
from app.search import search
from app.state import Workspace
from app.view import Column, View, check_query
from grace_core.errors import GraceError

MAX_K = 100
MAX_TEXTS = 64
MAX_CHARACTERS = 20_000


def add(workspace: Workspace, runs: Runs) -> None:
    """Add the endpoints to the app that is being built. Models are those of known collections and the demo models, no others."""

    def search_endpoint(query: str, collection: str, model: str, rationale: bool = True, k: int = 10) -> dict[str, Any]:
        """The k documents nearest to a query, by a model of the collection with its rationale or by the text alone."""
        return answered(search_api, workspace, query, collection, model, rationale, k)

    def encode_endpoint(texts: list[str], model: str, rationale: bool = True) -> dict[str, Any]:
        """L2-normalised embeddings of up to 64 texts (or of one), and the rationales they were made with."""
        return answered(encode_api, workspace, texts, model, rationale)

    def runs_endpoint() -> list[dict[str, Any]]:
        """The training runs, newest first: state, steps, best held-out nDCG@10 and what is wrong with their files."""
        return answered(lambda: [run.summary() for run in runs.all()])

    def run_endpoint(name: str) -> dict[str, Any]:
        """One training run: its summary, the metrics of its steps and evaluations, and the rationales of its probe texts."""
        return answered(run_api, runs, name)

    gr.api(search_endpoint, api_name="search", concurrency_limit=4, concurrency_id="api")
    gr.api(encode_endpoint, api_name="encode", concurrency_limit=4, concurrency_id="api")
    gr.api(runs_endpoint, api_name="runs", concurrency_limit=4, concurrency_id="api")
    gr.api(run_endpoint, api_name="run", concurrency_limit=4, concurrency_id="api")


def answered(function, *arguments):
    """The function's answer; its error as one that reaches the caller with its message."""
    try:
        return function(*arguments)
    except Exception as error:
        raise gr.Error(message_of(error), print_exception=False) from None


def search_api(workspace: Workspace, query: object, collection: object, model: object, rationale: object, k: object) -> dict[str, Any]:
    query = check_query(query)
    if isinstance(k, bool) or not isinstance(k, (int, float)) or k != int(k) or not 1 <= k <= MAX_K:
        raise GraceError(f"k must be a whole number from 1 to {MAX_K}, got {k!r:.60}")
    column = Column(_name("model", model), _flag(rationale))
    names = workspace.collections()
    if _name("collection", collection) not in names:
        raise GraceError(f"there is no collection {collection[:100]!r}; there are: {', '.join(names) or 'none'}")
    if column not in workspace.columns(collection):
        there = ", ".join(f"{c.model} (rationale={c.rationale})" for c in workspace.columns(collection))
        raise GraceError(f"{collection} has no {column.model[:100]!r} with rationale={column.rationale}; there are: {there}")
    *_, last = search(workspace, View(collection, column, column, int(k), query))
    return {"query": query, "rationale": last.a.rationale, "hits": [hit.as_dict() for hit in last.a.hits]}


def encode_api(workspace: Workspace, texts: object, model: object, rationale: object) -> dict[str, Any]:
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise GraceError("texts must be a text or a list of texts")
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise GraceError(f"got {len(texts)} texts, expected 1 to {MAX_TEXTS}: send them in several calls")
    for position, text in enumerate(texts):
        if len(text) > MAX_CHARACTERS:
            raise GraceError(f"text {position} has {len(text):,} characters, at most {MAX_CHARACTERS:,} are taken: split it")
        if not text.strip("\x00 \t\r\n"):
            raise GraceError(f"text {position} is empty: leave it out")
    rationale = _flag(rationale)
    loaded = workspace.named_model(_name("model", model))
    made = loaded.represent([check_query(text) for text in texts], rationale=rationale, batch_size=16)
    vectors = made.embeddings(Column(loaded.name, rationale).pooling)
    return {"model": loaded.name, "dim": loaded.dim, "rationales": made.rationales, "embeddings": vectors.tolist()}


def run_api(runs: Runs, name: object) -> dict[str, Any]:
    run = runs.get(_name("name", name))
    return run.summary() | {"metrics": list(run.steps), "evaluations": list(run.evaluations), "probes": list(run.probes)}


def _name(what: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise GraceError(f"{what} must be a name, got {value!r:.60}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise GraceError(f"rationale must be true or false, got {value!r:.60}")
    return value
