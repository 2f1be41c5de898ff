"""Texts or token ids of a request as prompts, within the limits."""

from __future__ import annotations

from collections.abc import Sequence

from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.prompt import Prompt
from grace_core.serving.errors import ApiError
from grace_core.serving.limits import Limits


def prompts_of(
    model: GraceModel,
    inputs: Sequence[str] | Sequence[list[int]],
    limits: Limits,
    labels: Sequence[str],
    *,
    rationale: bool,
    truncate: bool,
) -> list[Prompt]:
    """A prompt for every text, or list of token ids of the model's own tokenizer.

    Raises ApiError that names the first bad one.

    ``labels`` are the inputs' names in the request.
    """
    if len(inputs) > limits.max_texts:
        message = f"got {len(inputs)} texts, at most {limits.max_texts} are taken: send several requests"
        raise ApiError(400, message, param=_field(labels[-1]))
    prompts = []
    for label, item in zip(labels, inputs, strict=True):
        try:
            prompt = _of_text(model, item, limits) if isinstance(item, str) else _of_ids(model, item)
            if prompt.text_truncated and not truncate:
                raise GraceError(
                    f"the text is longer than the {model.prompts.room} tokens that fit into the prompt, by {prompt.left_out}; "
                    'shorten it, or send "truncate": true'
                )
            _refuse_too_long(model, prompt, rationale)
        except GraceError as error:
            raise ApiError(400, f"{label}: {error}", param=_field(label), code="invalid_value") from error
        prompts.append(prompt)
    if (tokens := sum(prompt.stop - prompt.start for prompt in prompts)) > limits.max_request_tokens:
        message = (
            f"the texts have {tokens:,} tokens, at most {limits.max_request_tokens:,} are taken: send several requests"
        )
        raise ApiError(400, message, param=_field(labels[-1]))
    return prompts


def _field(label: str) -> str:
    return label.partition("[")[0]


def _of_text(model: GraceModel, text: str, limits: Limits) -> Prompt:
    if len(text) > limits.max_characters:
        raise GraceError(
            f"the text has {len(text):,} characters, at most {limits.max_characters:,} are taken; split it"
        )
    return model.prompts.build(text)


def _of_ids(model: GraceModel, ids: list[int]) -> Prompt:
    """The ids as they are between the template's.

    One of a special token would end the text's turn, so it is refused.
    """
    if not ids:
        raise GraceError("the list is empty; an empty text has no embedding, leave it out")
    size, specials = len(model.tokenizer), {i: token for token, i in model.tokenizer.get_added_vocab().items()}
    for token in ids:
        if not 0 <= token < size:
            raise GraceError(
                f"{token!r:.30} is no token id of {model.name}, they go from 0 to {size - 1}; use its tokenizer, or send text"
            )
        if token in specials:
            raise GraceError(
                f"token id {token} is the special token {specials[token]!r}, which would end the text; leave it out"
            )
    head, tail = (
        model.tokenizer(part, add_special_tokens=False)["input_ids"]
        for part in (model.prompts.head, model.prompts.tail)
    )
    kept = ids[: model.prompts.room]
    return Prompt([*head, *kept, *tail], len(head), len(head) + len(kept), left_out=len(ids) - len(kept))


def positions_of(model: GraceModel) -> int:
    """The longest sequence that the model reads; very many where its configuration names no limit."""
    return model.positions or 1 << 30


def _refuse_too_long(model: GraceModel, prompt: Prompt, rationale: bool) -> None:
    positions, needed = positions_of(model), len(prompt.ids) + (model.settings.max_new_tokens if rationale else 0)
    if needed > positions:
        raise GraceError(
            f"prompt and rationale may take {needed} tokens, the model has {positions} positions; shorten the text"
        )
