"""Named endpoints for programs, for ``gradio_client`` and plain HTTP: search, explain, what_if, worth, encode, map,
evaluate, runs and run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from grace_app.evaluate.evaluations import Evaluations, compare, evaluate
from grace_app.evaluate.render import summary_json
from grace_app.evaluate.view import FIRST, read_evaluate
from grace_app.explore.search import search
from grace_app.explore.why import MAX_EDIT, case, row_of
from grace_app.explore.within import moved_within, rank_within, rows_within
from grace_app.explore.worth import worth
from grace_app.gate import runs_model
from grace_app.map.maps import Maps, tell_maps
from grace_app.map.view import mapped_columns, no_place
from grace_app.training.runs import Runs
from grace_app.workspace.messages import message_of
from grace_app.workspace.state import Workspace
from grace_app.workspace.view import Column, OtherColumn, View, check_by, check_query
from grace_core.columns.names import Single, parse
from grace_core.errors import GraceError
from grace_core.geometry import Role

if TYPE_CHECKING:
    import numpy as np

    from grace_core.explain import WhatIf

MAX_K = 100
MAX_TEXTS = 64
MAX_CHARACTERS = 20_000
MAX_COLUMNS = 4
MAX_FRESH = 2 * FIRST  # queries times columns that one call may encode


def add(workspace: Workspace, runs: Runs, evaluations: Evaluations, maps: Maps) -> None:
    """Add the endpoints to the app that is being built.

    Models are those of known collections and the demo models, no others.
    """

    @runs_model
    def search_endpoint(
        query: str,
        collection: str,
        model: str,
        rationale: bool = True,
        k: int = 10,
        filter: str = "",
        by: str = "best",
    ) -> dict[str, Any]:
        """The k documents nearest to a query, by a model of the collection with its rationale or by the text
        alone, or by another column such as "bm25" or "0.7*bm25+0.3*MODEL:rationale"; with ``filter`` only
        documents that satisfy it, such as "year > 2000 and kind in ('river', 'lake')". Where documents are
        split into passages, ``by`` is what one ranks by: its "best" passage or the "sum" of its passages."""
        return answered(search_api, workspace, query, collection, model, rationale, k, filter, by)

    @runs_model
    def explain_endpoint(
        query: str,
        collection: str,
        model: str,
        document: str,
        rationale: bool = True,
        against: str = "",
        by: str = "best",
    ) -> dict[str, Any]:
        """Why a document has its score: blocks, sentence pairs and tokens that add up to it; and what sets it
        apart from ``against``. Of a column that is no model its ledger: lines that add up to the score, each
        of parts that add up to the line; so of a document that is split into passages, ``by`` its "best" passage
        or the "sum" of them."""
        return answered(explain_api, workspace, query, collection, model, document, rationale, against, by)

    @runs_model
    def what_if_endpoint(
        query: str,
        collection: str,
        model: str,
        document: str,
        rationale: bool = True,
        edited_text: str | None = None,
        edited_rationale: str | None = None,
        leave_one_out: bool = False,
        filter: str = "",
    ) -> dict[str, Any]:
        """Score and rank of a document with another text or rationale, and among how many documents; on demand also
        its score without each sentence in turn. With ``filter``, as of /search, ranks are among the documents that
        satisfy it, and this one.
        """
        return answered(
            what_if_api,
            workspace,
            query,
            collection,
            model,
            document,
            rationale,
            edited_text,
            edited_rationale,
            leave_one_out,
            filter,
        )

    @runs_model
    def worth_endpoint(query: str, collection: str, model: str, document: str) -> dict[str, Any]:
        """Score and rank of a document with its rationale, without, with another's, and with its words in random
        order; the same for the query's rationale and for both, and the tokens that they took."""
        return answered(worth_api, workspace, query, collection, model, document)

    @runs_model
    def encode_endpoint(
        texts: list[str], model: str, rationale: bool = True, input_type: str = "document"
    ) -> dict[str, Any]:
        """L2-normalised embeddings of up to 64 texts (or of one), and the rationales they were made with, in
        the model's own geometry; ``input_type`` is query or document."""
        return answered(encode_api, workspace, texts, model, rationale, input_type)

    @runs_model
    def evaluate_endpoint(
        collection: str, a: str, b: str = "", split: str = "", first: bool = False, filter: str = ""
    ) -> dict[str, Any]:
        """nDCG@10, Recall@10 and MRR@10 of the columns a and b (such as "demo-base:rationale") on the judged
        queries of a collection, with intervals, their paired difference b − a, and BM25; of one split, and
        with ``first`` of 100 queries only; with ``filter`` within the documents that satisfy it, on the queries
        that one of these is relevant to."""
        return answered(evaluate_api, evaluations, collection, a, b, split, first, filter)

    @runs_model
    def map_endpoint(collection: str, columns: list[str]) -> dict[str, Any]:
        """Places and regions of every document in up to four columns (such as "demo-base:rationale"), arrays
        as base64 of the type and shape that stand beside them; of the first two columns also how many of 15
        neighbours each document kept."""
        return answered(map_api, maps, collection, columns)

    def runs_endpoint() -> list[dict[str, Any]]:
        """The training runs, newest first: state, steps, best held-out nDCG@10 and what is wrong with their files."""
        return answered(lambda: [run.summary() for run in runs.all()])

    def run_endpoint(name: str) -> dict[str, Any]:
        """One training run: its summary, the metrics of its steps and evaluations, and the rationales of its
        probe texts.
        """
        return answered(run_api, runs, name)

    gr.api(search_endpoint, api_name="search", concurrency_limit=4, concurrency_id="api")
    gr.api(explain_endpoint, api_name="explain", concurrency_limit=4, concurrency_id="api")
    gr.api(what_if_endpoint, api_name="what_if", concurrency_limit=4, concurrency_id="api")
    gr.api(worth_endpoint, api_name="worth", concurrency_limit=4, concurrency_id="api")
    gr.api(encode_endpoint, api_name="encode", concurrency_limit=4, concurrency_id="api")
    gr.api(evaluate_endpoint, api_name="evaluate", concurrency_limit=4, concurrency_id="api")
    gr.api(map_endpoint, api_name="map", concurrency_limit=4, concurrency_id="api")
    gr.api(runs_endpoint, api_name="runs", concurrency_limit=4, concurrency_id="api")
    gr.api(run_endpoint, api_name="run", concurrency_limit=4, concurrency_id="api")


