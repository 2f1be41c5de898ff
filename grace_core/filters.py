"""Conditions on the columns of a corpus, as text: ``year > 2000 and kind in ('river', 'lake')``.

    expression   conjunction ("or" conjunction)*
    conjunction  negation ("and" negation)*
    negation     "not" negation | "(" expression ")" | comparison
    comparison   name ("=" | "!=" | "<" | "<=" | ">" | ">=") value
               | name ["not"] "in" "(" value ("," value)* ")"
               | name ["not"] "contains" value
               | name "is" ["not"] "null"
    value        a number, true, false, or a text in quotes: 'river', "river"; a date is a text: '2000-01-31', '2000-01-31 12:00'
    name         a column: letters, digits, "_" and "."; any other in quotes: "date of birth"

Words of the grammar may be in capitals; a quote within quotes is doubled. ``contains`` looks for an item of a
list, or for a part of a text, case-sensitively. Text is compared by code points; times without an offset are
UTC, and a date is its midnight.

As in SQL, a comparison with a missing value is neither true nor false, nor is its negation: only ``is null``
finds missing values.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from grace_core.errors import GraceError

if TYPE_CHECKING:
    import numpy as np

LONGEST, DEEPEST = 10_000, 100  # characters; nested parentheses and negations
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<number>[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?(?![\w.-]))|(?P<word>[^\W\d][\w.]*)"""
    r"""|(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<sign><=|>=|!=|==|<>|=|<|>|\(|\)|,)""",
    re.IGNORECASE,
)
_WORDS = frozenset({"and", "or", "not", "in", "is", "null", "contains", "true", "false"})
_SIGNS = {"=": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
_INSTEAD = {"==": "=", "<>": "!=", "&&": "and", "||": "or", "&": "and", "|": "or", "!": "not"}

Value = str | int | float | bool


@dataclass(frozen=True)
class Literal:
    value: Value
    at: int  # the character of the expression at which it begins, from 0


@dataclass(frozen=True)
class Comparison:
    """``operator`` is a sign of the grammar, "in", "contains" or "null"; the last has no values."""

    column: str
    operator: str
    values: tuple[Literal, ...]
    at: int


@dataclass(frozen=True)
class Not:
    part: Node


@dataclass(frozen=True)
class Combination:
    """``word`` is "and" or "or"; ``spans`` are begin and end of each part in the expression."""

    word: str
    parts: tuple[Node, ...]
    spans: tuple[tuple[int, int], ...]


Node = Comparison | Not | Combination


def parse(expression: str) -> Node:
    """The syntax tree of an expression. Raises GraceError, with the character of the error."""
    if len(expression) > LONGEST:
        raise GraceError(f"the filter has {len(expression):,} characters, expected at most {LONGEST:,}: shorten it")
    return _Parser(expression).whole()


def comparisons(node: Node) -> Iterator[Comparison]:
    """All comparisons of an expression, from left to right."""
    if isinstance(node, Comparison):
        yield node
    for part in (node.part,) if isinstance(node, Not) else getattr(node, "parts", ()):
        yield from comparisons(part)


def columns_of(node: Node) -> list[str]:
    """The columns that an expression names, each once."""
    return list(dict.fromkeys(comparison.column for comparison in comparisons(node)))


def check_columns(node: Node, known: Sequence[str]) -> None:
    """Raises GraceError if an expression names a column that is not in ``known``."""
    lower = {name.lower(): name for name in reversed(known)}
    for column, at in ((comparison.column, comparison.at) for comparison in comparisons(node)):
        if column not in known:
            similar = difflib.get_close_matches(column.lower(), lower, 1, 0.5)
            hint = f"do you mean {lower[similar[0]]!r}? " if similar else ""
            raise _error(at, f"there is no column {column[:100]!r}: {hint}columns are {', '.join(known)[:800]}")


def quoted(value: Value) -> str:
    """A value as it is written in an expression."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def name(column: str) -> str:
    """A column's name as it is written in an expression."""
    if (token := _TOKEN.fullmatch(column)) and token["word"] and column.lower() not in _WORDS:
        return column
    return '"' + column.replace('"', '""') + '"'


def mask(node: Node, table) -> np.ndarray:
    """Which rows of an Arrow table ``(n,)`` satisfy an expression.

    Raises GraceError for an unknown column, and for a value of another type than its column."""
    import numpy as np
    import pyarrow.compute as pc

    check_columns(node, table.column_names)

    def evaluate(node: Node):
        if isinstance(node, Not):
            return pc.invert(evaluate(node.part))
        if isinstance(node, Combination):
            return functools.reduce(pc.and_kleene if node.word == "and" else pc.or_kleene, map(evaluate, node.parts))
        return _compare(node, table[node.column])

    return np.asarray(pc.fill_null(evaluate(node), False), dtype=bool)


def _error(at: int, message: str) -> GraceError:
    return GraceError(f"filter, character {at + 1}: {message}")


def _tokens(expression: str) -> list[tuple[str, str, int]]:
    """Kind, text and position of every token; each word and sign of the grammar is a kind."""
    tokens, at = [], 0
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if not match:
            raise _unreadable(expression[at:], at)
        text, kind = match[0], match.lastgroup
        if kind == "sign" or (kind == "word" and text.lower() in _WORDS):
            kind = text.lower()
        if kind != "space":
            tokens.append((kind, text, at))
        at = match.end()
    return [*tokens, ("end", "", len(expression))]


def _unreadable(rest: str, at: int) -> GraceError:
    if rest[0] in "'\"":
        return _error(at, f"the quote {rest[0]} is never closed: close it, and double each one within the text")
    if wrong := next((sign for sign in _INSTEAD if rest.startswith(sign)), None):
        return _error(at, f"got {wrong!r}, expected {_INSTEAD[wrong]}")
    return _error(at, f"{rest.split()[0][:30]!r} cannot be read: put texts and dates in quotes")


class _Parser:
    """A recursive-descent parser."""

    def __init__(self, expression: str):
        self.tokens, self.place, self.depth = _tokens(expression), 0, 0

    @property
    def kind(self) -> str:
        return self.tokens[self.place][0]

    def take(self) -> tuple[str, str, int]:
        self.place += 1
        return self.tokens[self.place - 1]

    def refuse(self, expected: str) -> NoReturn:
        kind, text, at = self.tokens[self.place]
        got = "the end" if kind == "end" else repr(text[:40])
        raise _error(at, f"got {got}, expected {_INSTEAD.get(text, expected)}")

    def expect(self, kind: str, expected: str) -> tuple[str, str, int]:
        if self.kind != kind:
            self.refuse(expected)
        return self.take()

    def whole(self) -> Node:
        if self.kind == "end":
            raise _error(0, "the filter is empty: write a condition such as year > 2000")
        node = self.expression_()
        if self.kind != "end":
            self.refuse("and, or, or the end")
        return node

    def expression_(self) -> Node:
        return self._chain("or", lambda: self._chain("and", self.negation))

    def _chain(self, word: str, part) -> Node:
        parts, spans = [], []
        while True:
            begin = self.tokens[self.place][2]
            parts.append(part())
            _, last, at = self.tokens[self.place - 1]
            spans.append((begin, at + len(last)))
            if self.kind != word:
                return parts[0] if len(parts) == 1 else Combination(word, tuple(parts), tuple(spans))
            self.take()

    def negation(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise _error(
                self.tokens[self.place][2],
                f"more than {DEEPEST} parentheses or negations within one another: simplify it",
            )
        if self.kind == "not":
            self.take()
            node: Node = Not(self.negation())
        elif self.kind == "(":
            at = self.take()[2]
            node = self.expression_()
            self.expect(")", f"and, or, or the ) that closes the ( at character {at + 1}")
        else:
            node = self.comparison()
        self.depth -= 1
        return node

    def comparison(self) -> Node:
        if self.kind not in ("word", "text"):
            self.refuse("the name of a column, not, or (")
        kind, text, at = self.take()
        column = _unquoted(text) if kind == "text" else text
        if self.kind in _SIGNS:
            return Comparison(column, self.take()[0], (self.value(),), at)
        null = self.kind == "is" and self.take()
        turned = self.kind == "not" and self.take()
        if null:
            self.expect("null", "null" if turned else "null, or not null")
            node = Comparison(column, "null", (), at)
        elif self.kind == "contains":
            self.take()
            node = Comparison(column, "contains", (self.value(),), at)
        elif self.kind == "in":
            self.take()
            self.expect("(", "( and values, such as in ('a', 'b')")
            values = [self.value()]
            while self.kind == "," and self.take():
                values.append(self.value())
            self.expect(")", "a comma and another value, or )")
            node = Comparison(column, "in", tuple(values), at)
        else:
            self.refuse(
                "in or contains"
                if turned
                else f"{', '.join(_SIGNS)}, in, not in, contains or is null, after a column's name"
            )
        return Not(node) if turned else node

    def value(self) -> Literal:
        kind, text, at = self.tokens[self.place]
        if kind == "null":
            raise _error(at, "nothing equals null: write is null, or is not null")
        if kind == "word":
            raise _error(at, f"got {text[:40]!r}, expected a value: put texts in quotes, '{text[:40]}'")
        if kind not in ("number", "text", "true", "false"):
            self.refuse("a value: a number, a text in quotes, true or false")
        self.take()
        if kind == "number":
            return Literal(int(text) if re.fullmatch(r"[-+]?\d{1,4000}", text) else float(text), at)
        return Literal(_unquoted(text) if kind == "text" else kind == "true", at)


def _unquoted(text: str) -> str:
    return text[1:-1].replace(text[0] * 2, text[0])


def _compare(node: Comparison, column):
    """A comparison as a boolean column, null where the column is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if node.operator == "null":
        return pc.is_null(column)
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.nulls(len(column), pa.bool_())])
    if pa.types.is_list(kind):
        return _contains_item(node, column)
    if node.operator == "contains":
        if not pa.types.is_string(kind):
            raise _error(
                node.at, f"{node.column!r} holds neither text nor lists, which contains asks for: write = instead"
            )
        return pc.match_substring(column, _converted(node, node.values[0], kind))
    column = column.cast(pa.timestamp("us")) if pa.types.is_temporal(kind) else column
    values = [_converted(node, literal, kind) for literal in node.values]
    if pa.types.is_boolean(kind) and node.operator not in ("=", "!=", "in"):
        raise _error(node.at, f"{node.column!r} is true or false, which have no order: write = or !=")
    return functools.reduce(pc.or_, [_ordered(_SIGNS.get(node.operator, "equal"), column, value) for value in values])


def _ordered(operator: str, column, value):
    """A comparison with one value.

    Integers are compared as integers, and with fractions as floats, which is exact, since a float with a
    fraction is below 2^52."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and not -(2**63) <= value < 2**63:
        value = math.copysign(math.inf, value) if pa.types.is_integer(column.type) else float(value)
    if isinstance(value, float) and pa.types.is_integer(column.type):
        column = column.cast(pa.float64(), safe=False)
    return getattr(pc, operator)(column, pa.scalar(value, column.type))


def _contains_item(node: Comparison, column):
    import pyarrow as pa
    import pyarrow.compute as pc

    if node.operator != "contains":
        raise _error(
            node.at, f"{node.column!r} holds lists: write {name(node.column)} contains {quoted(node.values[0].value)}"
        )
    chunks = []
    for lists in column.chunks or [pa.array([], column.type)]:
        items = pa.chunked_array([lists.flatten()])
        matches = _compare(Comparison(node.column, "=", node.values, node.at), items).combine_chunks()
        rows = pc.filter(pc.list_parent_indices(lists), pc.fill_null(matches, False))
        chunks.append(pc.if_else(pc.is_null(lists), None, pc.is_in(pa.array(range(len(lists)), rows.type), rows)))
    return pa.chunked_array(chunks)


def _converted(node: Comparison, literal: Literal, kind) -> Value | datetime:
    """A literal as a value of the column's type."""
    import pyarrow as pa

    value = literal.value
    if pa.types.is_boolean(kind):
        what, remedy, fits = "true or false", "true or false", isinstance(value, bool)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        what, remedy, fits = "numbers", "a number, without quotes", type(value) in (int, float)
    elif pa.types.is_temporal(kind):
        what, remedy, fits = (
            "dates" if pa.types.is_date(kind) else "times",
            "a date in quotes, such as '2000-01-31'",
            False,
        )
        with suppress(ValueError, TypeError):
            parsed = datetime.fromisoformat(value)
            return parsed if parsed.tzinfo is None else parsed.astimezone(UTC).replace(tzinfo=None)
    else:
        what, remedy, fits = "text", "a text in quotes", isinstance(value, str)
    if not fits:
        raise _error(literal.at, f"{node.column!r} holds {what}, got {quoted(value)[:60]}: write {remedy}")
    return value
