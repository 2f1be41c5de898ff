"""A conversation as a prompt, and an answer's tokens as text that can be sent piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.prompt import SENTINEL, Prompt
from grace_core.serving.schemas import Message
from grace_core.text_stream import TextStream


def conversation(model: GraceModel, messages: Sequence[Message]) -> Prompt:
    """The prompt of a conversation by the model's chat template, all of it as the prompt's text.

    The literal form of a special token in a message stays text: it ends nobody's turn. Raises GraceError
    where the template takes no such roles, in their order.
    """
    turns = [
        {"role": "system" if message.role == "developer" else message.role, "content": message.content}
        for message in messages
    ]
    specials = [token for token in model.tokenizer.get_added_vocab() if token]
    if any(token in turn["content"] for turn in turns for token in specials):
        marks = [f"{SENTINEL}{place}{SENTINEL}" for place in range(len(turns))]
        rest, ids = _render(model, [turn | {"content": mark} for turn, mark in zip(turns, marks, strict=True)]), []
        for mark, turn in zip(marks, turns, strict=True):
            before, separator, rest = rest.partition(mark)
            if not separator:
                raise GraceError(
                    f"the chat template of {model.name} does not show every message; write special tokens otherwise"
                )
            ids += _ids(model, before) + model.prompts.literal_ids(turn["content"])
        ids += _ids(model, rest)
    else:
        ids = _ids(model, _render(model, turns))
    return Prompt(ids, 0, len(ids))


def _render(model: GraceModel, turns: list[dict]) -> str:
    try:
        return model.prompts.render(turns)
    except Exception as error:  # jinja raises its own types, TemplateError among them, for roles it does not accept
        raise GraceError(
            f"the chat template of {model.name} does not take these messages: {str(error).splitlines()[0][:200]}"
        ) from error


def _ids(model: GraceModel, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


class Answer:
    """The text of an answer as its tokens come; ends at the first of ``stops``, which is left out."""

    def __init__(self, model: GraceModel, stops: Sequence[str] = ()):
        self.stops = stops
        self.text = ""  # what is certain
        self.stopped = False
        self._stream = TextStream(model.tokenizer)
        self._held = ""  # what may become a stop

    @property
    def ids(self) -> list[int]:
        return self._stream.ids

    def add(self, token: int) -> str:
        """The text that this token made certain, often none: part of a character, or what may become a stop,
        is held back.
        """
        return self._settle(self._stream.add(token))

    def end(self) -> str:
        """What was held back, when no token follows."""
        return "" if self.stopped else self._settle(self._stream.end(), last=True)

    def _settle(self, new: str, last: bool = False) -> str:
        """What is certain of the text held back and the ``new`` one; a stop that ends in the new one begins
        in either.
        """
        text = self._held + new
        cut = min((place for stop in self.stops if (place := text.find(stop)) >= 0), default=None)
        self.stopped = cut is not None
        if cut is None:
            cut = len(text) - (0 if last else self._begun(text))
        self._held = text[cut:]
        self.text += text[:cut]
        return text[:cut]

    def _begun(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop."""
        lengths = [n for stop in self.stops for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])]
        return max(lengths, default=0)