def answered(function, *arguments):
    """The function's answer; its error as one that reaches the caller with its message."""
    try:
        return function(*arguments)
    except Exception as error:
        raise gr.Error(message_of(error), print_exception=False) from None


def search_api(
    workspace: Workspace,
    query: object,
    collection: object,
    model: object,
    rationale: object,
    k: object,
    where: object = "",
    by: object = "best",
) -> dict[str, Any]:
    if isinstance(k, bool) or not isinstance(k, (int, float)) or not 1 <= k <= MAX_K or k != int(k):
        raise GraceError(f"k must be a whole number from 1 to {MAX_K}, got {k!r:.60}")
    where = _filter(where)
    view = _view(workspace, query, collection, model, rationale, k=int(k))
    by = check_by(workspace.collection(view.collection), by)
    *_, last = search(workspace, replace(view, where=where, by=by))
    asked = last.a
    return {
        "query": last.view.query,
        "rationale": asked.rationale,
        "truncated": asked.truncated,
        "text_truncated": asked.text_truncated,
        "hits": [hit.as_dict() for hit in asked.hits],
    }


def explain_api(
    workspace: Workspace,
    query: object,
    collection: object,
    model: object,
    document: object,
    rationale: object,
    against: object,
    by: object = "best",
) -> dict[str, Any]:
    from grace_core.columns.documents import explain, is_split

    if not isinstance(against, str):
        raise GraceError(f"against must be a document's id, or empty, got {against!r:.60}")
    view = _view(workspace, query, collection, model, rationale, document=document)
    by, split = check_by(there := workspace.collection(view.collection), by), is_split(there, view.doc)
    if isinstance(view.a, OtherColumn) or split or by == "sum":
        opened = workspace.opened(view.collection, view.a)
        payload = explain(opened, view.query, view.doc, by=by).as_dict(tokens=True)
        return payload | (
            {"against": explain(opened, view.query, against, by=by).as_dict(tokens=True)} if against else {}
        )
    explained_hit = case(workspace, view, "a")
    rows = [explained_hit.row, *([row_of(explained_hit.index, against)] if against else [])]
    explained = explained_hit.explainer.why(explained_hit.view.query, rows, pooling=explained_hit.pooling)
    payload = explained[0].as_dict(tokens=True) | {
        "text_truncated": explained_hit.index.text_truncated[explained_hit.row]
    }
    if against:
        from grace_core.explain import difference

        payload["difference"] = difference(*explained).as_dict()
    return payload


