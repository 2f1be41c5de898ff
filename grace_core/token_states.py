"""The pooled tokens of a text with its rationale: their states, what each reads, and the sentences that they form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from grace_core.geometry import Geometry
from grace_core.model import GraceModel
from grace_core.pooling import RATIONALE, TEMPLATE, TEXT, Pooling
from grace_core.text_stream import read_pieces
from grace_core.texts import as_list, as_texts

# other scripts' marks end a sentence with or without white space behind them
SENTENCE_END = re.compile(
    r"(?<=[.!?…])[\"'”’)\]]*\s+(?=\S)|(?<=[。！？｡．।॥؟۔։።])[\"'”’」』）)\]]*\s*(?=[^\s。！？｡．।॥؟۔։።\"'”’」』）)\]])"
    r"|\n+|(?<=<think>)\s*|\s*(?=</think>)|(?<=</think>)\s*"
)


@dataclass(frozen=True)
class Sentence:
    """Tokens ``begin`` to ``end`` of a text's pooled tokens. The template is one sentence of its own."""

    part: int
    text: str
    begin: int
    end: int


@dataclass(frozen=True)
class TokenStates:
    """The pooled tokens of one text with its rationale: states ``(t, d)`` fp32, the part of each, what each
    reads, and their sentences.

    A token that ends in the middle of a character reads as nothing, and the one that completes it as the
    whole character.
    """

    states: np.ndarray
    parts: np.ndarray
    pieces: list[str]
    sentences: list[Sentence]
    unit: np.ndarray | None = None  # (t, d) fp64: what each token adds to the unit vector, set by :meth:`within`

    def within(self, geometry: Geometry, pooling: Pooling, role: str) -> TokenStates:
        """The tokens that ``pooling`` pools, with what each adds to the vector of the text in this role."""
        pooled = geometry.pooled_parts(pooling)
        number = int(np.isin(self.parts, pooled).sum())  # the parts that are left out stand last
        kept = [sentence for sentence in self.sentences if sentence.part in pooled]
        unit = geometry.tokens(self.states[:number], self.parts[:number], pooling, role)
        return TokenStates(self.states[:number], self.parts[:number], self.pieces[:number], kept, unit)

    def by_sentence(self) -> np.ndarray:
        """:attr:`unit` summed over each sentence, ``(s, d)``."""
        return np.stack([self.unit[sentence.begin : sentence.end].sum(axis=0) for sentence in self.sentences])


def token_states(
    model: GraceModel, texts: Sequence[str], rationale_ids: Sequence[Sequence[int]], *, batch_size: int = 32, **settings
) -> list[TokenStates]:
    """States of every pooled token of ``texts`` with the given rationales, by one forward pass a batch.

    Settings as for represent.
    """
    texts, forced = as_texts(texts), [list(ids) for ids in as_list(rationale_ids, "rationales", of="token ids")]
    prompts, batches = model.with_rationales(texts, forced, batch_size=batch_size, **settings)
    result: list[TokenStates | None] = [None] * len(texts)
    for batch in batches:
        for i, states in zip(
            batch, model.engine.states([prompts[i] for i in batch], [forced[i] for i in batch]), strict=True
        ):
            prompt = prompts[i]
            spans = (prompt.ids[prompt.start : prompt.stop], prompt.ids[prompt.stop :], forced[i])
            pieces, sentences, parts = [], [], []
            for part, ids in zip((TEXT, TEMPLATE, RATIONALE), spans, strict=True):
                read = read_pieces(model.tokenizer, ids)
                whole = [(0, len(read))] if part == TEMPLATE else split_sentences(read)
                sentences += [
                    Sentence(part, "".join(read[a:b]).strip(), len(pieces) + a, len(pieces) + b)
                    for a, b in whole
                    if b > a
                ]
                pieces += read
                parts += [part] * len(ids)
            result[i] = TokenStates(states, np.array(parts), pieces, sentences)
    return result


def split_sentences(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Token ranges of the sentences in ``"".join(pieces)``.

    A token across a border belongs to the sentence that its last letter is in.
    """
    text = "".join(pieces)
    starts = [0, *(match.end() for match in SENTENCE_END.finditer(text) if match.end() < len(text))]
    ends = np.cumsum([len(piece) for piece in pieces])
    owner = np.searchsorted(starts, np.maximum(ends - 1, 0), side="right") - 1
    borders = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(pieces)]
    return [(a, b) for a, b in pairwise(borders) if b > a]
