"""``grace search``: the nearest documents of a query, and what of query and documents was cut."""

from __future__ import annotations

from pathlib import Path

from grace_cli.columns import search_column
from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.columns.listing import is_model, read_name
from grace_core.errors import GraceError
from grace_core.index import GraceIndex, Hit
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_core.truncation import AGAIN, notes_on_cut_query, notes_on_cut_texts

SHOWN = 150  # characters of a rationale


def search_command(
    folder: Path, query: str, model: str, *, k: int, where: str | None, rationale: bool, input_type: str, device: str | None,
    engine: str | None,
) -> tuple[list[dict], str, list[str]]:  # fmt: skip
    """The hits, the same as text, and what is to be told of texts that were cut. Raises GraceError for an empty query."""
    if input_type not in ("query", "document"):
        raise GraceError(f"--input-type must be query or document, got {input_type!r}")
    name = read_name(collection := Collection(folder), model)
    if not is_model(name):
        if input_type != "query" or not rationale or engine is not None:
            raise GraceError(f"--input-type, --no-rationale and --engine are for a model, and {name.id} is another column: leave them out")
        return search_column(folder, query, name, k=k, where=where, device=device)
    rationale = rationale if name.rationale is None else name.rationale
    index = GraceIndex.of_model(collection, name.model)
    left = None if where is None else len(index.selections.of(where))  # before a model is loaded for nothing
    loaded = index.load_model(device=device, engine=engine, cache=RepresentationCache())
    pooling = index.default_pooling if rationale else Pooling.TEXT
    made = loaded.represent([query], rationale=pooling is Pooling.FULL)
    hits = index.hits(index.embed(made, pooling, role=input_type)[0], k, pooling=pooling, where=where)
    lines = [f"query rationale: {made.rationales[0] or '(none)'}", *map(_line, hits)]
    told = [] if left is None else [f"{left:,} of {len(index):,} documents satisfy the filter"]
    return [hit.as_dict() for hit in hits], "\n".join(lines), [*told, *_notes(loaded, query, hits)]


def _line(hit: Hit) -> str:
    cut = f"  (text cut after {hit.text_tokens:,} tokens)" if hit.text_truncated else ""
    return f"{hit.rank:3d}  {hit.score:.4f}  {hit.document.id}  {hit.document.title}{cut}\n     {hit.rationale[:SHOWN]}"


def _notes(model: GraceModel, query: str, hits: list[Hit]) -> list[str]:
    asked, cut = model.prompts.build(query), sum(hit.text_truncated for hit in hits)
    return [
        *notes_on_cut_query(asked.stop - asked.start, asked.left_out, model.settings),
        *notes_on_cut_texts(cut, len(hits), model.settings, positions=model.positions, again=AGAIN, what="texts found"),
    ]
