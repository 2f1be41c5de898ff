"""Token ids of a prompt, and which of them are the user's text.

The chat template is rendered with a sentinel in place of the text; before the sentinel is the *head*
(representation prompt and markup), after it the *tail* (end of the user's turn, start of the assistant's).
:mod:`grace_core.chat_templates` finds out how a template takes its messages, and whether it changes them. A
text is then rendered as head + text + tail and tokenised as a whole, and its span is taken from the
tokenizer's character offsets, so that a token merged across the boundary counts as text. A search for the
text's own tokens would miss it.

A text may contain the literal form of a special token, such as "<|im_end|>", which would end the user's turn.
Such a text is tokenised separately from the template, with special tokens split into ordinary ones.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from grace_core.chat_templates import DATE, SENTINEL, ChatTemplate, adapted_turns
from grace_core.errors import GraceError

# The representation prompt of the paper's experiments (arXiv 2510.04506). Results depend on it to the letter.
REPRESENTATION_PROMPT = (
    "Read and analyze the following text, then you need to provide your reasoning within <think></think> tags. "
    "Finally, generate a comprehensive understanding of this text."
)
_UNPAIRED = re.compile("[\ud800-\udfff]")  # halves of surrogate pairs, which no tokenizer accepts


@dataclass(frozen=True)
class Prompt:
    """Token ids of one prompt; ``ids[start:stop]`` is the user's text, ``ids[stop:]`` the template up to the rationale.

    ``left_out`` is the number of tokens that were cut off the end of the text.
    """

    ids: list[int]
    start: int
    stop: int
    left_out: int = 0

    @property
    def text_truncated(self) -> bool:
        return self.left_out > 0


class PromptBuilder:
    """Builds prompts for one tokenizer and one representation prompt.

    ``template`` holds arguments of the chat template, such as enable_thinking, and ``date`` (YYYY-MM-DD) is the
    date for templates that write one. Raises GraceError if the tokenizer has no chat template, or one that
    shows the user's text and the representation prompt unchanged in no way.
    """

    def __init__(
        self,
        tokenizer,
        system: str = REPRESENTATION_PROMPT,
        *,
        max_prompt_tokens: int = 1024,
        template: dict | None = None,
        date: str = DATE,
    ):
        if not getattr(tokenizer, "chat_template", None):
            raise GraceError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, so it cannot be asked for a rationale; "
                "use an instruction-tuned model, or put a chat_template.jinja beside its tokenizer files"
            )
        if not tokenizer.is_fast:
            raise GraceError(
                f"the tokenizer of {tokenizer.name_or_path!r} gives no character offsets, which are needed to find the "
                "text inside the prompt; use a model with a fast tokenizer (tokenizer.json)"
            )
        self.tokenizer = tokenizer
        self.system = system
        self.max_prompt_tokens = max_prompt_tokens
        self.template = ChatTemplate(tokenizer, template, date)
        self.frame = self.template.read_frame(system)
        self.head, self.tail = self.frame.head, self.frame.tail
        self.overhead = len(self._ids(self.head)) + len(self._ids(self.tail))
        if self.overhead >= max_prompt_tokens:
            raise GraceError(
                f"the prompt takes {self.overhead} tokens without any text, and max_prompt_tokens is {max_prompt_tokens}; raise it"
            )
        self._specials = [token for token in tokenizer.get_added_vocab() if token]

    @property
    def place(self) -> str:
        """Where the representation prompt is: in a "system" message, in the "user"'s turn before the text, or
        "none".
        """
        return self.frame.place

    @property
    def room(self) -> int:
        """The number of tokens of a text that fit into the prompt."""
        return self.max_prompt_tokens - self.overhead

    @property
    def described(self) -> dict:
        """How the chat template is used, as JSON: ``place``, ``content`` ("text" or "parts"), ``date`` (None
        unless the template writes one), ``opening`` (the markup that opens the answer's turn if the template does
        not, else None), and ``sha256`` of head and tail."""
        frame, digest = self.frame, hashlib.sha256(f"{self.head}{SENTINEL}{self.tail}".encode("utf-8", "surrogatepass"))
        return {
            "place": frame.place,
            "content": frame.content,
            "date": self.template.day if frame.dated else None,
            "opening": frame.opening and frame.opening[1].removeprefix(frame.opening[0]),
            "sha256": digest.hexdigest(),
        }

    def render(self, turns: Sequence[dict]) -> str:
        """The text of a conversation up to the answer. Raises any error of the template."""
        text = self.template.render(adapted_turns(self.frame, turns))
        if self.frame.opening is None:
            return text
        closed, opened = self.frame.opening
        return text.removesuffix(closed) + opened

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def build(self, text: str) -> Prompt:
        """The prompt for ``text``; one over the token limit is cut at its end, which sets ``text_truncated``.

        Raises GraceError for a text that is empty or only white space: it has no content to represent.
        """
        if not isinstance(text, str):
            raise GraceError(f"a text must be a str, got {type(text).__name__}")
        text = _UNPAIRED.sub("\ufffd", text.replace("\x00", "")).strip()
        if not text:
            raise GraceError("the text is empty; an empty text has no embedding, leave it out")
        if any(token in text for token in self._specials):
            ids, start, stop = self._build_in_parts(text)
        else:
            ids, start, stop = self._build_whole(text)
        excess = len(ids) - self.max_prompt_tokens
        if excess <= 0:
            return Prompt(ids, start, stop)
        cut = max(start + 1, stop - excess)  # at least one token, which may be merged across the boundary
        return Prompt(ids[:cut] + ids[stop:], start, cut, left_out=stop - cut)

    def _build_whole(self, text: str) -> tuple[list[int], int, int]:
        first, last = len(self.head), len(self.head) + len(text)
        encoded = self.tokenizer(self.head + text + self.tail, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        inside = [i for i, (a, b) in enumerate(offsets) if a < last and b > first and b > a]
        if not inside:
            raise GraceError(
                f"the tokenizer of {self.tokenizer.name_or_path!r} makes no token of the text {text[:40]!r}; leave it out"
            )
        return ids, inside[0], inside[-1] + 1

    @cached_property
    def _literal(self):
        """A tokenizer that splits special tokens; a copy, since other threads may be using the original."""
        copy = type(self.tokenizer.backend_tokenizer).from_str(self.tokenizer.backend_tokenizer.to_str())
        copy.no_truncation()
        copy.no_padding()
        copy.encode_special_tokens = True
        return copy

    def literal_ids(self, text: str) -> list[int]:
        """Token ids of ``text``, with special tokens split into ordinary ones."""
        return self._literal.encode(text, add_special_tokens=False).ids

    def _build_in_parts(self, text: str) -> tuple[list[int], int, int]:
        middle = self.literal_ids(text)
        head, tail = self._ids(self.head), self._ids(self.tail)
        return head + middle + tail, len(head), len(head) + len(middle)