def what_if_api(
    workspace: Workspace,
    query: object,
    collection: object,
    model: object,
    document: object,
    rationale: object,
    edited_text: object,
    edited_rationale: object,
    leave_one_out: object,
    where: object = "",
) -> dict[str, Any]:
    for name, value in (("edited_text", edited_text), ("edited_rationale", edited_rationale)):
        if value is not None and not isinstance(value, str):
            raise GraceError(f"{name} must be text, or null to leave it as it is, got {value!r:.60}")
        if value is not None and len(value) > MAX_EDIT:
            raise GraceError(f"{name} has {len(value):,} characters, at most {MAX_EDIT:,} are taken: shorten it")
    where, view = _filter(where), _view(workspace, query, collection, model, rationale, document=document)
    if isinstance(view.a, OtherColumn):
        opened = workspace.opened(view.collection, view.a)
        rows = rows_within(opened.rows.selections, where, opened.row(view.doc), len(opened))
        edited = opened.what_if(view.query, view.doc, text=edited_text, rationale=edited_rationale)
        payload = _within(edited, opened.scores(view.query), opened.row(view.doc), rows, opened.ids)
        if _flag(leave_one_out, "leave_one_out"):
            removed = opened.leave_one_out(view.query, view.doc)
            payload["leave_one_out"] = [{"part": "text", "text": one.text, "score": one.score} for one in removed]
        return payload
    explained_hit = case(workspace, view, "a")
    if edited_rationale is not None and not explained_hit.column.rationale:
        raise GraceError("the text alone is embedded here, so a rationale changes nothing: ask with rationale=True")
    asked, index = (explained_hit.query_vector, explained_hit.row), explained_hit.index
    rows = rows_within(index.selections, where, explained_hit.row, len(index))
    edited = explained_hit.explainer.what_if(
        *asked, text=edited_text, rationale=edited_rationale, pooling=explained_hit.pooling
    )
    payload = _within(
        edited,
        index.scores(explained_hit.query_vector, pooling=explained_hit.pooling),
        explained_hit.row,
        rows,
        index.ids,
    )
    if _flag(leave_one_out, "leave_one_out"):
        from grace_core.pooling import PARTS, RATIONALE, TEXT

        payload["leave_one_out"] = [
            {"part": PARTS[part], "text": sentence.text, "score": score}
            for part in ((TEXT, RATIONALE) if explained_hit.column.rationale else (TEXT,))
            for sentence, score in explained_hit.explainer.leave_one_out(
                *asked, part=part, pooling=explained_hit.pooling
            )
        ]
    return payload


def _within(edited: WhatIf, scores: np.ndarray, row: int, rows: np.ndarray, ids: list[str]) -> dict[str, Any]:
    """``edited`` as it is told, with ranks among ``rows``, by the scores ``(n,)`` of all documents."""
    return moved_within(edited, rank_within(scores, row, rows), ids, rows).as_dict() | {"documents": len(rows)}


def worth_api(
    workspace: Workspace, query: object, collection: object, model: object, document: object
) -> dict[str, Any]:
    return worth(workspace, _view(workspace, query, collection, model, True, document=document), "a")


def _view(
    workspace: Workspace,
    query: object,
    collection: object,
    model: object,
    rationale: object,
    *,
    k: int = 10,
    document: object = None,
) -> View:
    """What is asked for, in a finished column of a collection that is here."""
    query, column = check_query(query), Column(_name("model", model), _flag(rationale))
    names = workspace.collections()
    if _name("collection", collection) not in names:
        raise GraceError(f"there is no collection {collection[:100]!r}; there are: {', '.join(names) or 'none'}")
    if column not in workspace.columns(collection) and not _is_plain(model):
        column = workspace.column(collection, model)
    elif column not in workspace.columns(collection):
        there = ", ".join(f"{c.model} (rationale={c.rationale})" for c in workspace.columns(collection))
        raise GraceError(
            f"{collection} has no {column.model[:100]!r} with rationale={column.rationale}; there are: {there}"
        )
    return View(collection, column, column, k, query, "" if document is None else _name("document", document))


