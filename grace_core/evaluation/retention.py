"""What a model can still do besides embedding: perplexity on plain text, and telling a true continuation from false ones.

For a text of tokens t_1 … t_n behind the tokenizer's beginning-of-text token (or its padding token, where it has no other):

    perplexity = exp(-(1/N) sum over all N tokens of all texts of log p(t_i | t_<i))
    choice     = the option with the highest mean log p per token, given the context

Both without chat template and system prompt: they ask what the language model knows, not what it does when told to represent a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from grace_core.errors import GraceError
from grace_core.model import GraceModel


@dataclass(frozen=True)
class Choice:
    """A context with continuations, of which ``options[right]`` is true. Text is joined as it stands, blanks included."""

    context: str
    options: tuple[str, ...]
    right: int


def beginning_of_text(tokenizer) -> int:
    """The token that a plain text stands behind: the tokenizer's own, else its padding token, else its end token."""
    candidates = (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next(token for token in candidates if token is not None)


def token_losses(
    model: GraceModel, texts: Sequence[str], *, contexts: Sequence[str] | None = None, batch_size: int = 64
) -> list[np.ndarray]:
    """Negative log-probability of every token of every text, one array ``(n_i,)`` a text; tokens of a context carry none."""
    tokenizer = model.tokenizer
    begin = beginning_of_text(tokenizer)
    before = contexts if contexts is not None else [""] * len(texts)
    heads = [[begin, *tokenizer(context, add_special_tokens=False)["input_ids"]] for context in before]
    tails = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for number, tail in enumerate(tails):
        if not tail:
            raise GraceError(f"text {number} is empty, so it has no perplexity; leave it out")
    found: list[np.ndarray] = [np.empty(0)] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: -len(heads[i]) - len(tails[i]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(heads[i]) + len(tails[i]) for i in batch)
        rows = [heads[i] + tails[i] for i in batch]
        ids = torch.tensor([row + [begin] * (width - len(row)) for row in rows], device=model.engine.device)
        with torch.inference_mode():  # padded on the right, where a causal model does not look
            logits = model.model(ids, use_cache=False).logits[:, :-1]
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none").cpu().numpy()
        for row, i in enumerate(batch):
            found[i] = losses[row, len(heads[i]) - 1 : len(heads[i]) + len(tails[i]) - 1]
    return found


def perplexity(model: GraceModel, texts: Sequence[str]) -> float:
    """Perplexity over all tokens of ``texts``. Raises GraceError for an empty text, or none."""
    if not texts:
        raise GraceError("perplexity needs at least one text, got none")
    losses = token_losses(model, texts)
    return float(np.exp(np.concatenate(losses).mean()))


def choices_right(model: GraceModel, choices: Sequence[Choice]) -> np.ndarray:
    """1 where the true option is the likeliest, else 0, ``(len(choices),)``."""
    texts = [option for choice in choices for option in choice.options]
    contexts = [choice.context for choice in choices for _ in choice.options]
    means = iter([float(losses.mean()) for losses in token_losses(model, texts, contexts=contexts)])
    return np.array([float(np.argmin([next(means) for _ in choice.options]) == choice.right) for choice in choices])
