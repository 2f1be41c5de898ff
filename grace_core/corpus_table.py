"""A corpus as an Arrow table: the columns _id, title and text, and typed metadata columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime
from itertools import islice

from grace_core.readers import Corpus, Value, as_text
from grace_core.readers.cells import moment
from grace_core.readers.chunked import marked

BLOCK = 8_192  # documents that are written, or compared, at once; divides the rows of a Parquet row group


def was_text(old, new) -> bool:
    """Whether ``old`` equals ``new`` but for columns that are text in ``old``."""
    import pyarrow as pa

    return old.names == new.names and all(
        a.type == b.type or pa.types.is_string(a.type) for a, b in zip(old, new, strict=True)
    )


def with_types(table, schema):
    """A table whose text columns are converted to the types of ``schema``; None if they cannot be."""
    import pyarrow as pa

    try:
        return pa.table(
            [
                column
                if column.type == field.type
                else pa.array([_read(text, field.type) for text in column.to_pylist()], field.type)
                for column, field in zip(table.columns, schema, strict=True)
            ],
            schema=schema,
        )
    except (ValueError, pa.ArrowException):
        return None


def _read(text: str | None, kind) -> Value:
    import pyarrow as pa

    if not text:
        return None
    if pa.types.is_boolean(kind):
        return text.lower() == "true"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return int(text) if pa.types.is_integer(kind) else float(text)
    if pa.types.is_date(kind):
        return date.fromisoformat(text)
    return moment(text) if pa.types.is_timestamp(kind) else json.loads(text)


def schema_of(corpus: Corpus):
    """The Arrow schema of a corpus; a metadata column of one type keeps it, one of mixed types becomes text."""
    import pyarrow as pa

    columns = [(name, pa.string()) for name in ("_id", "title", "text")]
    # the kinds of a column's values, and of the items in its lists
    kinds_of: dict[str, tuple[set, set]] = {field: (set(), set()) for field in corpus.fields}
    for document in corpus.documents if kinds_of else ():
        for field, value in document.metadata.items():
            kinds, inner = kinds_of[field]
            kinds.add(_kind(value))
            if isinstance(value, list):
                inner.update(map(_kind, value))
    schema = pa.schema(
        columns
        + [
            (field, pa.list_(_type(inner, pa.string())) if kinds - {None} == {"list"} else _type(kinds, pa.null()))
            for field, (kinds, inner) in kinds_of.items()
        ]
    )
    return marked(schema, corpus.chunk) if corpus.chunk else schema


def _type(kinds: set[str | None], none):
    """The Arrow type of values of these kinds; ``none`` if there are no values."""
    import pyarrow as pa

    types = {
        frozenset(): none,
        frozenset({"bool"}): pa.bool_(),
        frozenset({"float"}): pa.float64(),
        frozenset({"int"}): pa.int64(),
        frozenset({"long"}): pa.int64(),
        frozenset({"int", "long"}): pa.int64(),
        frozenset({"int", "float"}): pa.float64(),
        frozenset({"date"}): pa.date32(),
        frozenset({"datetime"}): pa.timestamp("us"),
        frozenset({"utc"}): pa.timestamp("us", "UTC"),
    }
    return types.get(frozenset(kinds - {None}), pa.string())


def _kind(value: Value) -> str | None:
    """The kind of a value: its type, ``long`` for an integer that a float cannot hold, ``utc`` for a time with an offset."""
    if value is None:
        return None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return "utc"
    return "long" if type(value) is int and abs(value) > 2**53 else type(value).__name__


def tables(corpus: Corpus, schema) -> Iterator:
    """The corpus as Arrow tables of BLOCK documents."""
    import pyarrow as pa

    documents = iter(corpus.documents)
    while block := list(islice(documents, BLOCK)):
        columns = [[d.id for d in block], [d.title for d in block], [d.text for d in block]]
        for field in schema.names[3:]:
            values = [document.metadata.get(field) for document in block]
            kind = schema.field(field).type
            if pa.types.is_string(kind):
                values = [None if value is None else as_text(value) for value in values]
            elif pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
                values = [value and [None if item is None else as_text(item) for item in value] for value in values]
            columns.append(values)
        yield pa.table(
            [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
        )
