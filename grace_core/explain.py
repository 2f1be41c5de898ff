"""Why a score is what it is: every cosine as parts that add up to it.

With S = sum of the pooled hidden states of a text, z = S / |S|, and any split of the states into groups, S =
sum over groups g of S_g,

    cos(q, d) = sum over g, g' of c(g, g'),     c(g, g') = (S_g / |S_q|) · (S_g' / |S_d|)

In another geometry (:mod:`grace_core.geometry`) S_g / |S| is what the group adds to the unit vector there,
which is affine in its states. This is exact, and holds for parts (text, template, rationale), for sentences
and for single tokens alike; all of it is computed from fp32 states in fp64. What is left between the sum and
the score that ranked the document is rounding, and is returned as ``residual``.

Hidden states share a large common direction, so that raw contributions are flat. Three differences split exactly too:

    relative to the corpus   cos(q, d) - z_q · m = sum over g, g' of (c(g, g') - (n_g' / n_d) (S_g / |S_q|) · m),
                             m the mean embedding of the corpus, n the number of tokens;
                             by tokens: sum over t of z_q · (h_t / |S_d| - m / n_d)
    A above B                cos(q, A) - cos(q, B), one query and one model:
                             by blocks            sum over pairs of parts of (c_A(p, p') - c_B(p, p'))
                             by query sentences   sum over g of (sum over g' of c_A(g, g') - sum over g' of c_B(g, g'))
                             by the documents     sum over g' in A of (sum over g of c_A(g, g')) - the same over B: they share no sentence
    base against GRACE       the same with two models instead of two documents; by query sentences only where both wrote the same about it

What is not exact is what people read into it: a contribution belongs to a position in its context, not to the
word that stands there, and a share of the rationale is bookkeeping, not a cause. What a rationale causes is
found by changing it: :mod:`grace_core.what_if`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from grace_core.errors import GraceError
from grace_core.geometry import RAW, Geometry, Role, Sums
from grace_core.index import GraceIndex
from grace_core.model import GraceModel
from grace_core.notebook import explanation_html
from grace_core.pooling import PARTS, RATIONALE, Pooling
from grace_core.token_states import Sentence, TokenStates, token_states
from grace_core.what_if import WhatIf, leave_one_out, moved_to, what_if


def score_blocks(
    query: Sums, documents: Sums, pooling: Pooling = Pooling.FULL, *, geometry: Geometry = RAW
) -> np.ndarray:
    """Blocks ``(n, 3, 3)`` in fp64, [document, part of the query, part of the document], from part sums and
    counts of one query and n documents.

    Their sum over both parts is the score; parts that are not pooled (:meth:`Geometry.pooled_parts`) have zeros.
    """
    (asked,) = geometry.parts(*query, pooling, Role.QUERY)
    return np.einsum("pd,nqd->npq", asked, geometry.parts(*documents, pooling, Role.DOCUMENT))


@dataclass(frozen=True)
class Explanation:
    """One score and its parts.

    ``sentences[i, j]`` is what query sentence i and document sentence j contribute; ``tokens`` and
    ``query_tokens`` what each token of the document and of the query does, over all tokens of the other side."""

    score: float
    query: TokenStates
    document: TokenStates
    sentences: np.ndarray
    query_tokens: np.ndarray
    tokens: np.ndarray

    @property
    def sum(self) -> float:
        return float(self.sentences.sum())

    @property
    def residual(self) -> float:
        return self.score - self.sum

    def document_sentences(self) -> list[tuple[Sentence, float]]:
        """Every document sentence with what it contributes, over all sentences of the query."""
        return [
            (sentence, float(value))
            for sentence, value in zip(self.document.sentences, self.sentences.sum(axis=0), strict=True)
        ]

    def blocks(self) -> dict[str, float]:
        """``{"text × text": …}``: all pairs of parts in which there is a token, query's first."""
        blocks = {}
        for p in sorted({sentence.part for sentence in self.query.sentences}):
            for q in sorted({sentence.part for sentence in self.document.sentences}):
                rows = [sentence.part == p for sentence in self.query.sentences]
                columns = [sentence.part == q for sentence in self.document.sentences]
                blocks[f"{PARTS[p]} × {PARTS[q]}"] = float(self.sentences[np.ix_(rows, columns)].sum())
        return blocks

    def above_corpus(self, mean: np.ndarray) -> np.ndarray:
        """:attr:`sentences` ``(s, s')`` relative to the corpus mean ``(d,)``: they add up to the score less
        that of the mean.
        """
        lengths = np.array([sentence.end - sentence.begin for sentence in self.document.sentences]) / len(
            self.document.states
        )
        return self.sentences - np.outer(self.query.by_sentence() @ mean.astype(np.float64), lengths)

    def _repr_html_(self) -> str:
        return explanation_html(self)

    def as_dict(self, *, tokens: bool = False) -> dict:
        """For JSON; sentence pairs by contribution, largest first, and on demand every token in its order."""
        pairs = [
            {
                "query_part": PARTS[a.part],
                "query": a.text,
                "document_part": PARTS[b.part],
                "document": b.text,
                "contribution": float(self.sentences[i, j]),
            }
            for i, a in enumerate(self.query.sentences)
            for j, b in enumerate(self.document.sentences)
        ]
        pairs.sort(key=lambda pair: -pair["contribution"])
        payload = {
            "score": self.score,
            "sum": self.sum,
            "residual": self.residual,
            "blocks": self.blocks(),
            "sentences": pairs,
        }
        if tokens:
            for name, side, values in (
                ("query_tokens", self.query, self.query_tokens),
                ("tokens", self.document, self.tokens),
            ):
                rows = zip(side.parts, side.pieces, values, strict=True)
                payload[name] = [
                    {"part": PARTS[part], "token": piece, "contribution": float(value)} for part, piece, value in rows
                ]
        return payload


