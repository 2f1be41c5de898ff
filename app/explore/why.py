"""Why a document has its score in a column, and what the score would be with another text or rationale: as
data for the page and the API.

The mathematics is :mod:`grace_core.explain`'s; here is decided what is asked of it at once, and how its
answers are told. Whatever the page sends back (edits, ids, columns) is checked here. All functions raise
GraceError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from grace_app.explore import others
from grace_app.explore.explanations import explanation
from grace_app.explore.within import figures_of, moved_within, rank_within, rows_within
from grace_app.workspace.view import SIDES, AnyColumn, Column, OtherColumn, View, read_hit
from grace_core.errors import GraceError
from grace_core.pooling import PARTS, RATIONALE, TEXT, Pooling
from grace_core.ranking import order

if TYPE_CHECKING:
    import numpy as np

    from grace_core.explain import Explainer
    from grace_core.hits import Hit
    from grace_core.index import GraceIndex
    from grace_core.token_states import TokenStates

BATCH = 4096  # tokens: the hits around an opened one are read along with it up to here, so that comparing needs no wait
AROUND = 4  # ranks above and below the old and the new one
NAMED = 50  # of the documents that it passed
MAX_EDIT = 60_000  # characters of an edited text or rationale
Edits = Sequence["bool | str"]  # a sentence is kept (True), struck out (False) or rewritten


@dataclass(frozen=True)
class ExplainedHit:
    """A document under a query in one column, and what is needed to explain its score."""

    view: View
    side: str
    column: Column
    index: GraceIndex
    explainer: Explainer
    row: int
    mean: np.ndarray

    @property
    def pooling(self) -> Pooling:
        return self.column.pooling

    def named(self, row: int) -> dict[str, str]:
        document = self.index.collection.documents[self.index.ids[row]]
        return {"id": document.id, "title": document.title or " ".join(document.text[:400].split())[:80] or document.id}

    @cached_property
    def query_vector(self) -> np.ndarray:
        return self.explainer.query_vector(self.view.query, self.pooling)


def shown_hits(explained_hit: ExplainedHit) -> list[Hit]:
    """The hits of the column, as the page lists them."""
    view = explained_hit.view
    return explained_hit.index.hits(
        explained_hit.query_vector, view.k, pooling=explained_hit.pooling, where=view.where or None, by=view.by
    )


def case(workspace, view: View, side: str) -> ExplainedHit:
    """``view.doc`` in the column ``side``."""
    column = column_of(view, side)
    index = workspace.index(view.collection, column.model)
    row = row_of(index, view.doc)
    return ExplainedHit(view, side, column, index, workspace.explainer(index), row, workspace.average(index, column))


def column_of(view: View, side: str) -> AnyColumn:
    return view.a if side == "a" else view.b


def row_of(index: GraceIndex, document: str) -> int:
    if document not in index.row:
        held = f"has no document {document[:100]!r} with a vector of {index.model_name}"
        raise GraceError(f"{index.collection.name} {held}; {index.collection.unknown(document)}")
    return index.row[document]


def read_side(workspace, data: object) -> tuple[View, str, dict]:
    """The view and the column that an event of the page names, ``{"view": JSON, "doc": …, "side": …}``, and
    the event.
    """
    view, data = read_hit(workspace, data)
    if data.get("side") not in SIDES:
        raise GraceError("the page sent an event that does not fit; reload the page")
    return view, data["side"], data


def answer_why(workspace, data: object, *, against: str) -> dict:
    """What :func:`why` tells of the column that an event names, whatever kind it is of."""
    view, side, _ = read_side(workspace, data)
    if isinstance(column := column_of(view, side), OtherColumn):
        return others.why(workspace, view, side, column, against=against)
    return why(case(workspace, view, side), against=against)


def answer_what_if(workspace, data: object) -> dict:
    """What :func:`what_if` tells of the edits that an event holds, whatever kind its column is of."""
    view, side, data = read_side(workspace, data)
    edits, effects = {"text": data.get("text"), "rationale": data.get("rationale")}, data.get("effects") is True
    if isinstance(column := column_of(view, side), OtherColumn):
        return others.what_if(workspace, view, side, column, **edits, effects=effects)
    explained_hit = case(workspace, view, side)
    return what_if(
        explained_hit,
        **edits,
        source=read_source(explained_hit, data.get("source")),
        workspace=workspace,
        effects=effects,
    )


def why(explained_hit: ExplainedHit, *, against: str = "") -> dict:
    """The score split into blocks, sentence pairs and tokens; with ``against`` also what sets the document
    apart from that one.

    The token states of the column's first hits are computed in the same forward if they are few enough.
    """
    index, row = explained_hit.index, explained_hit.row
    other = row_of(index, against) if against else None
    hits = shown_hits(explained_hit)
    rows = [row] if other is None else [row, other]
    wider = [*rows, *(hit.row for hit in hits if hit.row not in rows)]
    if index.counts[wider].sum() <= BATCH:
        rows = wider
    explained = explained_hit.explainer.why(explained_hit.view.query, rows, pooling=explained_hit.pooling)
    answer = explanation(explained[0], explained_hit.mean)
    answer |= {
        "side": explained_hit.side,
        "column": explained_hit.column.label,
        "document": explained_hit.named(row),
        "others": [
            explained_hit.named(hit.row) | {"rank": hit.rank, "score": hit.score} for hit in hits if hit.row != row
        ],
        "against": None,
    }
    if other is not None:
        from grace_core.explain import difference

        answer["against"] = explained_hit.named(other) | difference(explained[0], explained[1]).as_dict()
    return answer


def what_if(
    explained_hit: ExplainedHit,
    *,
    text: Edits | None = None,
    rationale: Edits | None = None,
    source: tuple[str, str] | None = None,
    workspace=None,
    effects: bool = False,
) -> dict:
    """Score and rank of the document with sentences kept, struck out or rewritten, and the ranking around it
    before and after: ranks are among the documents that satisfy the filter of the search, and this one.

    ``source`` (side, document) names whose rationale stands in place of its own, and ``rationale`` then edits
    that one. With ``effects`` every sentence comes with what the score would lose or gain without it, all
    others unedited.
    """
    explainer, row, index = explained_hit.explainer, explained_hit.row, explained_hit.index
    ids = explainer.rationale_ids[row] if source is None else _rationale_of(explained_hit, source, workspace)
    (document,) = explainer.states([explainer.text(row)], [ids])
    new_text, new_ids = _edited(explained_hit, document, ids, text, rationale)
    base = explainer.what_if(explained_hit.query_vector, row, rationale=ids, pooling=explained_hit.pooling)
    outcome = base
    if new_text is not None or new_ids != list(ids):
        outcome = explainer.what_if(
            explained_hit.query_vector, row, text=new_text, rationale=new_ids, pooling=explained_hit.pooling
        )
    scores = index.scores(explained_hit.query_vector, pooling=explained_hit.pooling)
    rows = rows_within(index.selections, explained_hit.view.where, row, len(index))
    outcome = moved_within(outcome, rank_within(scores, row, rows), index.ids, rows)
    answer = {
        "side": explained_hit.side,
        "column": explained_hit.column.label,
        "document": explained_hit.named(row),
        "rationale": outcome.rationale,
    } | figures_of(outcome, rows, explained_hit.view.where)
    answer |= _ranks(explained_hit, rows[order(scores[rows])], outcome.old_rank, outcome.rank)
    if effects:
        answer["sentences"] = _effects(explained_hit, document, ids, base.score)
        answer["sources"] = _sources(explained_hit)
    return answer


def _edited(
    explained_hit: ExplainedHit, document: TokenStates, ids: Sequence[int], text: Edits | None, rationale: Edits | None
) -> tuple[str | None, list[int]]:
    """The edited text, or None if it is not, and the token ids of the edited rationale: those of kept
    sentences stay as they are.
    """
    from grace_core.what_if import rationale_tokens

    first = int((document.parts != RATIONALE).sum())
    kept = {
        TEXT: _checked("text", document, TEXT, text),
        RATIONALE: _checked("rationale", document, RATIONALE, rationale),
    }
    new_text = None
    if not all(edit is True for _, edit in kept[TEXT]):
        new_text = "".join(_written(document, one, edit) for one, edit in kept[TEXT]).strip()
        if not new_text:
            raise GraceError("the edited text is empty, and an empty text has no embedding; leave at least a sentence")
    new_ids: list[int] = []
    for one, edit in kept[RATIONALE]:
        if edit is True:
            new_ids += ids[one.begin - first : one.end - first]
        elif written := _written(document, one, edit):
            new_ids += rationale_tokens(explained_hit.explainer.model, written)
    return new_text, new_ids


def _checked(name: str, document: TokenStates, part: int, edits: Edits | None) -> list[tuple]:
    there = [one for one in document.sentences if one.part == part]
    if edits is None:
        return [(one, True) for one in there]
    if not isinstance(edits, list) or not all(isinstance(edit, (bool, str)) for edit in edits):
        raise GraceError(f"the edits of the {name} must be a list of true, false or a new sentence; reload the page")
    if len(edits) != len(there):
        raise GraceError(f"the {name} has {len(there)} sentences, got edits of {len(edits)}; reload the page")
    if (length := sum(len(edit) for edit in edits if isinstance(edit, str))) > MAX_EDIT:
        raise GraceError(f"the edited {name} has {length:,} characters, at most {MAX_EDIT:,} are taken: shorten it")
    return list(zip(there, edits, strict=True))


def _written(document: TokenStates, sentence, edit: bool | str) -> str:
    """What stands in the sentence's place, with the white space that stood around it."""
    old = "".join(document.pieces[sentence.begin : sentence.end])
    if edit is True or edit is False:
        return old if edit else ""
    new = edit.replace("\x00", "").strip()
    left, right = len(old) - len(old.lstrip()), len(old) - len(old.rstrip())
    return old[:left] + new + (old[len(old) - right :] if right else "") if new else ""


