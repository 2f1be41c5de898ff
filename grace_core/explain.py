"""Why a score is what it is: every cosine as parts that add up to it.

With S = sum of the pooled hidden states of a text, z = S / |S|, and any split of the states into groups, S = sum over groups g of S_g,

    cos(q, d) = sum over g, g' of c(g, g'),     c(g, g') = (S_g / |S_q|) · (S_g' / |S_d|)

This is exact, and holds for parts (text, template, rationale), for sentences and for single tokens alike; all of it is computed from fp32
states in fp64. What is left between the sum and the score that ranked the document is rounding, and is returned as ``residual``.

Hidden states share a large common direction, so that raw contributions are flat. Two differences split exactly too:

    relative to the corpus   cos(q, d) - z_q · m = sum over tokens t of z_q · (h_t / |S_d| - m / n_d),   m the mean embedding of the corpus
    A above B                cos(q, A) - cos(q, B) = sum over g, g' of (c_A(g, g') - c_B(g, g')) over the groups that both have

What is not exact is what people read into it: a contribution belongs to a position in its context, not to the word that stands there, and a
share of the rationale is bookkeeping, not a cause. What a rationale causes is found by changing it: :func:`what_if`, :func:`leave_one_out`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from tokenizers.decoders import DecodeStream

from grace_core.model import GraceModel
from grace_core.pooling import PARTS, RATIONALE, TEMPLATE, TEXT, Pooling

SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=\S)|\n+|(?<=<think>)\s*|\s*(?=</think>)|(?<=</think>)\s*")


def score_blocks(query: np.ndarray, documents: np.ndarray, pooling: Pooling = Pooling.FULL) -> np.ndarray:
    """Blocks ``(n, 3, 3)`` in fp64, [document, part of the query, part of the document], from part sums ``(3, d)`` and ``(n, 3, d)``.

    Their sum over both parts is the cosine. Without rationale (``Pooling.TEXT``) only text × text is not zero.
    """
    query, documents = query.astype(np.float64), documents.astype(np.float64)
    if pooling is Pooling.TEXT:
        only = np.zeros((len(PARTS), 1))
        only[TEXT] = 1
        query, documents = query * only, documents * only
    query = query / np.linalg.norm(query.sum(axis=0))
    documents = documents / np.linalg.norm(documents.sum(axis=1), axis=-1)[:, None, None]
    return np.einsum("pd,nqd->npq", query, documents)


@dataclass(frozen=True)
class Sentence:
    """Tokens ``begin`` to ``end`` of a text's pooled tokens. The template is one sentence of its own."""

    part: int
    text: str
    begin: int
    end: int


@dataclass(frozen=True)
class TokenStates:
    """The pooled tokens of one text with its rationale: states ``(t, d)`` fp32, the part of each, what each reads, and their sentences.

    A token that ends in the middle of a character reads as nothing, and the one that completes it as the whole character.
    """

    states: np.ndarray
    parts: np.ndarray
    pieces: list[str]
    sentences: list[Sentence]

    def only(self, pooling: Pooling) -> TokenStates:
        """The tokens that ``pooling`` pools."""
        if pooling is Pooling.FULL:
            return self
        number = int((self.parts == TEXT).sum())
        kept = [sentence for sentence in self.sentences if sentence.part == TEXT]
        return TokenStates(self.states[:number], self.parts[:number], self.pieces[:number], kept)

    @property
    def unit(self) -> np.ndarray:
        """States over the norm of their sum, ``(t, d)`` fp64: they add up to the embedding."""
        states = self.states.astype(np.float64)
        return states / np.linalg.norm(states.sum(axis=0))

    def by_sentence(self) -> np.ndarray:
        """:attr:`unit` summed over each sentence, ``(s, d)``."""
        unit = self.unit
        return np.stack([unit[sentence.begin : sentence.end].sum(axis=0) for sentence in self.sentences])


def token_states(
    model: GraceModel, texts: Sequence[str], rationale_ids: Sequence[Sequence[int]], *, batch_size: int = 32, **settings
) -> list[TokenStates]:
    """States of every pooled token of ``texts`` with the given rationales, by one forward pass a batch. Settings as for represent."""
    forced = [list(ids) for ids in rationale_ids]
    prompts, batches = model.with_rationales(texts, forced, batch_size=batch_size, **settings)
    found: list[TokenStates | None] = [None] * len(texts)
    for batch in batches:
        for i, states in zip(batch, model.engine.states([prompts[i] for i in batch], [forced[i] for i in batch]), strict=True):
            prompt = prompts[i]
            spans = (prompt.ids[prompt.start : prompt.stop], prompt.ids[prompt.stop :], forced[i])
            pieces, sentences, parts = [], [], []
            for part, ids in zip((TEXT, TEMPLATE, RATIONALE), spans, strict=True):
                read = read_pieces(model.tokenizer, ids)
                whole = [(0, len(read))] if part == TEMPLATE else split_sentences(read)
                sentences += [Sentence(part, "".join(read[a:b]).strip(), len(pieces) + a, len(pieces) + b) for a, b in whole if b > a]
                pieces += read
                parts += [part] * len(ids)
            found[i] = TokenStates(states, np.array(parts), pieces, sentences)
    return found


