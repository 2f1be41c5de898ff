"""What an edit would change: a document encoded again with another text or rationale, and without each of its sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from grace_core.errors import GraceError
from grace_core.geometry import RAW, Geometry, Role
from grace_core.model import GraceModel
from grace_core.pooling import RATIONALE, TEXT, Pooling
from grace_core.ranking import dots
from grace_core.token_states import Sentence, TokenStates


@dataclass(frozen=True)
class WhatIf:
    """A document with another text or rationale: its new score and rank, and who passed whom (ids of the ranking).

    ``text_truncated`` tells that its text did not fit into the prompt and lost its end.
    """

    rationale: str
    score: float
    rank: int
    old_score: float
    old_rank: int
    passed: list[str]  # documents that it now stands above
    passed_by: list[str]
    text_truncated: bool

    def as_dict(self) -> dict:
        return asdict(self)


def what_if(
    model: GraceModel,
    query: np.ndarray,
    vectors: np.ndarray,
    ids: Sequence[str],
    row: int,
    *,
    text: str,
    rationale: str | Sequence[int],
    pooling: Pooling = Pooling.FULL,
    geometry: Geometry = RAW,
    **settings,
) -> WhatIf:
    """Encode document ``row`` again with ``text`` and ``rationale`` (forced, not generated), and rank it again
    among ``vectors`` ``(n, d)``.

    ``query`` is the query's embedding ``(d,)``. Unchanged token ids give the unchanged score, up to the
    rounding of another batch. Raises GraceError for an empty text, and for a rationale longer than a text or
    a rationale of this model may be.
    """
    if not text.strip():
        raise GraceError("the edited text is empty, and an empty text has no embedding; leave at least a word")
    forced = rationale_tokens(model, rationale) if isinstance(rationale, str) else list(rationale)
    longest = max(model.settings.max_new_tokens, model.settings.max_prompt_tokens)
    if len(forced) > longest:
        raise GraceError(
            f"the edited rationale has {len(forced)} tokens, {model.name} takes at most {longest}; shorten it"
        )
    representations = model.represent_given([text], [forced], **settings)
    written = rationale if isinstance(rationale, str) else representations.rationales[0]
    vector = geometry.vectors(representations.sums, representations.counts, pooling, Role.DOCUMENT)[0]
    return moved_to(
        dots(vectors, query),
        ids,
        row,
        float(dots(vector[None], query)[0]),
        written,
        bool(representations.text_truncated[0]),
    )


def moved_to(scores: np.ndarray, ids: Sequence[str], row: int, new: float, rationale: str, cut: bool) -> WhatIf:
    """Document ``row`` with the score ``new`` among the old ``scores`` ``(n,)``; of equal ones the earlier
    row stands above.
    """
    scores = scores.astype(np.float64)
    old, earlier = float(scores[row]), np.arange(len(scores)) < row
    above_before, above_now = (np.flatnonzero((scores > own) | (scores == own) & earlier) for own in (old, new))
    above_now = above_now[above_now != row]
    return WhatIf(
        rationale,
        new,
        len(above_now) + 1,
        old,
        len(above_before) + 1,
        [ids[i] for i in np.setdiff1d(above_before, above_now)],
        [ids[i] for i in np.setdiff1d(above_now, above_before)],
        cut,
    )


def rationale_tokens(model: GraceModel, rationale: str) -> list[int]:
    """Token ids of a rationale that a person wrote: the literal form of a special token stays text, half a
    surrogate pair becomes "?".
    """
    clean = rationale.replace("\x00", "").encode("utf-8", "replace").decode()
    return model.prompts.literal_ids(clean)


def leave_one_out(
    model: GraceModel,
    query: np.ndarray,
    text: str,
    document: TokenStates,
    rationale_ids: Sequence[int],
    *,
    part: int = RATIONALE,
    pooling: Pooling = Pooling.FULL,
    geometry: Geometry = RAW,
    **options,
) -> list[tuple[Sentence, float]]:
    """The score without each sentence of ``part`` in turn, all in one batch: ``[(sentence, score)]``.

    Of the rationale the sentence's tokens go and the others stay as they are; of the text what is left is
    tokenised again, and its only sentence is not taken out. With ``Pooling.TEXT`` only sentences of the text
    matter, since no text token sees the rationale.
    """
    first = int((document.parts != RATIONALE).sum())
    sentences = [sentence for sentence in document.sentences if sentence.part == part]
    if part == RATIONALE:
        texts = [text] * len(sentences)
        forced = [[*rationale_ids[: s.begin - first], *rationale_ids[s.end - first :]] for s in sentences]
    else:
        length = int((document.parts == TEXT).sum())
        left = ["".join([*document.pieces[: s.begin], *document.pieces[s.end : length]]) for s in sentences]
        sentences = [s for s, rest in zip(sentences, left, strict=True) if rest.strip()]
        texts = [rest for rest in left if rest.strip()]
        forced = [list(rationale_ids)] * len(texts)
    if not texts:
        return []
    representations = model.represent_given(texts, forced, **options)
    vectors = geometry.vectors(representations.sums, representations.counts, pooling, Role.DOCUMENT)
    return list(zip(sentences, dots(vectors, query).tolist(), strict=True))
