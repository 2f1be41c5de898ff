"""Token ids to text as they come: each piece once, together the text that decoding all ids at the end gives.

Decoding all ids again at every token would cost quadratic time. tokenizers' ``DecodeStream`` decodes each
token with the few in front of it, and holds back the bytes of a character until it is whole. Two things are
left to do here:

- Byte-fallback tokens (``<0xE2>``) are held back until a run of them ends: a decoder reads such a run as a whole, and one bad byte turns
  all of it into U+FFFD, characters that looked whole included.
- Where the tokenizer's library is not all that decodes (a tokenizer in Python, or one that takes out spaces in front of punctuation
  afterwards), all ids are decoded again at each token, and a word is held back until the next one begins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
LAST_WORD = re.compile(r"\s*\S*\Z")


class TextStream:
    """The text of a growing list of token ids, ``ids``; ``text`` is what is certain of it."""

    def __init__(self, tokenizer, *, skip_special_tokens: bool = True):
        self.tokenizer, self.skip_special_tokens = tokenizer, skip_special_tokens
        self.ids: list[int] = []
        self.text = ""
        self._backend = tokenizer.backend_tokenizer if _decodes_alone(tokenizer) else None
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._bytes: list[int] = []  # a run of byte-fallback tokens that may go on

    def add(self, token: int) -> str:
        """The text that this token made certain, often none."""
        token = int(token)
        self.ids.append(token)
        if self._backend is None:
            text = self._decode()
            return self._settle(LAST_WORD.sub("", text)[len(self.text) :])
        if self._may_go_on(token):
            self._bytes.append(token)
            return ""
        run, self._bytes = [*self._bytes, token], []
        return self._settle(self._stream.step(self._backend, run) or "")

    def end(self) -> str:
        """What was held back, when no token follows."""
        return self._settle(self._decode()[len(self.text) :])

    def _may_go_on(self, token: int) -> bool:
        """Whether a run of byte tokens begins with this one, or does not end with it, as it adds no text of its own."""
        if BYTE.fullmatch(self._backend.id_to_token(token) or ""):
            return True
        return bool(self._bytes) and not self._backend.decode([token], skip_special_tokens=self.skip_special_tokens)

    def _decode(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=self.skip_special_tokens)

    def _settle(self, new: str) -> str:
        self.text += new
        return new


def read_pieces(tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token adds to the decoded text, special tokens included; together they are the text."""
    stream = TextStream(tokenizer, skip_special_tokens=False)
    pieces = [stream.add(token) for token in ids]
    if pieces:
        pieces[-1] += stream.end()
    return pieces


def _decodes_alone(tokenizer) -> bool:
    """Whether the backend's decoding is all of the tokenizer's: transformers cleans up the text of any but a
    BPE if it is told to.
    """
    if not tokenizer.is_fast:
        return False
    forced = tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
    return not tokenizer.clean_up_tokenization_spaces or (
        type(tokenizer.backend_tokenizer.model).__name__ == "BPE" and not forced
    )
