"""What ``--model`` may name besides a model: BM25, a sentence encoder, a fusion (docs/columns.md)."""

from __future__ import annotations

from pathlib import Path

from grace_cli.passages import by_note, document_of, passage_line, place_lines
from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.columns.documents import explain
from grace_core.columns.ledger import table
from grace_core.columns.names import BM25, Name
from grace_core.columns.opened import Columns
from grace_core.errors import GraceError
from grace_core.hits import Hit

SHOWN = 150  # characters of a rationale


def open_columns(folder: Path | Collection, device: str | None) -> Columns:
    collection = folder if isinstance(folder, Collection) else Collection(folder)
    return Columns(collection, device=device, cache=RepresentationCache())


def search_column(
    folder: Path, query: str, name: Name, *, k: int, where: str | None, device: str | None, by: str = "best"
) -> tuple[list[dict], str, list[str]]:
    """The hits, the same as text, and notes, as the search of a model gives them."""
    column = open_columns(folder, device).open(name.id)
    left = None if where is None else len(column.rows.selections.of(where))
    hits, collection = column.hits(query, k, where=where, by=by), column.collection
    what = "passages" if collection.chunk else "documents"
    notes = [] if left is None else [f"{left:,} of {len(column):,} {what} satisfy the filter"]
    notes += by_note(by, collection)
    if name.id == BM25 and (without := sum(hit.score == 0 for hit in hits)):
        notes.append(f"{without} of these hits hold no word of the query, and stand in the order of the corpus")
    return [hit.as_dict() for hit in hits], "\n".join([f"{column.id}: {column.label}", *map(_line, hits)]), notes


def _line(hit: Hit) -> str:
    line = f"{hit.rank:3d}  {hit.score:.4f}  {document_of(hit)}  {hit.document.title}\n{passage_line(hit)}"
    return f"{line}     {hit.rationale[:SHOWN]}" if hit.rationale else line.rstrip("\n")


def explain_column(
    folder: Path,
    query: str,
    document_id: str,
    name: Name,
    *,
    versus: str | None,
    against: str | None,
    tokens: bool,
    leave_one_out: bool,
    with_rationale: str | None,
    with_rationale_of: str | None,
    with_text: str | None,
    by: str,
    device: str | None,
) -> tuple[dict, str]:
    """The ledger of a score, and what-ifs. Raises GraceError for what the column does not take."""
    if against is not None:
        raise GraceError(
            f"--against compares two models, and {name.id} is another column: explain the two one after the other"
        )
    columns = open_columns(folder, device)
    column = columns.open(name.id)
    explained = explain(column, query, document_id, by=by)
    ledger, collection = explained.ledger, column.collection
    result = {"model": column.id, **explained.as_dict(tokens=tokens)}
    if by == "sum":
        title = collection.whole(document_id).title
        return result, "\n".join([f"{explained.place}, {title}: {column.id}", *table(ledger, tokens=tokens)])
    document_id = ledger.document
    title = collection.documents[document_id].title
    lines = [
        *place_lines(explained.place),
        f"{document_id}  {title}: rank {ledger.rank} of {len(column):,}, {column.id}",
        *table(ledger, tokens=tokens),
    ]
    if versus is not None:
        second = explain(column, query, versus)
        other, versus = second.ledger, second.ledger.document
        mine, theirs = ({line.name: line.value for line in side.lines} for side in (ledger, other))
        apart = {part: mine.get(part, 0.0) - theirs.get(part, 0.0) for part in dict.fromkeys([*mine, *theirs])}
        score = ledger.score - other.score
        result["versus"] = {"id": versus, "score": score, "sum": sum(apart.values()), "lines": apart}
        result["versus"]["ledger"] = other.as_dict(tokens=tokens)
        lines.append(f"{document_id} above {versus}: {score:+.6f}, sum of its parts {sum(apart.values()):+.6f}")
        lines += [f"  {value:+.4f}  {part}" for part, value in apart.items()]
    if leave_one_out:
        removed = column.leave_one_out(query, document_id)
        result["leave_one_out"] = [
            {"part": "text", "text": one.text, "score": one.score, "effect": one.effect} for one in removed
        ]
        lines.append("what the score loses without each sentence (scored again):")
        lines += [f"  {one.effect:+.4f}  {' '.join(one.text.split())[:100]}" for one in removed]
    if (with_text, with_rationale, with_rationale_of) != (None, None, None):
        rationale = with_rationale if with_rationale_of is None else _borrowed(column, with_rationale_of)
        changed = column.what_if(query, document_id, text=with_text, rationale=rationale)
        result["what_if"] = changed.as_dict()
        moved = f"score {changed.old_score:.6f} -> {changed.score:.6f}, rank {changed.old_rank} -> {changed.rank}"
        lines.append(
            f"what if (scored again): {moved}{'; the text is longer than is read' if changed.text_truncated else ''}"
        )
    return result, "\n".join(lines)


def _borrowed(column, document_id: str) -> str:
    """Another document's rationale."""
    if not column.reads_rationale:
        raise GraceError(f"{column.id} reads no rationale: edit the text, or take a column with one")
    return column.hit(column.row(document_id), 1, 0.0).rationale
