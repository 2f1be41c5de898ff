"""``grace search``: the nearest documents of a query, and what of query and documents was cut."""

from __future__ import annotations

from pathlib import Path

from grace_cli.columns import search_column
from grace_cli.passages import by_note, check_by, document_of, passage_line
from grace_core import gating
from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.columns.column import checked
from grace_core.columns.listing import is_model, read_name
from grace_core.errors import GraceError
from grace_core.hits import Hit
from grace_core.index import GraceIndex
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_core.truncation import AGAIN, notes_on_cut_query, notes_on_cut_texts

SHOWN = 150  # characters of a rationale


def search_command(
    folder: Path,
    query: str,
    model: str,
    *,
    k: int,
    where: str | None,
    rationale: bool,
    input_type: str,
    device: str | None,
    engine: str | None,
    gate: float | None = None,
    by: str = "best",
) -> tuple[list[dict], str, list[str]]:
    """The hits, the same as text, and what is to be told of texts that were cut.

    Raises GraceError for an empty query.
    """
    if input_type not in ("query", "document"):
        raise GraceError(f"--input-type must be query or document, got {input_type!r}")
    name = read_name(collection := Collection(folder), model)
    check_by(by, collection)
    checked(query)
    if not is_model(name):
        if input_type != "query" or not rationale or engine is not None or gate is not None:
            options = "--input-type, --no-rationale, --gate and --engine are for a model"
            raise GraceError(f"{options}, and {name.id} is another column: leave them out")
        return search_column(folder, query, name, k=k, where=where, device=device, by=by)
    rationale = rationale if name.rationale is None else name.rationale
    if gate is not None and not rationale:
        raise GraceError(
            f"--gate {gate:g} lets a rationale be written where that may help, and there is to be none; leave one of them out"
        )
    index = GraceIndex.of_model(collection, name.model)
    left = None if where is None else len(index.selections.of(where))  # before a model is loaded for nothing
    loaded = index.load_model(device=device, engine=engine, cache=RepresentationCache())
    pooling = index.default_pooling if rationale else Pooling.TEXT
    asked, notes = pooling, []
    if gate is not None:
        asked, note = _gated(index, loaded, query, gate, role=input_type, where=where)
        notes.append(note)
    representations = loaded.represent([query], rationale=asked is Pooling.FULL)
    hits = index.hits(index.embed(representations, asked, role=input_type)[0], k, pooling=pooling, where=where, by=by)
    lines = [f"query rationale: {representations.rationales[0] or '(none)'}", *map(_line, hits)]
    scope_notes = (
        []
        if left is None
        else [f"{left:,} of {len(index):,} {'passages' if collection.chunk else 'documents'} satisfy the filter"]
    )
    scope_notes += by_note(by, collection)
    return [hit.as_dict() for hit in hits], "\n".join(lines), [*notes, *scope_notes, *_notes(loaded, query, hits)]


def _gated(
    index: GraceIndex, model: GraceModel, query: str, gate: float, *, role: str, where: str | None
) -> tuple[Pooling, str]:
    """What the query's vector is made of, and why in one line."""
    gating.check_index(index)
    read = model.represent([query], rationale=False)
    vector = index.embed(read, Pooling.TEXT, role=role)
    (margin,) = gating.margins(index.search(vector, gating.DEPTH, where=where)[0]).tolist()
    if gating.Gate(gate).writes(margin):
        return (
            Pooling.FULL,
            f"by its text alone the first hit leads by {margin:.3f}, less than {gate:g}: a rationale was written",
        )
    return (
        Pooling.TEXT,
        f"by its text alone the first hit leads by {margin:.3f}, not less than {gate:g}: no rationale was written",
    )


def _line(hit: Hit) -> str:
    cut = f"  (text cut after {hit.text_tokens:,} tokens)" if hit.text_truncated else ""
    passage = passage_line(hit)
    return f"{hit.rank:3d}  {hit.score:.4f}  {document_of(hit)}  {hit.document.title}{cut}\n{passage}     {hit.rationale[:SHOWN]}"


def _notes(model: GraceModel, query: str, hits: list[Hit]) -> list[str]:
    asked, cut = model.prompts.build(query), sum(hit.text_truncated for hit in hits)
    return [
        *notes_on_cut_query(asked.stop - asked.start, asked.left_out, model.settings),
        *notes_on_cut_texts(cut, len(hits), model.settings, positions=model.positions, again=AGAIN, what="texts found"),
    ]
