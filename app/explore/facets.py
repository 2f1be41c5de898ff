"""Facets of a collection: columns of few values, with how many documents have each, and the filter that
ticking one makes.

A filter is one expression (:mod:`grace_core.filters`), which stands in the address and in a field that can be
typed in. What of it says which values of a facet are wanted is shown as ticks; the rest of it, which may be
anything, stays as it was written. So a click changes the expression, and what is typed changes the ticks.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache

from grace_core import filters, passages
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.filters import Combination, Comparison, Node
from grace_core.readers import Scalar

COLUMNS = 6  # facets that are shown
MOST = 30  # values of a column that is one; on average two documents at least have each
LONGEST = 60  # characters of such a value
KINDS = ("string", "int64", "bool", "list<element: string>")  # of columns that may be one

Picked = dict[str, list[Scalar]]  # of each facet the values that are wanted


@dataclass(frozen=True)
class Choice:
    """A value of a facet: how many documents have it among those that satisfy the filter but for this facet's
    own part.
    """

    value: Scalar
    count: int
    ticked: bool

    @property
    def key(self) -> str:
        """The value for an event of the page."""
        return json.dumps(self.value, ensure_ascii=False)


@dataclass(frozen=True)
class Facet:
    column: str
    choices: list[Choice]


@dataclass(frozen=True)
class Values:
    """Those of a column that is a facet, the most frequent first; ``lists`` where a document has several of them."""

    values: list[Scalar]
    lists: bool


class Facets:
    """The facets of a collection."""

    def __init__(self, collection: Collection):
        self.collection = collection
        self._counts = lru_cache(256)(self._count)

    @cached_property
    def columns(self) -> dict[str, Values]:
        columns: dict[str, Values] = {}
        for column, kind in self.collection.types.items():
            # where a passage lies in its document is no property that one picks
            if kind in KINDS and column not in passages.RESERVED and len(columns) < COLUMNS:
                counts = self._counts(column, "")
                if 1 < len(counts) <= min(MOST, counts.total() / 2) and all(
                    len(str(value)) <= LONGEST for value in counts
                ):
                    values = sorted(counts, key=lambda value: (-counts[value], value))
                    columns[column] = Values(values, kind.startswith("list"))
        return columns

    def shown(self, where: str) -> list[Facet]:
        """The facets as a filter leaves them. Raises GraceError for a filter that does not fit."""
        picked, rest = _split(where, self.columns)
        facets = []
        for column, there in self.columns.items():
            others = _joined(picked | {column: []}, rest, self.columns)
            counts, wanted = self._counts(column, others), picked.get(column, [])
            facets.append(Facet(column, [Choice(value, counts[value], value in wanted) for value in there.values]))
        return facets

    def toggle(self, where: str, column: object, key: object) -> str:
        """The filter after a value, by its key, was ticked or unticked.

        Raises GraceError for what is no value of a facet.
        """
        values = self.columns[column].values if isinstance(column, str) and column in self.columns else []
        chosen = [value for value in values if Choice(value, 0, False).key == key]
        if not chosen:
            raise GraceError("the page sent an event that does not fit; reload the page")
        picked, rest = _split(where, self.columns)
        wanted = picked.get(column, [])
        picked[column] = [value for value in values if (value in wanted) != (value == chosen[0])]
        return _joined(picked, rest, self.columns)

    def _count(self, column: str, where: str) -> Counter:
        """How many documents that satisfy a filter have each value of a column."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = self.collection.columns([column])[column]
        if where:
            values = values.filter(pa.array(self.collection.mask(where)))
        if pa.types.is_list(values.type):  # an item that stands twice in a list counts once
            return Counter(item for items in values.to_pylist() for item in set(items or ()) if item)
        counted = pc.value_counts(values.drop_null()).to_pylist()
        return Counter({one["values"]: one["counts"] for one in counted if one["values"] != ""})


def _split(where: str, columns: dict[str, Values]) -> tuple[Picked, list[str]]:
    """What a filter wants of the facets, and its other parts as they are written."""
    picked: Picked = {}
    rest: list[str] = []
    if not where.strip():
        return picked, rest
    node = filters.parse(where)
    chain = isinstance(node, Combination) and node.word == "and"
    parts = (
        [(part, where[a:b]) for part, (a, b) in zip(node.parts, node.spans, strict=True)]
        if chain
        else [(node, where.strip())]
    )
    for part, text in parts:
        column, values = _wanted(part, columns)
        if column is not None and column not in picked:
            picked[column] = values
        else:
            rest.append(f"({text})" if part is node and isinstance(node, Combination) else text)
    return picked, rest


def _wanted(node: Node, columns: dict[str, Values]) -> tuple[str | None, list[Scalar]]:
    """The facet and its values where a part of a filter wants one of these, and nothing else."""
    parts = node.parts if isinstance(node, Combination) and node.word == "or" else (node,)
    column = parts[0].column if isinstance(parts[0], Comparison) else None
    if column not in columns:
        return None, []
    there = columns[column]
    operators = ("contains",) if there.lists else ("=", "in")
    if not all(isinstance(part, Comparison) and part.column == column and part.operator in operators for part in parts):
        return None, []
    values = [literal.value for part in parts for literal in part.values]
    return (column, values) if all(value in there.values for value in values) else (None, [])


def _joined(picked: Picked, rest: list[str], columns: dict[str, Values]) -> str:
    conditions = list(rest)
    for column, values in ((column, picked.get(column, [])) for column in columns):
        name, written = filters.name(column), [filters.quoted(value) for value in values]
        if columns[column].lists and len(values) > 1:
            conditions.append(f"({' or '.join(f'{name} contains {value}' for value in written)})")
        elif len(values) > 1:
            conditions.append(f"{name} in ({', '.join(written)})")
        elif values:
            conditions.append(f"{name} {'contains' if columns[column].lists else '='} {written[0]}")
    return " and ".join(conditions)
