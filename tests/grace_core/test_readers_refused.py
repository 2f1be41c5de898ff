"""What grace_core.readers refuses, on real files: files, ids, encodings, JSON, CSV and Parquet."""

from __future__ import annotations

import os
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reader_files import beir, fails, jsonl, texts, write

from grace_core import readers

# Errors of files


def test_missing_sources(tmp_path):
    fails(tmp_path / "gone.jsonl", "gone.jsonl", "does not exist")
    fails("owner/gone.csv", "does not exist")
    fails("", "does not exist")
    fails("x" * 5000, "does not exist")
    fails("a\0b", "does not exist")
    fails(tmp_path, "corpus.jsonl", "corpus.parquet")
    fails(write(tmp_path / "c.docx", "x"), "'.docx'", ".jsonl")
    fails(write(tmp_path / "c", "x"), "''")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX feature")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "c.jsonl")
    fails(tmp_path / "c.jsonl", "is no file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read any file")
def test_unreadable_file(tmp_path):
    path = write(tmp_path / "c.jsonl", '{"text": "x"}')
    path.chmod(0)
    fails(path, "c.jsonl", "cannot be opened")


def test_folder_in_place_of_a_file(tmp_path):
    (beir(tmp_path, {}) / "qrels.tsv").mkdir()
    fails(tmp_path, "qrels.tsv", "cannot be opened")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "txt", "json", "parquet"])
def test_empty_corpus(tmp_path, suffix):
    path = write(
        tmp_path / f"c.{suffix}", {"json": " [ ] ", "csv": "id,text\n", "tsv": "id\ttext\n"}.get(suffix, "\n \n")
    )
    if suffix == "parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    fails(path, f"c.{suffix}", "is empty")


@pytest.mark.parametrize(
    ("name", "content", "first", "second"),
    [
        ("c.jsonl", '\n{"id": 1, "text": "x"}\n\n{"id": "1", "text": "y"}\n', "line 2", "line 4"),
        ("c.json", '[{"id": 1, "text": "x"}, {"id": "1", "text": "y"}]', "item 1", "item 2"),
        ("c.csv", 'id,text\n1,"x\ny"\n1,z\n', "line 2", "line 4"),
    ],
)
def test_duplicate_ids(tmp_path, name, content, first, second):
    fails(write(tmp_path / name, content), name, "'1'", first, second)


def test_duplicate_ids_in_parquet(tmp_path):
    pq.write_table(pa.table({"id": [str(i % 2000) for i in range(2001)], "text": ["x"] * 2001}), tmp_path / "c.parquet")
    fails(tmp_path / "c.parquet", "'0'", "row 1", "row 2001")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("", "empty"),
        ("  ", "empty"),
        (None, "empty"),
        (float("nan"), "empty"),
        (["a"], "list"),
        ({"a": 1}, "dict"),
        (True, "bool"),
        ("x" * 513, "513 characters"),
        ("a\tb", "control character"),
        ("a\nb", "control character"),
        ("a\0", "control character"),
        ("\x7f", "control character"),
        ("a\u2028", "control character"),
        ("\ud800", "surrogate"),
    ],
)
def test_bad_ids(tmp_path, value, part):
    fails(jsonl(tmp_path / "c.jsonl", {"id": "a", "text": "x"}, {"id": value, "text": "x"}), "c.jsonl, line 2", part)


def test_an_id_missing_in_some_rows_is_empty(tmp_path):
    fails(jsonl(tmp_path / "c.jsonl", {"text": "x"}, {"id": "a", "text": "x"}), "line 1", "empty or missing")
    fails(write(tmp_path / "c.csv", "id,text\n1,x\nNone,y\n"), "line 3", "empty or missing")


def test_the_longest_id_is_accepted(tmp_path):
    assert texts(jsonl(tmp_path / "c.jsonl", {"id": "ü" * 512, "text": "x"})) == [("ü" * 512, "", "x")]


@pytest.mark.parametrize("column", ["title", "text"])
@pytest.mark.parametrize("value", [["a"], {"a": 1}, True])
def test_text_that_is_no_string(tmp_path, column, value):
    fails(jsonl(tmp_path / "c.jsonl", {"text": "x", column: value}), "line 1", repr(column), type(value).__name__)


def test_parquet_text_that_is_no_string(tmp_path):
    pq.write_table(pa.table({"text": [None, ["a"]]}), tmp_path / "c.parquet")
    fails(tmp_path / "c.parquet", "row 2", "'text'", "list")
    pq.write_table(pa.table({"text": [b"a"]}), tmp_path / "c.parquet")
    fails(tmp_path / "c.parquet", "row 1", "'text'", "bytes")


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("filler", [0, 100_000])
def test_invalid_utf8(tmp_path, start, filler):
    x = b"\xc3\xbc" * filler
    head = start + b'{"text": "x' + x + b'"}\n{"text": "'
    fails(write(tmp_path / "c.jsonl", head + b'\xe4"}\n'), "c.jsonl, line 2", f"byte {len(head)} ", "UTF-8")
    head = start + b"id,text\n1," + x + b"\n2,"
    fails(write(tmp_path / "c.csv", head + b"\xe4\n"), "c.csv, line 3", f"byte {len(head)} ", "UTF-8")
    head = start + b'[{"text": "x' + x + b'"},\n{"text": "'
    fails(write(tmp_path / "c.json", head + b'\xe4"}]\n'), "c.json, item ", f"byte {len(head)} ", "UTF-8")
    fails(write(tmp_path / "c.json", head + b"\xe4"), f"byte {len(head)} ", "UTF-8")


