"""Columns that are no model with an index (BM25, a sentence encoder, a fusion): searched, opened, explained
and edited for the page.

What a model's column shows is made in :mod:`grace_app.explore.search` and :mod:`grace_app.explore.why`; here
is the same for the others, through :mod:`grace_core.columns`. All functions raise GraceError.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grace_app.explore.explanations import explanation
from grace_app.explore.within import figures_of, moved_within, rank_within, rows_within
from grace_app.workspace.view import OtherColumn, View
from grace_core.errors import GraceError
from grace_core.ranking import order
from grace_core.texts import is_blank

if TYPE_CHECKING:
    import numpy as np

    from grace_core.columns.column import Column as OpenedColumn
    from grace_core.columns.ledger import Ledger
    from grace_core.what_if import WhatIf

AROUND = 4  # ranks above and below the old and the new one
NAMED = 50  # of the documents that it passed
MAX_EDIT = 60_000  # characters of an edited text or rationale
FRAME = 0.08  # seconds between two snapshots while a rationale is written
Edits = Sequence["bool | str"]  # a sentence is kept (True), struck out (False) or rewritten


def fill(workspace, side, view: View) -> Iterator[None]:
    """Fill a ``Side`` of a search, with a pause for the page to be drawn after every few words of a rationale."""
    from grace_core.columns.kinds import GraceColumn

    column = workspace.opened(view.collection, side.column)
    side.status = "writing" if side.column.rationale else "reading"
    yield None
    for part in getattr(column, "parts", ()):
        if isinstance(part, GraceColumn) and part.reads_rationale:
            yielded = 0.0
            for rationale, representation in part.explainer.model.stream(view.query):  # which the cache then knows
                side.rationale = rationale
                if representation is None and time.monotonic() - yielded >= FRAME:
                    yielded = time.monotonic()
                    yield None
    scores = column.scores(view.query)
    side.hits = column.hits(view.query, view.k, where=view.where or None, by=view.by)
    side.average = average_of_documents(column, float(scores.mean()), view.by)
    side.written, side.status = True, ""
    yield None


def average_of_documents(index, average: float, by: str) -> float:
    """What a document has on average, from the average of the rows of an index or a column: by the sum of its
    passages, as many times as it has passages on average.
    """
    return average * len(index) / index.collection.whole_size if by == "sum" else average


@dataclass(frozen=True)
class Opened:
    """A document in one of these columns: its ledger, what of it shows in the bars, the rationales that are
    read, and what was cut. ``rank`` is among ``documents``, those that satisfy the filter and itself.
    """

    ledger: Ledger
    rank: int
    blocks: dict[str, float]
    rationale: str
    query_rationale: str
    documents: int
    truncated: bool


def open_document(workspace, view: View, column: OtherColumn) -> Opened:
    """Where a document stands, and what its score is made of."""
    from grace_core.columns.kinds import GraceColumn

    opened = workspace.opened(view.collection, column)
    ledger, row = opened.explain(view.query, view.doc), opened.row(view.doc)
    rows = rows_within(opened.rows.selections, view.where, row, len(opened))
    place = rank_within(opened.scores(view.query), row, rows)
    reading = [part for part in getattr(opened, "parts", ()) if isinstance(part, GraceColumn) and part.reads_rationale]
    if not reading:
        return Opened(ledger, place, blocks_of(ledger), "", "", len(rows), False)
    index, row = reading[0].index, reading[0].row(view.doc)
    query = reading[0].represent([view.query]).rationales[0]
    return Opened(ledger, place, blocks_of(ledger), index.rationales[row], query, len(rows), index.truncated[row])


def blocks_of(ledger: Ledger) -> dict[str, float]:
    """The score in a few parts: pairs of parts by name, markup in one; terms, a vector that is whole, and
    what an average document has.
    """
    totals: dict[str, float] = {}
    for line in ledger.walk():
        if not line.group:
            continue
        name = line.name if line.group in ("text", "rationale") else line.group
        totals[name] = totals.get(name, 0.0) + line.value
    if not totals:  # reciprocal ranks
        totals = {line.name: line.value for line in ledger.lines}
    return totals


def named(column: OpenedColumn, row: int) -> dict[str, str]:
    document = column.collection.documents[column.ids[row]]
    return {"id": document.id, "title": document.title or " ".join(document.text[:400].split())[:80] or document.id}


def why(workspace, view: View, side: str, column: OtherColumn, *, against: str = "") -> dict:
    """The ledger of the score; where tokens have shares in it and it is of one model, as a model's column has it."""
    from grace_core.columns.kinds import EncoderColumn

    opened = workspace.opened(view.collection, column)
    hits = opened.hits(view.query, view.k, where=view.where or None, by=view.by)
    answer = {
        "side": side,
        "column": column.label,
        "document": named(opened, opened.row(view.doc)),
        "others": [
            named(opened, hit.row) | {"rank": hit.rank, "score": hit.score}
            for hit in hits
            if hit.document.id != view.doc
        ],
        "against": None,
    }
    if isinstance(opened, EncoderColumn) and opened.encoder.exact:
        rows = [opened.row(view.doc), *([opened.row(against)] if against else [])]
        explained = opened.why(view.query, rows)
        answer |= explanation(explained[0], opened.mean)
        if against:
            from grace_core.explain import difference

            answer["against"] = named(opened, rows[1]) | difference(*explained).as_dict()
        return answer
    ledger = _ledger(opened, view, view.doc)
    answer |= {"score": ledger["score"], "ledger": ledger}
    if against:
        answer["against"] = named(opened, opened.row(against)) | {"ledger": _ledger(opened, view, against)}
    return answer


