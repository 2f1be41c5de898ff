"""Every format that grace_core.readers reads, judgements, previews and datasets, on real files."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader_files import fails, jsonl, texts, write

from grace_core import readers
from grace_core.errors import GraceError
from grace_core.readers import Document, guess_columns, preview, read_corpus

ROOT = Path(__file__).resolve().parents[2]
CRANFIELD = ROOT.parent / "shared" / "data" / "cranfield"
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WITHOUT_SURROGATES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


# Formats


def test_jsonl_with_metadata(tmp_path):
    path = jsonl(
        tmp_path / "c.jsonl",
        {"_id": "a", "title": "T", "text": "x", "year": 1999, "nested": {"k": 1}, "none": {}, "ok": True},
        {"_id": "b", "text": "y", "score": 0.5, "none": None, "big": 2**70},
    )
    corpus = read_corpus(path)
    assert corpus.documents[0] == Document("a", "T", "x", {"year": 1999, "nested": '{"k": 1}', "ok": True})
    assert corpus.documents[1] == Document("b", "", "y", {"score": 0.5, "none": None, "big": str(2**70)})
    assert corpus.fields == ["year", "nested", "ok", "score", "none", "big"]
    assert corpus.judgements is None
    assert corpus.source == str(path)


def test_content_joins_and_strips():
    assert Document("1", "T", "x", {}).content == "T\nx"
    assert Document("1", "", "x ", {}).content == "x"
    assert Document("1", "T", "", {}).content == "T"
    assert Document("1", " ", "\n", {}).content == ""


def test_bom_crlf_and_blank_lines(tmp_path):
    path = write(tmp_path / "c.ndjson", b'\xef\xbb\xbf{"id": 1, "text": "x"}\r\n\r\n   \n{"id": 2, "text": "y"}')
    assert texts(path) == [("1", "", "x"), ("2", "", "y")]
    path = write(tmp_path / "c.csv", b"\xef\xbb\xbfid,text\r\n\r\n1,x\r\n \r\n2,y\r\n")
    assert texts(path) == [("1", "", "x"), ("2", "", "y")]
    path = write(
        tmp_path / "c.json", b'\xef\xbb\xbf\r\n[\r\n{"id": 1, "text": "x"} ,\r\n\r\n{"id": 2, "text": "y"}\r\n]\r\n'
    )
    assert texts(path) == [("1", "", "x"), ("2", "", "y")]
    path = write(tmp_path / "c.txt", b"\xef\xbb\xbfx\r\n\r\n \ny z")
    assert texts(path) == [("1", "", "x"), ("2", "", "y z")]


def test_line_separators_of_unicode_do_not_split_lines(tmp_path):
    assert texts(write(tmp_path / "c.txt", "a\u2028b\x85c\x0bd\n")) == [("1", "", "a\u2028b\x85c\x0bd")]


def test_json_array_read_piece_by_piece(tmp_path):
    rows = [
        {"_id": str(i), "text": f"ünï {i} " + '{[,]}"\\' * (i % 50) + ("z" * 300_000 if i == 500 else "")}
        for i in range(2000)
    ]
    for indent in (None, 2):
        path = write(tmp_path / "c.json", json.dumps(rows, indent=indent, ensure_ascii=False))
        assert texts(path) == [(row["_id"], "", row["text"]) for row in rows]


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv_and_tsv(tmp_path, suffix, delimiter):
    path = tmp_path / f"c.{suffix}"
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, delimiter=delimiter)
        out.writerows(
            [["", "doc_id", "Title", "Body", "year"], ["0", "a", "T", 'x,\t"y"\nz', "1999"], ["1", "b", "", "", ""]]
        )
    corpus = read_corpus(path)
    assert corpus.documents[0] == Document("a", "T", 'x,\t"y"\nz', {"column_1": 0, "year": 1999})
    assert corpus.documents[1] == Document("b", "", "", {"column_1": 1, "year": None})
    assert corpus.fields == ["column_1", "year"]


def test_csv_field_longer_than_the_csv_modules_default(tmp_path):
    assert texts(write(tmp_path / "c.csv", "text\n" + "x" * 200_000 + "\n")) == [("1", "", "x" * 200_000)]


@pytest.mark.parametrize("word", ["NaN", "nan", "None", ""])
def test_missing_cells_of_csv_are_empty_texts(tmp_path, word):
    assert texts(write(tmp_path / "c.csv", f"id,title,text\n1,{word},{word}\n")) == [("1", "", "")]


def test_single_column_csv_keeps_quoted_empty_rows(tmp_path):
    assert texts(write(tmp_path / "c.csv", 'text\nx\n""\n\ny\n')) == [("1", "", "x"), ("2", "", ""), ("3", "", "y")]


def test_parquet(tmp_path):
    path = tmp_path / "c.parquet"
    table = pa.table(
        {
            "pid": pa.array([1.0, 2.0, 3.0]),
            "headline": ["T", None, "U"],
            "abstract": pa.array([None, "x", "y"]).dictionary_encode(),
            "day": [datetime.date(2020, 1, 2), None, None],
            "price": [decimal.Decimal("1.50"), None, None],
            "rate": [float("nan"), 0.5, float("inf")],
            "embedding": [[1.0], [2.0], None],
            "blob": [b"x", None, b"y"],
        }
    )
    pq.write_table(table, path)
    corpus = read_corpus(path)
    assert [(d.id, d.title, d.text) for d in corpus.documents] == [("1", "T", ""), ("2", "", "x"), ("3", "U", "y")]
    assert corpus.documents[0].metadata == {
        "day": datetime.date(2020, 1, 2),
        "price": 1.5,
        "rate": None,
        "embedding": [1.0],
    }
    assert corpus.documents[1].metadata["rate"] == 0.5
    assert corpus.documents[2].metadata["rate"] is None
    assert corpus.fields == ["day", "price", "rate", "embedding"]
    assert corpus.notes == [
        f"{path}: column 'blob' (binary) is left out: bytes cannot be kept as text",
        f"column 'rate': infinity is kept as no value: 1 value, in {path}, row 3",
    ]


def test_parquet_nan_text_from_pandas(tmp_path):
    import pandas as pd

    pd.DataFrame({"id": [1, 2], "title": [float("nan")] * 2, "text": [2.5, None]}).to_parquet(tmp_path / "c.parquet")
    assert texts(tmp_path / "c.parquet") == [("1", "", "2.5"), ("2", "", "")]


def test_parquet_over_several_batches(tmp_path):
    pq.write_table(pa.table({"text": [str(i) for i in range(3000)]}), tmp_path / "c.parquet")
    assert texts(tmp_path / "c.parquet") == [(str(i + 1), "", str(i)) for i in range(3000)]


def test_numbers_become_text_and_ids(tmp_path):
    path = jsonl(
        tmp_path / "c.jsonl",
        {"id": 7, "title": 1.5, "text": 42},
        {"id": 8.0, "text": float("nan")},
        {"id": 0.5, "text": None},
    )
    assert texts(path) == [("7", "1.5", "42"), ("8", "", ""), ("0.5", "", "")]


def test_empty_documents_stay(tmp_path):
    path = jsonl(tmp_path / "c.jsonl", {"id": "a", "text": "x"}, {"id": "b"}, {"id": "c", "title": "", "text": " "})
    assert [d.content for d in read_corpus(path).documents] == ["x", "", ""]


def test_nul_and_unpaired_surrogates(tmp_path):
    path = write(
        tmp_path / "c.jsonl",
        r'{"text": "a\u0000b\ud83dc\ud83d\ude00", "title": "\udc00", "m": "\ud800", "k\ud800": 1}' + "\n",
    )
    document = read_corpus(path).documents[0]
    assert (document.title, document.text) == ("\ufffd", "ab\ufffdc\U0001f600")
    assert document.metadata == {"m": "\ufffd", "k\ufffd": 1}
    assert texts(write(tmp_path / "c.csv", "id,text\n1,a\0b\n")) == [("1", "", "ab")]


def test_suffix_in_any_case(tmp_path):
    assert texts(write(tmp_path / "C.TXT", "x\n")) == [("1", "", "x")]


# Columns


def test_guess_columns():
    assert guess_columns(["ID", "Headline", "CONTENT"]) == {"id": "ID", "title": "Headline", "text": "CONTENT"}
    assert guess_columns(["id", "_id", "body", "text", "name", "title"]) == {
        "id": "_id",
        "title": "title",
        "text": "text",
    }
    assert guess_columns(["document_id", " Document ", "x"]) == {
        "id": "document_id",
        "title": None,
        "text": " Document ",
    }
    assert guess_columns(["Text", "text"])["text"] == "Text"
    assert guess_columns([]) == {"id": None, "title": None, "text": None}
    for role, usual in readers.COLUMN_NAMES.items():
        assert all(guess_columns([name.upper()])[role] == name.upper() for name in usual)


def test_columns_override_the_guess(tmp_path):
    path = jsonl(tmp_path / "c.jsonl", {"id": "a", "title": "T", "text": "x", "raw": "r"})
    assert texts(path, columns={"text": "raw"}) == [("a", "T", "r")]
    assert read_corpus(path, columns={"text": "raw"}).documents[0].metadata == {"source_text": "x"}
    assert texts(path, columns={"id": "", "title": ""}) == [("1", "", "x")]
    assert texts(path, columns={"text": "title"}) == [("a", "", "T")]


def test_columns_that_are_wrong(tmp_path):
    path = jsonl(tmp_path / "c.jsonl", {"id": "a", "text": "x"})
    fails(path, "'body'", "'id', 'text'", columns={"text": "body"})
    fails(path, "'txt'", columns={"txt": "text"})
    fails(path, "no text column", columns={"text": ""})


def test_columns_of_later_rows_are_found(tmp_path):
    path = jsonl(tmp_path / "c.jsonl", {"id": "a", "year": 1}, {"id": "b", "title": "T", "text": "x"})
    assert texts(path) == [("a", "", ""), ("b", "T", "x")]


def test_no_text_column(tmp_path):
    fails(jsonl(tmp_path / "c.jsonl", {"id": "a", "txt": "x"}), "no text column", "'id', 'txt'", "'text'")
    fails(write(tmp_path / "c.csv", "id,txt;words\n1,x;y\n"), "no text column", "'txt;words' holds a semicolon")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "c.parquet")
    fails(tmp_path / "c.parquet", "no text column", "'n'")
    fails(jsonl(tmp_path / "many.jsonl", {f"column {i}": 1 for i in range(5000)}), "no text column")


# Limit


def test_limit_reads_no_further_than_the_head(tmp_path):
    path = jsonl(tmp_path / "c.jsonl", *({"text": str(i)} for i in range(200)), "not an object")
    assert len(read_corpus(path, limit=150).documents) == 150
    assert len(read_corpus(path, limit=1).documents) == 1
    fails(path, "line 201")
    fails(path, "limit is 0", limit=0)
    assert len(texts(jsonl(tmp_path / "d.jsonl", {"text": "x"}), limit=10)) == 1


def test_collection_folder(tmp_path):
    pq.write_table(pa.table({"_id": ["a"], "title": ["T"], "text": ["x"], "year": [1999]}), tmp_path / "corpus.parquet")
    assert read_corpus(str(tmp_path)).documents == [Document("a", "T", "x", {"year": 1999})]
    assert read_corpus(tmp_path).fields == ["year"]


# Preview


def test_preview(tmp_path):
    path = jsonl(tmp_path / "c.jsonl", *({"id": i, "body": f"t{i}", "tags": [], "year": 1990 + i} for i in range(9)))
    head = preview(path, rows=2)
    assert head.columns == ["id", "body", "tags", "year"]
    assert head.mapping == {"id": "id", "title": None, "text": "body"}
    assert head.rows == [{"id": 0, "body": "t0", "year": 1990}, {"id": 1, "body": "t1", "year": 1991}]
    assert len(preview(path).rows) == 5
    assert preview(path, columns={"title": "body", "text": "year"}).mapping == {
        "id": "id",
        "title": "body",
        "text": "year",
    }
    assert preview(path, columns={"text": ""}).mapping["text"] is None


def test_preview_of_every_format(tmp_path):
    pq.write_table(pa.table({"text": ["x", "y"]}), tmp_path / "c.parquet")
    contents = {"csv": "text\nx\ny\n", "tsv": "text\nx\ny\n", "txt": "x\ny\n", "json": '[{"text": "x"}, {"text": "y"}]'}
    paths = [write(tmp_path / f"c.{suffix}", content) for suffix, content in contents.items()]
    for path in [
        *paths,
        tmp_path / "c.parquet",
        jsonl(tmp_path / "corpus.jsonl", {"text": "x"}, {"text": "y"}),
        tmp_path,
    ]:
        assert preview(path, 1) == readers.Preview(
            ["text"], {"id": None, "title": None, "text": "text"}, [{"text": "x"}]
        )


def test_preview_without_a_text_column_is_no_error(tmp_path):
    head = preview(write(tmp_path / "c.csv", "key,story\n1,x\n"))
    assert (head.columns, head.mapping["text"]) == (["key", "story"], None)


@pytest.mark.parametrize(
    ("suffix", "row"),
    [("jsonl", '{"text": "x"}\n'), ("json", '{"text": "x"},\n'), ("csv", "text\n"), ("txt", "text\n")],
)
def test_preview_reads_the_head_only(tmp_path, suffix, row):
    path = write(tmp_path / f"c.{suffix}", (b"[" if suffix == "json" else b"") + row.encode() * 100_000 + b"\xff\n")
    assert len(preview(path).rows) == 5
    with pytest.raises(GraceError):
        read_corpus(path)


def test_preview_errors(tmp_path):
    with pytest.raises(GraceError, match="does not exist"):
        preview(tmp_path / "gone.csv")
    with pytest.raises(GraceError, match="is empty"):
        preview(write(tmp_path / "c.txt", ""))
    with pytest.raises(GraceError, match="no column 'z'"):
        preview(write(tmp_path / "c.csv", "text\nx\n"), columns={"text": "z"})


# Hugging Face


def test_hugging_face_dataset(tmp_path, monkeypatch):
    """load_dataset takes owner/name for a local folder if there is one; with :config no file has that name,
    so it is asked.
    """
    files = "  - split: train\n    path: a.jsonl\n  - split: test\n    path: b.jsonl\n"
    readme = f"---\nconfigs:\n- config_name: small\n  data_files:\n{files}---\n"
    folder = tmp_path / "owner" / "name"
    write(folder / "README.md", readme)
    jsonl(
        folder / "a.jsonl",
        *({"_id": str(i), "title": "T", "text": f"t{i}", "year": i, "tags": ["x"]} for i in range(3)),
    )
    jsonl(folder / "b.jsonl", {"_id": "9", "text": "nine"}, {"_id": "9", "text": "again"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    corpus = read_corpus("owner/name:small")
    assert corpus.documents[2] == Document("2", "T", "t2", {"year": 2, "tags": ["x"]})
    assert (len(corpus.documents), corpus.fields, corpus.judgements) == (3, ["year", "tags"], None)
    assert corpus.source == "owner/name:small"
    assert len(read_corpus("owner/name:small", limit=2).documents) == 2
    head = preview("owner/name:small", 1, split="train")
    assert head.rows == [{"_id": "0", "title": "T", "text": "t0", "year": 0, "tags": ["x"]}]
    assert head.mapping == {"id": "_id", "title": "title", "text": "text"}
    fails("owner/name:small", "owner/name:small, row 2", "'9'", "row 1", split="test", limit=5)
    fails("owner/name:small", "'dev'", "check path, id, config, split", split="dev")
    fails("owner/name:large", "'owner/name:large'", "large", "check path, id, config, split")


def test_hugging_face_offline(tmp_path):
    """In a process of its own, since the libraries read HF_HUB_OFFLINE when they are imported."""
    code = (
        "from grace_core.readers import read_corpus\n"
        "for limit in (None, 1):\n"
        "    try: read_corpus('nobody/nothing', limit=limit)\n"
        "    except ValueError as error: print(type(error).__name__, error)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("GraceError 'nobody/nothing' is no file or folder here")
        assert "network" in line


def test_importing_is_light():
    code = "import sys, grace_core.readers; sys.exit(any(m in sys.modules for m in ('pyarrow', 'datasets', 'pandas', 'torch')))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)


# Properties


def expected(text: str) -> str:
    return text.replace("\0", "")


ROWS = st.lists(st.tuples(WITHOUT_SURROGATES, WITHOUT_SURROGATES, WITHOUT_SURROGATES), min_size=1, max_size=8)


@PROPERTY
@given(rows=ROWS, ascii_only=st.booleans(), suffix=st.sampled_from(["jsonl", "json"]))
def test_json_round_trip(tmp_path, rows, ascii_only, suffix):
    objects = [{"_id": str(i), "title": a, "text": b, "extra": c} for i, (a, b, c) in enumerate(rows)]
    if suffix == "json":
        content = json.dumps(objects, ensure_ascii=ascii_only)
    else:
        content = "\n".join(json.dumps(o, ensure_ascii=ascii_only) for o in objects)
    corpus = read_corpus(write(tmp_path / f"c.{suffix}", content))
    assert corpus.documents == [
        Document(str(i), *map(expected, (a, b)), {"extra": expected(c)}) for i, (a, b, c) in enumerate(rows)
    ]


@PROPERTY
@given(rows=ROWS, suffix=st.sampled_from(["csv", "tsv"]))
def test_csv_round_trip(tmp_path, rows, suffix):
    path, rows = tmp_path / f"c.{suffix}", [*rows, ("", "", "a cell that is text, so that all of its column are")]
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, delimiter="," if suffix == "csv" else "\t")
        out.writerow(["id", "title", "text", "extra"])
        out.writerows([i, *row] for i, row in enumerate(rows))
    rows = [[None if cell in ("NaN", "nan", "None") else expected(cell) for cell in row] for row in rows]
    documents = read_corpus(path).documents
    assert documents == [Document(str(i), a or "", b or "", {"extra": c}) for i, (a, b, c) in enumerate(rows)]


@PROPERTY
@given(rows=ROWS)
def test_parquet_round_trip(tmp_path, rows):
    titles, bodies, extras = zip(*rows, strict=True)
    pq.write_table(pa.table({"title": titles, "text": bodies, "extra": extras}), tmp_path / "c.parquet")
    corpus = read_corpus(tmp_path / "c.parquet")
    assert corpus.documents == [
        Document(str(i), *map(expected, (a, b)), {"extra": expected(c)}) for i, (a, b, c) in enumerate(rows, 1)
    ]


@PROPERTY
@given(text=st.text(max_size=30))
def test_any_json_string_gives_text_that_utf8_can_hold(tmp_path, text):
    document = read_corpus(jsonl(tmp_path / "c.jsonl", {"text": text, "m": text})).documents[0]
    assert document.text == document.metadata["m"]
    assert "\0" not in document.text
    document.text.encode("utf-8")


@settings(PROPERTY, max_examples=150)
@given(
    content=st.binary(max_size=80),
    suffix=st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "parquet"]),
    head=st.booleans(),
)
def test_any_bytes_give_documents_or_one_clear_error(tmp_path, content, suffix, head):
    start = {"jsonl": b'{"text": "x"}\n', "json": b'[{"text": "x"},', "csv": b"id,text\n", "tsv": b"id\ttext\n"}.get(
        suffix, b""
    )
    path = write(tmp_path / f"c.{suffix}", (start if head else b"") + content)
    try:
        ids, message = [d.id for d in read_corpus(path).documents], ""
    except GraceError as error:
        ids, message = [], str(error)
    assert ids or message.startswith(str(path))
    assert "\n" not in message
    assert len(set(ids)) == len(ids)


# Real data


@pytest.mark.skipif(not CRANFIELD.is_dir(), reason=f"the Cranfield collection is not at {CRANFIELD}")
def test_cranfield():
    corpus = read_corpus(CRANFIELD)
    assert len(corpus.documents) == 1400
    assert sum(d.content == "" for d in corpus.documents) == 2
    assert len(corpus.judgements.queries) == 225
    assert sum(len(grades) for grades in corpus.judgements.qrels.values()) == 1612
    assert corpus.fields == []
    assert corpus.judgements.splits == {}
    assert corpus.documents[0].title.startswith("experimental investigation")
    cut = read_corpus(CRANFIELD, limit=100)
    kept = {d.id for d in cut.documents}
    assert len(kept) == 100
    assert cut.judgements.qrels.keys() == cut.judgements.queries.keys()
    assert all(grades and kept.issuperset(grades) for grades in cut.judgements.qrels.values())