def test_invalid_utf8_in_parquet(tmp_path):
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": text}), tmp_path / "c.parquet")
    fails(tmp_path / "c.parquet", "c.parquet", "after row 0")


@pytest.mark.parametrize(
    "line",
    ['{"text": "x"', "{'text': 1}", '{"text": "a\tb"}', "nonsense", "[" * 100_000, '{"text": ' + "9" * 5000 + "}"],
)
def test_malformed_json_lines(tmp_path, line):
    fails(write(tmp_path / "c.jsonl", '{"text": "x"}\n\n' + line + "\n"), "c.jsonl, line 3", "malformed JSON")


@pytest.mark.parametrize("line", ["[1]", '"x"', "1", "null", "true"])
def test_json_lines_that_are_no_object(tmp_path, line):
    fails(write(tmp_path / "c.jsonl", '{"text": "x"}\n' + line + "\n"), "c.jsonl, line 2", "expected a JSON object")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "line 1"),
        ('{"text": "x"}\n{"text": "y"}', "line 1"),
        ('[{"text": "x"}\n,\n]', "line 3, item 2"),
        ('[{"text": "x"}\n{"text": "y"}]', "line 2, item 1"),
        ('[{"text": "x"},\n"y"]', "line 2, item 2"),
        ('[{"text": "x"},\n{"text": y}]', "line 2, item 2"),
        ('[{"text": "x"},\n\n{"text": "y"', "line 3, item 2"),
        ('[\n{"text": "x"},', "line 2, item 2"),
        ("[\n", "line 2, item 1"),
        ("[,]", "line 1, item 1"),
        ('[{"text": "x"}]\n]', "line 2, item 1"),
        ('[{"text": "x"}, {"text": ' + "[" * 100_000, "item 2"),
        ('[{"text": ' + "9" * 5000 + "}]", "item 1"),
    ],
)
def test_malformed_json_arrays(tmp_path, content, part):
    fails(write(tmp_path / "c.json", content), "c.json", "malformed JSON", part)


def test_over_long_lines_are_not_read_whole(tmp_path):
    path = write(tmp_path / "c.jsonl", '{"text": "x"}\n')
    os.truncate(path, 1 << 30)  # a sparse file: one line of 1 GiB
    for suffix in ("jsonl", "txt", "csv", "tsv"):
        path = path.rename(tmp_path / f"c.{suffix}")
        tracemalloc.start()
        fails(path, f"c.{suffix}, line 2", "16,777,216 bytes")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 * 1024 * 1024


def test_over_long_json_item(tmp_path):
    path = tmp_path / "c.json"
    path.write_bytes(b'[{"text": "' + b"x" * (40 * 1024 * 1024))
    fails(path, "c.json, line 1, item 1", "16,777,216")


def test_the_longest_line_is_accepted(tmp_path):
    line = "x" * readers.MAX_LINE_BYTES
    for end in ("\n", "\r\n", ""):
        assert texts(write(tmp_path / "c.txt", line + end)) == [("1", "", line)]
    fails(write(tmp_path / "c.txt", line + "y\n"), "line 1", "16,777,216 bytes")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('id,text\n1,"x\ny"\n2\n', ("line 4", "1 fields, expected 2")),
        ("id,text\n1,x,y\n", ("line 2", "3 fields, expected 2", "comma")),
        ('id,text\n1,x\n2,"y\n', ("line 3",)),
        ('id,text\n1,"x"y\n', ("line 2", "quote")),
        ("id,text,id\n1,x,2\n", ("line 1", "'id' occurs twice")),
        ("id,text\r1,x,y\r", ("line 2", "3 fields")),
    ],
)
def test_malformed_csv(tmp_path, content, parts):
    fails(write(tmp_path / "c.csv", content), "c.csv", *parts)


def test_malformed_tsv(tmp_path):
    fails(write(tmp_path / "c.tsv", "id\ttext\n1\tx\ty\n"), "c.tsv, line 2", "3 fields, expected 2", "tab")


def test_unreadable_parquet(tmp_path):
    fails(write(tmp_path / "c.parquet", "id,text\n1,x\n"), "c.parquet", "unreadable Parquet")
    pq.write_table(pa.table({"text": [str(i) for i in range(50_000)]}), tmp_path / "d.parquet")
    whole = (tmp_path / "d.parquet").read_bytes()
    fails(write(tmp_path / "cut.parquet", whole[: len(whole) // 2]), "cut.parquet", "unreadable Parquet")
    fails(
        write(tmp_path / "hole.parquet", whole[:40] + bytes(len(whole) // 2) + whole[40 + len(whole) // 2 :]),
        "unreadable Parquet",
    )
