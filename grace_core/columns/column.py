"""One way to search, explain and edit, whatever ranks: the base of all columns, and those of a single kind.

All columns of a collection have the same rows: its documents with a text, in the order of the corpus. Equal
scores stand in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

from grace_core.collection import Collection
from grace_core.columns.bm25 import Bm25
from grace_core.columns.ledger import TERMS, WHOLE, Ledger, Line, block_lines, with_rounding
from grace_core.columns.names import Name, Single
from grace_core.errors import GraceError
from grace_core.explain import Explainer, Explanation, score_blocks
from grace_core.geometry import Role
from grace_core.hits import Hit, hit_of
from grace_core.index import GraceIndex
from grace_core.notebook import Hits
from grace_core.passages import Group, found_documents, numbered
from grace_core.pooling import PARTS, Pooling
from grace_core.ranking import dots, order, rank
from grace_core.selection import Selection, Selections, search_among
from grace_core.texts import is_blank
from grace_core.token_states import SENTENCE_END
from grace_core.what_if import WhatIf, rationale_tokens

if TYPE_CHECKING:
    from grace_core.columns.encoded import EncodedIndex
    from grace_core.columns.encoder import Encoder
    from grace_core.model import Representations

SHOWN = 8  # words that a note names
KEPT = 128  # vectors of queries, and texts with what their tokens add, that an encoder's column remembers


class Rows:
    """The documents of a collection that have a text, in the order of the corpus; or those of an index that
    lacks some of them.
    """

    def __init__(self, collection: Collection, ids: Sequence[str] | None = None):
        self.collection = collection
        self.ids = (
            [document.id for document in collection.corpus.documents if document.content] if ids is None else list(ids)
        )
        self.row = {document_id: row for row, document_id in enumerate(self.ids)}
        self.selections = Selections(self)

    def __len__(self) -> int:
        return len(self.ids)

    def text(self, row: int) -> str:
        return self.collection.documents[self.ids[row]].content

    @cached_property
    def bm25(self) -> Bm25:
        return Bm25([self.text(row) for row in range(len(self))])


@dataclass(frozen=True)
class Edit:
    """Another text or rationale of a document; None leaves it as it is."""

    text: str | None = None
    rationale: str | Sequence[int] | None = None


@dataclass(frozen=True)
class Removed:
    """A sentence of a document's text, the score without it, and what the score loses."""

    text: str
    score: float
    effect: float


