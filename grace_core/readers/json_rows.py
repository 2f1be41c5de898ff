"""Rows of JSONL and JSON files."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grace_core.errors import GraceError
from grace_core.readers.documents import MAX_LINE_BYTES, Notes, Row, guess_columns
from grace_core.readers.files import TextFile, lines, open_bytes, open_text

_CHUNK_CHARACTERS = 64 * 1024
SAMPLE_LINES = 200
KINDS = {  # what a JSON value is, by its first character
    "{": "an object",
    "[": "an array",
    '"': "a string",
    "t": "true",
    "f": "false",
    "n": "null",
    "N": "a number",
    "I": "a number",
    **dict.fromkeys("-0123456789", "a number"),
}
_JSON_SPACE = re.compile(r"[ \t\r\n]*")


class _Decoder(json.JSONDecoder):
    """Objects as dicts. A key that occurs twice keeps its last value, and sets ``repeated`` until the caller clears it."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._pairs)
        self.repeated = False

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        self.repeated |= len(row) < len(pairs)
        return row


def jsonl_rows(path: Path, notes: Notes) -> Iterator[Row]:
    """One object a line; blank lines are skipped."""
    decoder = _Decoder()
    for number, line in lines(open_text(path, notes)):
        if not line.strip():
            continue
        start = line.lstrip()[0]
        array = "; a file with one array of objects is called .json" if start == "[" else ""
        array += "; a file with a text on every line is called .txt" if start == '"' else ""
        try:
            row = decoder.decode(line)
        except (ValueError, RecursionError) as error:
            wrong = f"malformed JSON ({_why(error)}), expected one JSON object a line"
            raise GraceError(f"{path}, line {number}: {wrong}: correct it{array}") from None
        if not isinstance(row, dict):
            raise GraceError(
                f'{path}, line {number}: {KINDS[start]}, expected a JSON object: write {{"text": "…"}}{array}'
            )
        _note_repeated_key(decoder, notes, f"{path}, line {number}")
        yield number, row


def is_jsonl(file: TextFile) -> bool:
    """Whether a text file has a JSON object with a text on every line, as far as its head goes."""
    rows = [line for line in file.head.split("\n") if line.strip()]
    rows = rows[:SAMPLE_LINES] if file.whole else rows[: min(len(rows) - 1, SAMPLE_LINES)]
    if not rows or not all(row.lstrip().startswith("{") for row in rows):
        return False
    try:
        objects = [json.loads(row) for row in rows]
    except (ValueError, RecursionError):
        return False
    return (
        all(isinstance(row, dict) for row in objects)
        and guess_columns(name for row in objects for name in row)["text"] is not None
    )


def json_rows(path: Path, notes: Notes) -> Iterator[Row]:
    """Items of an array, decoded one by one from pieces of the file, so that a preview or a limit reads only the
    part it needs.
    """
    follows = {"[": "{]", ",": "{", "]": ""}
    text, at, line, item, expected, size = "", 0, 1, 1, "[", _CHUNK_CHARACTERS  # line: that of the start of text
    decoder = _Decoder()
    with io.TextIOWrapper(open_bytes(path), open_text(path, notes).encoding, newline="") as file:
        while True:
            at = wrong_at = _JSON_SPACE.match(text, at).end()
            char = text[at : at + 1]
            kinds = " or ".join(KINDS.get(sign, repr(sign)) for sign in expected) or "the end of the file"
            wrong = f"got {KINDS.get(char, repr(char)) if char else 'the end of the file'}, expected {kinds}"
            if char == "{" and char in expected:
                try:
                    row, at = decoder.raw_decode(text, at)
                    _note_repeated_key(decoder, notes, f"{path}, item {item}")
                    yield item, row
                    expected, size = ",]", _CHUNK_CHARACTERS
                    continue
                except (ValueError, RecursionError) as error:
                    decoder.repeated = False
                    wrong, wrong_at = _why(error), getattr(error, "pos", at)
            elif char and char in expected:
                at, item, expected = at + 1, item + (char == ","), follows[char]
                continue
            new = ""
            if len(text) - at > MAX_LINE_BYTES:
                wrong += f", or the item is longer than {MAX_LINE_BYTES:,} characters"
            elif not char or char in expected:  # the item may only be cut off at the end of the piece
                try:
                    new = file.read(size)
                except UnicodeDecodeError as error:
                    where = f"byte {file.buffer.tell() - len(error.object) + error.start} of the file (from 0)"
                    raise GraceError(
                        f"{path}, item {item} or later, {where}: not UTF-8: save the file as UTF-8"
                    ) from None
            if not new and not char and not expected:
                return
            if not new:
                where = f"{path}, line {line + text.count(chr(10), 0, wrong_at)}, item {item}"
                remedy = "correct it; a file with one object a line is called .jsonl"
                if char == "{" and expected == "[":
                    remedy = (
                        "put the documents into one array [{…}, {…}]; a file with one object a line is called .jsonl"
                    )
                raise GraceError(f"{where}: malformed JSON ({wrong}): {remedy}")
            line, text, at, size = line + text.count("\n", 0, at), text[at:] + new, 0, min(size * 2, MAX_LINE_BYTES)


def _why(error: ValueError | RecursionError) -> str:
    """What is wrong with a piece of JSON, in words for its author."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if "integer string conversion" in str(error):
        return "a number of too many digits"
    return str(getattr(error, "msg", error))


def _note_repeated_key(decoder: _Decoder, notes: Notes, where: str) -> None:
    if decoder.repeated:
        notes.count("a key stands twice in an object, and its last value is kept", "row", where)
        decoder.repeated = False