def _rationale_of(explained_hit: ExplainedHit, source: tuple[str, str], workspace) -> list[int]:
    from grace_core.what_if import rationale_tokens

    side, document = source
    if side == explained_hit.side:
        return explained_hit.explainer.rationale_ids[row_of(explained_hit.index, document)]
    other = case(workspace, explained_hit.view, side)
    return rationale_tokens(explained_hit.explainer.model, other.index.rationales[row_of(other.index, document)])


def _effects(
    explained_hit: ExplainedHit, document: TokenStates, ids: Sequence[int], base: float
) -> dict[str, list[dict]]:
    """Every sentence with the score without it less the score with it; None for the only sentence of a text."""
    from grace_core.what_if import leave_one_out

    vector, effects = explained_hit.query_vector, {}
    for part in (TEXT, RATIONALE) if explained_hit.column.rationale else (TEXT,):
        scores_without = leave_one_out(
            explained_hit.explainer.model,
            vector,
            explained_hit.explainer.text(explained_hit.row),
            document,
            ids,
            part=part,
            pooling=explained_hit.pooling,
            geometry=explained_hit.index.geometry,
        )
        scores = {one.begin: score - base for one, score in scores_without}
        effects[PARTS[part]] = [
            {"text": one.text, "effect": scores.get(one.begin)} for one in document.sentences if one.part == part
        ]
    return {"text": [], "rationale": []} | effects


