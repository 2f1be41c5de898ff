"""The hits of a search as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from grace_app.explore.search import Snapshot, search
from grace_app.workspace.view import SIDES, View, read_view
from grace_core.errors import GraceError
from grace_core.readers.documents import as_text

COLUMNS = ("column", "name", "query", "rank", "score", "id", "title", "text", "rationale", "rationale_cut_off", "grade")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute


def hits_of(workspace, data: object) -> dict:
    """The hits of the view that the page names, ``{"view": {…}}``, as the page shows them.

    Raises GraceError for one that does not fit.
    """
    asked = data.get("view") if isinstance(data, dict) else None
    if not isinstance(asked, dict) or not asked.get("q"):
        raise GraceError("nothing has been searched for yet: ask something first")
    view, _ = read_view(workspace, asked, strict=True)
    *_, shot = search(workspace, view)  # the query is known, so this is quick
    return as_json(view, shot)


def as_json(view: View, shot: Snapshot) -> dict:
    """A finished search: what was asked, and of each column what was written about the query and its hits."""
    return {
        "collection": view.collection,
        "query": view.query,
        "filter": view.where or None,
        "by": view.by,
        "neighbours": view.k,
        "documents": shot.documents,
        "columns": [
            {
                "column": name,
                "name": side.column.id,
                "label": side.column.label,
                "query_rationale": side.rationale if side.column.rationale else None,
                "hits": [_hit(hit, side.column.rationale, shot.grades) for hit in side.hits or []],
            }
            for name, side in zip(SIDES, shot.sides, strict=True)
        ],
    }


def _hit(hit, rationale: bool, grades: dict | None) -> dict:
    document = hit.document
    entry = {
        "rank": hit.rank,
        "score": float(hit.score),
        "id": document.id,
        "title": document.title,
        "text": document.text,
    }
    if rationale:
        entry |= {"rationale": hit.rationale, "rationale_cut_off": bool(hit.truncated)}
    if grades is not None:
        entry["grade"] = grades.get(document.id, 0)
    return entry | {"metadata": document.plain_metadata}


def as_csv(result: dict) -> str:
    """The same as a table with a line for every hit; a cell that a spreadsheet would take for a formula gets
    a quote in front.
    """
    fields = dict.fromkeys(field for row in _rows(result) for field in row["metadata"])
    names = {field: f"metadata.{field}" if field in COLUMNS else field for field in fields}
    out = io.StringIO()
    writer = csv.DictWriter(out, [*COLUMNS, *names.values()], restval="", extrasaction="ignore")
    writer.writerow({name: _cell(name) for name in writer.fieldnames})
    for row in _rows(result):
        values = row | {names[field]: value for field, value in row["metadata"].items()}
        writer.writerow({name: _cell(value) for name, value in values.items()})
    return out.getvalue()


def _rows(result: dict) -> Iterator[dict]:
    for column in result["columns"]:
        for hit in column["hits"]:
            yield {"column": column["column"], "name": column["name"], "query": result["query"]} | hit


def _cell(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return "" if value is None else value
    text = as_text(value) if isinstance(value, list) else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text
