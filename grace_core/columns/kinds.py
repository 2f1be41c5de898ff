"""The columns of a single kind: BM25, a GRACE model with or without its rationale, a sentence encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from grace_core.columns.column import Column, Edit, Rows, VectorColumn, checked
from grace_core.columns.ledger import TERMS, WHOLE, Ledger, Line, with_rounding
from grace_core.columns.names import Single
from grace_core.errors import GraceError
from grace_core.explain import Explainer, Explanation, score_blocks
from grace_core.geometry import Role
from grace_core.hits import Hit
from grace_core.index import GraceIndex
from grace_core.passages import Group
from grace_core.pooling import PARTS, Pooling
from grace_core.ranking import dots, rank
from grace_core.selection import search_among
from grace_core.what_if import rationale_tokens

if TYPE_CHECKING:
    from grace_core.columns.encoded import EncodedIndex
    from grace_core.columns.encoder import Encoder
    from grace_core.model import Representations


SHOWN = 8  # words that a note names
KEPT = 128  # vectors of queries, and texts with what their tokens add, that an encoder's column remembers


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
        representations = self.represent([query])
        stored = self.index.sums[[row]], self.index.counts[[row]]
        (blocks,) = score_blocks(
            (representations.sums, representations.counts), stored, self.pooling, geometry=self.index.geometry
        )
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
        results: list[tuple[float, bool] | None] = [None] * len(edits)
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
                results[place] = float(score), self.index.text_truncated[row]
                continue
            texts.append(self.rows.text(row) if edit.text is None else edit.text)
            forced.append(ids)
            places.append(place)
        if texts:
            new = model.represent_given(texts, forced)
            vectors = self.index.geometry.vectors(new.sums, new.counts, self.pooling, Role.DOCUMENT)
            for place, score, cut in zip(places, dots(vectors, asked), new.text_truncated, strict=True):
                results[place] = float(score), bool(cut)
        return results

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
        scores, asked, explanations = self.scores(query), self._states(query, Role.QUERY), []
        for row in rows:
            document = self._states(self.rows.text(row), Role.DOCUMENT)
            a, b = asked.unit, document.unit
            pairs = asked.by_sentence() @ document.by_sentence().T
            explanations.append(
                Explanation(float(scores[row]), asked, document, pairs, a @ b.sum(axis=0), b @ a.sum(axis=0))
            )
        return explanations

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
        results = [(float(stored.scores(asked, [row])[0]), bool(self.index.left_out[row]))] * len(edits)
        if changed := [place for place, edit in enumerate(edits) if edit.text is not None]:
            new = self.encoder.encode([edits[place].text for place in changed], role=Role.DOCUMENT)
            for place, score, left_out in zip(changed, dots(new.vectors, asked), new.left_out, strict=True):
                results[place] = float(score), bool(left_out)
        return results

    def cuts(self, text: str) -> bool:
        return bool(self.encoder.left_out([text], Role.DOCUMENT)[0])

    def left_out(self, queries: Sequence[str]) -> np.ndarray:
        return self.encoder.left_out(list(queries), Role.QUERY)