def _sources(explained_hit: ExplainedHit) -> list[dict]:
    """Whose rationale may be swapped in: the other column's, where it has one of its own, and those of the
    other hits.
    """
    if not explained_hit.column.rationale:
        return []
    other = "b" if explained_hit.side == "a" else "a"
    twin = column_of(explained_hit.view, other)
    sources = []
    if isinstance(twin, Column) and twin.rationale and twin.model != explained_hit.column.model:
        sources.append({"side": other, "doc": explained_hit.view.doc, "label": f"column {other.upper()}: {twin.model}"})
    for hit in shown_hits(explained_hit):
        if hit.row != explained_hit.row:
            sources.append(
                {
                    "side": explained_hit.side,
                    "doc": hit.document.id,
                    "label": f"rank {hit.rank}: {explained_hit.named(hit.row)['title']}",
                }
            )
    return sources


def _ranks(explained_hit: ExplainedHit, rows: np.ndarray, old: int, new: int) -> dict[str, list[dict]]:
    """Who stands where of ``rows``, from the best, before and after, around the old and the new rank; and whom it
    passed or was passed by, best first.
    """
    import numpy as np

    others = rows[rows != explained_hit.row]
    before, after = np.insert(others, old - 1, explained_hit.row), np.insert(others, new - 1, explained_hit.row)
    places = sorted(
        {
            rank
            for middle in (old, new)
            for rank in range(middle - AROUND, middle + AROUND + 1)
            if 1 <= rank <= len(before)
        }
    )
    return {
        "passed": [explained_hit.named(row) for row in before[new - 1 : old - 1][:NAMED]],
        "passed_by": [explained_hit.named(row) for row in before[old:new][:NAMED]],
        "ranks": [
            {
                "rank": rank,
                "before": explained_hit.named(before[rank - 1]),
                "after": explained_hit.named(after[rank - 1]),
            }
            for rank in places
        ],
    }


def read_source(explained_hit: ExplainedHit, value: object) -> tuple[str, str] | None:
    """Whose rationale an event of the page asks for."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or value.get("side") not in SIDES or not isinstance(value.get("doc"), str):
        raise GraceError("the page sent an event that does not fit; reload the page")
    source = column_of(explained_hit.view, value["side"])
    if isinstance(source, OtherColumn) or not source.rationale:
        raise GraceError(f"column {value['side'].upper()} uses no rationale, so it has none to swap in")
    return value["side"], value["doc"]