def _ledger(opened: OpenedColumn, view: View, document: str) -> dict:
    """The ledger of a score, with the rank that the page tells."""
    row, scores = opened.row(document), opened.scores(view.query)
    place = rank_within(scores, row, rows_within(opened.rows.selections, view.where, row, len(opened)))
    return opened.explain(view.query, document).as_dict(tokens=True) | {"rank": place}


def what_if(
    workspace,
    view: View,
    side: str,
    column: OtherColumn,
    *,
    text: Edits | None = None,
    rationale: Edits | None = None,
    effects: bool = False,
) -> dict:
    """Score and rank with sentences kept, struck out or rewritten, as :func:`grace_app.explore.why.what_if`
    tells them.
    """
    opened = workspace.opened(view.collection, column)
    row = opened.row(view.doc)
    written = _rationale(opened, row)
    new_text = _edited("text", opened.rows.text(row), text)
    if new_text is not None and is_blank(new_text):
        raise GraceError("the edited text is empty, and an empty text has no score; leave at least a sentence")
    new_rationale = None if written is None else _edited("rationale", written, rationale)
    outcome = opened.what_if(view.query, view.doc, text=new_text, rationale=new_rationale)
    scores = opened.scores(view.query)
    rows = rows_within(opened.rows.selections, view.where, row, len(opened))
    outcome = moved_within(outcome, rank_within(scores, row, rows), opened.ids, rows)
    answer = {
        "side": side,
        "column": column.label,
        "document": named(opened, row),
        "rationale": written or "" if new_rationale is None else new_rationale,
    } | figures_of(outcome, rows, view.where)
    answer |= _ranks(opened, rows[order(scores[rows])], row, outcome)
    if effects:
        answer["sentences"] = {"text": _effects(opened, view, opened.rows.text(row)), "rationale": []}
        if written is not None:
            answer["sentences"]["rationale"] = [{"text": one.strip(), "effect": None} for one in _sentences(written)]
        answer["sources"] = []
    return answer


def _rationale(opened: OpenedColumn, row: int) -> str | None:
    """The document's rationale where exactly one part of a fusion reads one: which one an edit is of would
    not be clear otherwise.
    """
    reading = [part for part in getattr(opened, "parts", ()) if part.reads_rationale]
    return reading[0].index.rationales[row] if len(reading) == 1 else None


def _sentences(text: str) -> list[str]:
    from grace_core.columns.column import sentence_spans

    return [text[a:b] for a, b in sentence_spans(text) if text[a:b].strip()]


def _edited(name: str, text: str, edits: Edits | None) -> str | None:
    """The text with its sentences kept, struck out or rewritten; None if all are kept."""
    if edits is None:
        return None
    there = _sentences(text)
    if not isinstance(edits, list) or not all(isinstance(edit, (bool, str)) for edit in edits):
        raise GraceError(f"the edits of the {name} must be a list of true, false or a new sentence; reload the page")
    if len(edits) != len(there):
        raise GraceError(f"the {name} has {len(there)} sentences, got edits of {len(edits)}; reload the page")
    if (length := sum(len(edit) for edit in edits if isinstance(edit, str))) > MAX_EDIT:
        raise GraceError(f"the edited {name} has {length:,} characters, at most {MAX_EDIT:,} are taken: shorten it")
    if all(edit is True for edit in edits):
        return None
    edited_sentences = []
    for old, edit in zip(there, edits, strict=True):
        if isinstance(edit, str):
            new = edit.replace("\x00", "").strip()
            edited_sentences.append(new + old[len(old.rstrip()) :] if new else "")
        elif edit:
            edited_sentences.append(old)
    return "".join(edited_sentences).strip()


def _effects(opened: OpenedColumn, view: View, text: str) -> list[dict]:
    """Every sentence of the text with the score without it less the score with it; None for the only one."""
    removed = {one.text: one.effect for one in opened.leave_one_out(view.query, view.doc)}
    return [
        {"text": one.strip(), "effect": -removed[one.strip()] if one.strip() in removed else None}
        for one in _sentences(text)
    ]


def _ranks(opened: OpenedColumn, before: np.ndarray, row: int, outcome: WhatIf) -> dict:
    """Who stands where before, which are rows from the best, and after, around the old and the new rank; and whom it
    passed or was passed by, best first.
    """
    import numpy as np

    after = np.insert(before[before != row], outcome.rank - 1, row)
    ranks = sorted(
        {at for middle in (outcome.old_rank, outcome.rank) for at in range(middle - AROUND, middle + AROUND + 1)}
    )
    places = [at for at in ranks if 1 <= at <= len(before)]
    place = {document: at for at, document in enumerate(opened.ids)}
    passed, passed_by = (
        sorted((place[one] for one in ids), key=_order_of(before)) for ids in (outcome.passed, outcome.passed_by)
    )
    return {
        "passed": [named(opened, one) for one in passed[:NAMED]],
        "passed_by": [named(opened, one) for one in passed_by[:NAMED]],
        "ranks": [
            {"rank": at, "before": named(opened, before[at - 1]), "after": named(opened, after[at - 1])}
            for at in places
        ],
    }


def _order_of(before: np.ndarray):
    places = {int(row): at for at, row in enumerate(before)}
    return places.__getitem__