def _is_plain(name: str) -> bool:
    """Whether a name can only be a model's, without what of it ranks."""
    try:
        return parse(name) == Single("grace", name)
    except GraceError:
        return False


def encode_api(
    workspace: Workspace, texts: object, model: object, rationale: object, role: object = "document"
) -> dict[str, Any]:
    if role not in list(Role):
        raise GraceError(f"input_type must be query or document, got {role!r:.40}")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise GraceError("texts must be a text or a list of texts")
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise GraceError(f"got {len(texts)} texts, expected 1 to {MAX_TEXTS}: send them in several calls")
    for position, text in enumerate(texts):
        if len(text) > MAX_CHARACTERS:
            raise GraceError(
                f"text {position} has {len(text):,} characters, at most {MAX_CHARACTERS:,} are taken: split it"
            )
        if not text.strip("\x00 \t\r\n"):
            raise GraceError(f"text {position} is empty: leave it out")
    rationale = _flag(rationale)
    loaded = workspace.named_model(_name("model", model))
    representations = loaded.represent([check_query(text) for text in texts], rationale=rationale, batch_size=16)
    vectors = loaded.geometry.vectors(
        representations.sums, representations.counts, Column(loaded.name, rationale).pooling, role
    )
    return {
        "model": loaded.name,
        "dim": loaded.dim,
        "rationales": representations.rationales,
        "truncated": representations.truncated.tolist(),
        "text_truncated": representations.text_truncated.tolist(),
        "embeddings": vectors.tolist(),
    }


def evaluate_api(
    evaluations: Evaluations,
    collection: object,
    a: object,
    b: object,
    split: object,
    first: object,
    where: object = "",
) -> dict[str, Any]:
    for name, value in (("b", b), ("split", split), ("filter", where)):
        if not isinstance(value, str):
            raise GraceError(f"{name} must be a name, or empty, got {value!r:.60}")
    asked = {
        "on": _name("collection", collection),
        "x": _name("a", a),
        "y": b or a,
        "split": split or "all",
        "among": where,
    }
    view, _ = read_evaluate(
        evaluations.workspace, asked | ({"first": str(FIRST)} if _flag(first, "first") else {}), strict=True
    )
    if missing := compare(evaluations, view, lexical=False).missing:
        if missing > MAX_FRESH:
            raise GraceError(
                f"{missing:,} queries would have to be encoded first, at most {MAX_FRESH} are: ask with first=True, press Evaluate in the "
                "app, or run `grace eval retrieval … --save`"
            )
        for _ in evaluate(evaluations, view):
            pass
    return summary_json(compare(evaluations, view))


def map_api(maps: Maps, collection: object, columns: object) -> dict[str, Any]:
    columns = [columns] if isinstance(columns, str) else columns
    if not isinstance(columns, list) or not 1 <= len(columns) <= MAX_COLUMNS:
        raise GraceError(
            f"columns must be a list of 1 to {MAX_COLUMNS} columns such as 'demo-base:rationale', got {columns!r:.60}"
        )
    names = maps.workspace.collections()
    if _name("collection", collection) not in names:
        raise GraceError(f"there is no collection {collection[:100]!r}; there are: {', '.join(names) or 'none'}")
    there = {column.id: column for column in mapped_columns(maps.workspace, collection)}
    for column in columns:
        if _name("columns", column) not in there:
            why = no_place(maps.workspace, collection, column) or f"{collection} has no column {column[:100]!r}"
            raise GraceError(f"{why}; there are: {', '.join(there)}")
    return tell_maps(maps, collection, [there[column] for column in columns])


def run_api(runs: Runs, name: object) -> dict[str, Any]:
    run = runs.get(_name("name", name))
    return run.summary() | {
        "metrics": list(run.steps),
        "evaluations": list(run.evaluations),
        "probes": list(run.probes),
    }


def _name(what: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise GraceError(f"{what} must be a name, got {value!r:.60}")
    return value


def _filter(value: object) -> str:
    if not isinstance(value, str):
        raise GraceError(f"filter must be text, got {value!r:.60}")
    return value.strip()


def _flag(value: object, name: str = "rationale") -> bool:
    if not isinstance(value, bool):
        raise GraceError(f"{name} must be true or false, got {value!r:.60}")
    return value