class Column:
    """What ranks the documents of a collection.

    ``name`` is its canonical name, ``id`` the same as text. Methods raise GraceError.
    """

    reads_rationale = False

    def __init__(self, rows: Rows, name: Name):
        self.rows, self.name, self.collection = rows, name, rows.collection

    @property
    def id(self) -> str:
        return self.name.id

    @property
    def label(self) -> str:
        """What people read."""
        return self.name.label

    @property
    def ids(self) -> list[str]:
        return self.rows.ids

    @property
    def vectors(self) -> np.ndarray | None:
        """L2-normalised vectors ``(n, d)`` fp32 of the documents, whose products with a query's are the
        scores; None if it has none.
        """
        return None

    @property
    def without_vectors(self) -> str:
        """Why it has no vectors, for people; "" if it has."""
        return (
            ""
            if self.vectors is not None
            else f"{self.id} has no vectors of documents, so they have no places on a map"
        )

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, document_id: str) -> int:
        if document_id not in self.rows.row:
            held = f"has no document {document_id[:80]!r} with a text"
            raise GraceError(f"{self.collection.folder} {held}; {self.collection.unknown(document_id)}")
        return self.rows.row[document_id]

    def scores_of(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        """Scores ``(n,)`` of all documents for each query in turn."""
        raise NotImplementedError

    def scores(self, query: str) -> np.ndarray:
        """Scores ``(n,)`` of all documents for a query."""
        return next(iter(self.scores_of([checked(query)])))

    def search(self, queries: Sequence[str], k: int = 10, *, where: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores ``(m, k)`` and rows ``(m, k)`` of the best ``k``, or of all that there are if these are
        fewer; ``where`` is a filter (:mod:`grace_core.filters`) of the documents, which moves no score."""
        queries, among = self._asked(queries, k, where)
        found = [self._best(scores, k, among) for scores in self.scores_of(queries)]
        return _stacked(found, min(k, len(self if among is None else among)))

    def _asked(self, queries: Sequence[str], k: int, where: str | None) -> tuple[list[str], Selection | None]:
        if k < 1:
            raise GraceError(f"k must be at least 1, got {k}")
        return [checked(query) for query in queries], None if where is None else self.rows.selections.of(where)

    @staticmethod
    def _best(scores: np.ndarray, k: int, among: Selection | None) -> tuple[np.ndarray, np.ndarray]:
        if among is None:
            rows = order(scores, k)
        else:
            rows = among.rows[order(scores[among.rows], k)]
        return scores[rows], rows

    def documents(
        self, queries: Sequence[str], k: int = 10, *, where: str | None = None, by: str = "best"
    ) -> Iterator[list[Group]]:
        """The best ``k`` documents of each query by their passages: the ``best`` of each, or their ``sum``."""
        queries, among = self._asked(queries, k, where)
        rows = np.arange(len(self)) if among is None else among.rows
        for scores in self.scores_of(queries):
            yield found_documents(
                self.document_numbers,
                k,
                by,
                among=rows,
                scores_at=partial(np.take, scores),
                search=lambda count, scores=scores: self._best(scores, count, among),
            )

    @cached_property
    def document_numbers(self) -> np.ndarray:
        """The number of each row's document ``(n,)``, from 0."""
        return numbered(self.collection.documents_of(self.ids))

    def hits(self, query: str, k: int = 10, *, where: str | None = None, by: str = "best") -> list[Hit]:
        """The best ``k`` documents of one query; ``by`` as in :meth:`documents`."""
        if self.collection.chunk is not None:
            (groups,) = self.documents([query], k, where=where, by=by)
            return Hits(hit_of(group, place, self.hit, self.ids) for place, group in enumerate(groups, 1))
        scores, rows = self.search([query], k, where=where)
        return Hits(
            self.hit(int(row), place, float(score))
            for place, (score, row) in enumerate(zip(scores[0], rows[0], strict=True), 1)
        )

    def hit(self, row: int, place: int, score: float) -> Hit:
        return Hit(place, score, self.collection.documents[self.ids[row]], "", False, row)

    def explain(self, query: str, document_id: str) -> Ledger:
        """Why the document has its score."""
        raise NotImplementedError

    def edited(self, query: str, row: int, edits: Sequence[Edit]) -> list[tuple[float, bool]]:
        """The score that the document would have with each edit, and whether its text had no room; all others
        stay as they are.
        """
        raise NotImplementedError

    def scores_edited(self, query: str, row: int, edits: Sequence[Edit]) -> Iterator[np.ndarray]:
        """Scores ``(n,)`` of all documents, were one of them edited, for each edit in turn."""
        scores = self.scores(query)
        for score, _ in self.edited(query, row, edits):
            new = scores.copy()
            new[row] = score
            yield new

    def what_if(
        self, query: str, document_id: str, *, text: str | None = None, rationale: str | Sequence[int] | None = None
    ) -> WhatIf:
        """The document's score and rank with another text, or where the column reads rationales with another one."""
        row, query = self.row(document_id), checked(query)
        self._check_edit(text, rationale)
        old = self.scores(query)
        edit = Edit(None if text == self.rows.text(row) else text, rationale)
        (new,) = self.scores_edited(query, row, [edit])
        cut = edit.text is not None and self.cuts(edit.text)
        return moved(old, new, self.ids, row, cut=cut, rationale=rationale if isinstance(rationale, str) else "")

    def cuts(self, text: str) -> bool:
        """Whether a text is longer than the column reads."""
        return False

    def left_out(self, queries: Sequence[str]) -> np.ndarray:
        """How many tokens of each query have no room, ``(m,)``."""
        return np.zeros(len(queries), np.int64)

    def leave_one_out(self, query: str, document_id: str) -> list[Removed]:
        """The score without each sentence of the document's text in turn; a text of one sentence has nothing
        to leave out.
        """
        row, query = self.row(document_id), checked(query)
        score, spans = float(self.scores(query)[row]), sentence_spans(self.rows.text(row))
        text = self.rows.text(row)
        left = [(text[a:b].strip(), (text[:a] + text[b:]).strip()) for a, b in spans]
        left = [(sentence, rest) for sentence, rest in left if not is_blank(rest)]
        new = (
            [float(scores[row]) for scores in self.scores_edited(query, row, [Edit(rest) for _, rest in left])]
            if left
            else []
        )
        return [Removed(sentence, value, score - value) for (sentence, _), value in zip(left, new, strict=True)]

    def _check_edit(self, text: str | None, rationale) -> None:
        if text is not None and is_blank(text):
            raise GraceError("the edited text is empty, and an empty text has no score; leave at least a word")
        if rationale is not None and not self.reads_rationale:
            raise GraceError(f"{self.id} reads no rationale: edit the text, or take a column with one")


class Bm25Column(Column):
    """Words that query and document share (:mod:`grace_core.columns.bm25`)."""

    def scores_of(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        return (self.rows.bm25.scores(query) for query in queries)

    def explain(self, query: str, document_id: str) -> Ledger:
        row, query, scores = self.row(document_id), checked(query), self.scores(query)
        terms = self.rows.bm25.explain(query, self.rows.text(row))
        terms.sort(key=lambda term: -term.value)  # stable: those that add nothing in the order of the query
        lines = tuple(Line(term.term, term.value, "term", TERMS, term.about()) for term in terms)
        return Ledger(
            self.id, query, document_id, float(scores[row]), rank(scores, row), lines, tuple(self._notes(query, terms))
        )

    def _notes(self, query: str, terms: list) -> Iterator[str]:
        if words := self.rows.bm25.left_out(query):
            yield f"left out of the query as words that are everywhere: {', '.join(words[:SHOWN])}{', …' if len(words) > SHOWN else ''}"
        if unknown := [term.term for term in terms if not term.documents]:
            yield f"in no document, so they add nothing: {', '.join(unknown[:SHOWN])}{', …' if len(unknown) > SHOWN else ''}"
        if not terms:
            yield "no word of the query counts, so every document has the score 0"

    def edited(self, query: str, row: int, edits: Sequence[Edit]) -> list[tuple[float, bool]]:
        texts = [self.rows.text(row) if edit.text is None else edit.text for edit in edits]
        return [(sum(term.value for term in self.rows.bm25.explain(query, text)), False) for text in texts]


class VectorColumn(Column):
    """A column whose scores are cosines of vectors."""

    def embed(self, queries: Sequence[str]) -> np.ndarray:
        """Vectors ``(m, d)`` fp32 of queries."""
        raise NotImplementedError

    def average(self, query: str) -> float:
        """The cosine of a query with a document, on average."""
        return float(self.embed([checked(query)])[0].astype(np.float64) @ self.mean)

    @cached_property
    def mean(self) -> np.ndarray:
        """The mean vector ``(d,)`` of the documents."""
        return self.vectors.mean(axis=0)

    def why(self, query: str, rows: Sequence[int]) -> list[Explanation]:
        """The scores of some documents by pairs of sentences and by tokens.

        Raises GraceError where they do not split.
        """
        raise NotImplementedError

    def _ledger(self, found: Explanation, query: str, document_id: str, scores: np.ndarray) -> Ledger:
        place = rank(scores, self.row(document_id))
        return Ledger(self.id, query, document_id, found.score, place, block_lines(found), explanation=found)


class GraceColumn(VectorColumn):
    """A GRACE model with or without its rationale.

    ``load`` gives the explainer of its index, with the model that built it.
    """

    def __init__(self, rows: Rows, name: Single, index: GraceIndex, load: Callable[[GraceIndex], Explainer]):
        super().__init__(rows, name)
        self.index, self._load = index, load

    @property
    def reads_rationale(self) -> bool:
        return bool(self.name.rationale)

    @property
    def pooling(self) -> Pooling:
        return Pooling.FULL if self.name.rationale else Pooling.TEXT

    @property
    def explainer(self) -> Explainer:
        return self._load(self.index)

    @cached_property
    def vectors(self) -> np.ndarray:
        return self.index.vectors(self.pooling)

    @property
    def without_vectors(self) -> str:
        return ""  # without reading them

    def represent(self, queries: Sequence[str], **options) -> Representations:
        return self.explainer.model.represent(list(queries), rationale=self.reads_rationale, **options)

    def embed(self, queries: Sequence[str]) -> np.ndarray:
        return self.index.embed(self.represent(queries), self.pooling)

    def scores_of(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        return (self.index.scores(vector, pooling=self.pooling) for vector in self.embed(queries))

    def search(self, queries: Sequence[str], k: int = 10, *, where: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        queries, _ = self._asked(queries, k, where)
        return self.index.search(self.embed(queries), k, pooling=self.pooling, where=where)

    def documents(
        self, queries: Sequence[str], k: int = 10, *, where: str | None = None, by: str = "best"
    ) -> Iterator[list[Group]]:
        """By the FAISS index, whatever its kind."""
        queries, _ = self._asked(queries, k, where)
        for vector in self.embed(queries):
            yield self.index.documents(vector, k, pooling=self.pooling, where=where, by=by)

    def hit(self, row: int, place: int, score: float) -> Hit:
        return self.index.hit(row, place, score)

    def why(self, query: str, rows: Sequence[int]) -> list[Explanation]:
        return self.explainer.why(query, rows, pooling=self.pooling)

    def explain(self, query: str, document_id: str) -> Ledger:
        row, query = self.row(document_id), checked(query)
        ledger = self._ledger(self.why(query, [row])[0], query, document_id, self.scores(query))
        if self.explainer.model.dtype == "float32":
            return ledger
        # blocks from the stored sums, which the score was made of: in 16 bits the states of a second forward
        # differ by a little more
        made = self.represent([query])
        stored = self.index.sums[[row]], self.index.counts[[row]]
        (blocks,) = score_blocks((made.sums, made.counts), stored, self.pooling, geometry=self.index.geometry)
        values = {f"{PARTS[p]} × {PARTS[q]}": float(blocks[p, q]) for p in range(len(PARTS)) for q in range(len(PARTS))}
        note = (
            f"the model computes in {self.explainer.model.dtype}: "
            "what its states round otherwise in a second forward has lines of its own"
        )
        return replace(
            ledger,
            lines=tuple(with_rounding(line, values[line.name]) for line in ledger.lines),
            notes=(*ledger.notes, note),
        )

    def edited(self, query: str, row: int, edits: Sequence[Edit]) -> list[tuple[float, bool]]:
        """As :func:`grace_core.what_if.what_if`: the rationale is forced, and stays the stored one where only
        the text is edited.
        """
        model = self.explainer.model
        asked, stored, own = self.embed([query])[0], self.index.rationale_ids[row], self.index.rationales[row]
        made: list[tuple[float, bool] | None] = [None] * len(edits)
        texts, forced, places = [], [], []
        for place, edit in enumerate(edits):
            ids = stored if edit.rationale is None or edit.rationale == own else edit.rationale
            ids = rationale_tokens(model, ids) if isinstance(ids, str) else list(ids)
            longest = max(model.settings.max_new_tokens, model.settings.max_prompt_tokens)
            if len(ids) > longest:
                raise GraceError(
                    f"the edited rationale has {len(ids)} tokens, {model.name} takes at most {longest}; shorten it"
                )
            if edit.text is None and ids == list(stored):
                score = self.index.scores(asked, [row], pooling=self.pooling)[0]
                made[place] = float(score), self.index.text_truncated[row]
                continue
            texts.append(self.rows.text(row) if edit.text is None else edit.text)
            forced.append(ids)
            places.append(place)
        if texts:
            new = model.represent_given(texts, forced)
            vectors = self.index.geometry.vectors(new.sums, new.counts, self.pooling, Role.DOCUMENT)
            for place, score, cut in zip(places, dots(vectors, asked), new.text_truncated, strict=True):
                made[place] = float(score), bool(cut)
        return made

    def cuts(self, text: str) -> bool:
        return self.explainer.model.prompts.build(text).left_out > 0

    def left_out(self, queries: Sequence[str]) -> np.ndarray:
        return np.array([self.explainer.model.prompts.build(query).left_out for query in queries], np.int64)


class EncoderColumn(VectorColumn):
    """A sentence-transformers model. ``load`` gives the encoder that made its vectors."""

    def __init__(self, rows: Rows, name: Single, index: EncodedIndex, load: Callable[[EncodedIndex], Encoder]):
        super().__init__(rows, name)
        self.index, self._load = index, load
        self._vector = lru_cache(KEPT)(lambda query: self.encoder.encode([query], role=Role.QUERY).vectors[0])
        self._states = lru_cache(KEPT)(lambda text, role: self.encoder.states(text, role))

    @property
    def encoder(self) -> Encoder:
        return self._load(self.index)

    @property
    def vectors(self) -> np.ndarray:
        return self.index.vectors

    def embed(self, queries: Sequence[str]) -> np.ndarray:
        if len(queries) == 1:  # asked for again and again: searched, explained, edited
            return self._vector(queries[0])[None]
        return self.encoder.encode(list(queries), role=Role.QUERY).vectors

    def scores_of(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        return (self.index.opened.scores(vector) for vector in self.embed(queries))

    def search(self, queries: Sequence[str], k: int = 10, *, where: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        queries, among = self._asked(queries, k, where)
        vectors = self.embed(queries)
        if among is not None:
            return search_among(self.index.opened, among, vectors, k)
        return self.index.opened.search(vectors, min(k, len(self)))

    def hit(self, row: int, place: int, score: float) -> Hit:
        return Hit(
            place,
            score,
            self.collection.documents[self.ids[row]],
            "",
            False,
            row,
            text_truncated=bool(self.index.left_out[row]),
        )

    def why(self, query: str, rows: Sequence[int]) -> list[Explanation]:
        scores, asked, made = self.scores(query), self._states(query, Role.QUERY), []
        for row in rows:
            document = self._states(self.rows.text(row), Role.DOCUMENT)
            a, b = asked.unit, document.unit
            pairs = asked.by_sentence() @ document.by_sentence().T
            made.append(Explanation(float(scores[row]), asked, document, pairs, a @ b.sum(axis=0), b @ a.sum(axis=0)))
        return made

    def explain(self, query: str, document_id: str) -> Ledger:
        row, query = self.row(document_id), checked(query)
        scores = self.scores(query)
        if self.encoder.exact:
            return self._ledger(self.why(query, [row])[0], query, document_id, scores)
        note = f"a vector of {self.id} is the {self.encoder.how}, in which tokens have no shares: the exact part ends here; leaving a "
        note += "sentence out tells what it does"
        score = float(scores[row])
        return Ledger(
            self.id,
            query,
            document_id,
            score,
            rank(scores, row),
            (Line("cosine", score, "whole", WHOLE),),
            (note,),
            exact=False,
        )

    def edited(self, query: str, row: int, edits: Sequence[Edit]) -> list[tuple[float, bool]]:
        asked, stored = self.embed([query])[0], self.index.opened
        made = [(float(stored.scores(asked, [row])[0]), bool(self.index.left_out[row]))] * len(edits)
        if changed := [place for place, edit in enumerate(edits) if edit.text is not None]:
            new = self.encoder.encode([edits[place].text for place in changed], role=Role.DOCUMENT)
            for place, score, left_out in zip(changed, dots(new.vectors, asked), new.left_out, strict=True):
                made[place] = float(score), bool(left_out)
        return made

    def cuts(self, text: str) -> bool:
        return bool(self.encoder.left_out([text], Role.DOCUMENT)[0])

    def left_out(self, queries: Sequence[str]) -> np.ndarray:
        return self.encoder.left_out(list(queries), Role.QUERY)


def checked(query: str) -> str:
    """Raises GraceError for a query that is empty, or no text."""
    if not isinstance(query, str):
        raise GraceError(f"a query must be text, got {type(query).__name__}")
    if is_blank(query):
        raise GraceError("the query is empty: give a few words")
    return query


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text begin and end; together they are the text."""
    starts = [0, *(match.end() for match in SENTENCE_END.finditer(text) if 0 < match.end() < len(text))]
    starts = sorted(set(starts))
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


def moved(old: np.ndarray, new: np.ndarray, ids: Sequence[str], row: int, *, cut: bool, rationale: str) -> WhatIf:
    """What became of document ``row`` when all scores ``(n,)`` went from ``old`` to ``new``; of equal ones
    the earlier row stands above.
    """
    earlier = np.arange(len(old)) < row
    above = [np.flatnonzero((scores > scores[row]) | (scores == scores[row]) & earlier) for scores in (old, new)]
    passed, passed_by = np.setdiff1d(above[0], above[1]), np.setdiff1d(above[1], above[0])
    return WhatIf(
        rationale,
        float(new[row]),
        len(above[1]) + 1,
        float(old[row]),
        len(above[0]) + 1,
        [ids[i] for i in passed],
        [ids[i] for i in passed_by],
        cut,
    )


def _stacked(found: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    if not found:
        return np.zeros((0, k)), np.zeros((0, k), np.int64)
    return np.stack([scores for scores, _ in found]), np.stack([rows for _, rows in found])
