"""The grammar of filters, what is refused and with which words, and its evaluation against plain Python."""

from __future__ import annotations

import operator
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grace_core import filters
from grace_core.errors import GraceError

ROWS = {
    "year": [1990, 2001, None],
    "kind": ["river", "lake's", "sea"],
    "day": [date(2000, 1, 1), date(2003, 1, 1), None],
    "at": [datetime(2000, 1, 1, 12, tzinfo=UTC), None, datetime(2000, 1, 1, tzinfo=UTC)],
    "open": [True, False, None],
    "tags": [["a"], ["b", "a"], None],
    "marks": [[1, None], [2], []],
    "none": [None] * 3,
    "date of birth": [1.5, 2.0, None],
    "big": [2**53 + 1, -(2**63), 2**63 - 1],
    "Größe.x": [1, 2, 3],
    "in": ["u", "v", 'w"'],
}
TABLE = pa.table(ROWS)


def matching(expression: str, table=TABLE) -> list[int]:
    return [row for row, holds in enumerate(filters.mask(filters.parse(expression), table).tolist()) if holds]


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("year > 2000", [1]),
        ("year>=1990 and year<=1990", [0]),
        ("not year = 1990", [1]),
        ("year != 1990", [1]),
        ("year is null", [2]),
        ("year is not null", [0, 1]),
        ("not (year is null)", [0, 1]),
        ("year = 1990 or year is null", [0, 2]),
        ("year > 1990.5", [1]),
        ("year = 1990.0", [0]),
        ("year != 1990.5", [0, 1]),
        ("year in (1990, 2001.0, 7)", [0, 1]),
        ("year NOT IN (1990)", [1]),
        ("year > -1e400 and year < 1e400", [0, 1]),
        ("year < 99999999999999999999", [0, 1]),
        ("year > 99999999999999999999", []),
        ("kind = 'lake''s'", [1]),
        ('kind = "lake\'s"', [1]),
        ("kind contains 'ake'", [1]),
        ("kind not contains 'a'", [0]),
        ("kind > 'r'", [0, 2]),
        ("kind in ('sea', 'river') and not kind = 'sea'", [0]),
        ("kind = ''", []),
        ("day > '2000-06-30'", [1]),
        ("day = '2000-01-01 00:00'", [0]),
        ("day in ('2003-01-01')", [1]),
        ("at >= '2000-01-01 12:00'", [0]),
        ("at = '2000-01-01T13:00+01:00'", [0]),
        ("at = '2000-01-01'", [2]),
        ("open = true", [0]),
        ("open != TRUE", [1]),
        ("open in (true, false)", [0, 1]),
        ("tags contains 'a'", [0, 1]),
        ("tags not contains 'b'", [0]),
        ("not tags contains 'b'", [0]),
        ("tags is null", [2]),
        ("marks contains 1", [0]),
        ("marks contains 2.0", [1]),
        ("marks is null", []),
        ("not marks contains 1", [1, 2]),
        ("none = 3", []),
        ("none contains 'x'", []),
        ("none is null", [0, 1, 2]),
        ('"date of birth" > 1.5', [1]),
        ("'date of birth' > 1.5", [1]),
        ("Größe.x >= 2", [1, 2]),
        ('"in" = \'w"\'', [2]),
        ("big = 9007199254740993", [0]),
        ("big > 9007199254740992", [0, 2]),
        ("big >= 9007199254740992.0", [0, 2]),
        ("big < -1e18", [1]),
        ("year > 1 and kind = 'sea' or kind = 'river'", [0]),
        ("year > 1 and (kind = 'sea' or kind = 'river')", [0]),
        ("not not year > 2000", [1]),
        ("\tyear\n>\u00a02000 ", [1]),
    ],
)
def test_a_filter_finds_rows(expression, rows):
    assert matching(expression) == rows


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("yaer > 1", "filter, character 1: there is no column 'yaer': do you mean 'year'? columns are year, kind, day"),
        ("year > 1 and Kind = 'x'", "filter, character 14: there is no column 'Kind': do you mean 'kind'?"),
        ("zzzzzz > 1", "there is no column 'zzzzzz': columns are"),
        ("year > '2000'", "character 8: 'year' holds numbers, got '2000': write a number, without quotes"),
        ("year = true", "'year' holds numbers, got true"),
        ("open = 1", "'open' holds true or false, got 1"),
        ("kind in ('a', 3)", "character 15: 'kind' holds text, got 3: write a text in quotes"),
        ("day > 2000", "character 7: 'day' holds dates, got 2000: write a date in quotes, such as '2000-01-31'"),
        ("at > '31.1.2000'", "'at' holds times, got '31.1.2000': write a date in quotes"),
        ("day > 2000-01-01", "'2000-01-01' cannot be read"),
        ("open > true", "'open' is true or false, which have no order"),
        ("year contains 3", "holds neither text nor lists"),
        ("tags = 'a'", "'tags' holds lists: write tags contains 'a'"),
        ("tags contains 1", "character 15: 'tags' holds text, got 1"),
        ("kind = 'x and year > 1", "character 8: the quote ' is never closed"),
        ('"kind = 1', 'character 1: the quote " is never closed'),
        ("kind == 'x'", "character 6: got '==', expected ="),
        ("kind <> 'x'", "got '<>', expected !="),
        ("a && b", "expected and"),
        ("kind = river", "character 8: got 'river', expected a value: put texts in quotes, 'river'"),
        ("year = null", "character 8: nothing equals null: write is null"),
        ("", "the filter is empty"),
        ("  ", "the filter is empty"),
        ("(year > 1", "character 10: got the end, expected and, or, or the ) that closes the ( at character 1"),
        ("year > 1)", "character 9: got ')', expected and, or, or the end"),
        ("year", "character 5: got the end, expected =, !=, <"),
        ("year >", "got the end, expected a value"),
        ("year in ()", "got ')', expected a value"),
        ("year in 3", "expected ( and values"),
        ("year in (1 2)", "got '2', expected a comma and another value, or )"),
        ("year is 3", "expected null, or not null"),
        ("year not > 3", "got '>', expected in or contains"),
        ("not", "got the end, expected the name of a column"),
        ("year > 1 year < 3", "character 10: got 'year', expected and, or, or the end"),
        ("and = 3", "got 'and', expected the name"),
        ("year > 3x", "'3x' cannot be read"),
        ("year > ٣", "'٣' cannot be read"),
        ("kind@x = 3", "character 5: '@x' cannot be read"),
        ("(" * 5000 + "year > 1", "more than 100 parentheses or negations"),
        ("not " * 2000 + "year > 1", "more than 100"),
        ("year > 1" + " " * 10_000, "the filter has 10,008 characters, expected at most 10,000"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(expression, message):
    with pytest.raises(GraceError) as caught:
        matching(expression)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


NUMBERS = [None, -3, 0, 1, 2, 2000]
WORDS = [None, "", "a", "b", "ab", "it's", 'q"', "ä", "and", "Z"]
DATA = {
    "n": [NUMBERS[i % 6] for i in range(60)],
    "f": [None if i % 7 == 0 else (i % 9) / 2 for i in range(60)],
    "w": [WORDS[i % 10] for i in range(60)],
    "odd name": [WORDS[(3 * i + 1) % 10] for i in range(60)],
    "flag": [(None, True, False)[i % 3] for i in range(60)],
    "day": [None if i % 5 == 0 else date(2000, 1 + i % 12, 1 + i % 28) for i in range(60)],
    "list": [None if i % 4 == 0 else [WORDS[(i + j) % 10] for j in range(i % 3)] for i in range(60)],
}
CHUNKED = pa.concat_tables(
    [
        pa.table({name: values[a:b] for name, values in DATA.items()}, schema=pa.table(DATA).schema)
        for a, b in ((0, 7), (7, 7), (7, 60))
    ]
)
SIGNS = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
LITERALS = {
    "n": st.one_of(st.integers(-5, 2001), st.floats(-4, 4).map(lambda x: round(x, 1))),
    "f": st.sampled_from([0, 1, 1.5, 2, 0.25, -1]),
    "w": st.sampled_from(WORDS[1:]),
    "odd name": st.sampled_from(WORDS[1:]),
    "flag": st.booleans(),
    "list": st.sampled_from(WORDS[1:]),
    "day": st.dates(date(1999, 12, 1), date(2001, 1, 31)),
}


def unless_missing(column: str, holds):
    return lambda row: None if row[column] is None else holds(row[column])


@st.composite
def comparisons(draw):
    """The text of a comparison, and the same as a function of a row that gives True, False, or None."""
    column = draw(st.sampled_from(list(DATA)))
    kind = draw(
        st.sampled_from(
            [
                "null",
                "not null",
                "contains" if column in ("w", "odd name", "list") else "in",
                "sign" if column != "list" else "contains",
            ]
        )
    )
    name = filters.name(column)
    if kind in ("null", "not null"):
        return f"{name} is {kind}", lambda row: (row[column] is None) == (kind == "null")
    values = draw(st.lists(LITERALS[column], min_size=1, max_size=3))
    written = [filters.quoted(str(value) if isinstance(value, date) else value) for value in values]
    if kind == "in":
        return f"{name} in ({', '.join(written)})", unless_missing(column, lambda value: value in values)
    if kind == "contains":
        return f"{name} contains {written[0]}", unless_missing(column, lambda value: values[0] in value)
    sign = draw(st.sampled_from(["=", "!="] if column == "flag" else list(SIGNS)))
    return f"{name} {sign} {written[0]}", unless_missing(column, lambda value: SIGNS[sign](value, values[0]))


def turned(part):
    text, holds = part
    return f"not ({text})", lambda row: None if holds(row) is None else not holds(row)


def combined(parts):
    word, ((left, holds_left), (right, holds_right)) = parts
    strong = word == "or"  # the value that decides, whatever the other is

    def holds(row):
        both = {holds_left(row), holds_right(row)}
        return strong if strong in both else None if None in both else not strong

    return f"({left}) {word} ({right})", holds


EXPRESSIONS = st.recursive(
    comparisons(),
    lambda inner: inner.map(turned) | st.tuples(st.sampled_from(["and", "or"]), st.tuples(inner, inner)).map(combined),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EXPRESSIONS)
def test_a_filter_finds_what_plain_python_finds(expression):
    text, holds = expression
    rows = [dict(zip(DATA, values, strict=True)) for values in zip(*DATA.values(), strict=True)]
    assert matching(text, CHUNKED) == [number for number, row in enumerate(rows) if holds(row)]


def test_an_expression_tells_its_columns_and_the_places_of_its_parts():
    text = "year > 2000 and (kind = 'a' or year < 3)  and not open = true"
    node = filters.parse(text)
    assert filters.columns_of(node) == ["year", "kind", "open"]
    assert [text[a:b] for a, b in node.spans] == ["year > 2000", "(kind = 'a' or year < 3)", "not open = true"]