def listed(contributions: Sequence[tuple[Sentence, float]]) -> list[dict]:
    """Sentences with what they contribute, for JSON."""
    return [
        {"part": PARTS[sentence.part], "text": sentence.text, "contribution": value}
        for sentence, value in contributions
    ]


@dataclass(frozen=True)
class Difference:
    """One score less another, and its parts. Three ways to split the same ``sum``:

    ``blocks``; ``query_sentences``, with what each adds to the difference, empty unless both scores have the
    same query tokens; and ``first`` less ``second``, each document's own sentences with what they contribute
    to its own score.
    """

    score: float
    blocks: dict[str, float]
    query_sentences: list[tuple[Sentence, float]]
    first: list[tuple[Sentence, float]]
    second: list[tuple[Sentence, float]]

    @property
    def sum(self) -> float:
        return sum(self.blocks.values())

    @property
    def residual(self) -> float:
        return self.score - self.sum

    def as_dict(self) -> dict:
        lists = {name: listed(getattr(self, name)) for name in ("query_sentences", "first", "second")}
        return {"score": self.score, "sum": self.sum, "residual": self.residual, "blocks": self.blocks, **lists}


def difference(first: Explanation, second: Explanation) -> Difference:
    """``first`` less ``second``: two documents under one query ("A above B"), or one query and document under
    two models.
    """
    one, other = first.blocks(), second.blocks()
    same = first.query.pieces == second.query.pieces and first.query.sentences == second.query.sentences
    rows = first.sentences.sum(axis=1) - second.sentences.sum(axis=1) if same else []
    return Difference(
        score=first.score - second.score,
        blocks={name: one.get(name, 0.0) - other.get(name, 0.0) for name in dict.fromkeys([*one, *other])},
        query_sentences=[
            (sentence, float(value)) for sentence, value in zip(first.query.sentences, rows, strict=False)
        ],
        first=first.document_sentences(),
        second=second.document_sentences(),
    )


def explain(
    query: TokenStates,
    document: TokenStates,
    score: float,
    *,
    pooling: Pooling = Pooling.FULL,
    geometry: Geometry = RAW,
    roles: tuple[str, str] = (Role.QUERY, Role.DOCUMENT),
) -> Explanation:
    """Split ``score``, the cosine that ranked ``document``, into sentences and tokens of both sides, which
    are in these ``roles``.
    """
    query, document = query.within(geometry, pooling, roles[0]), document.within(geometry, pooling, roles[1])
    a, b = query.unit, document.unit
    return Explanation(
        score, query, document, query.by_sentence() @ document.by_sentence().T, a @ b.sum(axis=0), b @ a.sum(axis=0)
    )


def relative_to_corpus(query: np.ndarray, document: TokenStates, mean: np.ndarray) -> np.ndarray:
    """What each token ``(t,)`` contributes to the score above that of the corpus mean ``(d,)``, for a query
    embedding ``(d,)``.

    ``document`` is that of an :class:`Explanation`, or what :meth:`TokenStates.within` gives.
    """
    share = mean.astype(np.float64) / len(document.states)
    return (document.unit - share) @ query.astype(np.float64)


