"""The names of columns: one grammar for links, the command line and the API.

    column   = single | sum | "rrf(" single "," single … ")"
    sum      = [weight "*"] single "+" [weight "*"] single …
    single   = "bm25" | "st:" NAME | NAME [":text" | ":rationale"]

NAME is a model's folder in the collection, a path or an id; one that holds white space or one of ``+ * ( )
,`` stands in double quotes. A model without ``:text`` or ``:rationale`` is taken with its rationale where its
index has any. The parts of a fusion are single columns. A weight is a number above 0 with at most six digits
on either side of the point; without one it is 1. In an address "+" is "%2B".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grace_core.errors import GraceError

BM25, ENCODER, ENDINGS = "bm25", "st:", (":text", ":rationale")
PARTS = 8  # of a fusion, at most
LONGEST = 2_000  # characters
_WEIGHT = re.compile(r"(\d{1,6}(?:\.\d{1,6})?|\.\d{1,6})\s*\*")
_NAME = re.compile(r"(?:[^\s+*(),\"]|\"[^\"]*\")+")
_RANKS = re.compile(r"rrf\s*\(")
_QUOTED = re.compile(r"\"[^\"]*\"")
_PLAIN = re.compile(r"[^\s+*(),\"]+")


@dataclass(frozen=True)
class Single:
    """One column: of ``kind`` bm25, encoder or grace. ``rationale`` is None where the name leaves it open."""

    kind: str
    model: str = ""
    rationale: bool | None = None

    @property
    def id(self) -> str:
        if self.kind == "bm25":
            return BM25
        quoted = f'"{self.model}"'
        if self.kind == "encoder":
            return ENCODER + (self.model if _PLAIN.fullmatch(self.model) else quoted)
        alike = (
            (self.model == BM25 and self.rationale is None)
            or self.model.startswith(ENCODER)
            or self.model.endswith(ENDINGS)
        )
        name = self.model if _PLAIN.fullmatch(self.model) and not alike else quoted
        return name if self.rationale is None else name + ENDINGS[self.rationale]

    @property
    def label(self) -> str:
        """What people read."""
        if self.kind != "grace":
            return "BM25" if self.kind == "bm25" else self.model
        return f"{self.model} · {'with rationale' if self.rationale else 'text only'}"


@dataclass(frozen=True)
class Sum:
    """A weighted sum of standardised scores."""

    terms: tuple[tuple[float, Single], ...]

    @property
    def id(self) -> str:
        return "+".join(part.id if weight == 1 else f"{weight_text(weight)}*{part.id}" for weight, part in self.terms)

    @property
    def label(self) -> str:
        return " + ".join(
            part.label if weight == 1 else f"{weight_text(weight)} × {part.label}" for weight, part in self.terms
        )

    @property
    def parts(self) -> tuple[Single, ...]:
        return tuple(part for _, part in self.terms)


@dataclass(frozen=True)
class Ranks:
    """A sum of reciprocal ranks."""

    parts: tuple[Single, ...]

    @property
    def id(self) -> str:
        return f"rrf({','.join(part.id for part in self.parts)})"

    @property
    def label(self) -> str:
        return f"ranks of {' and '.join(part.label for part in self.parts)}"


Name = Single | Sum | Ranks


def weight_text(weight: float) -> str:
    """The shortest decimal that reads as this weight."""
    return np.format_float_positional(weight, trim="-")


def parse(text: str) -> Name:
    """The column that ``text`` names. Raises GraceError, with what was read and what was expected."""
    if not isinstance(text, str):
        raise GraceError(f"a column's name must be text, got {type(text).__name__}")
    if len(text) > LONGEST:
        raise GraceError(f"a column's name has {len(text):,} characters, at most {LONGEST:,} are taken")
    return _Reader(text).column()


class _Reader:
    def __init__(self, text: str):
        self.text, self.at = text, 0

    def column(self) -> Name:
        self._space()
        if self._match(_RANKS):
            parts = [self._single()]
            while self._take(","):
                parts.append(self._single())
            if not self._take(")"):
                raise self._wrong("expected a comma or a closing parenthesis, and no weights")
            self._end()
            return Ranks(_checked(parts, self.text, "rrf() takes at least two columns"))
        terms = [self._term()]
        while self._take("+"):
            terms.append(self._term())
        self._end()
        if len(terms) == 1:
            weight, part = terms[0]
            if weight is not None:
                raise GraceError(
                    f"{self.text[:100]!r} weighs a single column; leave the weight out, or add another column with +"
                )
            return part
        _checked([part for _, part in terms], self.text, "")
        return Sum(tuple((1.0 if weight is None else weight, part) for weight, part in terms))

    def _term(self) -> tuple[float | None, Single]:
        self._space()
        weight = None
        if match := self._match(_WEIGHT):
            weight = float(match.group(1))
            if not weight > 0:
                raise GraceError(
                    f"the weight {match.group(1)} in {self.text[:100]!r} must be above 0; leave the column out instead"
                )
        return weight, self._single()

    def _single(self) -> Single:
        self._space()
        if not (match := self._match(_NAME)):
            raise self._wrong(f"expected a column: bm25, {ENCODER}NAME, MODEL, MODEL:text or MODEL:rationale")
        written = match.group()
        if written == BM25:
            return Single("bm25")
        if written.startswith(ENCODER):
            return Single("encoder", self._name(written[len(ENCODER) :]))
        for rationale, ending in enumerate(ENDINGS):
            if written.endswith(ending):
                return Single("grace", self._name(written[: -len(ending)]), bool(rationale))
        return Single("grace", self._name(written))

    def _name(self, written: str) -> str:
        name = written[1:-1] if _QUOTED.fullmatch(written) else written
        if '"' in name:
            raise GraceError(
                f"{self.text[:100]!r} is no name of a column: double quotes stand around a whole name, got {written[:60]!r}"
            )
        if not name.strip() or any(ord(c) < 32 for c in name):
            raise GraceError(
                f"{self.text[:100]!r} is no name of a column: expected the name of a model, got {written[:60]!r}"
            )
        return name

    def _space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def _match(self, pattern: re.Pattern) -> re.Match | None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def _take(self, character: str) -> bool:
        self._space()
        if self.text[self.at : self.at + 1] != character:
            return False
        self.at += 1
        return True

    def _end(self) -> None:
        self._space()
        if self.text[self.at : self.at + 1] == "*":
            raise self._wrong(
                "a weight stands before its column, a number above 0 with at most six digits on either side of the point: 0.7*bm25"
            )
        if self.at < len(self.text):
            raise self._wrong(
                'expected "+" or the end ("%2B" is the plus of an address; a name with signs or spaces stands in quotes)'
            )

    def _wrong(self, expected: str) -> GraceError:
        there = repr(self.text[self.at : self.at + 40]) if self.at < len(self.text) else "the end"
        return GraceError(f"{self.text[:100]!r} is no name of a column: {expected}, got {there}")


def _checked(parts: list[Single], text: str, least: str) -> tuple[Single, ...]:
    if len(parts) < 2:
        raise GraceError(f"{text[:100]!r} is no fusion: {least}")
    if len(parts) > PARTS:
        raise GraceError(f"{text[:100]!r} has {len(parts)} columns, at most {PARTS} are fused")
    check_different(parts, text)
    return tuple(parts)


def check_different(parts: list[Single], text: str) -> None:
    """Raises GraceError if a column stands twice in a fusion."""
    for i, part in enumerate(parts):
        if part in parts[:i]:
            raise GraceError(
                f"{part.id} stands twice in {text[:100]!r}; name it once, with the weight that it shall have"
            )


def resolved(name: Name, resolve: Callable[[Single], Single], text: str) -> Name:
    """The column ``name``, read from ``text``, with each single one as ``resolve`` gives it, which says which of a
    collection it is. Raises GraceError if a fusion then names one twice.
    """
    if isinstance(name, Single):
        return resolve(name)
    parts = [resolve(part) for part in name.parts]
    check_different(parts, text)
    if isinstance(name, Ranks):
        return Ranks(tuple(parts))
    return Sum(tuple((weight, part) for (weight, _), part in zip(name.terms, parts, strict=True)))