def read_pieces(tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token adds to the decoded text; together they are the text."""
    stream, pieces = DecodeStream(skip_special_tokens=False), []
    for token in ids:
        pieces.append(stream.step(tokenizer.backend_tokenizer, int(token)) or "")
    return pieces


def split_sentences(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Token ranges of the sentences in ``"".join(pieces)``. A token across a border belongs to the sentence that its last letter is in."""
    text = "".join(pieces)
    starts = [0, *(match.end() for match in SENTENCE_END.finditer(text) if match.end() < len(text))]
    ends = np.cumsum([len(piece) for piece in pieces])
    owner = np.searchsorted(starts, np.maximum(ends - 1, 0), side="right") - 1
    borders = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(pieces)]
    return [(a, b) for a, b in pairwise(borders) if b > a]


@dataclass(frozen=True)
class Explanation:
    """One score and its parts. ``sentences[i, j]`` is what query sentence i and document sentence j contribute; ``tokens`` and
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

    def blocks(self) -> dict[str, float]:
        """``{"text × text": …}``: all pairs of parts in which there is a token, query's first."""
        made = {}
        for p in sorted({sentence.part for sentence in self.query.sentences}):
            for q in sorted({sentence.part for sentence in self.document.sentences}):
                rows = [sentence.part == p for sentence in self.query.sentences]
                columns = [sentence.part == q for sentence in self.document.sentences]
                made[f"{PARTS[p]} × {PARTS[q]}"] = float(self.sentences[np.ix_(rows, columns)].sum())
        return made

    def as_dict(self) -> dict:
        pairs = [
            {
                "query_part": PARTS[a.part], "query": a.text, "document_part": PARTS[b.part], "document": b.text,
                "contribution": float(self.sentences[i, j]),
            }
            for i, a in enumerate(self.query.sentences) for j, b in enumerate(self.document.sentences)
        ]  # fmt: skip
        pairs.sort(key=lambda pair: -pair["contribution"])
        return {"score": self.score, "sum": self.sum, "residual": self.residual, "blocks": self.blocks(), "sentences": pairs}


def explain(query: TokenStates, document: TokenStates, score: float, *, pooling: Pooling = Pooling.FULL) -> Explanation:
    """Split ``score``, the cosine that ranked ``document``, into sentences and tokens of both sides."""
    query, document = query.only(pooling), document.only(pooling)
    a, b = query.unit, document.unit
    return Explanation(score, query, document, query.by_sentence() @ document.by_sentence().T, a @ b.sum(axis=0), b @ a.sum(axis=0))


def relative_to_corpus(query: np.ndarray, document: TokenStates, mean: np.ndarray) -> np.ndarray:
    """What each token ``(t,)`` contributes to the score above that of the corpus mean ``(d,)``, for a query embedding ``(d,)``."""
    share = mean.astype(np.float64) / len(document.states)
    return (document.unit - share) @ query.astype(np.float64)


@dataclass(frozen=True)
class WhatIf:
    """A document with another text or rationale: its new score and rank, and who passed whom (ids of the ranking)."""

    rationale: str
    score: float
    rank: int
    old_score: float
    old_rank: int
    passed: list[str]  # documents that it now stands above
    passed_by: list[str]


def what_if(
    model: GraceModel, query: np.ndarray, vectors: np.ndarray, ids: Sequence[str], row: int, *,
    text: str, rationale: str | Sequence[int], pooling: Pooling = Pooling.FULL, **settings,
) -> WhatIf:  # fmt: skip
    """Encode document ``row`` again with ``text`` and ``rationale`` (forced, not generated), and rank it anew among ``vectors`` ``(n, d)``.

    ``query`` is the query's embedding ``(d,)``. Unchanged token ids give the unchanged score, up to the rounding of another batch.
    """
    made = model.represent_given([text], [rationale], **settings)
    scores = (vectors @ query).astype(np.float64)
    old, new = float(scores[row]), float(made.embeddings(pooling)[0] @ query)
    others = np.delete(np.arange(len(vectors)), row)
    above_before, above_now = others[scores[others] > old], others[scores[others] > new]
    return WhatIf(
        made.rationales[0], new, len(above_now) + 1, old, len(above_before) + 1,
        [ids[i] for i in np.setdiff1d(above_before, above_now)], [ids[i] for i in np.setdiff1d(above_now, above_before)],
    )  # fmt: skip


def leave_one_out(
    model: GraceModel, query: np.ndarray, text: str, document: TokenStates, rationale_ids: Sequence[int], **options
) -> list[tuple[Sentence, float]]:
    """The score without each sentence of the rationale in turn, all in one batch: ``[(sentence, score)]``."""
    first = int((document.parts != RATIONALE).sum())
    sentences = [sentence for sentence in document.sentences if sentence.part == RATIONALE]
    left = [[*rationale_ids[: s.begin - first], *rationale_ids[s.end - first :]] for s in sentences]
    if not left:
        return []
    made = model.represent_given([text] * len(left), left, **options)
    return [(s, float(z @ query)) for s, z in zip(sentences, made.embeddings(), strict=True)]