class Explainer:
    """The explanations of one index: what the command, the explorer and its API share.

    ``model`` must be the one that built the index (:meth:`GraceIndex.load_model`). The token states of the
    ``keep`` texts last looked at are kept. ``pooling`` is the index's own unless given; safe to share between
    threads.
    """

    def __init__(self, index: GraceIndex, model: GraceModel, *, keep: int = 64):
        self.index, self.model, self.keep = index, model, keep
        self._kept: dict[tuple, TokenStates] = {}
        self._vectors: dict[Pooling, np.ndarray] = {}
        self._lock = Lock()

    @property
    def rationale_ids(self) -> list[list[int]]:
        """The token ids of every document's rationale, in the order of the index."""
        return self.index.rationale_ids

    def row(self, document_id: str) -> int:
        """The row of a document. Raises GraceError if the index does not hold it."""
        if document_id not in self.index.row:
            remedy = self.index.collection.unknown(document_id)
            raise GraceError(f"{self.index.folder} holds no document {document_id[:80]!r}; {remedy}")
        return self.index.row[document_id]

    def text(self, row: int) -> str:
        return self.index.collection.documents[self.index.ids[row]].content

    def vectors(self, pooling: Pooling) -> np.ndarray:
        """As :meth:`GraceIndex.vectors`, made once."""
        if pooling not in self._vectors:
            self._vectors[pooling] = self.index.vectors(pooling)
        return self._vectors[pooling]

    def query_vector(self, query: str | np.ndarray, pooling: Pooling | None = None) -> np.ndarray:
        """The embedding ``(d,)`` of a query, with a rationale where ``pooling`` wants one; an embedding is
        given back.
        """
        if not isinstance(query, str):
            return query
        pooling = self.index.default_pooling if pooling is None else pooling
        return self.index.embed(self.model.represent([query], rationale=pooling is Pooling.FULL), pooling)[0]

    def states(self, texts: Sequence[str], rationale_ids: Sequence[Sequence[int]]) -> list[TokenStates]:
        """As :func:`grace_core.token_states.token_states`, for those that are not kept yet."""
        keys = [(text, tuple(ids)) for text, ids in zip(texts, rationale_ids, strict=True)]
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
        if missing := [key for key in dict.fromkeys(keys) if key not in known]:
            states = token_states(self.model, [text for text, _ in missing], [ids for _, ids in missing])
            known |= dict(zip(missing, states, strict=True))
        with self._lock:
            for key in keys:
                self._kept.pop(key, None)
                self._kept[key] = known[key]  # a dict keeps the order of insertion: the oldest stand first
            for key in list(self._kept)[: -self.keep]:
                del self._kept[key]
        return [known[key] for key in keys]

    def why(self, query: str, rows: Sequence[int], *, pooling: Pooling | None = None) -> list[Explanation]:
        """Why each of the documents ``rows`` has its score for ``query``; states of the query and of all
        documents by one forward.
        """
        pooling = self.index.default_pooling if pooling is None else pooling
        representations = self.model.represent([query], rationale=pooling is Pooling.FULL)
        scores = self.index.scores(self.index.embed(representations, pooling)[0], rows, pooling=pooling)
        ids = [representations.rationale_ids[0], *(self.rationale_ids[row] for row in rows)]
        asked, *documents = self.states([query, *(self.text(row) for row in rows)], ids)
        pairs = zip(documents, scores, strict=True)
        return [
            explain(asked, one, float(score), pooling=pooling, geometry=self.index.geometry) for one, score in pairs
        ]

    def what_if(
        self,
        query: str | np.ndarray,
        row: int,
        *,
        text: str | None = None,
        rationale: str | Sequence[int] | None = None,
        pooling: Pooling | None = None,
    ) -> WhatIf:
        """See :func:`grace_core.what_if.what_if`.

        None leaves text or rationale as in the index, and so does a rationale that reads as the stored one.
        ``query`` is the query or, where that is known, its embedding.

        Where nothing is changed the stored score is given and nothing encoded: in bfloat16 another batch
        would seem to move it.
        """
        pooling = self.index.default_pooling if pooling is None else pooling
        if rationale is None or rationale == self.index.rationales[row]:
            rationale = self.rationale_ids[row]
        text, asked = self.text(row) if text is None else text, self.query_vector(query, pooling)
        if text == self.text(row) and not isinstance(rationale, str) and list(rationale) == self.rationale_ids[row]:
            scores = self.index.scores(asked, pooling=pooling)
            stored = self.index.rationales[row], self.index.text_truncated[row]
            return moved_to(scores, self.index.ids, row, float(scores[row]), *stored)
        return what_if(
            self.model,
            asked,
            self.vectors(pooling),
            self.index.ids,
            row,
            text=text,
            rationale=rationale,
            pooling=pooling,
            geometry=self.index.geometry,
        )

    def leave_one_out(
        self, query: str | np.ndarray, row: int, *, part: int = RATIONALE, pooling: Pooling | None = None
    ) -> list[tuple[Sentence, float]]:
        """See :func:`grace_core.what_if.leave_one_out`; ``query`` as in :meth:`what_if`."""
        pooling = self.index.default_pooling if pooling is None else pooling
        ids, asked = self.rationale_ids[row], self.query_vector(query, pooling)
        (document,) = self.states([self.text(row)], [ids])
        return leave_one_out(
            self.model, asked, self.text(row), document, ids, part=part, pooling=pooling, geometry=self.index.geometry
        )
