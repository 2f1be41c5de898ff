"""Metadata keeps its types from a source through corpus.parquet to a hit; collections of before there were
types stay usable.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reader_files import jsonl, write

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.readers import read_corpus, stream_corpus

CSV = """id,text,year,price,open,day,seen,at,code,mixed,blank
a,x,1990,0.50,true,2000-01-31,2000-01-31 12:00,2000-01-31T12:00:00+02:00,007,1,
b,y,,2,FALSE,,,,12,n/a,
c,z,-3,1e2,True,2001-02-28,2001-02-28T00:00:30,2001-02-28T00:00Z,3,2,
"""
TYPED = [
    {
        "year": 1990,
        "price": 0.5,
        "open": True,
        "day": date(2000, 1, 31),
        "seen": datetime(2000, 1, 31, 12),
        "at": datetime(2000, 1, 31, 10, tzinfo=UTC),
        "code": "007",
        "mixed": "1",
        "blank": "",
    },
    {
        "year": None,
        "price": 2.0,
        "open": False,
        "day": None,
        "seen": None,
        "at": None,
        "code": "12",
        "mixed": "n/a",
        "blank": "",
    },
    {
        "year": -3,
        "price": 100.0,
        "open": True,
        "day": date(2001, 2, 28),
        "seen": datetime(2001, 2, 28, 0, 0, 30),
        "at": datetime(2001, 2, 28, tzinfo=UTC),
        "code": "3",
        "mixed": "2",
        "blank": "",
    },
]
TYPES = {
    "year": "int64",
    "price": "double",
    "open": "bool",
    "day": "date32[day]",
    "seen": "timestamp[us]",
    "at": "timestamp[us, tz=UTC]",
    "code": "string",
    "mixed": "string",
    "blank": "string",
}


@pytest.mark.parametrize("read", [read_corpus, stream_corpus])
def test_the_cells_of_a_table_decide_the_types_of_its_columns(tmp_path, read):
    path = write(tmp_path / "c.csv", CSV)
    corpus = read(path)
    assert [document.metadata for document in corpus.documents] == TYPED
    assert corpus.notes == [
        f"{path}: columns have types by their values: year int, price float, open bool, day date, seen datetime, at datetime with offset"
    ]
    collection = Collection.create(corpus, tmp_path / "c")
    assert collection.types == TYPES
    assert [document.metadata for document in collection.corpus.documents] == TYPED


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["9007199254740993", "1"], "int64"),
        (["9007199254740993", "0.5"], "string"),
        (["9223372036854775808"], "string"),
        (["1e999"], "string"),
        (["2000-02-30"], "string"),
        (["2000-01-01", "2000-01-01 10:00"], "string"),
        (["-", "1"], "string"),
        (["1", "true"], "string"),
        ([" 7 ", "8"], "int64"),
        (["1,5", "2"], "string"),
        (["٣", "1"], "string"),
        ([".5", "1"], "double"),
    ],
)
def test_a_column_is_text_unless_all_its_cells_are_of_one_type(tmp_path, cells, kind):
    path = write(tmp_path / "c.csv", "id,text,value\n" + "".join(f'{i},x,"{cell}"\n' for i, cell in enumerate(cells)))
    assert Collection.create(read_corpus(path), tmp_path / "c").types == {"value": kind}


def test_lists_booleans_and_nothing_come_back_from_json(tmp_path):
    rows = [
        {
            "tags": ["a", "ä"],
            "marks": [1, 2.5],
            "flags": [True, None],
            "mixed": ["a", 1],
            "deep": [["x"]],
            "open": True,
            "none": None,
        },
        {"tags": None, "marks": [3], "flags": [False], "mixed": [2], "deep": None, "open": None, "none": None},
    ]
    corpus = read_corpus(jsonl(tmp_path / "c.jsonl", *({"text": "x", **row} for row in rows)))
    collection = Collection.create(corpus, tmp_path / "c")
    wanted = [row | {"mixed": [str(item) for item in row["mixed"]], "deep": row["deep"] and '[["x"]]'} for row in rows]
    assert [document.metadata for document in collection.corpus.documents] == wanted
    assert collection.types["tags"] == "list<element: string>"
    assert Collection.create(
        read_corpus(jsonl(tmp_path / "c.jsonl", *({"text": "x", **row} for row in rows))), tmp_path / "c"
    )


def test_dates_and_decimals_come_back_from_parquet(tmp_path):
    pd = pytest.importorskip("pandas")
    moments = pa.array(pd.to_datetime(["2020-01-02 03:04:05.123456789", None]))
    table = pa.table(
        {
            "text": ["x", "y"],
            "day": [date(2020, 1, 2), None],
            "moment": moments,
            "price": [Decimal("1.50"), None],
            "long": pa.array([Decimal("0.1234567890123456789012"), None], pa.decimal128(38, 22)),
            "days": [[date(2020, 1, 2)], None],
        }
    )
    pq.write_table(table, tmp_path / "c.parquet")
    (first, second) = Collection.create(read_corpus(tmp_path / "c.parquet"), tmp_path / "c").corpus.documents
    assert first.metadata == {
        "day": date(2020, 1, 2),
        "moment": datetime(2020, 1, 2, 3, 4, 5, 123456),
        "price": 1.5,
        "long": "0.1234567890123456789012",
        "days": [date(2020, 1, 2)],
    }
    assert set(second.metadata.values()) == {None}
    assert json.loads(json.dumps(first.plain_metadata))["days"] == ["2020-01-02"]


def test_a_collection_of_before_there_were_types_takes_the_same_source_again(tmp_path):
    path = write(tmp_path / "c.csv", CSV)
    collection = Collection.create(read_corpus(path), tmp_path / "c")
    table = pq.read_table(collection.folder / "corpus.parquet")
    cells = [line.split(",") for line in CSV.splitlines()[1:]]
    old = pa.table({name: [row[place] for row in cells] for place, name in enumerate(CSV.split("\n", 1)[0].split(","))})
    old = old.rename_columns(["_id", *old.column_names[1:]]).add_column(1, "title", table["title"])
    pq.write_table(old, collection.folder / "corpus.parquet")
    again = Collection.create(read_corpus(path), tmp_path / "c")
    assert again.types["year"] == "string"
    assert again.corpus.documents[0].metadata["year"] == "1990"
    with pytest.raises(GraceError, match="1 with other metadata"):
        Collection.create(read_corpus(write(path, CSV.replace("1990", "1991"))), tmp_path / "c")
