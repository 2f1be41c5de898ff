"""What a model can still do besides embedding: perplexity on plain text, and telling a true continuation from
false ones.

For a text of tokens t_1 … t_n behind the tokenizer's beginning-of-text token (or its padding token, where it
has no other):

    perplexity = exp(-(1/N) sum over all N tokens of all texts of log p(t_i | t_<i))
    choice     = the option with the highest mean log p per token, given the context

Both without chat template and system prompt: they ask what the language model knows, not what it does when
told to represent a text.

Intervals: 95 %, percentile bootstrap over texts or over a task's items; of a comparison, over the same draws
for both models (paired), so that how hard an item is for both does not widen them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from grace_core.errors import GraceError
from grace_core.evaluation import bootstrap
from grace_core.model import GraceModel
from grace_core.texts import as_texts

FORWARD_TOKENS = 4096  # of one forward: with a vocabulary of 150,000 their logits and losses take some 6 GB
SLOW_RESAMPLES = 200  # where an aggregate is not a mean, and is computed from the items of every draw


@dataclass(frozen=True)
class Choice:
    """A context with continuations, of which ``options[right]`` is true.

    Text is joined as it stands, blanks included.
    """

    context: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Score:
    """A metric of a task: its value over all items, and the items' own values, if they are known.

    ``aggregate`` makes the value of a list of items; None is their mean.
    """

    value: float
    items: Sequence | None = None
    aggregate: Callable[[list], float] | None = None

    def summary(self) -> dict:
        """``{"value", "ci95", "n"}``; the last two are None where the items are not known, ``ci95`` also of a
        single one.
        """
        n = None if self.items is None else len(self.items)
        interval = ci95(self._drawn, n, times=self._times) if n else None
        return {"value": _round(self.value), "ci95": interval, "n": n}

    def difference(self, base: Score) -> dict:
        """As :meth:`summary`, of this minus ``base`` on the same items in the same order."""
        paired = self.items is not None and base.items is not None and len(self.items) == len(base.items)
        n = len(self.items) if paired else None
        interval = ci95(lambda draw: self._drawn(draw) - base._drawn(draw), n, times=self._times) if n else None
        return {"difference": _round(self.value - base.value), "ci95": interval, "n": n}

    @property
    def _times(self) -> int:
        return bootstrap.RESAMPLES if self.aggregate is None else SLOW_RESAMPLES

    def _drawn(self, draw: np.ndarray) -> float:
        if self.aggregate is None:
            return np.asarray(self.items, dtype=float)[draw].mean()
        return float(self.aggregate([self.items[i] for i in draw]))


@dataclass(frozen=True)
class TextLosses:
    """Of n texts: the sums of their tokens' losses ``(n,)``, how many tokens each has ``(n,)``, which were
    cut to the model's window ``(n,)``, and a hash of the tokens: two models with the same are measured on the
    same."""

    sums: np.ndarray
    counts: np.ndarray
    cut: np.ndarray
    tokens: str

    def perplexity(self, rows: np.ndarray | slice = slice(None)) -> float:
        return float(np.exp(self.sums[rows].sum() / self.counts[rows].sum()))

    def summary(self) -> dict:
        """``{"value", "ci95", "texts", "tokens", "cut"}``."""
        interval = ci95(self.perplexity, len(self.counts))
        value, tokens, cut = _round(self.perplexity()), int(self.counts.sum()), int(self.cut.sum())
        return {"value": value, "ci95": interval, "texts": len(self.counts), "tokens": tokens, "cut": cut}

    def percent_of(self, base: TextLosses) -> dict | None:
        """By how many percent the perplexity is above that of ``base``, ``{"percent", "ci95"}``; None if
        their tokens differ.
        """
        if self.tokens != base.tokens:
            return None

        def percent(rows: np.ndarray | slice) -> float:
            return 100 * (self.perplexity(rows) / base.perplexity(rows) - 1)

        return {"percent": _round(percent(slice(None))), "ci95": ci95(percent, len(self.counts))}


def ci95(
    value: Callable[[np.ndarray], float], n: int, *, times: int = bootstrap.RESAMPLES, seed: int = 0
) -> list[float] | None:
    """The interval of ``value``, called with the positions of n items drawn with replacement; None for fewer
    than two items.
    """
    if n < 2:
        return None
    return [_round(bound) for bound in bootstrap.ci95(bootstrap.of_statistic(value, n, seed=seed, times=times))]


def _round(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None  # JSON has no infinity


def beginning_of_text(tokenizer) -> int:
    """The token that a plain text stands behind: the tokenizer's own, else its padding token, else its end token."""
    candidates = (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next(token for token in candidates if token is not None)


def token_losses(
    model: GraceModel, texts: Sequence[str], *, contexts: Sequence[str] | None = None, batch_size: int = 64
) -> list[np.ndarray]:
    """Negative log-probability of every token of every text, one array ``(n_i,)`` a text; tokens of a context
    carry none.
    """
    begin, texts = beginning_of_text(model.tokenizer), as_texts(texts)
    before = as_texts(contexts, "contexts") if contexts is not None else [""] * len(texts)
    heads = [[begin, *_ids(model, context)] for context in before]
    return _losses(model, heads, [_ids(model, text) for text in texts], batch_size)


def text_losses(
    model: GraceModel,
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TextLosses:
    """Losses of whole texts, each cut to the model's window. Raises GraceError for an empty text, or none."""
    texts = as_texts(texts)
    if not texts:
        raise GraceError("perplexity needs at least one text, got none")
    tails = [_ids(model, text) for text in texts]
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    cut = np.array([window is not None and len(tail) >= window for tail in tails])  # one position is the beginning's
    tails = [tail[: window - 1] if window else tail for tail in tails]
    losses = _losses(model, [[beginning_of_text(model.tokenizer)]] * len(tails), tails, batch_size, progress)
    sums, counts = np.array([row.sum(dtype=np.float64) for row in losses]), np.array([len(row) for row in losses])
    return TextLosses(sums, counts, cut, hashlib.sha256(repr(tails).encode()).hexdigest())


def perplexity(model: GraceModel, texts: Sequence[str]) -> float:
    """Perplexity over all tokens of ``texts``. Raises GraceError for an empty text, or none."""
    return text_losses(model, texts).perplexity()


def choices_right(model: GraceModel, choices: Sequence[Choice]) -> np.ndarray:
    """1 where the true option is the likeliest, else 0, ``(len(choices),)``."""
    texts = [option for choice in choices for option in choice.options]
    contexts = [choice.context for choice in choices for _ in choice.options]
    means = iter([float(losses.mean()) for losses in token_losses(model, texts, contexts=contexts)])
    return np.array([float(np.argmin([next(means) for _ in choice.options]) == choice.right) for choice in choices])


def _ids(model: GraceModel, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def _losses(
    model: GraceModel,
    heads: list[list[int]],
    tails: list[list[int]],
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[np.ndarray]:
    """Losses of the tokens of every tail behind its head, longest first, so that what does not fit in memory
    fails at once.
    """
    for number, tail in enumerate(tails):
        if not tail:
            raise GraceError(f"text {number} is empty, so it has no perplexity; leave it out")
    begin = beginning_of_text(model.tokenizer)
    rows = [head + tail for head, tail in zip(heads, tails, strict=True)]
    tail_losses: list[np.ndarray] = [np.empty(0)] * len(rows)
    done = 0
    for batch in _batches(rows, batch_size):
        width = len(rows[batch[0]])
        ids = torch.tensor([rows[i] + [begin] * (width - len(rows[i])) for i in batch], device=model.engine.device)
        losses = _forward(model, ids)
        for row, i in zip(losses, batch, strict=True):
            tail_losses[i] = row[len(heads[i]) - 1 : len(rows[i]) - 1]
        done += len(batch)
        progress(done, len(rows))
    return tail_losses


def _batches(rows: list[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Positions of rows of like length, longest first: at most ``batch_size``, and no more tokens than one
    forward takes.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    while order:
        size = max(1, min(batch_size, FORWARD_TOKENS // len(rows[order[0]])))
        yield order[:size]
        order = order[size:]


def _forward(model: GraceModel, ids: torch.Tensor) -> np.ndarray:
    """Losses ``(rows, width - 1)`` of all tokens but the first, padded on the right, where a causal model
    does not look.

    A text that is too long for one forward is gone through in pieces, with the keys and values of what came before.
    """
    inputs, targets = ids[:, :-1], ids[:, 1:]
    step, past, pieces = max(1, FORWARD_TOKENS // len(ids)), None, []
    with torch.inference_mode():
        for start in range(0, inputs.shape[1], step):
            part = slice(start, start + step)
            out = model.model(inputs[:, part], past_key_values=past, use_cache=inputs.shape[1] > step)
            past = out.past_key_values
            pieces.append(
                torch.nn.functional.cross_entropy(
                    out.logits.transpose(1, 2).float(), targets[:, part], reduction="none"
                )
            )
    return torch.cat(pieces, 1).cpu().numpy()
